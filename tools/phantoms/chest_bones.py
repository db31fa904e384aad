"""Bones and muscles of the chest phantom as signed distances in millimetres, positive inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.phantoms.branching import tube_chain
from tools.phantoms.chest_anatomy import Frame, Volume, superellipse

__all__ = ["bone_distances", "cartilage_distance", "clavicles", "muscle_distance"]

RIB_STEP_MM = 23.0
FIRST_RIB_MM = 114.0
VERTEBRA_STEP_MM = 24.0


def _rib_coordinates(frame: Frame) -> tuple[Volume, NDArray[np.float32]]:
    """Return height and number of the rib to which a point belongs: ribs fall towards the front."""
    slope = np.clip(40 + 0.25 * (100 - frame.z), 32, 78)
    height = frame.z + slope * (0.5 - 0.5 * np.cos(frame.angle)) ** np.float32(1.1)
    number = np.clip(np.round((FIRST_RIB_MM - height) / RIB_STEP_MM), 0, 11)
    return height - (FIRST_RIB_MM - number * RIB_STEP_MM), number


def _rib_distance(frame: Frame) -> tuple[Volume, NDArray[np.bool_]]:
    """Return the distance to the rib arches, and where they are bone rather than cartilage."""
    height, number = _rib_coordinates(frame)
    profile = np.sqrt((height / np.float32(6.3)) ** 2 + ((frame.cavity + 6.5) / 3.8) ** 2)
    distance = (1 - profile) * np.float32(4.2)
    # The first seven reach the sternum; the lower ones end earlier and earlier.
    last = np.where(number < 7, 3.2, 3.0 - 0.33 * (number - 7))
    distance = np.minimum(distance, (last - frame.angle) * 40)
    distance = np.minimum(distance, np.abs(frame.x) - 14)
    return distance, frame.angle < 2.35 + np.float32(0.02) * number


def cartilage_distance(frame: Frame) -> Volume:
    """Return the distance to the rib cartilages in front."""
    distance, bony = _rib_distance(frame)
    return np.where(bony, np.float32(-5), distance)


def _spine_distances(frame: Frame) -> tuple[Volume, Volume, Volume]:
    """Return the distances to vertebrae, discs and the spinal canal."""
    x, z = frame.x, frame.z
    # Thoracic kyphosis: the spine lies furthest back at mid-height.
    y = frame.y - 7 * (z / 110) ** 2 * np.float32(0.8)
    turn = (z + 200) / np.float32(VERTEBRA_STEP_MM)
    within = (turn - np.floor(turn) - np.float32(0.5)) * np.float32(VERTEBRA_STEP_MM)
    # Waist: the body is narrower half-way up than at its end plates.
    waist = 16.5 - 1.8 * np.cos(within * np.float32(2 * np.pi / VERTEBRA_STEP_MM))
    column = superellipse(x, y + 62, waist, waist * np.float32(0.86), 2.3)
    body = np.minimum(column, 9.6 - np.abs(within))
    disc = np.minimum(column - 0.5, np.abs(within) - 9.6)
    canal = superellipse(x, y + 84, np.float32(9.5), np.float32(7.5), 2.0)
    arch_height = 8 - np.abs(within + 2)
    ring = np.minimum(np.minimum(canal + 5.5, -canal), arch_height)
    spinous = np.minimum(3.2 - np.abs(x), 15 - np.abs(y + 103 + 0.35 * within))
    spinous = np.minimum(spinous, 7.5 - np.abs(within + 5))
    reach = np.abs(x) - 9
    transverse = 4.6 - np.hypot(y + 84 + np.float32(0.55) * reach, within - 3)
    transverse = np.minimum(transverse, np.minimum(30 - np.abs(x), reach))
    vertebra = np.maximum.reduce([np.minimum(body, -canal), ring, spinous, transverse])
    return vertebra, disc, canal


def _sternum_distance(frame: Frame) -> Volume:
    """Return the distance to the sternum, with a wider manubrium on top."""
    z = frame.z
    width = 15 + 11 * np.clip((z - 48) / 12, 0, 1)
    front = frame.angle > 2.0
    plate = (1 - np.sqrt((frame.x / width) ** 2 + ((frame.cavity + 8) / 5.5) ** 2)) * 5.5
    plate = np.minimum(plate, np.minimum(82 - z, z + 62))
    joint = np.abs(z - 46) - np.float32(1.5)
    return np.where(front, np.minimum(plate, joint), np.float32(-5))


def _scapula_distance(frame: Frame) -> Volume:
    """Return the distance to the blades behind the ribs, with their spines."""
    z = frame.z
    lean = np.clip((z - 10) / 100, 0, 1)
    blade = 2.3 - np.abs(frame.cavity + 26 + 6 * lean)
    span = np.minimum(frame.angle - (0.62 - 0.08 * lean), 1.02 + 0.42 * lean - frame.angle) * 90
    blade = np.minimum(blade, np.minimum(span, np.minimum(z - 2, 112 - z)))
    ridge = np.minimum(np.minimum(3 - np.abs(z - 82 - 12 * (frame.angle - 0.9)), span), 46)
    ridge = np.minimum(ridge, 9 - np.abs(frame.cavity + 40))
    return np.maximum(blade, ridge)


def bone_distances(frame: Frame) -> tuple[Volume, Volume, Volume]:
    """Return the distances to bone, to discs and to the spinal canal."""
    ribs, bony = _rib_distance(frame)
    vertebra, disc, canal = _spine_distances(frame)
    parts = [np.where(bony, ribs, np.float32(-5)), vertebra, _sternum_distance(frame)]
    bone = np.maximum.reduce([*parts, _scapula_distance(frame)])
    return bone, disc, canal


def clavicles() -> NDArray[np.float64]:
    """Return the collar bones as tubes ``(m, 8)`` in body coordinates."""
    nodes: list[tuple[float, float, float, float]]
    nodes = [(24, 50, 86, 7), (60, 46, 104, 5.5), (105, 18, 122, 5.5), (148, -18, 128, 6)]
    mirrored = [(-x, y, z, radius) for x, y, z, radius in nodes]
    return np.concatenate([tube_chain(nodes), tube_chain(mirrored)])


def muscle_distance(frame: Frame) -> Volume:
    """Return the distance to the muscles of the chest wall, back and shoulder girdle."""
    x, y, z, angle, cavity = frame.x, frame.y, frame.z, frame.angle, frame.cavity
    wall = np.minimum(cavity + 12.5, 14 - cavity)
    erector = superellipse(np.abs(x) - 27, y + 104, np.float32(24.0), np.float32(13.5), 2.2)
    high = np.clip((z + 5) / 90, 0, 1)
    # Thin fat planes at 1 mm either side of the blade separate the layers behind the ribs.
    back = np.minimum(cavity + 30 + 18 * high, -cavity - 14)
    back = np.minimum(back, np.minimum(angle - 0.45, 1.25 + 0.35 * high - angle) * 70)
    back = np.minimum(back, z + 18)
    lateral = np.minimum(cavity + 13 + 16 * np.sin(angle) ** 6, -cavity - 13)
    lateral = np.minimum(lateral, np.minimum(angle - 1.0, 1.75 - angle) * 70)
    chest = np.minimum(cavity + 12 + 15 * high, -cavity - 14)
    chest = np.minimum(chest, np.minimum(angle - 1.75, 2.85 - angle) * 60)
    chest = np.minimum(chest, z + 12)
    # Heads of several muscles: the lower border of the girdle is scalloped.
    border = 90 + 16 * np.cos(x / 21) + 11 * np.sin(y / 17)
    girdle = np.minimum(frame.outline - 16, (z - border) * np.float32(0.6))
    trapezius = np.minimum(frame.outline - 9, 14 - np.abs(frame.outline - 16))
    trapezius = np.minimum(trapezius, np.minimum((z - 10) * 0.3 + 10, 70 - np.abs(x)))
    trapezius = np.where(y < -60, trapezius, np.float32(-5))
    return np.maximum.reduce([wall, erector, back, lateral, chest, girdle, trapezius])

"""A computed heart in late-enhancement MRI: the embedded scan for lesions of the myocardium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.painter import Build, Painter, Volume

__all__ = ["HeartPhantom", "heart_mr"]

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("heart.json").read_text())
_SHEETS = 3  # painted per slice, then averaged
_ZERO, _UNIT, _NOISE = 2048.0, 1000.0, 0.03  # stored value of no signal, and of signal 1


class HeartPhantom(NamedTuple):
    """A short-axis stack with everything known about it.

    Attributes:
        image: int16 from 0 to 4095, ``(I, J, K)``, axes to the patient's left, to the back and
            from the apex to the base; phase-sensitive, no signal is 2048.
        label: uint8, 0 outside and 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow; papillary
            muscles belong to the cavity, the right ventricle to nothing.
        affine: voxel indices to RAS mm.
        infarct: None, or ``angle_deg`` of its middle (0 is towards the patient's left, 90 towards
            the back), ``extent_deg``, ``place`` of its middle between apex (0) and base (1),
            ``length`` in that direction, ``transmurality`` (share of the wall, from the cavity
            outwards), ``no_reflow`` (share of angle, length and depth of the core without flow)
            and the ``territory`` of the artery that was closed.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    infarct: dict[str, Any] | None


def heart_mr(
    shape: tuple[int, int, int] = (160, 160, 10),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 10.0),
    seed: int = 0,
    infarct: bool = True,
    no_reflow: bool = True,
) -> HeartPhantom:
    """Compute an inversion-recovery MRI of a heart some minutes after contrast, in short axis.

    Healthy myocardium is nulled and dark, blood brighter, an infarct brighter than that, and dark
    again in it where no blood flows (``heart.json``). The infarct spreads from the inner layer
    outwards within the territory of one artery. Voxels average what they cover, coils in front
    make the front brighter, noise is Gaussian. The left ventricle fills the slices; without an
    infarct there is no core without flow (``no_reflow``).

    Raises:
        ValueError: if ``shape`` is less than (64, 64, 3) or the spacing not positive.

    Example:
        >>> phantom = heart_mr((64, 64, 4), (2.0, 2.0, 20.0), infarct=False)
        >>> phantom.image.shape, sorted(set(phantom.label.ravel().tolist()))
        ((64, 64, 4), [0, 1, 2])
    """
    if len(shape) != 3 or min(shape[:2]) < 64 or shape[2] < 3:
        raise ValueError(f"shape must be at least (64, 64, 3), got {tuple(shape)}")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be three numbers > 0, got {spacing_mm}")
    rng = np.random.default_rng([seed, 11])
    axes, build = _frame(shape, spacing_mm, rng)
    lesion = _draw_infarct(rng, no_reflow) if infarct else None
    painter = Painter(TABLE | {"tissues": _signals(rng)}, axes, build, rng)
    painter.paint(TABLE["parts"])
    wall = painter.cover(painter.distance["left"])
    cavity = painter.cover(painter.distance["cavity"])
    dead, core = _infarct(painter, lesion) if lesion else (0 * wall, 0 * wall)
    painter.put(dead * wall * (1 - cavity), "infarct")
    painter.put(core * wall * (1 - cavity), "no_reflow")
    front = np.hypot(axes[0][:, None, None] + 60, axes[1][None, :, None] + 85)
    signal = _slices(painter.image) * (0.78 + 0.75 * np.exp(-front / 55))
    whole, inner, necrosis, stopped = (_slices(part) > 0.5 for part in (wall, cavity, dead, core))
    myocardium = whole & ~inner
    classes = [inner, myocardium & necrosis & stopped, myocardium & necrosis, myocardium]
    label = np.select(classes, [1, 4, 3, 2], 0).astype(np.uint8)
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return HeartPhantom(_acquire(signal, spacing_mm, rng), label, affine, lesion)


def _frame(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> tuple[list[NDArray[Any]], Build]:
    """Return mm from the axis of the left ventricle and from its tip, and the build.

    The last slice ends at the base, the first begins a little above the tip, as stacks do; the
    table counts z in hundredths of the way from tip to base.
    """
    stack_mm = shape[2] * spacing_mm[2]
    length_mm = stack_mm * rng.uniform(1.05, 1.14)
    x, y = ((np.arange(shape[a]) - (shape[a] - 1) / 2) * spacing_mm[a] for a in (0, 1))
    z = (np.arange(shape[2] * _SHEETS) + 0.5) * spacing_mm[2] / _SHEETS + length_mm - stack_mm
    build = Build.draw(TABLE, rng)
    return [x, y, z], build._replace(scale=(*build.scale[:2], length_mm / 100))


def _signals(rng: np.random.Generator) -> dict[str, list[float]]:
    """Return the tissues of one patient: doses and waiting times differ."""
    vary = TABLE["vary_signal"]
    tissues = {
        name: [value * rng.uniform(1 - vary, 1 + vary), *texture]
        for name, (value, *texture) in TABLE["tissues"].items()
    }
    healthy = rng.uniform(*TABLE["myocardium"])
    dead = tissues["blood"][0] * rng.uniform(*TABLE["infarct_to_blood"])
    stopped = healthy + rng.uniform(*TABLE["no_reflow_to_infarct"]) * (dead - healthy)
    values = {"myocardium": healthy, "infarct": dead, "no_reflow": stopped}
    return tissues | {name: [value, *tissues[name][1:]] for name, value in values.items()}


def _draw_infarct(rng: np.random.Generator, no_reflow: bool) -> dict[str, Any]:
    territories = TABLE["territories"]
    shares = [territory["share"] for territory in territories.values()]
    name = list(territories)[int(rng.choice(len(shares), p=shares))]
    wander = territories[name]["wander_deg"]
    # obstruction of the small vessels comes with deep infarcts
    depth = rng.uniform(0.75, 1.2) if no_reflow else rng.uniform(0.45, 1.1)
    return {
        "angle_deg": territories[name]["angle_deg"] + float(rng.uniform(-wander, wander)),
        "extent_deg": float(rng.uniform(95, 190)),
        "place": territories[name]["place"] + float(rng.uniform(-0.08, 0.08)),
        "length": float(rng.uniform(0.75, 1.25)),
        "transmurality": float(depth),
        "no_reflow": float(rng.uniform(0.4, 0.7)) if no_reflow else 0.0,
        "territory": name,
    }


def _infarct(painter: Painter, infarct: dict[str, Any]) -> tuple[Volume, Volume]:
    """Return the coverage of an infarct, which is least deep at the borders, and of its core."""
    x, y, z = painter.xyz
    outer, inner = painter.distance["left"], painter.distance["cavity"]
    thickness = np.maximum(outer - inner, 1.0)
    depth, place = -inner / thickness, z / 100
    edge = painter.field(11.0)
    turn = np.angle(np.exp(1j * (np.arctan2(y, x) - np.deg2rad(infarct["angle_deg"]))))
    # the territory narrows towards the base and opens round the apex
    half = np.deg2rad(infarct["extent_deg"] / 2) * (1.15 - 0.3 * place)
    along = np.abs(place - infarct["place"] + 0.03 * edge) / (infarct["length"] / 2)
    off = np.hypot(np.abs(turn + 0.12 * edge) / half, along)
    reach = np.where(off < 1, 1 - off**3.5, -0.3)
    dead = (infarct["transmurality"] * reach * (1 + 0.08 * edge) - depth) * thickness
    dead = np.minimum(dead, outer - 0.3)
    share = infarct["no_reflow"]
    if not share:
        return painter.cover(dead), np.zeros_like(painter.image)
    within = np.where(off < share, 1 - (off / share) ** 3, -0.3)
    deepest = 0.16 + 0.7 * share * infarct["transmurality"] * within - 0.06 * edge
    core = np.minimum(deepest - depth, depth - 0.10) * thickness
    return painter.cover(dead), painter.cover(np.minimum(core, dead - 1))


def _slices(sheets: Volume) -> Volume:
    return sheets.reshape(*sheets.shape[:2], -1, _SHEETS).mean(-1)


def _acquire(
    signal: NDArray[Any], spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.int16]:
    """Blur, add noise and store as integers of 12 bits."""
    blur = (0.85 / spacing_mm[0], 0.85 / spacing_mm[1], 0.0)
    # measured on a coarser grid than shown: neighbours share noise
    noise = ndimage.gaussian_filter(rng.standard_normal(signal.shape), (0.55, 0.55, 0.0))
    shown = ndimage.gaussian_filter(signal, blur) + _NOISE * noise / noise.std()
    return np.clip(np.round(_ZERO + _UNIT * shown), 0, 4095).astype(np.int16)

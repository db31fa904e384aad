"""Infarcts of real hearts: moved from a library, or a user's own label map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.synthesis.hearts.registration import HeartLesion, move_lesion
from tools.synthesis.hearts.request import (
    INFARCT,
    NO_REFLOW,
    Heart,
    HeartRequest,
    HeartShape,
    heart_shape,
    settle,
    site_in_wall,
)
from tools.synthesis.shape_library import read_label
from tools.transforms.spheres import enclosing_sphere
from tools.transforms.wall import middle_angle

__all__ = ["LibraryHeartShapes", "MaskFileHeartShape"]

CAVITY, MYOCARDIUM = 1, 2
MAX_ATTEMPTS = 5
GRID_TOLERANCE_MM = 1e-3


class LibraryHeartShapes:
    """Infarcts of other hearts, moved by angle, depth through the wall and height, and turned.

    Args:
        path: folder of ``*_label.nii.gz``, or a datalist.json (also of that folder), whose section
            ``training`` names label maps: 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow. Those
            without infarct are left out.
        turn_degrees: lesions are turned round the cavity by up to this, either way.

    Attributes:
        lesions: those found.

    Raises:
        ValueError: if the folder or file does not exist, a label map cannot be read or lacks the
            heart, no lesion is found, or the turn is negative.
    """

    def __init__(self, path: str | Path, turn_degrees: float = 15.0) -> None:
        if not (np.isfinite(turn_degrees) and turn_degrees >= 0):
            raise ValueError(f"turn_degrees must be >= 0, got {turn_degrees}")
        self.turn_degrees = float(turn_degrees)
        files = _label_files(Path(path))
        found = [_read_lesion(file) for file in tqdm(files, desc="reading hearts")]
        self.lesions = [lesion for lesion in found if lesion is not None]
        if not self.lesions:
            raise ValueError(f"shape must name a library with infarcts, got none in {path}")

    def draw(self, heart: Heart, request: HeartRequest, rng: np.random.Generator) -> HeartShape:
        """Return one of the library's infarcts in the wall of a heart.

        Args:
            heart: in whose wall it shall lie.
            request: lesions of that diameter, as large as in this heart they will be, are taken;
                if there is none, the nearest. The share of no-reflow is that of the lesion, made to
                fit where a range is given. A site is the middle of the lesion in angle; without
                one the turn is drawn.
            rng: source of randomness.

        Raises:
            ValueError: if the heart has no wall, the site is far from it, or nothing of the
                lesions meets a slice.
        """
        turn = np.radians(rng.uniform(-self.turn_degrees, self.turn_degrees))
        angle = _site_angle(heart, request)
        best: tuple[float, HeartShape] | None = None
        for lesion in self._candidates(heart, request, rng)[:MAX_ATTEMPTS]:
            by = float(turn) if angle is None else angle - lesion.angle
            label = settle(move_lesion(lesion, heart, by, request.no_reflow_share))
            if not label.any():
                continue
            shape = heart_shape(label, heart, f"library:{lesion.name} {_degrees(by)}")
            miss = float(_miss(shape.diameter_mm, request.diameter_mm))
            if best is None or miss < best[0]:
                best = miss, shape
            if miss == 0:
                break
        if best is None:
            raise ValueError(
                f"diameter_mm must be of lesions that meet a slice, got {request.diameter_mm}"
            )
        return best[1]

    def _candidates(
        self, heart: Heart, request: HeartRequest, rng: np.random.Generator
    ) -> list[HeartLesion]:
        """Return the lesions, those nearest to the request first, equals in random order."""
        wall_mm = 2 * enclosing_sphere(heart.wall, heart.affine).radius_mm
        sizes = np.array([item.diameter_mm * wall_mm / item.wall_mm for item in self.lesions])
        shares = np.array([item.no_reflow_share for item in self.lesions])
        low, high = request.no_reflow_share or (0.0, 1.0)
        unlike = np.maximum(low - shares, shares - high).clip(0)
        chance = rng.permutation(len(self.lesions))
        order = np.lexsort([chance, unlike, _miss(sizes, request.diameter_mm)])
        return [self.lesions[int(n)] for n in order]


class MaskFileHeartShape:
    """The user's label map: where it lies, or moved to the heart.

    On the scan's own grid with lesions only in its wall it is used voxel by voxel. Otherwise it
    must hold its own heart, from which the lesion is moved, without a turn unless a site is given.

    Args:
        path: NIfTI file: 3 infarct, 4 no-reflow, and to be moved 1 cavity and 2 myocardium.

    Raises:
        ValueError: if the file is missing, not a label map, or has no lesion.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.label, self.affine = _read(self.path)
        if not np.isin(self.label, (INFARCT, NO_REFLOW)).any():
            raise ValueError(
                f"shape must hold {INFARCT} (infarct) or {NO_REFLOW} (no-reflow), got labels "
                f"{np.unique(self.label).tolist()} in {self.path}"
            )

    def draw(self, heart: Heart, request: HeartRequest, rng: np.random.Generator) -> HeartShape:
        """Return the lesion; no randomness is used, size and share stay those of the file.

        Args:
            heart: in whose wall it shall lie.
            request: the site only, and only where the lesion is moved.
            rng: not used; there to be called like the other sources.

        Raises:
            ValueError: if the lesion neither lies in the wall nor can be moved to it.
        """
        lesion = np.isin(self.label, (INFARCT, NO_REFLOW))
        same = self.label.shape == heart.wall.shape and np.allclose(
            self.affine, heart.affine, rtol=0, atol=GRID_TOLERANCE_MM
        )
        if same and not (lesion & ~heart.wall).any():
            label = np.where(lesion, self.label, 0)
            return heart_shape(label, heart, f"mask:{self.path.name}")
        if not {CAVITY, MYOCARDIUM} <= set(np.unique(self.label).tolist()):
            where = "partly outside the wall" if same else "on another grid"
            raise ValueError(
                f"shape must lie in the wall on the scan's grid, or hold its own heart ({CAVITY} "
                f"cavity, {MYOCARDIUM} myocardium), got a lesion {where} and labels "
                f"{np.unique(self.label).tolist()} in {self.path}"
            )
        source = HeartLesion.measure(_heart(self.label, self.affine), self.label, self.path.name)
        angle = _site_angle(heart, request)
        by = 0.0 if angle is None else angle - source.angle
        label = settle(move_lesion(source, heart, by))
        if not label.any():
            raise ValueError(f"shape must hold a lesion that meets a slice, got {self.path}")
        return heart_shape(label, heart, f"mask:{self.path.name} {_degrees(by)}")


def _degrees(turn: float) -> str:
    """Return how far a lesion was turned, as words of its record."""
    degrees = np.degrees(np.angle(np.exp(1j * turn)))
    return f"turned {degrees:.0f} degrees"


def _miss(diameter_mm: np.ndarray | float, wanted: Sequence[float]) -> np.ndarray:
    """Return by how much diameters miss a range, as a logarithm; 0 within it."""
    size = np.log(diameter_mm + 1e-9)
    return np.maximum(np.log(wanted[0]) - size, size - np.log(wanted[1])).clip(0)


def _site_angle(heart: Heart, request: HeartRequest) -> float | None:
    if request.site_mm is None:
        return None
    place = heart.coordinates()
    site = site_in_wall(heart, place, request.site_mm)
    return middle_angle(place, heart.affine, site)


def _label_files(path: Path) -> list[Path]:
    listed = path / "datalist.json" if path.is_dir() else path
    if listed.suffix == ".json" and listed.is_file():
        cases = json.loads(listed.read_text(encoding="utf-8")).get("training", [])
        return [listed.parent / case["label"] for case in cases if "label" in case]
    if path.is_dir():
        return sorted(path.glob("*_label.nii.gz"))
    raise ValueError(
        f"shape library:PATH must name a folder of *_label.nii.gz or a datalist.json, got {path}"
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return read_label(path)
    except ValueError as error:
        raise ValueError(f"shape must name label maps: {error}") from error


def _heart(label: np.ndarray, affine: np.ndarray) -> Heart:
    wall = np.isin(label, (MYOCARDIUM, INFARCT, NO_REFLOW))
    return Heart(wall, label == CAVITY, affine)


def _read_lesion(path: Path) -> HeartLesion | None:
    """Return the lesion of a label map, or None where there is none."""
    label, affine = _read(path)
    if not np.isin(label, (INFARCT, NO_REFLOW)).any():
        return None
    if not {CAVITY, MYOCARDIUM} <= set(np.unique(label).tolist()):
        raise ValueError(
            f"shape must name label maps with {CAVITY} (cavity) and {MYOCARDIUM} (myocardium), "
            f"got {np.unique(label).tolist()} in {path}"
        )
    name = path.name.split(".nii")[0].removesuffix("_label")
    return HeartLesion.measure(_heart(label, affine), label, name)

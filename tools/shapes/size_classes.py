"""Ellipsoids of the size classes of tumours: tiny, small, medium, large."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np

from tools.shapes.shape import Place, Shape, check_diameter
from tools.shapes.sources import deformed_ellipsoid

__all__ = ["CLASSES", "SizeClass", "SizedEllipsoids", "read_shares"]


class SizeClass(NamedTuple):
    """Ranges of one class, both ends included."""

    semi_axes_mm: tuple[int, int]  # whole numbers
    deformation_mm: tuple[float, float]  # of control points, standard deviation
    whole: bool = True  # whether the deformation is in whole millimetres


CLASSES: Mapping[str, SizeClass] = {
    "tiny": SizeClass((3, 5), (0.5, 1.0), whole=False),
    "small": SizeClass((6, 10), (1, 2)),
    "medium": SizeClass((12, 20), (3, 6)),
    "large": SizeClass((24, 64), (5, 10)),
}


class SizedEllipsoids:
    r"""Ellipsoids of four size classes, deformed in three planes.

    A class is drawn by its share, then each semi-axis, independently, a whole number of millimetres
    of its range, then :math:`\sigma` of the displacements at 3 x 3 control points, in planes (0,1),
    (1,2), (0,2); see :class:`tools.shapes.sources.EllipsoidShapes` for the deformation.

    ============  ==============  ==================
    class         semi-axes (mm)  :math:`\sigma` (mm)
    ============  ==============  ==================
    tiny          3 to 5          U(0.5, 1)
    small         6 to 10         1 or 2
    medium        12 to 20        3, 4, 5 or 6
    large         24 to 64        5 to 10, whole
    ============  ==============  ==================

    Sizes come first, places next, shapes last: :meth:`draw_diameter` draws the semi-axes and tells
    the diameter of the sphere of their volume, :meth:`draw` takes one of the ellipsoids that have
    it, all with the same chance: together the distribution above. Deviates from the release: the
    deformed ellipsoid is scaled to the volume that it had before.

    References:
        DiffTumor, Chen et al., CVPR 2024. https://arxiv.org/abs/2402.19470

    Args:
        shares: of the classes, by name, not all 0.

    Raises:
        ValueError: if a class is unknown, or shares are no such numbers.

    Example:
        >>> source, rng = SizedEllipsoids({"small": 1}), np.random.default_rng(0)
        >>> 12 <= source.draw_diameter(rng) <= 20
        True
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        unknown = [name for name in shares if name not in CLASSES]
        if unknown or not shares:
            raise ValueError(f"size classes must be of {', '.join(CLASSES)}, got {list(shares)}")
        numbers = np.array(list(shares.values()), float)
        if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.any()):
            raise ValueError(f"shares of size classes must be 0 or more, not all 0, got {shares}")
        self.shares = {name: float(share) for name, share in shares.items()}
        self.classes = ",".join(f"{name}={share:g}" for name, share in self.shares.items())
        self._semi_axes = {name: _ellipsoids(CLASSES[name].semi_axes_mm) for name in shares}

    def draw_diameter(self, rng: np.random.Generator) -> float:
        """Return the diameter of the sphere with the volume of an ellipsoid, in mm."""
        shares = np.array(list(self.shares.values()))
        name = list(self.shares)[int(rng.choice(len(shares), p=shares / shares.sum()))]
        low, high = CLASSES[name].semi_axes_mm
        return float(_diameter_mm(rng.integers(low, high, size=3, endpoint=True)))

    def draw(
        self, diameter_mm: float, rng: np.random.Generator, place: Place | None = None
    ) -> Shape:
        """Return an ellipsoid of a size, of the class nearest to it, whatever the place."""
        check_diameter(diameter_mm)
        away = {
            name: np.abs(np.log(_diameter_mm(each) / diameter_mm))
            for name, each in self._semi_axes.items()
        }
        name = min(away, key=lambda each: away[each].min())
        fitting = self._semi_axes[name][away[name] <= away[name].min() + 1e-9]
        semi_axes = fitting[int(rng.integers(len(fitting)))].astype(float)
        low, high = CLASSES[name].deformation_mm
        whole = CLASSES[name].whole
        sigma = rng.integers(int(low), int(high) + 1) if whole else rng.uniform(low, high)
        return deformed_ellipsoid(semi_axes, float(sigma), rng, f"ellipsoid:{name}", diameter_mm)


def _ellipsoids(limits: tuple[int, int]) -> np.ndarray:
    """Return all that a class can draw, ``(n, 3)``."""
    return np.array(list(product(range(limits[0], limits[1] + 1), repeat=3)))


def _diameter_mm(semi_axes: np.ndarray) -> np.ndarray:
    return np.asarray(2 * np.cbrt(semi_axes.prod(-1)))


def read_shares(text: str) -> dict[str, float]:
    """Return the shares of size classes in words such as ``tiny,small`` or ``tiny=3,large=1``.

    Raises:
        ValueError: if a share is no number, or a class comes twice.

    Example:
        >>> read_shares("tiny=3,large")
        {'tiny': 3.0, 'large': 1.0}
    """
    shares: dict[str, float] = {}
    for word in text.split(","):
        name, _, share = (part.strip() for part in word.partition("="))
        try:
            number = float(share or 1)
        except ValueError:
            number = float("nan")
        if name in shares or not np.isfinite(number):
            raise ValueError(
                f"size classes must be such as tiny,small or tiny=3,large=1, got {text!r}"
            )
        shares[name] = number
    return shares

"""Windows of a model's grid round lesions: laid in millimetres, cut from a scan, brought back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

__all__ = [
    "BlendZone",
    "Box",
    "Window",
    "WindowGrid",
    "blend_weight",
    "bounds_mm",
    "compose_rim",
    "cut_window",
    "extended",
    "grown",
    "paste_window",
    "window_size",
]

Box = tuple[slice, slice, slice]


class WindowGrid(NamedTuple):
    """Voxels of a window: ``affine`` (4x4, voxel index to RAS mm) and ``size`` along each axis."""

    affine: np.ndarray
    size: tuple[int, int, int]

    @classmethod
    def around(
        cls, point_mm: Sequence[float], size: Sequence[int], spacing_mm: float = 1.0
    ) -> WindowGrid:
        """Return isotropic voxels along the RAS axes whose middle lies at a point (RAS mm)."""
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = np.asarray(point_mm, float) - spacing_mm * (np.asarray(size) - 1) / 2
        return cls(affine, tuple(int(n) for n in size))  # type: ignore[arg-type]


class Window(NamedTuple):
    """The rule by which a model's windows are laid round lesions.

    Attributes:
        size: voxels along each axis: at least, or exactly those within the slice where slices are
            kept.
        spacing_mm: voxel size; None: that of the scan.
        margin: voxels of surroundings shown on each side of a lesion, at least.
        multiple: what the number of voxels is a multiple of (what the network's levels divide).
    """

    size: tuple[int, ...] = (24, 24, 24)
    spacing_mm: float | None = 1.0
    margin: int = 5
    multiple: int = 8

    def sides(self, extent_mm: float) -> list[int]:
        """Return the voxels along each axis for a lesion of that largest extent."""
        spacing = 1.0 if self.spacing_mm is None else self.spacing_mm
        margin_mm = self.margin * spacing
        return [window_size(extent_mm, spacing, margin_mm, n, self.multiple) for n in self.size]

    def round_box(self, box: Box, affine: np.ndarray) -> WindowGrid:
        """Return isotropic voxels round a box of a scan of any orientation.

        Example:
            >>> box = (slice(30, 40), slice(30, 40), slice(20, 26))
            >>> Window().round_box(box, np.diag([0.7, 0.7, 1.25, 1])).size
            (24, 24, 24)
        """
        low, high = bounds_mm(box, affine)
        spacing = 1.0 if self.spacing_mm is None else self.spacing_mm
        return WindowGrid.around((low + high) / 2, self.sides(float((high - low).max())), spacing)

    def in_volume(self, box: Box, shape: Sequence[int]) -> Box:
        """Return the voxels round a box of a volume, moved inside or cut down to it."""
        extent = max(part.stop - part.start for part in box)
        sides = self._replace(spacing_mm=None).sides(extent)
        parts = []
        for part, length, wanted in zip(box, shape, sides, strict=True):
            side = min(wanted, length // self.multiple * self.multiple)
            if side < part.stop - part.start:
                raise ValueError(
                    f"lesion must fit a window inside the volume of shape {tuple(shape)}, "
                    f"got an extent of {part.stop - part.start} voxels"
                )
            start = min(max((part.start + part.stop - side) // 2, 0), length - side)
            parts.append(slice(start, start + side))
        return parts[0], parts[1], parts[2]

    def on_slices(
        self,
        organ_mask: np.ndarray,
        affine: np.ndarray,
        centre_mm: Sequence[float] | np.ndarray | None = None,
    ) -> WindowGrid:
        """Return a window over all slices of a scan, none resampled into another.

        For scans of few thick slices, along the last axis. Empty slices are added at the end until
        their number is a multiple. The window lies round the organ, where ``organ_mask`` is above
        0; where that is empty, round ``centre_mm`` (RAS).
        """
        inside = np.argwhere(np.asarray(organ_mask) > 0)
        affine = np.asarray(affine, float)
        if len(inside):
            middle = (inside.min(0) + inside.max(0)) / 2
        elif centre_mm is not None:
            middle = apply_affine(np.linalg.inv(affine), np.asarray(centre_mm, float))
        else:
            raise ValueError("organ_mask must hold an organ, got an empty mask and no point")
        result = affine.copy()
        if self.spacing_mm is not None:
            result[:3, :2] *= self.spacing_mm / np.linalg.norm(affine[:3, :2], axis=0)
        middle[2] = 0
        back = result[:3, :2] @ ((np.asarray(self.size[:2]) - 1) / 2)
        result[:3, 3] = apply_affine(affine, middle) - back
        slices = self.multiple * int(np.ceil(organ_mask.shape[2] / self.multiple))
        return WindowGrid(result, (int(self.size[0]), int(self.size[1]), slices))


def bounds_mm(box: Sequence[slice], affine: np.ndarray) -> np.ndarray:
    """Return the lowest and the highest corner of the voxels of a box, RAS mm, shape (2, 3)."""
    faces = [(part.start - 0.5, part.stop - 0.5) for part in box]
    corners = apply_affine(affine, list(product(*faces)))
    return np.stack([corners.min(0), corners.max(0)])


def window_size(
    extent_mm: float,
    spacing_mm: float = 1.0,
    margin_mm: float = 5.0,
    smallest: int = 24,
    multiple: int = 8,
) -> int:
    """Return the voxels per side of a cube that holds a lesion and ``margin_mm`` round it.

    Example:
        >>> window_size(20.0), window_size(3.0)
        (32, 24)
    """
    voxels = (extent_mm + 2 * margin_mm) / spacing_mm
    return int(max(smallest, multiple * np.ceil(voxels / multiple)))


def cut_window(
    image: np.ndarray,
    affine: np.ndarray,
    grid: WindowGrid,
    order: int = 1,
    beyond: float | None = None,
) -> np.ndarray:
    """Return the scan on the window's grid; only the part of the scan under the window is read.

    Image and affine are those of the scan, of any dtype and orientation (a memory map or nibabel
    proxy is read in part). Outside the scan is ``beyond``; None continues the scan by its mirror
    image, so that the window never shows a wall of constant grey. ``order`` is 1 (trilinear) for
    images, 0 (nearest) for labels. The result is float32, of shape ``grid.size``.

    Raises:
        ValueError: if the window does not touch the scan at all.
    """
    # rounding errors must not put the first or last slice of an oblique scan beyond its border
    to_scan = np.round(np.linalg.inv(affine) @ grid.affine, 9)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size])).reshape(3, -1).T
    reached = apply_affine(to_scan, corners)
    low = np.floor(reached.min(0)).astype(int) - 1
    high = np.ceil(reached.max(0)).astype(int) + 2
    if (high <= 0).any() or (low >= image.shape).any():
        raise ValueError(
            f"window must overlap the scan of shape {tuple(image.shape)}, got voxels "
            f"{low.tolist()} to {high.tolist()}"
        )
    low, high = np.clip(low, 0, None), np.minimum(high, image.shape)
    block = np.asarray(image[tuple(map(slice, low, high))], np.float32)
    return ndimage.affine_transform(
        block,
        to_scan[:3, :3],
        to_scan[:3, 3] - low,
        output_shape=grid.size,
        order=order,
        mode="mirror" if beyond is None else "constant",
        cval=0.0 if beyond is None else beyond,
    )


def paste_window(
    image: np.ndarray,
    affine: np.ndarray,
    window: np.ndarray,
    grid: WindowGrid,
    label: np.ndarray,
    box: Box,
    order: int = 1,
) -> np.ndarray:
    """Return the values of the window at the label's voxels on the scan's own grid.

    Of the image only the shape is used; ``label`` is a boolean mask of the part ``box`` of it.
    There is one float32 value for each True of the label, in C order.

    Raises:
        ValueError: if ``box`` does not fit the scan, or the label reaches beyond the window.
    """
    starts = np.array([part.start for part in box])
    stops = np.array([part.stop for part in box])
    if (starts < 0).any() or (stops > image.shape).any() or label.shape != tuple(stops - starts):
        raise ValueError(f"box must lie inside the scan of shape {image.shape}, got {box}")
    voxels = np.argwhere(label) + starts
    position = apply_affine(np.linalg.inv(grid.affine) @ affine, voxels)
    if len(position) and ((position < -1) | (position > np.asarray(grid.size))).any():
        extent = np.ptp(voxels, axis=0) * voxel_sizes(affine)
        raise ValueError(
            f"lesion must fit the window of {grid.size} voxels, got {extent.round(1)} mm"
        )
    # linear, so that the outermost voxels keep the soft edge of a partial volume
    return ndimage.map_coordinates(
        window, position.T, order=order, mode="nearest", output=np.float32
    )


def extended(window: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return a window with the nearest value from inside a mask everywhere beyond it.

    So what is interpolated at a voxel of the lesion's edge holds nothing of the surroundings. An
    empty mask changes nothing.

    Example:
        >>> extended(np.array([[[1, 7, 8, 2]]]), np.array([[[False, True, True, False]]])).tolist()
        [[[7, 7, 8, 8]]]
    """
    if not inside.any():
        return window
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return window[tuple(nearest)]


def grown(
    mask: np.ndarray, box: Box, shape: Sequence[int], affine: np.ndarray, margin_mm: float
) -> tuple[np.ndarray, Box]:
    """Return masks ``(..., H, W, D)`` of a box of a scan on a box that is wider by a margin."""
    reach = np.ceil(margin_mm / voxel_sizes(affine)).astype(int).tolist()
    parts = [
        slice(max(0, part.start - more), min(length, part.stop + more))
        for part, more, length in zip(box, reach, shape, strict=True)
    ]
    added = [(p.start - w.start, w.stop - p.stop) for p, w in zip(box, parts, strict=True)]
    wide = np.pad(mask, [(0, 0)] * (np.ndim(mask) - 3) + added)
    return wide, (parts[0], parts[1], parts[2])


def blend_weight(
    lesion_mask: np.ndarray,
    margin_mm: float = 3.0,
    spacing_mm: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0),
    fades: bool = True,
    sigma_mm: float | None = None,
) -> np.ndarray:
    """Return how much of a new lesion each voxel takes: 1 inside, 0 from the margin on.

    A raised cosine of the distance to the mask, from middle to middle of voxels, float64; with a
    margin of 0 the mask itself, and 0 everywhere round an empty one. Where the model has drawn the
    rim itself nothing needs to fade: all voxels nearer than the margin take all of it. With
    ``sigma_mm`` it is the mask softened by a Gaussian instead, as DiffTumor blends: less than 1 in
    the lesion's rim too, and still 0 from the margin on.

    Example:
        >>> mask = np.arange(5).reshape(1, 1, 5) == 0
        >>> blend_weight(mask, margin_mm=3).round(2).ravel().tolist()
        [1.0, 0.75, 0.25, 0.0, 0.0]
    """
    if margin_mm <= 0 or not lesion_mask.any():
        return lesion_mask.astype(float)
    distance = ndimage.distance_transform_edt(~lesion_mask, sampling=spacing_mm)
    weight = np.ones(distance.shape)
    if sigma_mm is not None:
        width = sigma_mm / np.asarray(spacing_mm, float)
        weight = ndimage.gaussian_filter(lesion_mask.astype(float), width, mode="constant")
    elif fades:
        weight = 0.5 * (1 + np.cos(np.pi * np.minimum(distance / margin_mm, 1)))
    weight[distance >= margin_mm] = 0  # the cosine leaves 1e-17
    return weight


class BlendZone(NamedTuple):
    """The voxels of a scan that a lesion changes.

    Attributes:
        box: where they lie in the scan.
        inside: True where a voxel changes, within ``box``.
        weight: share of the difference that each of them gets, in C order, above 0 and up to 1.
        lesion: True for those of them that are of the lesion's label, in C order.
    """

    box: Box
    inside: np.ndarray
    weight: np.ndarray
    lesion: np.ndarray

    @classmethod
    def around(
        cls,
        label: np.ndarray,
        box: Box,
        affine: np.ndarray,
        shape: Sequence[int],
        margin_mm: float,
        fades: bool = True,
        sigma_mm: float | None = None,
    ) -> BlendZone:
        """Return the zone round a lesion, True in ``label`` within ``box``: :func:`blend_weight`.

        Example:
            >>> lesion = (slice(4, 5),) * 3
            >>> label = np.ones((1, 1, 1), bool)
            >>> zone = BlendZone.around(label, lesion, np.eye(4), (9, 9, 9), margin_mm=2.0)
            >>> float(zone.weight.max()), int(zone.inside.sum()), zone.inside.shape
            (1.0, 27, (5, 5, 5))
        """
        wide, outer = grown(np.asarray(label, bool), box, shape, affine, margin_mm)
        weight = blend_weight(wide, margin_mm, voxel_sizes(affine), fades, sigma_mm)
        inside = weight > 0
        return cls(outer, inside, weight[inside], wide[inside])


def compose_rim(
    image: np.ndarray,
    affine: np.ndarray,
    shown: np.ndarray,
    drawn: np.ndarray,
    grid: WindowGrid,
    zone: BlendZone,
    limits: tuple[float, float],
    grain: bool = True,
) -> np.ndarray:
    """Return the new values of a scan in the zone of a lesion whose rim a model has drawn.

    What the window's grid could not hold of the scan is its grain, and the edges of vessels. In the
    rim both stay. In the lesion the grain stays, or it would be smoother than the scan, but not the
    edges of what is no longer there: what exceeds 2.5 standard deviations, taken robustly. Without
    ``grain`` nothing of that stays: where the window's voxels are as fine as the scan's, it would
    be but the edge of a wall that a lesion has covered, as a bright line.

    Args:
        image: the scan ``(H, W, D)``, of any dtype, in the units of the window.
        affine: of the scan.
        shown: the window as the model saw it.
        drawn: the window as the model left it, equal to ``shown`` beyond the rim.
        grid: of the window.
        zone: of the lesion.
        limits: of what the model draws; a voxel that lay beyond may stay there.
        grain: whether it stays.

    Returns:
        Float64, one for each True of ``zone.inside``, in C order.
    """
    before = np.asarray(image[zone.box][zone.inside], np.float64)
    old, new = (
        # cubic: linear interpolation blurs what was blurred once already, when the window was cut
        paste_window(image, affine, part, grid, zone.inside, zone.box, order=3)
        for part in (shown, drawn)
    )
    fine = before - old if grain else np.zeros_like(before)
    middle = np.median(fine)
    reach = 2.5 * 1.4826 * np.median(np.abs(fine - middle))
    after = new + np.where(zone.lesion, np.clip(fine, middle - reach, middle + reach), fine)
    return np.clip(after, np.minimum(before, limits[0]), np.maximum(before, limits[1]))

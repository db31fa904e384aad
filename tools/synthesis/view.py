"""How a model sees a scan: in which window, on which scale; and how its result comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from nibabel.affines import apply_affine

from tools.intensity import HuWindow, Percentiles, tissue_levels
from tools.organs.organ import Organ
from tools.scans.scan import Scan
from tools.windows import Box, Window, WindowGrid, cut_window, window_size

__all__ = [
    "Canvas",
    "CropView",
    "CubeView",
    "LesionWindow",
    "SlicesView",
    "UnitWindow",
    "View",
]

Draw = Callable[[WindowGrid], np.ndarray]


class UnitWindow(NamedTuple):
    """Intensities of a scan, clipped to a window, as numbers from 0 to 1: those of autoencoders."""

    low: float
    high: float

    def scaled(self, image: np.ndarray) -> np.ndarray:
        """Return intensities clipped to the window and mapped to [0, 1]."""
        return (np.clip(image, self.low, self.high) - self.low) / (self.high - self.low)

    def unscaled(self, values: np.ndarray) -> np.ndarray:
        """Return values in [0, 1] in the scan's units."""
        return values * (self.high - self.low) + self.low


@dataclass(frozen=True)
class Canvas:
    """A scan made ready to have lesions drawn on it, in the axes of its organ's chart.

    Args:
        scan: the input.
        order: axes of the scan in the order of the canvas.
        within: True where lesions may lie; None: anywhere.
        labels: label map of the organ, of one with parts.
        cavity: True in the cavity of a wall.
        image: what the model sees, where it sees all of the scan in one window.
        grid: that window.
        scale: of its intensities.
        tissue: levels of wall and cavity on that scale; None where they are not known.
        seen: ``labels`` on the window's grid.
    """

    scan: Scan
    order: tuple[int, ...] = (0, 1, 2)
    within: np.ndarray | None = None
    labels: np.ndarray | None = None
    cavity: np.ndarray | None = None
    image: np.ndarray = field(default_factory=lambda: np.empty(0))
    grid: WindowGrid | None = None
    scale: HuWindow | None = None
    tissue: tuple[float, float] | None = None
    seen: np.ndarray | None = None

    @property
    def affine(self) -> np.ndarray:
        """Voxel index of the canvas to RAS mm."""
        return self.scan.affine[:, [*self.order, 3]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis of the canvas."""
        return tuple(self.scan.shape[axis] for axis in self.order)

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the scan in the axes of the canvas, a view."""
        return np.transpose(array, self.order)

    def back(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the canvas in the axes of the scan, a view."""
        return np.transpose(array, np.argsort(self.order))

    def box_of_scan(self, box: Box) -> Box:
        """Return a box of the canvas in the axes of the scan."""
        first, second, third = (box[axis] for axis in np.argsort(self.order))
        return first, second, third

    def masks(self, label: np.ndarray | None, values: Sequence[int]) -> np.ndarray:
        """Return the classes of a label map of the canvas on the window's grid, one mask each."""
        assert self.grid is not None
        parts = cut_window(label, self.affine, self.grid, order=0, beyond=0.0)  # type: ignore[arg-type]
        return np.stack([parts == value for value in values])


class LesionWindow(NamedTuple):
    """What the model sees of one lesion.

    Attributes:
        grid: of the window.
        image: scan there, in its own units.
        masks: True inside each lesion class.
        scale: of the intensities in which histograms are measured.
        labels: label map of the organ there; None: of one without parts.
    """

    grid: WindowGrid
    image: np.ndarray
    masks: np.ndarray
    scale: HuWindow
    labels: np.ndarray | None = None


class View(Protocol):
    """How a bundle sees scans.

    Attributes:
        margin_mm: how far round its label a lesion changes the scan.
        fades: whether that change is blended in; else the model draws the rim itself.
        grain: whether what is finer than the window stays under what is drawn.
    """

    margin_mm: float
    fades: bool
    grain: bool

    def open(self, scan: Scan, labels: np.ndarray | None = None) -> Canvas:
        """Make a scan ready; ``labels`` is the label map of its organ, in the scan's axes."""
        ...

    def window(
        self, canvas: Canvas, mask: np.ndarray, box: Box, point_mm: object, draw: Draw
    ) -> LesionWindow:
        """Cut the window of a lesion.

        Args:
            canvas: it lies on.
            mask: True inside, within ``box`` of the canvas.
            box: where ``mask`` lies.
            point_mm: its site, RAS mm.
            draw: returns one mask per class on a grid.
        """
        ...


class CubeView:
    """Cubes of isotropic voxels round each lesion; the same scale in all scans.

    Args:
        window_hu: intensities that are -1 and 1.
        size: voxels per side, at least.
        spacing_mm: voxel size.
        context_mm: surroundings shown on each side, at least.
        step: the size is a multiple of this.
        margin_mm: width of the rim that the model draws round a lesion.
    """

    fades, grain = False, True

    def __init__(
        self,
        window_hu: Sequence[float],
        size: Sequence[int] = (24, 24, 24),
        spacing_mm: float = 1.0,
        context_mm: float = 5.0,
        step: int = 8,
        margin_mm: float = 0.0,
    ) -> None:
        if not 0 <= margin_mm < context_mm:
            raise ValueError(
                f"margin_mm must be at least 0 and below {context_mm:g}, got {margin_mm}"
            )
        self.margin_mm = float(margin_mm)
        self.scale = HuWindow(float(window_hu[0]), float(window_hu[1]))
        self.smallest, self.spacing_mm = max(int(n) for n in size), float(spacing_mm)
        self.context_mm, self.step = context_mm, step

    def open(self, scan: Scan, labels: np.ndarray | None = None) -> Canvas:
        """Return the scan as it is."""
        return Canvas(scan, labels=labels)

    def window(
        self, canvas: Canvas, mask: np.ndarray, box: Box, point_mm: object, draw: Draw
    ) -> LesionWindow:
        """Cut a cube round what the lesion covers of the model's grid."""
        reach = (np.array(mask.shape) + 1) * canvas.scan.spacing_mm
        probe = self._cube(point_mm, 2 * reach.max())
        found = np.argwhere(draw(probe).any(0))
        if not len(found):
            raise _no_voxel(point_mm)
        extent = float((np.ptp(found, axis=0) + 1).max() * self.spacing_mm)
        centre = apply_affine(probe.affine, (found.min(0) + found.max(0)) / 2)
        grid = self._cube(centre, extent)
        image = cut_window(canvas.scan.image, canvas.scan.affine, grid)
        return LesionWindow(grid, image, draw(grid), self.scale)

    def _cube(self, point_mm: object, extent_mm: float) -> WindowGrid:
        size = window_size(extent_mm, self.spacing_mm, self.context_mm, self.smallest, self.step)
        return WindowGrid.around(point_mm, (size,) * 3, self.spacing_mm)  # type: ignore[arg-type]


class CropView:
    """Crops of a latent model: the lesion with context, its change faded out round it.

    An autoencoder changes every voxel of what it decodes, so its output cannot replace the scan:
    the scan gets the difference that the lesion makes, whole in the lesion, fading out over
    ``margin_mm``, and nothing beyond.

    Args:
        window_hu: intensities that are -1 and 1 in histograms.
        intensity_range: those that are 0 and 1 for the autoencoder.
        step: sizes are multiples of this.
        context: voxels shown on each side, at least.
        smallest: voxels along an axis, at least.
        spacing_mm: voxel size.
        margin_mm: width of the fading.
        blend_sigma_mm: smallest and largest standard deviation of the Gaussian that softens the
            mask to the weight of the lesion, drawn for each, see
            :func:`tools.windows.blend_weight`; None: all of the lesion, and a raised cosine beyond.

    Raises:
        ValueError: if a value breaks its rule.
    """

    fades, grain = True, True

    def __init__(
        self,
        window_hu: Sequence[float],
        intensity_range: Sequence[float],
        step: int = 32,
        context: int = 16,
        smallest: int = 64,
        spacing_mm: float = 1.0,
        margin_mm: float = 3.0,
        blend_sigma_mm: float | Sequence[float] | None = None,
    ) -> None:
        numbers = {"step": step, "smallest": smallest, "spacing_mm": spacing_mm}
        for name, value in numbers.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name, value in {"context": context, "margin_mm": margin_mm}.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if margin_mm > context * spacing_mm:
            raise ValueError(
                f"margin_mm must be at most the context of {context} voxels, got {margin_mm} mm"
            )
        if not intensity_range[0] < intensity_range[1]:
            raise ValueError(
                f"intensity_range must be two HU, lowest first, got {list(intensity_range)}"
            )
        self.blend_sigma_mm = None if blend_sigma_mm is None else _sigmas(blend_sigma_mm)
        self.scale = HuWindow(float(window_hu[0]), float(window_hu[1]))
        self.range = UnitWindow(float(intensity_range[0]), float(intensity_range[1]))
        self.step, self.context, self.smallest = step, context, smallest
        self.spacing_mm, self.margin_mm = spacing_mm, margin_mm

    def open(self, scan: Scan, labels: np.ndarray | None = None) -> Canvas:
        """Return the scan as it is."""
        return Canvas(scan, labels=labels)

    def window(
        self, canvas: Canvas, mask: np.ndarray, box: Box, point_mm: object, draw: Draw
    ) -> LesionWindow:
        """Cut a box with context, shifted inside the scan where that fits."""
        scan = canvas.scan
        voxels = apply_affine(scan.affine, np.argwhere(mask) + [part.start for part in box])
        grid = self.crop(voxels.min(0), voxels.max(0), scan)
        masks = draw(grid)
        if not masks.any():
            raise _no_voxel(point_mm)
        return LesionWindow(grid, cut_window(scan.image, scan.affine, grid), masks, self.scale)

    def crop(self, low_mm: np.ndarray, high_mm: np.ndarray, scan: Scan) -> WindowGrid:
        """Return the crop for a lesion between two corners, RAS mm.

        A scan with the crop's own spacing and axes is read without interpolation.
        """
        sizes = [self.voxels(extent) for extent in high_mm - low_mm + self.spacing_mm]
        extent = (np.array(sizes) - 1) * self.spacing_mm
        ends = np.array(np.meshgrid(*[(0, n - 1) for n in scan.shape])).reshape(3, -1).T
        corners = apply_affine(scan.affine, ends)
        first, last = corners.min(0), corners.max(0)
        start = (low_mm + high_mm - extent) / 2
        # where the scan is smaller than the crop, the crop lies over all of it
        fits = last - first >= extent
        shifted = np.clip(start, first, np.maximum(first, last - extent))
        start = np.where(fits, shifted, (first + last - extent) / 2)
        if fits.all() and np.allclose(scan.spacing_mm, self.spacing_mm, atol=1e-4):
            index = apply_affine(np.linalg.inv(scan.affine), start)
            start = apply_affine(scan.affine, np.rint(index))
        return WindowGrid.around(start + extent / 2, sizes, self.spacing_mm)

    def voxels(self, extent_mm: float) -> int:
        """Return the voxels along an axis of the crop of a lesion."""
        voxels = extent_mm / self.spacing_mm + 2 * self.context
        return int(self.step * np.ceil(max(self.smallest, voxels - 1e-6) / self.step))


class SlicesView:
    """One window over all slices of a scan of few thick ones; intensities by percentiles.

    Args:
        organ: its table.
        around: labels of all that the window is centred on.
        size: voxels within the slice.
        spacing_mm: voxel size within the slice; slices are kept.
        percentiles: of the window, that become -1 and 1.
        empty_value: intensity that is no signal; None: there is none.
        multiple: what the number of slices becomes a multiple of.
        margin_mm: width of the rim that the model draws round a lesion.
    """

    fades, grain = False, False

    def __init__(
        self,
        organ: Organ,
        around: Sequence[int],
        size: Sequence[int],
        spacing_mm: float,
        percentiles: Sequence[float],
        empty_value: float | None = None,
        multiple: int = 4,
        margin_mm: float = 0.0,
    ) -> None:
        if margin_mm < 0:
            raise ValueError(f"margin_mm must be at least 0, got {margin_mm}")
        self.organ, self.around, self.margin_mm = organ, tuple(around), float(margin_mm)
        self.rule = Window(tuple(size), float(spacing_mm), multiple=multiple)
        self.percentiles = Percentiles(tuple(percentiles), empty_value)

    def open(
        self,
        scan: Scan,
        labels: np.ndarray | None = None,
        centre_mm: Sequence[float] | None = None,
    ) -> Canvas:
        """Cut the window round the organ and find the scale of its intensities.

        Slices are the axis with the largest voxel size.

        Args:
            scan: the input.
            labels: label map of the organ on the scan's grid.
            centre_mm: RAS mm, the centre where the label map is empty.

        Raises:
            ValueError: if there is neither an organ nor a point, or the window holds no signal.
        """
        assert labels is not None
        spacing = np.round(scan.spacing_mm, 3)
        axis = 2 - int(np.argmax(spacing[::-1]))
        canvas = Canvas(scan, (*(n for n in range(3) if n != axis), axis))
        labels = canvas.turned(labels)
        around = np.isin(labels, self.around)
        grid = self.rule.on_slices(around, canvas.affine, centre_mm)
        image = cut_window(canvas.turned(scan.image), canvas.affine, grid)
        scale = self.percentiles.of(image)
        there = cut_window(labels, canvas.affine, grid, order=0, beyond=0.0).astype(np.uint8)
        tissue, (healthy, *_) = None, self.organ.wall
        if np.isin(there, self.organ.cavity).any() and (there == healthy).any():
            tissue = tissue_levels(scale.scaled(image), there, (healthy,), self.organ.cavity)
        return replace(
            canvas,
            within=np.isin(labels, self.organ.wall),
            labels=labels,
            cavity=np.isin(labels, self.organ.cavity),
            image=image,
            grid=grid,
            scale=scale,
            tissue=tissue,
            seen=there,
        )

    def window(
        self, canvas: Canvas, mask: np.ndarray, box: Box, point_mm: object, draw: Draw
    ) -> LesionWindow:
        """Return the one window."""
        assert canvas.grid is not None
        assert canvas.scale is not None
        masks = draw(canvas.grid)
        return LesionWindow(canvas.grid, canvas.image, masks, canvas.scale, canvas.seen)


def _sigmas(value: float | Sequence[float]) -> tuple[float, float]:
    numbers = np.ravel(value).astype(float).tolist()
    if len(numbers) not in (1, 2) or not 0 <= numbers[0] <= numbers[-1] < np.inf:
        raise ValueError(
            f"blend_sigma_mm must be one number or two of at least 0, smallest first, got {value}"
        )
    return numbers[0], numbers[-1]


def _no_voxel(point_mm: object) -> ValueError:
    return ValueError(f"lesion must cover a voxel of the model's grid, got none at {point_mm}")

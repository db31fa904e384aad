"""Between a scan and a window: cut and scaled for a model, and what it drew pasted back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor
from nibabel.affines import apply_affine

from tools.intensity import HuWindow, Percentiles
from tools.transforms import EachKey, as_dtype
from tools.windows import (
    BlendZone,
    Window,
    WindowGrid,
    compose_rim,
    cut_window,
    extended,
    paste_window,
)

__all__ = [
    "PasteChanged",
    "PasteLesiond",
    "PercentileScaled",
    "SliceWindowd",
    "asked_point",
    "parse_point",
]


def parse_point(centre_mm: Sequence[float] | str | None) -> tuple[float, float, float] | None:
    """Return a point from three numbers (RAS mm), or from their text as a form sends it.

    None and an empty text are no point; anything else is a ``ValueError``.

    Example:
        >>> parse_point("62.5, -20, 140"), parse_point([1, 2, 3]), parse_point("")
        ((62.5, -20.0, 140.0), (1.0, 2.0, 3.0), None)
    """
    if centre_mm is None:
        return None
    words = centre_mm.replace(",", " ").split() if isinstance(centre_mm, str) else centre_mm
    if isinstance(centre_mm, str) and not words:
        return None
    try:
        x, y, z = (float(word) for word in words)
    except (TypeError, ValueError):
        x = y = z = np.nan
    if not np.isfinite([x, y, z]).all():
        raise ValueError(f"centre_mm must be three numbers (RAS mm), got {centre_mm!r}")
    return x, y, z


def asked_point(
    sample: Mapping[Hashable, Any], affine: np.ndarray, centre_mm: Sequence[float] | None = None
) -> np.ndarray | None:
    """Return ``centre_mm``, else the last of the sample's clicks in RAS mm, else None.

    Clicks are voxel indices under ``foreground``, where MONAI Label sends all of them so far.
    """
    clicks = sample.get("foreground")
    if centre_mm is not None:
        return np.asarray(centre_mm, float)
    if clicks is None or not len(clicks):
        return None
    return apply_affine(affine, np.asarray(clicks, float).reshape(-1, 3)[-1])


class SliceWindowd(MapTransform):
    """Cut scans of thick slices to one window round an organ, see :meth:`Window.on_slices`.

    Images and the label map (``label``, cut by the nearest neighbour) ``(1, H, W, D)`` have an
    affine and lie on one grid; they become ``(1, N, M, S)``, S a multiple of ``step``. Beyond the
    scan its mirror image continues it, and the label map is 0. Where that holds nothing of
    ``organ``, the last click is the middle of the window, see :func:`asked_point`; without one it
    is a ``ValueError``. ``size`` and ``spacing_mm`` are those within the slice; a spacing of None
    keeps that of the scan.
    """

    def __init__(
        self,
        keys: KeysCollection,
        organ: Sequence[int],
        size: Sequence[int] = (72, 72),
        spacing_mm: float | None = 1.5,
        step: int = 4,
    ) -> None:
        super().__init__(keys)
        self.organ = list(organ)
        self.window = Window(tuple(size), spacing_mm, multiple=step)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with windows in place of scans."""
        sample = dict(data)
        label = sample["label"]
        organ, affine = np.isin(np.asarray(label[0]), self.organ), np.asarray(label.affine, float)
        grid = self.window.on_slices(organ, affine, asked_point(sample, affine))
        for key in self.key_iterator(sample):
            scan, flat = np.asarray(sample[key][0]), key == "label"
            window = cut_window(scan, affine, grid, 0 if flat else 1, 0.0 if flat else None)
            sample[key] = MetaTensor(
                torch.from_numpy(window)[None], affine=torch.from_numpy(grid.affine)
            )
        return sample


class PercentileScaled(EachKey):
    """Scale an image so that two of its percentiles become -1 and 1, left as ``intensity_range``.

    ``also`` are keys of further images that are put on that scale. For the other arguments see
    :class:`tools.intensity.Percentiles`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        percentiles: Sequence[float] = (0.5, 99.5),
        empty_value: float | None = None,
        also: Sequence[str] = (),
    ) -> None:
        super().__init__(keys)
        self.scale, self.also = Percentiles(tuple(percentiles), empty_value), tuple(also)

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        scale = self.scale.of(convert_to_tensor(sample[key]).float().numpy())
        for name in (key, *self.also):
            image = sample[name]
            result = image.clone() if image.is_floating_point() else image.float()
            result[:] = scale.scaled(convert_to_tensor(image).float())
            sample[name] = result
        sample["intensity_range"] = torch.tensor(scale, dtype=torch.float64)


class PasteLesiond(EachKey):
    """Put a synthetic image in [-1, 1] into the scan, in its units, inside the lesion only.

    It lies on the scan's grid, or with ``window_key`` (an image with the window's affine, which
    engines drop) on that of a window, of which the first channel is taken: a sampler that combines
    lesion classes puts them into every channel. It becomes the composite, with the scan's dtype and
    metadata; integers are rounded and kept within their type. Every voxel outside the lesion is
    copied from the scan (before it was cut and scaled) bit for bit.

    With ``image_key``, what the sampler was shown, the rim that a model draws round a lesion comes
    too: every voxel that differs from what was shown; of a window the change, at voxels of the scan
    that are nearer to the lesion than ``margin_mm``; ``grain``: see :func:`compose_rim`.

    ``classes`` are the labels of the scan's label map that are lesion; None: all above 0.
    ``window`` are the intensities that -1 and 1 stand for, or the sample's entry with them. A label
    map of another shape, or a lesion that reaches beyond the window, is a ``ValueError``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        scan_key: str = "scan",
        mask_key: str = "label",
        classes: Sequence[int] | None = None,
        window: Sequence[float] | str = "intensity_range",
        window_key: str | None = None,
        image_key: str | None = None,
        margin_mm: float = 0.0,
        grain: bool = True,
    ) -> None:
        super().__init__(keys)
        self.margin_mm, self.grain = margin_mm, grain
        self.scan_key, self.mask_key, self.classes = scan_key, mask_key, classes
        self.window, self.window_key, self.image_key = window, window_key, image_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        scan, label = sample[self.scan_key], convert_to_tensor(sample[self.mask_key]).cpu().numpy()
        if label.shape != tuple(scan.shape):
            raise ValueError(
                f"{self.mask_key} must have the shape of {self.scan_key}, got {label.shape} "
                f"and {tuple(scan.shape)}"
            )
        inside = label > 0 if self.classes is None else np.isin(label, list(self.classes))
        low, high = sample[self.window] if isinstance(self.window, str) else self.window
        scale = HuWindow(float(low), float(high))
        drawn = convert_to_tensor(sample[key]).detach().cpu()
        shown = convert_to_tensor(sample[self.image_key or key])[: len(drawn)].detach().cpu()
        if self.window_key is not None:
            affine = convert_to_tensor(sample[self.window_key].affine).cpu().numpy().astype(float)
            grid = WindowGrid(affine, tuple(drawn.shape[1:]))
            before, after = (scale.unscaled(x[0].float().numpy()) for x in (shown, drawn))
            inside[0], values = self._of_window(scan, inside[0], before, after, grid, (low, high))
        else:
            if self.image_key is not None:
                inside = (drawn != shown).numpy()
            values = scale.unscaled(drawn[torch.from_numpy(inside)])
        where = torch.from_numpy(inside).to(scan.device)
        composite = scan.clone()
        composite[where] = as_dtype(torch.as_tensor(values), scan.dtype).to(scan.device)
        sample[key] = composite

    def _of_window(
        self,
        scan: MetaTensor,
        inside: np.ndarray,
        shown: np.ndarray,
        drawn: np.ndarray,
        grid: WindowGrid,
        limits: tuple[float, float],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where a scan changes, and the values there, of a window before and after."""
        affine = convert_to_tensor(scan.affine).cpu().numpy().astype(float)
        x, y, z = inside.shape
        box = (slice(0, x), slice(0, y), slice(0, z))
        if self.image_key is None or not self.margin_mm:
            there = cut_window(inside, affine, grid, order=0, beyond=0.0) > 0
            own = extended(drawn, there)  # or the surroundings are mixed into the rim
            values = paste_window(inside, affine, own, grid, inside, box)
            return inside, values.astype(np.float64)
        zone = BlendZone.around(inside, box, affine, inside.shape, self.margin_mm, fades=False)
        image = convert_to_tensor(scan[0]).cpu().numpy()
        values = compose_rim(image, affine, shown, drawn, grid, zone, limits, self.grain)
        return zone.inside, values


class PasteChanged(EachKey):
    """Add to the scan what a synthetic image changed, and leave every other voxel as it was.

    It was made from the first channels of ``image``, of the same scale. For models that change more
    than the mask, such as a margin round it. The difference, times ``scale`` (units of the scan per
    unit of the image), is added to the scan before scaling, so that intensities beyond the scaled
    range keep theirs; voxels that did not change are copied bit for bit.
    """

    def __init__(self, keys: KeysCollection, scan_key: str = "scan", scale: float = 2000.0) -> None:
        super().__init__(keys)
        self.scan_key, self.scale = scan_key, float(scale)

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        scan = sample[self.scan_key]
        values = convert_to_tensor(sample[key]).to(scan.device)
        image = convert_to_tensor(sample["image"]).to(scan.device)
        change = (values - image[: len(values)]) * self.scale
        moved = change != 0
        composite = scan.clone()
        composite[moved] = as_dtype((convert_to_tensor(scan) + change)[moved], scan.dtype)
        sample[key] = composite

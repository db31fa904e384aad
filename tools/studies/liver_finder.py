"""An independent judge of liver tumours: are they found by a segmenter that others trained?"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel import orientations
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from tools.scans.scan import Scan
from tools.studies.judge import SIZES_MM, each_crop

__all__ = ["LiverFinder", "found_by_size"]

LEAST_SHARE = 0.25  # of a tumour that must be marked
WINDOW_HU = 200.0
SPACING_MM = (1.4, 1.4, 1.0)
SLICES, STEP = 48, 32
TUMOUR = 2
LPS = orientations.axcodes2ornt("LPS")  # as it was trained


class LiverFinder:
    """A KiU-Net for liver and tumour, run from its tensors.

    A U-Net beside a branch that enlarges its maps where the U-Net makes them smaller; at each level
    either adds what it learns of the other. Three convolutions down, three up, in both.

    References:
        Valanarasu et al., KiU-Net, MICCAI 2020. https://arxiv.org/abs/2006.04878

    Args:
        path: state dict of a KiU-Net with 16, 32 and 64 channels and the classes background, liver,
            tumour.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"liver_finder must be a file of weights, got {path}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.tensors = {key.removeprefix("module."): value for key, value in state.items()}
            self(torch.zeros(1, 1, SLICES, 32, 32))
        except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError) as error:
            raise ValueError(f"liver_finder must be weights of a KiU-Net, got {path}") from error

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits ``(1, 3, 48, H, W)`` of slices of 1 mm, sides multiples of 16."""
        x = functional.conv3d(x, self.tensors["start.weight"], self.tensors["start.bias"], 2, 1)
        small = self._layer("encoder1", "en1_bn", x, pool=2)
        large = self._layer("encoderf1", "enf1_bn", x, (0.5, 1, 1))
        u1, k1 = self._exchange("e1", small, large, (1, 0.5, 0.5))
        small = self._layer("encoder2", "en2_bn", u1, pool=2)
        large = self._layer("encoderf2", "enf2_bn", k1)
        u2, k2 = self._exchange("e2", small, large, (0.5, 0.25, 0.25))
        small = self._layer("encoder3", "en3_bn", functional.pad(u2, [0, 0, 0, 0, 0, 1]), pool=2)
        large = self._layer("encoderf3", "enf3_bn", k2, (1, 2, 2))
        small, large = self._exchange("e3", small, large, (0.25, 0.0625, 0.0625))
        small = self._layer("decoder1", "de1_bn", small, (2, 2, 2))
        large = self._layer("decoderf1", "def1_bn", large, pool=2)
        small, large = self._exchange("d1", small, large, (1, 0.25, 0.25))
        small = self._layer("decoder2", "de2_bn", small + u2, (1, 2, 2))
        large = self._layer("decoderf2", "def2_bn", _scaled(large, (2, 1, 1)) + k2)
        small, large = self._exchange("d2", small, large, (0.5, 0.5, 0.5))
        small = self._layer("decoder3", "de3_bn", _scaled(small, (2, 1, 1)) + u1, (1, 2, 2))
        large = self._layer("decoderf3", "def3_bn", large + k1)
        classes = functional.relu(self._convolved("final", small + large))
        return _scaled(self._convolved("fin", classes), (4, 2, 2))

    def _convolved(self, name: str, x: Tensor) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        return functional.conv3d(x, weight, self.tensors[f"{name}.bias"], 1, weight.shape[-1] // 2)

    def _layer(
        self, name: str, norm: str, x: Tensor, scale: Sequence[float] = (1, 1, 1), pool: int = 1
    ) -> Tensor:
        """Return convolution, pooling or scaling, batch normalisation and ReLU of a map."""
        y = _scaled(functional.max_pool3d(self._convolved(name, x), pool), scale)
        keys = ("running_mean", "running_var", "weight", "bias")
        y = functional.batch_norm(y, *(self.tensors[f"{norm}.{key}"] for key in keys))
        return functional.relu(y)

    def _exchange(
        self, level: str, small: Tensor, large: Tensor, scale: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Return both maps, to each of which a layer of the other is added at its own size."""
        to_small = self._layer(f"inter{level}_1", f"int{level}_1bn", large)
        to_large = self._layer(f"inter{level}_2", f"int{level}_2bn", small)
        back = [1 / each for each in scale]
        return small + _scaled(to_small, scale), large + _scaled(to_large, back)

    @torch.inference_mode()
    def marked(self, scan: Scan) -> Scan:
        """Return a scan in HU as a mask of what is taken for tumour, 1 or 0, on its grid."""
        lies = orientations.io_orientation(scan.affine)
        turn = orientations.ornt_transform(lies, LPS)
        image = orientations.apply_orientation(np.asarray(scan.image, np.float32), turn)
        zoom = np.array(scan.spacing_mm)[np.argsort(turn[:, 0])] / SPACING_MM
        values = np.clip(image, -WINDOW_HU, WINDOW_HU) / WINDOW_HU
        values = ndimage.zoom(values, zoom, order=1).transpose(2, 1, 0)
        classes = self._classes(values).transpose(2, 1, 0)
        nearest = [
            np.minimum((np.arange(n) * (m / n)).round().astype(int), m - 1)
            for n, m in zip(image.shape, classes.shape, strict=True)
        ]
        found = (classes[np.ix_(*nearest)] == TUMOUR).astype(np.uint8)
        found = orientations.apply_orientation(found, orientations.ornt_transform(LPS, lies))
        return Scan(nib.Nifti1Image(found, scan.affine), in_hu=False)

    def _classes(self, values: np.ndarray) -> np.ndarray:
        """Return the class of each voxel of slices ``(D, H, W)``; parts of 48 overlap."""
        depth, height, width = values.shape
        sides = ((0, max(0, SLICES - depth)), (0, -height % 16), (0, -width % 16))
        padded = torch.from_numpy(np.pad(values, sides, mode="edge"))
        total = torch.zeros(3, *padded.shape)
        last = len(padded) - SLICES
        for start in sorted({*range(0, last + 1, STEP), last}):
            part = slice(start, start + SLICES)
            total[:, part] += self(padded[part][None, None])[0].softmax(0)
        return total[:, :depth, :height, :width].argmax(0).numpy()


def _scaled(x: Tensor, scale: Sequence[float]) -> Tensor:
    if set(scale) == {1}:
        return x
    return functional.interpolate(x, scale_factor=tuple(map(float, scale)), mode="trilinear")


def found_by_size(
    finder: LiverFinder, source: str | Path, values: Sequence[int] = (), section: str | None = None
) -> dict[str, dict[str, int]]:
    """Return by size how many lesions of a folder there are, and how many of them are found.

    A lesion is found if a quarter of it is marked. Arguments as of
    :func:`tools.studies.judge.read_crops`.
    """
    crops = [
        (crop.diameter_mm, bool(crop.image[crop.mask].mean() >= LEAST_SHARE))
        for crop in each_crop(source, values, section, change=finder.marked)
    ]
    result = {}
    for low, high in pairwise(SIZES_MM):
        found = [each for size, each in crops if low <= size < high]
        if found:
            result[f"{low:g} to {high:g} mm"] = {"lesions": len(found), "found": sum(found)}
    return result

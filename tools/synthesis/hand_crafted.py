"""Hand-crafted lesions: softened salt noise in a soft mask, added to the scan; nothing learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tools.synthesis.lesion import WindowJob
from tools.synthesis.texturers import PlainTexturer
from tools.synthesis.view import View

__all__ = ["HandCrafted", "salt_texture"]

GRAIN = (3, 6, 9, 12, 15)  # voxels
SOFTENING = (4, 7)
SOFT_EDGE = (1.0, 2.0)


def salt_texture(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return a texture of soft blobs from 0 to 1, 0.5 to 0.55 in the mean of its bright part.

    Uniform noise, softened by a Gaussian of 3 to 15 voxels, becomes a field of probabilities about
    0.05 to 0.25; voxels are 1 with that probability, and softened by 4 or 7 voxels.

    References:
        Hu et al., Label-free liver tumor segmentation, CVPR 2023. https://arxiv.org/abs/2303.14869

    Args:
        shape: of the texture.
        rng: source of chance.
    """
    noise = ndimage.gaussian_filter(rng.random(shape), float(rng.choice(GRAIN)), mode="wrap")
    spread = np.ptp(noise)
    noise = (noise - noise.min()) / spread if spread else noise * 0
    chance = noise * rng.uniform(0.19, 0.21) + rng.uniform(0.04, 0.06)
    salt = (rng.random(shape) < chance).astype(np.float64)
    soft = ndimage.gaussian_filter(salt, float(rng.choice(SOFTENING)), mode="wrap")
    bright = soft[soft > 0.12]
    level = bright.mean() if len(bright) else soft.mean()
    return np.clip(soft * (rng.uniform(0.5, 0.55) / level), 0, 1) if level else soft


class HandCrafted(PlainTexturer):
    """Add a texture to the scan inside the mask: brighter or darker than what is there.

    ``result = scan + contrast * texture * soft mask``. Where a histogram is asked for, the contrast
    is such that its mean comes out, class by class; else it is drawn. Only what lies inside the
    mask is pasted, where the original lets the soft mask reach beyond; its mass effect and capsule
    were never used for training, and are left out.

    References:
        Hu et al., Label-free liver tumor segmentation, CVPR 2023. https://arxiv.org/abs/2303.14869

    Args:
        root: folder of the bundle whose presets are asked for by name.
        view: how it sees scans; voxels of about 1 mm.
        contrast: smallest and largest one of each class, as shares of the model's window of
            intensities; below 0 darkens. The paper's for livers is -0.145 to -0.065 times 1000 HU.
    """

    def __init__(self, root: str | Path, view: View, contrast: Sequence[Sequence[float]]) -> None:
        self.contrast = [tuple(float(value) for value in pair) for pair in contrast]
        super().__init__("hand_crafted", root, view, {"contrast": self.contrast})

    def _fill(self, job: WindowJob) -> np.ndarray:
        rng = np.random.default_rng(job.seed)
        image = np.asarray(job.image, np.float64)
        masks = job.lesion_mask.reshape(-1, *image.shape).astype(bool)
        low, high = job.window or self.view.scale  # type: ignore[attr-defined]
        means: list[float | None] = [None] * len(masks)
        if job.histogram is not None:
            rows = np.reshape(job.histogram, (len(masks), -1))
            middles = low + (np.arange(rows.shape[1]) + 0.5) / rows.shape[1] * (high - low)
            means = [float(row @ middles / row.sum()) if row.sum() else None for row in rows]
        result = image.copy()
        for mask, pair, mean in zip(masks, self.contrast, means, strict=True):
            if mask.any():
                soft = ndimage.gaussian_filter(mask.astype(float), rng.uniform(*SOFT_EDGE))
                change = salt_texture(image.shape, rng) * soft
                contrast = rng.uniform(pair[0], pair[1]) * (high - low)
                if mean is not None:
                    contrast = (mean - image[mask].mean()) / change[mask].mean()
                result += contrast * change
        return result

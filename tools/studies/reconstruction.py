"""How far an autoencoder's reconstruction is from its image: over the patch, the lung, lesions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics.regression import KernelType, compute_ssim_and_cs
from monai.transforms import DivisiblePad
from torch import Tensor

from tools.bundle import Bundle, sha256_file
from tools.networks.frozen_autoencoder import decode_latents, encode_latents
from tools.studies.cases import Case
from tools.studies.methods import Drawn, Method
from tools.studies.statistics import Found

REGIONS = ("patch", "lung", "lesion")
MEASURES = ("psnr", "ssim", "mae_hu", "bias_hu")
LUNG_BELOW_HU = -400.0
KERNEL, SIGMA = 11, 1.5  # of SSIM, as in monai.metrics.SSIMMetric
LEAST_MSE = 1e-10  # 100 dB: a perfect reconstruction stays a number

FACTOR = 4  # of all autoencoders here


class Autoencoder:
    """The autoencoder of a bundle (``autoencoder_def``), with its weights or a training's."""

    def __init__(
        self,
        bundle: str,
        device: str = "auto",
        weights: str | None = None,
        overlays: Sequence[str] = (),
    ) -> None:
        opened = Bundle(
            bundle, device, overlays, weights, ("autoencoder_def",), weights_key="autoencoder_path"
        )
        self.device = opened.device
        self.network = opened.network("autoencoder_def").to(self.device)
        low, high = opened.get("intensity_range")
        self.intensity_range = float(low), float(high)
        self.facts = {
            "weights_sha256": sha256_file(opened.weights)[:16],
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "intensity_range": list(self.intensity_range),
        }

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        """Return the decoded mean of the latents of an image in [0, 1], ``(1, 1, H, W, D)``.

        Sizes that the latents do not divide go on as their mirror image.
        """
        pad = DivisiblePad(k=FACTOR, mode="symmetric", method="end")
        padded = torch.as_tensor(pad(image[0])).as_subclass(Tensor)[None].to(self.device)
        whole = decode_latents(self.network, encode_latents(self.network, padded))
        height, width, depth = image.shape[2:]
        return whole[:, :, :height, :width, :depth].cpu()


@dataclass
class Reconstruction(Method):
    """Images through an autoencoder and back."""

    autoencoder: Autoencoder | None = None

    def generate(self, cases: Sequence[Case], seed: int) -> Iterator[np.ndarray]:
        """Yield the reconstructions."""
        assert self.autoencoder is not None
        for case in cases:
            image = torch.from_numpy(case.image)[None, None]
            yield self.autoencoder.reconstruct(image)[0, 0].numpy()


@torch.no_grad()
def compare_regions(
    image: Tensor,
    reconstruction: Tensor,
    lesion_mask: Tensor | None,
    intensity_range: Sequence[float] = (-1000.0, 1000.0),
) -> dict[str, dict[str, float]]:
    """Return PSNR, SSIM, mean absolute and mean signed error by region.

    PSNR is that of the mean squared error over the voxels of the region, the peak being the whole
    ``intensity_range``; at most 100 dB. SSIM is MONAI's map (Gaussian of 11 voxels) averaged over
    the region; its middle part only, 5 voxels off the border, has values.

    Image and reconstruction (clipped) are in [0, 1], which stand for ``intensity_range`` in HU,
    shape ``(1, 1, H, W, D)``, at least 11 voxels along each axis; the mask is above 0 in lesions.
    Voxels of the image below -400 HU count as lung, air in and round the body too. Regions without
    voxels are left out, and ``ssim`` where no voxel of the region has a value.

    Raises:
        ValueError: if the shapes differ or are too small.

    Example:
        >>> image = torch.full((1, 1, 12, 12, 12), 0.5)
        >>> compare_regions(image, image + 0.01, None)["patch"]["mae_hu"]
        20.0
    """
    if image.shape != reconstruction.shape or min(image.shape[2:]) < KERNEL:
        raise ValueError(
            f"reconstruction must have the shape of image, at least {KERNEL} voxels along each "
            f"axis, got {tuple(reconstruction.shape)} and {tuple(image.shape)}"
        )
    low, high = intensity_range
    image, reconstruction = image.float(), reconstruction.float().clamp(0, 1)
    similarity, _ = compute_ssim_and_cs(
        reconstruction, image, 3, [KERNEL] * 3, [SIGMA] * 3, 1.0, KernelType.GAUSSIAN
    )
    inside = {
        "patch": torch.ones_like(image, dtype=torch.bool),
        "lung": image * (high - low) + low < LUNG_BELOW_HU,
    }
    if lesion_mask is not None:
        inside["lesion"] = lesion_mask > 0
    error = (reconstruction - image).double()
    return {
        name: _errors(error[region] * (high - low), high - low) | _similarity(similarity, region)
        for name, region in inside.items()
        if bool(region.any())
    }


def _errors(error_hu: Tensor, span_hu: float) -> dict[str, float]:
    mse = max(float((error_hu / span_hu).square().mean()), LEAST_MSE)
    return {
        "psnr": round(-10 * float(np.log10(mse)), 4),
        "mae_hu": round(float(error_hu.abs().mean()), 4),
        "bias_hu": round(float(error_hu.mean()), 4),
    }


def _similarity(similarity: Tensor, region: Tensor) -> dict[str, float]:
    """Return the mean of the SSIM map over a region, if it has a value there."""
    border = KERNEL // 2
    height, width, depth = (slice(border, n - border) for n in region.shape[2:])
    values = similarity[region[:, :, height, width, depth]]
    return {"ssim": round(float(values.mean()), 5)} if len(values) else {}


def summarize_regions(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return number, mean and standard deviation of each measure by region, over patches.

    Example:
        >>> summary = summarize_regions([{"lung": {"psnr": 30.0}}, {"lung": {"psnr": 32.0}}])
        >>> summary["lung"]["n"], summary["lung"]["psnr"]
        (2, {'mean': 31.0, 'sd': 1.0})
    """
    summary: dict[str, dict[str, Any]] = {}
    for region in REGIONS:
        found = [row[region] for row in rows if region in row]
        if not found:
            continue
        summary[region] = {"n": len(found)}
        for measure in MEASURES:
            values = [row[measure] for row in found if measure in row]
            if values:
                mean, deviation = float(np.mean(values)), float(np.std(values))
                summary[region][measure] = {"mean": round(mean, 4), "sd": round(deviation, 4)}
    return summary


def reconstruction(study: Drawn, methods: Sequence[str]) -> Found:
    """Return the errors by section and kind of patch, and by region."""
    found: Found = {"methods": {}, "cases": {}}
    for name in methods:
        rows = found["cases"][name] = []
        groups: dict[str, list[dict[str, Any]]] = {}
        for case, image in zip(study.cases, study.runs[name].first, strict=True):
            real, made = (torch.from_numpy(part)[None, None] for part in (case.image, image))
            mask = torch.from_numpy(case.masks)[None] if len(case.masks) else None
            rows.append(compare_regions(real, made, mask, case.scale))
            for kind in ("all", case.facts["kind"]):
                groups.setdefault(f"{case.group}, {kind}", []).append(rows[-1])
        found["methods"][name] = {key: summarize_regions(group) for key, group in groups.items()}
    return found

"""Training objectives that look at lesions only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.schedulers import Scheduler
from torch import Tensor, nn

from tools.histograms import soft_divergence, soft_histogram
from tools.networks.lesion_features import LesionFeatures

__all__ = ["HistogramRegularizedLoss", "LatentTarget", "LesionNoiseLoss", "NoiseTarget"]


class NoiseTarget(NamedTuple):
    """What a lesion-focused denoiser is compared with; the mask has a channel per lesion class."""

    noise: Tensor  # or what else the network predicts (``prediction_type``), (B, C, H, W, D)
    lesion_mask: Tensor  # 1 inside the lesion, (B, K, H, W, D)


class LatentTarget(NamedTuple):
    """What a denoiser of latents is compared with, and what the clean estimate needs."""

    noise: Tensor  # as in NoiseTarget, (B, C, h, w, d)
    lesion_mask: Tensor  # 1 where a latent holds lesion, (B, 1, h, w, d)
    latents: Tensor  # clean, (B, C, h, w, d)
    timesteps: Tensor  # (B,)
    voxel_mask: Tensor  # the lesion mask of the image, (B, 1, H, W, D)


class LesionNoiseLoss(nn.Module):
    r"""Compare predicted and true noise inside the lesion, one masked term per lesion class.

    :math:`\sum_{i=1}^{K} M^{(i)} \lVert \epsilon - \epsilon_\theta(x_t, h, t) \rVert^{(i)}`,
    LeFusion Eq. 4 (K = 1) and Eq. 6. The gradient is zero outside the mask. A sample without a
    lesion adds nothing; a batch without any gives 0. ``norm`` is ``"l2"`` (squared error) or
    ``"l1"``.

    The paper's norm is L2; the released code takes L1 averaged over the whole volume
    (``normalize="volume"``), which makes large lesions dominate. ``normalize="lesion"`` (default)
    divides by the lesion's own voxels, so that each lesion counts the same, and averages over the
    lesions of a class. ``region="image"`` is the global loss of a plain diffusion model (the
    RePaint baseline). Other choices are a ``ValueError``.

    References:
        LeFusion, Zhang et al., ICLR 2025. https://arxiv.org/abs/2403.14066

    Example:
        >>> import torch
        >>> noise, mask = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
        >>> LesionNoiseLoss()(torch.ones(1, 1, 2, 2, 2), NoiseTarget(noise, mask))
        tensor(0.)
    """

    def __init__(self, norm: str = "l2", normalize: str = "lesion", region: str = "lesion") -> None:
        super().__init__()
        for name, value, choices in (
            ("norm", norm, ("l1", "l2")),
            ("normalize", normalize, ("lesion", "volume")),
            ("region", region, ("lesion", "image")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        self.norm, self.normalize, self.region = norm, normalize, region

    def forward(self, prediction: Tensor, target: NoiseTarget | LatentTarget) -> Tensor:
        """Return the scalar loss of predicted noise ``(B, C, H, W, D)``; masks: C channels or 1."""
        noise, lesion_mask = target[:2]
        if prediction.shape != noise.shape:
            raise ValueError(
                f"prediction must have the shape of noise, got {tuple(prediction.shape)} "
                f"and {tuple(noise.shape)}"
            )
        if lesion_mask.shape[1] not in (1, noise.shape[1]):
            raise ValueError(
                f"lesion_mask must have 1 or {noise.shape[1]} channels, got {lesion_mask.shape[1]}"
            )
        error = prediction.float() - noise.float()
        error = error.square() if self.norm == "l2" else error.abs()
        if self.region == "image":
            return error.mean()
        inside = (lesion_mask > 0).to(error.dtype).expand_as(error)
        per_class = (error * inside).flatten(2).sum(2)  # (B, C)
        if self.normalize == "volume":
            return per_class.sum() / (error.shape[0] * error[0, 0].numel())
        voxels = inside.flatten(2).sum(2)
        lesions = (voxels > 0).sum(0).clamp(min=1)  # lesions of each class in the batch
        return (per_class / voxels.clamp(min=1) / lesions).sum()


class HistogramRegularizedLoss(nn.Module):
    r"""Masked noise loss of latents, and the divergence of lesion histograms of decoded features.

    :math:`L = L_{inpaint} + \lambda L_{hist}` (HR-LDM Eq. 9), with :math:`L_{inpaint} = \sum |M
    \odot (\epsilon - \hat\epsilon)| / (\sum M + \delta)` (Eq. 5), the clean estimate :math:`\hat
    z_0` of Eq. 6, features of a truncated frozen decoder, histograms of each channel inside the
    lesion (Eq. 7), and their Jensen-Shannon divergence (Eq. 8), averaged over channels and samples.
    A sample without a lesion adds nothing; ``weight`` (lambda) of 0 leaves the decoder out.

    Deviations from the paper: the estimate is put into the clean latents before decoding (the
    prediction was never trained outside the mask, where most of the gradient would arise otherwise;
    ``composite=False`` decodes the bare estimate, as Algorithm 1 does); histograms have fixed
    ranges per channel; samples noisier than ``last_timestep`` have no histogram term (None: all
    have), since the estimate magnifies errors 84-fold at step 999. Eq. 5 is taken for each lesion,
    so that each counts the same. Feature voxels count by the share of lesion in them.

    ``ranges`` are the first and last bin centre of each feature channel, ``(F, 2)``, see
    :func:`tools.networks.lesion_features.feature_ranges`; for histograms of HU decode all (``cut``
    null) and give one row, such as ``[[0, 0.7]]`` for [-1000, 400] of [-1000, 1000]. ``one_by_one``
    decodes each lesion in a box of its own size: less work, and the same number in any batch; False
    is one batch of boxes as large as the largest, for a GPU.

    References:
        Kannan et al., HR-LDM, 2026. https://arxiv.org/abs/2605.30631

    Example:
        >>> from tools.schedules import scaled_linear_scheduler
        >>> features = LesionFeatures(nn.Identity())
        >>> loss = HistogramRegularizedLoss(features, scaled_linear_scheduler(), [[-1.0, 1.0]])
        >>> noise, mask = torch.zeros(1, 4, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
        >>> target = LatentTarget(noise, mask, noise, torch.tensor([10]), mask)
        >>> loss(noise, target).item()
        0.0
    """

    def __init__(
        self,
        features: LesionFeatures,
        scheduler: Scheduler,
        ranges: Tensor | Sequence[Sequence[float]],
        weight: float = 10.0,
        bins: int = 40,
        composite: bool = True,
        last_timestep: int | None = None,
        one_by_one: bool = True,
    ) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        count = scheduler.num_train_timesteps
        if last_timestep is not None and not 0 <= last_timestep < count:
            raise ValueError(f"last_timestep must be in 0..{count - 1}, got {last_timestep}")
        self.features, self.weight, self.bins = features, weight, bins
        self.composite, self.one_by_one = composite, one_by_one
        self.last_timestep = count - 1 if last_timestep is None else last_timestep
        self.noise_loss = LesionNoiseLoss("l1")
        self.ranges: Tensor
        self.gain: Tensor
        gain = _error_gain(scheduler.alphas_cumprod.float(), str(scheduler.prediction_type))
        self.register_buffer("ranges", torch.as_tensor(ranges).float(), persistent=False)
        self.register_buffer("gain", gain, persistent=False)

    def forward(self, prediction: Tensor, target: LatentTarget) -> Tensor:
        """Return the scalar loss of what the network gave, ``(B, C, h, w, d)``."""
        loss = self.noise_loss(prediction, target)
        if not self.weight:
            return loss
        return loss + self.weight * self.divergences(prediction, target).mean()

    def divergences(self, prediction: Tensor, target: LatentTarget) -> Tensor:
        """Return the histogram term of each sample, Eq. 8, ``(B,)``; 0 beyond the last step."""
        steps = target.timesteps.to(self.gain.device)
        chosen = (steps <= self.last_timestep) & (target.lesion_mask > 0).flatten(1).any(1)
        result = prediction.new_zeros(len(prediction), dtype=torch.float32)
        if not bool(chosen.any()):
            return result
        noise, mask, latents, steps, voxels = (tensor[chosen] for tensor in target)
        # Eq. 6, written as the error that it leaves: the same, whatever the network predicts
        gain = self.gain[steps].view(-1, 1, 1, 1, 1)
        estimate = latents + gain * (noise.float() - prediction[chosen].float())
        inside = mask.amax(1, keepdim=True) > 0
        if self.composite:
            estimate = torch.where(inside, estimate, latents)
        voxels = voxels.amax(1, keepdim=True)
        with torch.no_grad():
            wanted = self._histogram(latents, inside, voxels)
        divergence = soft_divergence(self._histogram(estimate, inside, voxels), wanted).mean(1)
        return result.masked_scatter(chosen, divergence)

    def _histogram(self, latents: Tensor, inside: Tensor, voxels: Tensor) -> Tensor:
        size = 1 if self.one_by_one else len(latents)
        parts = zip(latents.split(size), inside.split(size), voxels.split(size), strict=True)
        histograms = []
        for part in parts:
            values, share = self.features(*part)
            histograms.append(soft_histogram(values, self.ranges, self.bins, share))
        return torch.cat(histograms)


def _error_gain(alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """Return what an error of the prediction is multiplied by in the clean estimate."""
    if prediction_type == "sample":
        return torch.full_like(alpha_bar, -1.0)
    gain = (1 - alpha_bar).sqrt()
    return gain if prediction_type == "v_prediction" else gain / alpha_bar.sqrt()

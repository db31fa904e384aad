"""Training objectives that look at lesions only."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["LesionNoiseLoss", "NoiseTarget"]


class NoiseTarget(NamedTuple):
    """What a lesion-focused denoiser is compared with.

    Attributes:
        noise: the noise that was added, or what else the network predicts (see
            ``prediction_type`` of MONAI's schedulers), shape ``(B, C, H, W, D)``.
        lesion_mask: 1 inside the lesion, shape ``(B, K, H, W, D)``; one channel per lesion class.
    """

    noise: Tensor
    lesion_mask: Tensor


class LesionNoiseLoss(nn.Module):
    r"""Compare predicted and true noise inside the lesion, one masked term per lesion class.

    :math:`\sum_{i=1}^{K} M^{(i)} \lVert \epsilon - \epsilon_\theta(x_t, h, t) \rVert^{(i)}`,
    LeFusion Eq. 4 (K = 1) and Eq. 6. The gradient is zero outside the mask. A sample without a
    lesion adds nothing; a batch without any gives 0.

    The paper's norm is L2; the released code takes L1 averaged over the whole volume, which makes
    large lesions dominate. Here ``normalize="lesion"`` (default) divides by the lesion's own
    voxels, so that each lesion counts the same, and averages over the lesions of a class.

    Args:
        norm: ``"l2"`` (squared error) or ``"l1"``.
        normalize: ``"lesion"``, or ``"volume"`` for the mean over all voxels as released.
        region: ``"lesion"``, or ``"image"`` for the global loss of a plain diffusion model (the
            RePaint baseline).

    Raises:
        ValueError: if an argument is none of its choices.

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

    def forward(self, prediction: Tensor, target: NoiseTarget) -> Tensor:
        """Return the scalar loss.

        Args:
            prediction: predicted noise, shape ``(B, C, H, W, D)``.
            target: true noise of the same shape, and the mask with K channels, K = C or K = 1.

        Raises:
            ValueError: if the shapes do not fit.
        """
        noise, lesion_mask = target
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

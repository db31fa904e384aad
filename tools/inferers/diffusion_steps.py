"""The arithmetic of one step of a diffusion sampler; alpha_bar is the product of 1 - beta."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clean_image", "combine_classes", "denoise", "mix"]


def mix(x_0: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Return a noised image: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise."""
    return (x_0 * alpha_bar**0.5).add_(noise, alpha=(1 - alpha_bar) ** 0.5)


def clean_image(x_t: Tensor, predicted: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """Return the clean image that a prediction implies.

    Args:
        x_t: noised image.
        predicted: what the network gave.
        alpha_bar: of the step.
        prediction_type: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``, as MONAI names them.
    """
    if prediction_type == "sample":
        return predicted
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if prediction_type == "v_prediction":
        return (x_t * signal).sub_(predicted, alpha=noise)
    return x_t.sub(predicted, alpha=noise).div_(signal)


def denoise(
    x_t: Tensor, x_0: Tensor, now: float, then: float, noise: Tensor | None, last: bool = False
) -> Tensor:
    """Take one step down; DDPM's posterior is DDIM's step with eta = 1.

    Args:
        x_t: noised image.
        x_0: its clean estimate.
        now: alpha_bar of ``x_t``.
        then: alpha_bar of the result.
        noise: fresh noise for DDPM; None takes the step of DDIM (eta = 0).
        last: whether the result is the clean image.
    """
    variance = 0.0 if noise is None else (1 - then) / (1 - now) * (1 - now / then)
    # noise that x_0 (clamped) implies; at the clean image its weight is 0
    implied = 0.0 if last else ((1 - then - variance) / (1 - now)) ** 0.5
    result = x_0 * (then**0.5 - implied * now**0.5)
    result.add_(x_t, alpha=implied)
    return result if noise is None or variance <= 0 else result.add_(noise, alpha=variance**0.5)


def combine_classes(x: Tensor, mask: Tensor) -> Tensor:
    r"""Return :math:`\sum_i M^{(i)} x^{(i)}` in all channels, unchanged outside the masks.

    LeFusion, section 3.2: each class is drawn in a channel of its own, and put together by masks.

    Args:
        x: one channel per class, shape ``(B, K, H, W, D)``.
        mask: 0 or 1, same shape; the classes do not overlap, and one may be absent.

    Raises:
        ValueError: if the shapes differ or two classes overlap.

    Example:
        >>> x = torch.tensor([[[5.0, 6.0, 7.0]], [[1.0, 2.0, 3.0]]])[None]
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])[None]
        >>> combine_classes(x, mask)[0].squeeze(1).tolist()
        [[5.0, 2.0, 7.0], [5.0, 2.0, 3.0]]
    """
    if mask.shape != x.shape:
        raise ValueError(
            f"mask must have one channel per class as the image has, got {tuple(mask.shape)} "
            f"and {tuple(x.shape)}"
        )
    covered = mask.sum(1, keepdim=True)
    if bool((covered > 1).any()):
        raise ValueError("classes must not overlap, got voxels in several masks")
    return torch.where(covered > 0, (x * mask).sum(1, keepdim=True), x)

"""Sample the same lesion several times, once for each requested histogram."""

from __future__ import annotations

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from tools.inferers.lesion_inpaint import LesionInpaintInferer

__all__ = ["LesionRequestsInferer"]


class LesionRequestsInferer(Inferer):
    """Answer R requests for one window with the same noise: what differs is the request's doing.

    Args:
        inferer: samples one batch of windows.

    Example:
        >>> from tools.schedules import cosine_scheduler
        >>> inferer = LesionRequestsInferer(LesionInpaintInferer(cosine_scheduler(2)))
        >>> inputs, requests = torch.zeros(1, 2, 8, 8, 8), torch.rand(1, 3, 16)
        >>> inferer(inputs, lambda x, t, c: x, requests).shape
        torch.Size([1, 3, 8, 8, 8])
    """

    def __init__(self, inferer: LesionInpaintInferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: nn.Module, condition: Tensor) -> Tensor:  # type: ignore[override]
        """Return the answers side by side as channels.

        Args:
            inputs: image channels C, then lesion-mask channels, shape ``(B, C + K, H, W, D)``.
            network: called ``network(x, timesteps, condition)``.
            condition: requests ``(B, R, bins)``; a row of -1 means no control.

        Returns:
            Tensor ``(B, R * C, H, W, D)``; each answer equals the image outside the mask.

        Raises:
            ValueError: if ``condition`` does not have three axes.
        """
        if condition.ndim != 3:
            raise ValueError(f"condition must be (B, requests, bins), got {tuple(condition.shape)}")
        return torch.cat([self.inferer(inputs, network, row) for row in condition.unbind(1)], 1)

"""Losses of networks that outline lesions."""

from __future__ import annotations

from monai.losses import DeepSupervisionLoss
from torch import Tensor

__all__ = ["StackedSupervisionLoss"]


class StackedSupervisionLoss(DeepSupervisionLoss):
    r"""The same loss at every level of a decoder, as MONAI's ``DynUNet`` stacks them.

    :math:`\sum_l w_l\,L(y_l, y)` with :math:`w_l = 2^{-l}` (``weight_mode``, not normalised), each
    level scaled up to the whole patch. A network with one output has the plain loss.

    References:
        Isensee et al., nnU-Net, Nature Methods 2021. https://arxiv.org/abs/1904.08128

    Example:
        >>> import torch
        >>> loss = StackedSupervisionLoss(torch.nn.MSELoss())
        >>> zeros = torch.zeros(1, 2, 4, 4, 4)
        >>> loss(torch.ones(1, 3, 2, 4, 4, 4), zeros).item(), loss(zeros + 1, zeros).item()
        (1.75, 1.0)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of outputs ``(B, C, H, W, D)``, or ``(B, L, C, H, W, D)`` of L levels."""
        return super().forward(list(input.unbind(1)) if input.ndim > target.ndim else input, target)

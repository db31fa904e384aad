"""TorchScript of a denoiser that ``torch.jit.script`` cannot compile: its trace, on demand."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

__all__ = ["TracedDenoiser"]


class TracedDenoiser(nn.Module):
    """A trace of ``network(x, timesteps, condition)`` that scripts, the last two still optional.

    ``condition_size`` of None is that of a network without one; what is given is then ignored.

    MONAI's ``ckpt_export`` and the model zoo's checks script a network; tracing is an option of
    theirs that calls it with one tensor. A network that returns this from PyTorch's hook
    ``__prepare_scriptable__`` is traced with all its inputs instead, in evaluation mode and with
    ``size`` voxels along each axis; the trace takes other sizes if the network does not turn sizes
    into Python numbers.

    Example:
        >>> class Halved(nn.Conv3d):
        ...     def forward(self, x, timesteps=None, condition=None):
        ...         return super().forward(x) / (1 + timesteps[:, None, None, None, None])
        >>> network = Halved(2, 1, 1)
        >>> scripted = torch.jit.script(TracedDenoiser(network, 2, 3, 4))
        >>> scripted(torch.ones(2, 2, 6, 4, 4)).shape  # at step 0, with a condition of -1
        torch.Size([2, 1, 6, 4, 4])
    """

    def __init__(
        self, network: nn.Module, in_channels: int, condition_size: int | None, size: int
    ) -> None:
        super().__init__()
        network = _Unconditioned(network) if condition_size is None else network
        self.condition_size = condition_size or 1
        device = next(network.parameters()).device
        example = (
            torch.zeros(1, in_channels, size, size, size, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
            torch.zeros(1, self.condition_size, device=device),
        )
        with warnings.catch_warnings(), torch.no_grad():
            # checks of shapes are Python, and are left out of the trace as they should be
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            self.network = torch.jit.trace(network.eval(), example)

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the prediction; without timesteps at step 0, without condition uncontrolled."""
        if timesteps is None:
            timesteps = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        if condition is None:
            condition = torch.full((x.shape[0], self.condition_size), -1.0, device=x.device)
        return self.network(x, timesteps, condition)


class _Unconditioned(nn.Module):
    """A network that is not given the condition."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        return self.network(x, timesteps)

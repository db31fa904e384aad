"""Noise that depends on the sample's own seed only, never on its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["SeededNoise"]


class SeededNoise:
    """Gaussian noise for a batch, one generator per sample, drawn into one reused buffer.

    Args:
        seeds: one seed per sample.
        shape: ``(B, C, H, W, D)`` with B = ``len(seeds)``.
        device: device of the generators; the stream differs between device types.

    Raises:
        ValueError: if the number of seeds is not the batch size.
    """

    def __init__(self, seeds: Sequence[int], shape: torch.Size, device: torch.device) -> None:
        if len(seeds) != shape[0]:
            raise ValueError(f"seeds must hold one seed per sample ({shape[0]}), got {len(seeds)}")
        self.generators = [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
        self.buffer = torch.empty(shape, device=device)

    def draw(self) -> Tensor:
        """Return the next noise of all samples; the buffer is overwritten by the next call."""
        for sample, generator in zip(self.buffer, self.generators, strict=True):
            torch.randn(sample.shape, generator=generator, out=sample)
        return self.buffer

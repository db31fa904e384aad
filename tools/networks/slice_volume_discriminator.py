"""Two judges of a volume: one sees all of it, one an axial slice."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

__all__ = ["SliceVolumeDiscriminator"]


class SliceVolumeDiscriminator(nn.Module):
    """Patch discriminators of a volume ``(B, C, H, W, D)`` and of one axial slice of each sample.

    Which slices is drawn by the number of the iteration: as one of the trainer's handlers it takes
    the same ones of reconstructions and of real images, and a training that goes on takes those
    that it would have taken. Options are those of MONAI's ``PatchDiscriminator``. Deviation: its
    last convolution pads by 1, where the published one pads by 2, as it does everywhere.

    References:
        Ge et al., Long video generation with time-agnostic VQGAN, ECCV 2022.

    Example:
        >>> discriminator = SliceVolumeDiscriminator(channels=4, num_layers_d=1)
        >>> judged = discriminator(torch.zeros(2, 1, 8, 8, 8))
        >>> [tuple(part.shape) for part in judged[0]]
        [(2, 4, 5, 5), (2, 8, 6, 6), (2, 1, 5, 5)]
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        num_layers_d: int = 3,
        norm: str | tuple = "BATCH",
    ) -> None:
        super().__init__()

        def judge(spatial_dims: int) -> PatchDiscriminator:
            return PatchDiscriminator(
                spatial_dims=spatial_dims,
                channels=channels,
                in_channels=in_channels,
                num_layers_d=num_layers_d,
                norm=norm,
                bias=True,
                padding=2,
            )

        self.slice, self.volume = judge(2), judge(3)
        self.seed = 0

    def attach(self, engine: Engine) -> None:
        """Look at other slices in each iteration of a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._draw)

    def _draw(self, engine: Engine) -> None:
        self.seed = engine.state.iteration

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        """Return what the judge of slices and that of volumes see: features, then logits."""
        generator = torch.Generator().manual_seed(self.seed)
        numbers = torch.randint(image.shape[-1], (len(image),), generator=generator).tolist()
        slices = torch.stack([image[i, ..., number] for i, number in enumerate(numbers)])
        return [self.slice(slices), self.volume(image)]

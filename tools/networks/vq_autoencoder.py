"""A small 3-D autoencoder with a codebook, the first stage of DiffTumor."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.networks.codebook import Codebook

__all__ = ["VqAutoencoder"]

FACTOR = 4
EPS = 1e-6


class VqAutoencoder(nn.Module):
    r"""CT in [-1, 1] to latents of a quarter of the size, to the nearest codes, and back.

    Methods are those of MONAI's ``VQVAE``, whose layers are others: here normalised in 32 groups
    (at ``base_channels`` of 16 each channel of the first level is a group of its own), with
    convolutions whose border voxels are repeated outwards. Tensors are ``(B, C, H, W, D)``; the
    network itself works depth first, ``(B, C, D, H, W)``, as the published weights need it.
    Parameters have the published names and shapes, all but those of the codebook.

    The second stage works in latents before quantisation, scaled by the smallest and largest number
    of the codebook, :math:`z' = 2 (z - c_{min}) / (c_{max} - c_{min}) - 1`, and may leave [-1, 1];
    what it draws is quantised before decoding. Its images are in [0, 1], as those of all latent
    models here.

    ``base_channels`` is divisible by half of ``num_groups``. ``codebook`` are options of
    :class:`Codebook`.

    References:
        Chen et al., DiffTumor, CVPR 2024. https://arxiv.org/abs/2402.19470
        Ge et al., Long video generation with time-agnostic VQGAN, ECCV 2022.

    Example:
        >>> import torch
        >>> network = VqAutoencoder(num_embeddings=16).eval()
        >>> reconstruction, loss = network(torch.zeros(1, 1, 8, 12, 4))
        >>> network.encode(reconstruction).shape
        torch.Size([1, 8, 2, 3, 1])
    """

    def __init__(
        self,
        in_channels: int = 1,
        base_channels: int = 16,
        num_embeddings: int = 16384,
        embedding_dim: int = 8,
        num_groups: int = 32,
        **codebook: Any,
    ) -> None:
        super().__init__()
        if num_groups < 2 or num_groups % 2:
            raise ValueError(f"num_groups must be even and at least 2, got {num_groups}")
        if base_channels < 1 or 2 * base_channels % num_groups:
            rule = f"divisible by {num_groups // 2}"
            raise ValueError(f"base_channels must be {rule}, got {base_channels}")
        self.in_channels = in_channels
        width = FACTOR * base_channels
        self.encoder = _encoder(in_channels, base_channels, num_groups)
        self.decoder = _decoder(base_channels, in_channels, num_groups)
        self.pre_vq_conv = ReplicateConvolution(width, embedding_dim, 1)
        self.post_vq_conv = ReplicateConvolution(embedding_dim, width, 1)
        self.codebook = Codebook(num_embeddings, embedding_dim, **codebook)
        # a third faster on CPUs; convolutions hand the layout of their weights on
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction ``(B, 1, H, W, D)``, and the loss of :class:`Codebook`."""
        codes, loss, _ = self.codebook(self.encode(image))
        return self.decode(codes), loss

    def reconstruct(self, image: Tensor) -> Tensor:
        """Return the reconstruction; the codebook stays as it is."""
        return self.decode(self.codebook.snap(self.encode(image)))

    def encode(self, image: Tensor) -> Tensor:
        """Return latents before quantisation, ``(B, 8, H / 4, W / 4, D / 4)``.

        Sizes that are not divisible by 4, and other numbers of channels, are a ``ValueError``.
        """
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            wanted = f"(B, {self.in_channels}, H, W, D)"
            raise ValueError(f"image must be {wanted}, got {tuple(image.shape)}")
        if any(size % FACTOR for size in image.shape[2:]):
            sizes = tuple(image.shape[2:])
            raise ValueError(f"image must have sizes divisible by {FACTOR}, got {sizes}")
        return _depth_last(self.pre_vq_conv(self.encoder(_depth_first(image))))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the image of latents as they are, about [-1, 1]; see :meth:`reconstruct`."""
        return _depth_last(self.decoder(self.post_vq_conv(_depth_first(latents))))

    def encode_stage_2_inputs(self, image: Tensor) -> Tensor:
        """Return scaled latents, not quantised, of an image in [0, 1]."""
        low, high = self.codebook.embedding.weight.aminmax()
        return 2 * (self.encode(2 * image - 1).float() - low) / (high - low) - 1

    def decode_stage_2_outputs(self, latents: Tensor) -> Tensor:
        """Return the image, about [0, 1], of scaled latents, which are quantised."""
        low, high = self.codebook.embedding.weight.aminmax()
        return (self.decode(self.codebook.snap((latents + 1) / 2 * (high - low) + low)) + 1) / 2


class ReplicateConvolution(nn.Module):
    """Convolution of an input whose border voxels are repeated outwards.

    By ``kernel_size - stride`` voxels in all, the odd one in front; the stride divides the size.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel_size, stride)
        behind = (kernel_size - stride) // 2
        self.border = (kernel_size - stride - behind, behind) * 3

    def forward(self, x: Tensor) -> Tensor:
        if self.border[0]:
            x = functional.pad(x, self.border, mode="replicate")
        return self.conv(x)


class ReplicateUpsampling(nn.Module):
    """Transposed convolution that doubles the size of an input with repeated border voxels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # a kernel of 4 makes 2 n + 6 voxels of n + 2, of which the middle 2 n are kept
        self.convt = nn.ConvTranspose3d(inputs, outputs, 4, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(functional.pad(x, (1,) * 6, mode="replicate"))


class ResidualBlock(nn.Module):
    """Twice normalisation, SiLU and convolution, added to the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, EPS)
        self.conv1 = ReplicateConvolution(channels, channels, 3)
        self.norm2 = nn.GroupNorm(groups, channels, EPS)
        self.conv2 = ReplicateConvolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(hidden)))


def _encoder(inputs: int, base: int, groups: int) -> nn.Sequential:
    levels = [
        _named(
            down=ReplicateConvolution(width, 2 * width, 4, 2),
            res=ResidualBlock(2 * width, groups),
        )
        for width in (base, 2 * base)
    ]
    return _named(
        conv_first=ReplicateConvolution(inputs, base, 3),
        conv_blocks=nn.Sequential(*levels),
        final_block=_activation(4 * base, groups),
    )


def _decoder(base: int, outputs: int, groups: int) -> nn.Sequential:
    levels = [
        _named(
            up=ReplicateUpsampling(4 * base, width),
            res1=ResidualBlock(width, groups),
            res2=ResidualBlock(width, groups),
        )
        for width in (4 * base, 2 * base)
    ]
    return _named(
        final_block=_activation(4 * base, groups),
        conv_blocks=nn.Sequential(*levels),
        conv_last=ReplicateConvolution(2 * base, outputs, 3),
    )


def _activation(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(groups, channels, EPS), nn.SiLU())


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _depth_first(x: Tensor) -> Tensor:
    return x.permute(0, 1, 4, 2, 3)


def _depth_last(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2)

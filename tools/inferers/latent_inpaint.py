"""Lesions drawn in the latent space of an autoencoder, put into a scan that else stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from tools.histograms import lean_to_histogram
from tools.inferers.lesion_inpaint import LesionInpaintInferer, check_binary
from tools.networks.frozen_autoencoder import decode_latents, encode_latents
from tools.transforms.latents import latent_mask, latent_mask_channels
from tools.windows import blend_weight

__all__ = ["LatentInpaintInferer"]

FEWEST_STEPS = {"ddpm": 100, "ddim": 50}


class LatentInpaintInferer(Inferer):
    r"""Encode, sample inside the lesion mask, decode, and blend the difference into the scan.

    The crop is encoded once to :math:`z_{bg}`; the recurrent sampler gives :math:`z` (HR-LDM Eq.
    10, Algorithm 2); the result is :math:`x + w\,(D(z) - D(z_{bg}))`. What the autoencoder itself
    gets wrong is in both decodes and cancels, so the grain of the scan stays. w is 1 in the lesion
    and falls to 0 as a raised cosine of the distance; from ``margin_mm`` on the input comes back
    **bit for bit**. With :math:`z = z_{bg}` the whole input does.

    Deviation from the paper: it takes :math:`D(z)` for the whole volume, which changes every voxel.

    A sampler with ``background="input"`` (DiffTumor, and Cond-Diffusion in latent space) is shown
    the latents of the crop with ``blank`` in the lesion (0 is the lowest intensity; DiffTumor takes
    the middle, 0.5): those of the crop itself know the lesion beyond its mask.

    Own addition: ``histogram_strength`` moves the voxels of the lesion, not those of the rim, that
    share of the way to the histogram asked for, by rank, once all is decoded; its bins divide
    ``histogram_range``, in units of the image. 0 is as published: what comes through a decoder is
    blurred, and its histogram narrower than the one asked for.

    Fewer steps narrow the spread of the samples. Exact Gaussian data (standard deviation 1, T =
    1000, scaled-linear) come out with 0.99 of it after 250 DDPM steps, 0.95 after 100, 0.93 after
    50; after 50 DDIM steps with 0.97, after 20 with 0.92. So at least 100 and 50 are asked for.
    (``step`` of MONAI's ``DDPMScheduler`` with fewer steps than it was trained with is wrong by far
    more, 1.9 times at 50; this sampler does not use it.)

    The autoencoder is frozen and works on images in [0, 1], such as that of
    :func:`tools.networks.frozen_autoencoder.frozen_autoencoder`; latents were multiplied by
    ``scale_factor`` in training. The sampler has ``mask_input``, as many mask channels as
    ``mask_detail`` makes (see :func:`tools.transforms.latents.latent_mask`), and a scheduler that
    should not clip. A ``margin_mm`` of 0 writes in the mask only; ``spacing_mm`` is one number or
    one for each axis. ``fewest_steps`` is for trying things out. What breaks these rules is a
    ``ValueError``.

    References:
        Kannan et al., HR-LDM, 2026. https://arxiv.org/abs/2605.30631
    """

    fades = True

    def __init__(
        self,
        autoencoder: nn.Module,
        sampler: LesionInpaintInferer,
        scale_factor: float = 1.0,
        mask_detail: str = "max",
        mask_channels: int = 1,
        margin_mm: float = 3.0,
        spacing_mm: float | Sequence[float] = 1.0,
        fewest_steps: int | None = None,
        blank: float = 0.0,
        histogram_strength: float = 0.0,
        histogram_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        wanted = latent_mask_channels(mask_detail, mask_channels)
        if sampler.mask_channels != wanted:
            raise ValueError(
                f"mask_channels of the sampler must be {wanted} for mask_detail {mask_detail!r}, "
                f"got {sampler.mask_channels}"
            )
        fewest = FEWEST_STEPS[sampler.sampler] if fewest_steps is None else fewest_steps
        fewest = min(fewest, sampler.scheduler.num_train_timesteps)
        steps = len({start for start, _ in sampler.transitions})
        if steps < fewest:
            raise ValueError(
                f"num_inference_steps (steps) must be at least {fewest} for {sampler.sampler}, "
                f"below which lesions lose their texture, got {steps}"
            )
        if margin_mm < 0 or scale_factor <= 0:
            raise ValueError(
                "margin_mm must be at least 0 and scale_factor above 0, got "
                f"{margin_mm} and {scale_factor}"
            )
        low, high = map(float, histogram_range)
        if not 0 <= histogram_strength <= 1 or low >= high:
            raise ValueError(
                "histogram_strength must be in [0, 1] and histogram_range rise, got "
                f"{histogram_strength} and {(low, high)}"
            )
        self.histogram_strength, self.histogram_range = histogram_strength, (low, high)
        self.autoencoder, self.sampler = autoencoder, sampler
        self.shows_blanked = sampler.background == "input"
        self.scale_factor, self.margin_mm, self.blank = scale_factor, margin_mm, blank
        self.mask_detail, self.mask_channels = mask_detail, mask_channels
        self.spacing_mm = tuple(np.broadcast_to(np.asarray(spacing_mm, float), 3).tolist())

    @property
    def seed(self) -> int:
        """Seed of the sampler."""
        return self.sampler.seed

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        condition: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the synthetic image ``(B, 1, H, W, D)``, beyond ``margin_mm`` the input.

        A sample with an empty mask comes back unchanged. ``inputs`` are the image in [0, 1], then
        binary lesion masks, ``(B, 1 + K, H, W, D)``; H, W and D are multiples of 4 and of what
        the network divides latents by: else a ``ValueError``. The condition is ``(B, bins +
        1)``, -1: none, see :class:`tools.networks.subtype_unet`; ``seeds`` one per sample.
        """
        inputs = torch.as_tensor(inputs).as_subclass(Tensor)
        if inputs.shape[1] != 1 + self.mask_channels:
            raise ValueError(
                f"inputs must hold an image and {self.mask_channels} of lesion mask, got "
                f"{inputs.shape[1]} channels"
            )
        image, mask = inputs[:, :1], inputs[:, 1:]
        check_binary(mask)
        coarse = latent_mask(mask, self.mask_detail)
        if not bool((mask > 0).any()):
            return image.clone()
        known = self._each(encode_latents, image.float())
        shown = None
        if self.shows_blanked:
            blanked = image.float().masked_fill((mask > 0).any(1, keepdim=True), self.blank)
            shown = self._each(encode_latents, blanked)
        channels = torch.cat([known, coarse], 1)
        new = self.sampler(channels, network, condition, seeds=seeds, shown=shown)
        change = self._each(decode_latents, new) - self._each(decode_latents, known)
        inside = (mask > 0).any(1).cpu().numpy()
        weights = [blend_weight(lesion, self.margin_mm, self.spacing_mm) for lesion in inside]
        weight = torch.from_numpy(np.stack(weights))[:, None].float().to(mask.device)
        result = image.float() + weight * change
        if condition is not None:
            self._lean(result[:, 0], (mask > 0).any(1), condition)
        # an input beyond the range is not clipped where nothing was drawn
        drawn = (weight > 0) & (change != 0)
        return torch.where(drawn, result.clamp(0, 1).to(image.dtype), image)

    def _lean(self, images: Tensor, inside: Tensor, condition: Tensor) -> None:
        """Move each lesion toward its histogram, in place; the last number is the subtype."""
        if self.histogram_strength:
            told = condition[:, :-1].cpu()
            for image, lesion, histogram in zip(images, inside, told, strict=True):
                image[lesion] = lean_to_histogram(
                    image[lesion], histogram, self.histogram_strength, self.histogram_range
                )

    def _each(self, coder: object, batch: Tensor) -> Tensor:
        """Run one sample at a time: less memory, and the same bits in any batch."""
        parts = [coder(self.autoencoder, x, self.scale_factor) for x in batch.split(1)]  # type: ignore[operator]
        return torch.cat(parts)

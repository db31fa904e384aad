"""From a batch of the data loader to the arguments of MONAI's engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import DiffusionPrepareBatch, PrepareBatch
from monai.networks.schedulers import Scheduler
from torch import Tensor, nn

from tools.losses import LatentTarget, NoiseTarget
from tools.networks.frozen_autoencoder import encode_latents
from tools.transforms.latents import latent_mask

__all__ = ["LatentPrepareBatch", "LesionPrepareBatch", "SynthesisPrepareBatch"]


class LesionPrepareBatch(DiffusionPrepareBatch):
    """Turn a batch into ``(image and mask, NoiseTarget, (), {noise, timesteps, condition})``.

    The engine calls ``inferer(inputs, network, noise=..., timesteps=..., condition=...)`` and then
    ``loss_function(prediction, NoiseTarget)``.

    Args:
        num_train_timesteps: T; timesteps are drawn uniformly from 0..T-1.
        condition_name: batch key of the histogram, shape ``(B, bins)``; None trains without
            control.
        image_name: batch key of the image, shape ``(B, C, H, W, D)``, scaled to [-1, 1].
        mask_name: batch key of the lesion mask, shape ``(B, K, H, W, D)``, 1 inside.
        condition_drop: probability that a sample is trained without its histogram (its row becomes
            -1), which makes sampling without control and classifier-free guidance possible.
        shared_noise: the same noise in all image channels, for classes that the sampler combines
            at every step.
        scheduler: its ``prediction_type`` names what the network is compared with; None: the noise.
    """

    def __init__(
        self,
        num_train_timesteps: int,
        condition_name: str | None = "histogram",
        image_name: str = "image",
        mask_name: str = "label",
        condition_drop: float = 0.1,
        scheduler: Scheduler | None = None,
        shared_noise: bool = False,
    ) -> None:
        super().__init__(num_train_timesteps, condition_name)
        if not 0 <= condition_drop <= 1:
            raise ValueError(f"condition_drop must be in [0, 1], got {condition_drop}")
        self.image_name, self.mask_name = image_name, mask_name
        self.condition_drop, self.scheduler = condition_drop, scheduler
        self.shared_noise = shared_noise

    def __call__(  # type: ignore[override]
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, NoiseTarget, tuple, dict[str, Tensor | None]]:
        """Return inputs ``(B, C + K, H, W, D)``, target, and three keyword arguments."""
        image, mask, condition = _tensors(self, _reader(batchdata, device, non_blocking))
        noise = self.get_noise(image[:, :1] if self.shared_noise else image).expand_as(image)
        timesteps = self.get_timesteps(image)
        if condition is not None:
            dropped = torch.rand(len(condition), 1, device=condition.device) < self.condition_drop
            condition = torch.where(dropped, -1.0, condition)
        arguments = {"noise": noise, "timesteps": timesteps, "condition": condition}
        target = NoiseTarget(training_target(self.scheduler, image, noise, timesteps), mask)
        return torch.cat([image, mask], 1), target, (), arguments


class LatentPrepareBatch(DiffusionPrepareBatch):
    """Turn a batch into latents and mask, ``LatentTarget``, and what the sampler needs.

    Latents that a transform cached are taken as they are; otherwise the frozen autoencoder encodes
    the image. MONAI's ``DiffusionPrepareBatch`` would make noise of the image's shape.

    Arguments are those of :class:`LesionPrepareBatch`, but for:

    Args:
        autoencoder: frozen; None where every batch holds latents.
        scale_factor: latents are multiplied by it; those of a batch are taken to be already.
        mask_detail: see :func:`tools.transforms.latents.latent_mask`.
        condition_name: batch key of the condition ``(B, bins + 1)``: histogram, then subtype; None
            trains without.
        latents_name: batch key of latents ``(B, C, h, w, d)``.
        image_name: batch key of the image ``(B, 1, H, W, D)``, in [0, 1].
        condition_drop: probability that a sample loses its histogram, and, independently, its
            subtype, so that either can be asked for alone.
        shown_name: batch key of what a sampler with ``background="input"`` shows to the network:
            latents of the image with the lesion blanked; None: it shows nothing.
    """

    def __init__(
        self,
        num_train_timesteps: int,
        autoencoder: nn.Module | None = None,
        scale_factor: float = 1.0,
        mask_detail: str = "max",
        condition_name: str | None = "condition",
        latents_name: str = "latents",
        image_name: str = "image",
        mask_name: str = "label",
        condition_drop: float = 0.1,
        scheduler: Scheduler | None = None,
        shown_name: str | None = None,
    ) -> None:
        super().__init__(num_train_timesteps, condition_name)
        if not 0 <= condition_drop <= 1:
            raise ValueError(f"condition_drop must be in [0, 1], got {condition_drop}")
        self.autoencoder, self.scale_factor = autoencoder, scale_factor
        self.mask_detail, self.latents_name = mask_detail, latents_name
        self.image_name, self.mask_name = image_name, mask_name
        self.condition_drop, self.scheduler = condition_drop, scheduler
        self.shown_name = shown_name

    def __call__(  # type: ignore[override]
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, LatentTarget, tuple, dict[str, Tensor | None]]:
        """Return inputs ``(B, C + mask channels, h, w, d)``, target, and keyword arguments."""
        take = _reader(batchdata, device, non_blocking)
        if self.latents_name in batchdata:
            latents = take(self.latents_name)
        elif self.autoencoder is None:
            raise ValueError(
                f"batch must hold {self.latents_name!r} where there is no autoencoder, got keys "
                f"{sorted(batchdata)}"
            )
        else:
            with torch.no_grad():
                image = take(self.image_name)
                latents = encode_latents(self.autoencoder, image, self.scale_factor)
        mask = (take(self.mask_name) > 0).float()
        factor = mask.shape[2] // latents.shape[2]
        noise, timesteps = self.get_noise(latents), self.get_timesteps(latents)
        condition = None if self.condition_name is None else self._drop(take(self.condition_name))
        target = LatentTarget(
            training_target(self.scheduler, latents, noise, timesteps),
            latent_mask(mask, factor=factor).amax(1, keepdim=True),
            latents,
            timesteps,
            mask.amax(1, keepdim=True),
        )
        arguments = {"noise": noise, "timesteps": timesteps, "condition": condition}
        if self.shown_name is not None:
            arguments["shown"] = take(self.shown_name)
        coarse = latent_mask(mask, self.mask_detail, factor)
        return torch.cat([latents, coarse], 1), target, (), arguments

    def _drop(self, condition: Tensor) -> Tensor:
        dropped = torch.rand(len(condition), 2, device=condition.device) < self.condition_drop
        width = condition.shape[1] - 1
        dropped = torch.cat([dropped[:, :1].expand(-1, width), dropped[:, 1:]], 1)
        return torch.where(dropped, -1.0, condition)


class SynthesisPrepareBatch(PrepareBatch):
    """Turn a batch into ``(image and mask, mask, (), {condition})`` for an evaluator that samples.

    The engine stores the second item as output ``label``: there postprocessing looks for the mask.
    Batch keys are those of :class:`LesionPrepareBatch`.
    """

    def __init__(
        self,
        condition_name: str | None = "histogram",
        image_name: str = "image",
        mask_name: str = "label",
    ) -> None:
        self.condition_name = condition_name
        self.image_name, self.mask_name = image_name, mask_name

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple, dict[str, Tensor | None]]:
        """Return inputs ``(B, C + K, H, W, D)``, the lesion mask, and the condition."""
        image, mask, condition = _tensors(self, _reader(batchdata, device, non_blocking))
        return torch.cat([image, mask], 1), mask, (), {"condition": condition}


def _reader(
    batch: Mapping[str, Tensor], device: str | torch.device | None, non_blocking: bool
) -> Callable[[str], Tensor]:
    """Return what reads an entry of a batch as a plain float tensor on the device."""

    def take(name: str) -> Tensor:
        tensor = torch.as_tensor(batch[name]).as_subclass(Tensor)
        return tensor.to(device=device, dtype=torch.float32, non_blocking=non_blocking)

    return take


def _tensors(
    names: LesionPrepareBatch | SynthesisPrepareBatch, take: Callable[[str], Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return image, mask (a rim is between 0 and 1) and condition."""
    condition = None if names.condition_name is None else take(names.condition_name)
    return take(names.image_name), take(names.mask_name).clamp(0, 1), condition


def training_target(
    scheduler: Scheduler | None, clean: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return what the network is compared with, by the scheduler's ``prediction_type``."""
    kind = "epsilon" if scheduler is None else scheduler.prediction_type
    if kind == "sample":
        return clean
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)  # type: ignore[union-attr]
    return noise

"""From a batch of the data loader to the arguments of MONAI's engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import DiffusionPrepareBatch, PrepareBatch
from monai.networks.schedulers import Scheduler
from torch import Tensor

from tools.losses import NoiseTarget

__all__ = ["LesionPrepareBatch", "SynthesisPrepareBatch"]


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

    Raises:
        ValueError: if ``condition_drop`` is outside [0, 1].
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
        image, mask, condition = _tensors(self, batchdata, device, non_blocking)
        noise = self.get_noise(image[:, :1] if self.shared_noise else image).expand_as(image)
        timesteps = self.get_timesteps(image)
        if condition is not None:
            dropped = torch.rand(len(condition), 1, device=condition.device) < self.condition_drop
            condition = torch.where(dropped, -1.0, condition)
        arguments = {"noise": noise, "timesteps": timesteps, "condition": condition}
        target = NoiseTarget(self._target(image, noise, timesteps), mask)
        return torch.cat([image, mask], 1), target, (), arguments

    def _target(self, image: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        kind = "epsilon" if self.scheduler is None else self.scheduler.prediction_type
        if kind == "sample":
            return image
        if kind == "v_prediction":
            return self.scheduler.get_velocity(image, noise, timesteps)  # type: ignore[union-attr]
        return noise


class SynthesisPrepareBatch(PrepareBatch):
    """Turn a batch into ``(image and mask, mask, (), {condition})`` for an evaluator that samples.

    The engine stores the second item as output ``label``: there postprocessing looks for the mask.

    Args:
        condition_name: batch key of the requested histogram, or None for no control.
        image_name: batch key of the image, scaled to [-1, 1].
        mask_name: batch key of the lesion mask, 1 inside.
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
        image, mask, condition = _tensors(self, batchdata, device, non_blocking)
        return torch.cat([image, mask], 1), mask, (), {"condition": condition}


def _tensors(
    names: LesionPrepareBatch | SynthesisPrepareBatch,
    batch: Mapping[str, Tensor],
    device: str | torch.device | None,
    non_blocking: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return image, binary mask and condition as plain tensors on the device."""

    def take(name: str) -> Tensor:
        tensor = torch.as_tensor(batch[name]).as_subclass(Tensor)
        return tensor.to(device=device, dtype=torch.float32, non_blocking=non_blocking)

    condition = None if names.condition_name is None else take(names.condition_name)
    return take(names.image_name), (take(names.mask_name) > 0).float(), condition

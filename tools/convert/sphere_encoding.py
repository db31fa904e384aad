"""Which sphere encoding a mask network was trained on: told by how well it denoises under each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tools.networks.sphere_encoded_unet import SphereEncodedUNet
from tools.schedules import cosine_scheduler

__all__ = ["choose_sphere_outside", "sphere_encoding_losses"]

ENCODINGS = (255.0, -1.0)
# parts of the noise schedule: from a lesion in plain sight to one that only the sphere shows
NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7)
LESIONS = 2
LONGEST_VOXELS = (4, 10)
ROUNDNESS = (0.6, 1.0)
# mean |noise| of a standard normal is what predicting no noise at all costs
NO_PREDICTION = math.sqrt(2 / math.pi)
DENOISES = 0.5 * NO_PREDICTION


def choose_sphere_outside(
    network: SphereEncodedUNet,
    num_train_timesteps: int = 300,
    window_size: Sequence[int] = (64, 64, 32),
) -> float:
    """Return the encoding under which a network denoises better, and print both losses.

    Raises:
        ValueError: if the network denoises under neither encoding: the comparison would be chance.
    """
    losses = sphere_encoding_losses(network, num_train_timesteps, window_size)
    shown = ", ".join(f"{loss:.4f} with {outside:g}" for outside, loss in losses.items())
    print(f"denoising loss by sphere_outside: {shown} (predicting no noise: {NO_PREDICTION:.2f})")
    best = min(losses, key=lambda outside: losses[outside])
    if losses[best] > DENOISES:
        raise ValueError(
            f"sphere_outside must be a number for a network that denoises with neither, got {shown}"
        )
    return best


@torch.no_grad()
def sphere_encoding_losses(
    network: SphereEncodedUNet,
    num_train_timesteps: int = 300,
    window_size: Sequence[int] = (64, 64, 32),
) -> dict[float, float]:
    """Return the mean absolute error of the predicted noise under each encoding of the sphere.

    Ellipsoids in {-1, 1}, each with the sphere round it, are noised at four points of the cosine
    schedule. Every encoding sees the same lesions and the same noise, so that the losses differ by
    the encoding alone. This is one network call per lesion, noise level and encoding, no sampling.
    The network is left as it was. From 24 voxels per axis of the window no lesion is cut off.

    Example:
        >>> network = SphereEncodedUNet(base_channels=8, channel_multipliers=(1, 2)).eval()
        >>> sorted(sphere_encoding_losses(network, window_size=(8, 8, 4)))
        [-1.0, 255.0]
    """
    parameter = next(network.parameters())
    scheduler = cosine_scheduler(num_train_timesteps)
    rng = np.random.default_rng(0)
    cases: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for _ in range(LESIONS):
        lesion, region = (torch.from_numpy(array) for array in _lesion(window_size, rng))
        for level in NOISE_LEVELS:
            timesteps = torch.tensor([round(level * (num_train_timesteps - 1))])
            noise = torch.from_numpy(rng.standard_normal(lesion.shape, np.float32))
            x_t = scheduler.add_noise(original_samples=lesion, noise=noise, timesteps=timesteps)
            cases.append((x_t, region, timesteps, noise))
    before, losses = network.sphere_outside, {}
    progress = tqdm(total=len(ENCODINGS) * len(cases), desc="comparing sphere encodings")
    try:
        for outside in ENCODINGS:
            network.sphere_outside, total = outside, 0.0
            for x_t, region, timesteps, noise in cases:
                x = torch.cat([x_t, region], 1).to(parameter.device)
                predicted = network(x, timesteps.to(parameter.device)).float().cpu()
                total += float((predicted - noise).abs().mean())
                progress.update()
            # overflow under the wrong encoding is as bad as it gets, and must not win as NaN
            losses[outside] = total / len(cases) if math.isfinite(total) else math.inf
    finally:
        network.sphere_outside = before
        progress.close()
    return losses


def _lesion(shape: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an ellipsoid in {-1, 1} and the sphere round it in {0, 1}, ``(1, 1, H, W, D)``."""
    longest = min(int(rng.integers(LONGEST_VOXELS[0], LONGEST_VOXELS[1] + 1)), max(shape) // 2 - 1)
    semi_axes = rng.permutation([longest, *(longest * rng.uniform(*ROUNDNESS, 2))])
    centre = np.array(shape) // 2 + rng.integers(-1, 2, 3)
    offsets = np.moveaxis(np.indices(shape), 0, -1) - centre
    lesion = ((offsets / semi_axes) ** 2).sum(-1) <= 1
    region = (offsets**2).sum(-1) <= longest**2
    return (
        np.where(lesion, 1.0, -1.0).astype(np.float32)[None, None],
        region.astype(np.float32)[None, None],
    )

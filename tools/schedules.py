"""Timetables of the recurrent sampler, and the noise schedule that MONAI lacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from monai.networks.schedulers import DDPMScheduler
from monai.networks.schedulers.scheduler import NoiseSchedules

__all__ = [
    "cosine_scheduler",
    "inference_timesteps",
    "repaint_timesteps",
    "scaled_linear_scheduler",
]


@NoiseSchedules.add_def(
    "cosine_float64", "Cosine beta schedule in double precision, beta <= 0.9999"
)
def cosine_float64_beta(
    num_train_timesteps: int, s: float = 0.008, shift: float = 1.0
) -> torch.Tensor:
    r"""Return the betas of the cosine schedule as the published medical diffusion models use it.

    :math:`\bar\alpha_t = \cos^2\!\big(\tfrac{t/T + s}{1 + s}\tfrac\pi2\big)`, betas clipped to
    0.9999, computed in float64 and stored as float32 (Nichol and Dhariwal, ICML 2021). MONAI's
    ``"cosine"`` works in float32 and clips at 0.999.

    ``s`` keeps the first beta above 0. ``shift`` is a factor on the ratio of signal to noise (of
    standard deviations) at every step; below 1 more steps are spent where little but noise is seen
    (Hoogeboom et al., Simple diffusion, ICML 2023).
    """
    steps = torch.linspace(0, num_train_timesteps, num_train_timesteps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((steps / num_train_timesteps + s) / (1 + s) * math.pi / 2) ** 2
    # the share of noise 1 - alpha_bar as it would be with the signal weaker by the shift
    alpha_bar = alpha_bar * shift**2 / (alpha_bar * shift**2 + 1 - alpha_bar)
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return betas.clamp(0, 0.9999).float()


def cosine_scheduler(
    num_train_timesteps: int = 300,
    prediction_type: str = "epsilon",
    shift: float = 1.0,
    clip_sample: bool = True,
) -> DDPMScheduler:
    """Return MONAI's DDPM scheduler with the published cosine schedule (in float64), T = 300.

    ``prediction_type`` is what the network predicts: ``"epsilon"`` (the noise, as published),
    ``"sample"`` (the clean image) or ``"v_prediction"``. For ``shift`` above 0 see
    :func:`cosine_float64_beta`: smooth images, such as shapes, are decided at noise levels that the
    published schedule (1) passes in its first few steps. ``clip_sample``: samplers keep their
    estimates of the clean image in [-1, 1].

    Example:
        >>> plain, shifted = cosine_scheduler(300), cosine_scheduler(300, shift=0.5)
        >>> bool((shifted.alphas_cumprod[1:-1] < plain.alphas_cumprod[1:-1]).all())
        True
    """
    if not shift > 0:
        raise ValueError(f"shift must be > 0, got {shift}")
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        schedule="cosine_float64",
        shift=shift,
        prediction_type=prediction_type,
        clip_sample=clip_sample,
    )


def scaled_linear_scheduler(
    num_train_timesteps: int = 1000,
    beta_start: float = 0.0015,
    beta_end: float = 0.0195,
    prediction_type: str = "epsilon",
) -> DDPMScheduler:
    r"""Return MONAI's DDPM scheduler for latents: betas whose square roots are evenly spaced.

    The schedule of MAISI and HR-LDM (section 5). Estimates are not clipped, as MONAI's default
    would: latents have no range.

    Example:
        >>> scheduler = scaled_linear_scheduler()
        >>> scheduler.clip_sample, round(float(scheduler.alphas_cumprod[-1]), 5)
        (False, 0.00014)
    """
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"beta_start and beta_end must be in order between 0 and 1, got {beta_start} and "
            f"{beta_end}"
        )
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        schedule="scaled_linear_beta",
        beta_start=beta_start,
        beta_end=beta_end,
        prediction_type=prediction_type,
        clip_sample=False,
    )


def inference_timesteps(
    num_train_timesteps: int, num_inference_steps: int | None = None
) -> list[int]:
    """Return the trained timesteps that a chain visits, from the noisiest down.

    The chain always starts at T - 1 (pure noise) and ends at 0; in between the steps are evenly
    spread. ``None`` visits all.

    Example:
        >>> inference_timesteps(300, 4)
        [299, 199, 100, 0]
    """
    count = num_train_timesteps if num_inference_steps is None else num_inference_steps
    if not 1 <= count <= num_train_timesteps:
        raise ValueError(
            f"num_inference_steps (steps) must be in 1..{num_train_timesteps}, got "
            f"{num_inference_steps}"
        )
    if count == 1:
        return [num_train_timesteps - 1]
    top = num_train_timesteps - 1
    return [round(top * (count - 1 - i) / (count - 1)) for i in range(count)]


def repaint_timesteps(
    num_train_timesteps: int,
    jump_length: int = 1,
    jump_n_sample: int = 1,
    timetable: str = "paper",
    num_inference_steps: int | None = None,
) -> list[tuple[int, int]]:
    """Return the transitions (from, to) of RePaint's recurrent chain over trained timesteps.

    A state t in 0..T-1 carries the noise of timestep t; -1 is the clean image. ``to < from`` is a
    denoising step (one network call), ``to > from`` adds noise back. Walking down, the chain goes
    up ``jump_length`` states at every turning point, ``jump_n_sample - 1`` times.

    The published orders differ in the turning points. ``"paper"`` (LeFusion, appendix: 300 299 298
    299 300 299 298 297 296 297 ..., written with the clean image as 0) turns whenever
    ``jump_length`` steps have been taken. ``"released"`` is the order of the released code, which
    counts states from 0, so that for an even T the first turn comes after three steps; it turns at
    state 0 too, which the paper's order has no counterpart for.

    With ``num_inference_steps`` it walks a chain of that many evenly spread timesteps instead of T.
    ``jump_n_sample=1`` means no jumps at all.

    Raises:
        ValueError: naming the argument that breaks its rule.

    References:
        RePaint, Lugmayr et al., CVPR 2022, algorithm 1. https://arxiv.org/abs/2201.09865

    Example:
        >>> repaint_timesteps(4, jump_length=2, jump_n_sample=2)
        [(3, 2), (2, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 0), (0, -1)]
    """
    if jump_length < 1:
        raise ValueError(f"jump_length must be at least 1, got {jump_length}")
    if not 1 <= jump_n_sample <= 1000:
        raise ValueError(f"jump_n_sample must be from 1 to 1000, got {jump_n_sample}")
    if timetable not in ("paper", "released"):
        raise ValueError(f'timetable must be "paper" or "released", got {timetable!r}')
    chain = inference_timesteps(num_train_timesteps, num_inference_steps)
    offset = 1 if timetable == "paper" else 0
    walk = list(_walk(len(chain), jump_length, jump_n_sample, offset))
    steps = [chain[len(chain) - 1 - state] if state >= 0 else -1 for state in walk]
    return list(pairwise(steps))


def _walk(length: int, jump_length: int, jump_n_sample: int, offset: int) -> Iterator[int]:
    """Yield chain positions from ``length - 1`` down to -1, with the jumps between."""
    # offset 1 counts from the clean image, offset 0 from state 0
    turning = range(jump_length * offset, length - jump_length + offset, jump_length)
    jumps_left = {point - offset: jump_n_sample - 1 for point in turning}
    position = length - 1
    yield position
    while position >= 0:
        position -= 1
        yield position
        if jumps_left.get(position, 0) > 0:
            jumps_left[position] -= 1
            for _ in range(jump_length):
                position += 1
                yield position

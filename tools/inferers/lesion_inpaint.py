"""The recurrent sampler: a lesion is generated inside a mask, the rest of the scan left alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers import Inferer
from monai.networks.schedulers import Scheduler
from torch import Tensor, nn
from tqdm.auto import tqdm

from tools.histograms import lean_to_histogram
from tools.networks.half_precision import autocast
from tools.schedules import repaint_timesteps
from tools.transforms.rim import RIM, with_rim

__all__ = [
    "LesionInpaintInferer",
    "check_binary",
    "clean_image",
    "combine_classes",
    "denoise",
    "mix",
]


class LesionInpaintInferer(Inferer):
    r"""Synthesise lesions by denoising inside a mask while the surroundings stay known.

    Sampling, from pure noise: at every step the known region is put back, :math:`x_t \leftarrow M
    \odot x_t + (1 - M) \odot q(x_t \mid \hat x_0)` (LeFusion Eq. 1-3), the network predicts the
    noise, its estimate of :math:`x_0` is clamped, and one ancestral (``"ddpm"``) or implicit
    (``"ddim"``) step is taken; jumps back follow RePaint (:func:`repaint_timesteps`). At the end
    the input is pasted outside the mask, so the output equals it there **bit for bit** (the
    released code has no such paste and leaves noise of about 9 HU).

    With ``timesteps`` given, one call is one training evaluation instead: the same composition of
    known and noised region, one network call, the predicted noise returned. So training and
    sampling cannot drift apart.

    ``background="input"`` is Cond-Diffusion, the baseline that LeFusion compares with (by name
    only): the known region is nothing but further channels of the network, after the noised ones,
    with 0 in the lesion; the whole window is noised and generated, and nothing is put back on the
    way. The paste at the end stays, which the baseline as published does without.

    Own additions, off as published: ``background="clean"`` shows the network the known region
    without noise; ``mask_input`` gives it the mask as further channels, 1 in the lesion and
    ``mask_outside`` beyond; ``margin_mm`` draws the
    rim that a scanner blurs round a lesion too (:func:`tools.transforms.rim.with_rim`; voxels are
    ``spacing_mm`` wide), so that the output equals the input farther off only;
    ``histogram_strength`` moves each :math:`x_0` estimate toward the requested histogram by rank
    (1: exactly that); ``guidance_scale`` above 1 is classifier-free guidance (the published weights
    were never trained for it), about the whole condition, or with ``guidance_from`` about its
    numbers from that one on, 0 where nothing is known of them; samples that are told nothing there
    cost no second call.

    The scheduler is MONAI's that the network was trained with; with its ``clip_sample=False`` (for
    latents, which have no range) the estimates are not clamped. ``num_inference_steps`` of None
    visits all timesteps; ``jump_length`` are timesteps per jump back, ``jump_n_sample`` the times
    that each stretch is walked: 1 means no jumps.

    ``mask_channels`` are the lesion classes K. ``combine``, with one image channel per class, puts
    the classes together by their masks: ``"step"`` at every step, as the paper's sum says, with the
    same noise in all channels (train with ``shared_noise``); ``"end"`` once, as released; None
    never.

    Sample i of a batch uses ``seed + i`` unless the call gives ``seeds``; with ``advance_seed`` the
    next call goes on with the seeds that follow, for models whose result hangs on the noise alone.
    ``one_by_one`` samples with one network call per sample: libraries choose their kernels by batch
    size, and near pure noise rounding is amplified 20,000-fold; only so is the result for a seed
    the same in any batch. ``amp_dtype`` (``"bfloat16"``, ``"float16"``) runs the network under
    autocast; ``condition`` ``(bins,)`` or ``(B, bins)`` is used when a call names none. Arguments
    outside their choices are a ``ValueError``.

    References:
        LeFusion, Zhang et al., ICLR 2025. https://arxiv.org/abs/2403.14066
        RePaint, Lugmayr et al., CVPR 2022. https://arxiv.org/abs/2201.09865
        DDIM, Song et al., ICLR 2021. https://arxiv.org/abs/2010.02502

    Example:
        >>> from monai.networks.schedulers import DDPMScheduler
        >>> inferer = LesionInpaintInferer(DDPMScheduler(4, "cosine"), mask_channels=1)
        >>> inputs = torch.zeros(1, 2, 8, 8, 8)
        >>> torch.equal(inferer(inputs, lambda x, t, c: x), inputs[:, :1])  # empty mask
        True
    """

    fades = False  # what it changes in the rim is drawn, not blended

    def __init__(
        self,
        scheduler: Scheduler,
        num_inference_steps: int | None = None,
        sampler: str = "ddpm",
        jump_length: int = 1,
        jump_n_sample: int = 1,
        timetable: str = "paper",
        background: str = "noised",
        mask_input: bool = False,
        mask_outside: float = 0.0,
        mask_channels: int = 1,
        combine: str | None = None,
        condition: Sequence[float] | Tensor | None = None,
        guidance_scale: float = 1.0,
        guidance_from: int | None = None,
        histogram_strength: float = 0.0,
        seed: int = 0,
        advance_seed: bool = False,
        amp_dtype: str | None = None,
        one_by_one: bool = False,
        progress: bool = False,
        margin_mm: float = 0.0,
        spacing_mm: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("sampler", sampler, ("ddpm", "ddim")),
            ("background", background, ("noised", "clean", "input")),
            ("amp_dtype", amp_dtype, (None, "bfloat16", "float16")),
            ("combine", combine, (None, "step", "end")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        if not 0 <= histogram_strength <= 1:
            raise ValueError(f"histogram_strength must be in [0, 1], got {histogram_strength}")
        if margin_mm < 0:
            raise ValueError(f"margin_mm must be at least 0, got {margin_mm}")
        self.scheduler = scheduler
        self.transitions = repaint_timesteps(
            scheduler.num_train_timesteps,
            jump_length,
            jump_n_sample,
            timetable,
            num_inference_steps,
        )
        self.sampler, self.background = sampler, background
        self.mask_input, self.mask_outside = mask_input, mask_outside
        self.mask_channels, self.combine = mask_channels, combine
        self.condition = None if condition is None else torch.as_tensor(condition).float()
        self.guidance_scale, self.guidance_from = guidance_scale, guidance_from
        self.histogram_strength = histogram_strength
        self.seed, self.advance_seed = seed, advance_seed
        self.one_by_one, self.progress = one_by_one, progress
        self.margin_mm, self.spacing_mm = margin_mm, spacing_mm
        self.amp_dtype = None if amp_dtype is None else getattr(torch, amp_dtype)
        # one extra entry: index -1 is the clean image
        self.alpha_bar = [*scheduler.alphas_cumprod.double().tolist(), 1.0]

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        condition: Tensor | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        trace: list[Tensor] | None = None,
        shown: Tensor | None = None,
    ) -> Tensor:
        """Return the synthetic image ``(B, C, H, W, D)``; with ``timesteps`` the predicted noise.

        ``inputs`` ``(B, C + K, H, W, D)`` are image channels, scaled to [-1, 1], then K of lesion
        mask (1 inside). The network is called ``network(x, timesteps, condition)``; a row of -1 in
        the condition ``(B, bins)`` means no control. The result for one of ``seeds`` does not
        depend on the rest of the batch; ``trace`` receives the state after every transition.
        ``noise`` and ``timesteps`` ``(B,)`` are for training only. ``shown`` is what
        ``background="input"`` gives to the network in place of the image with 0 in the lesion:
        latents know what is beside them, so the image is blanked before they are made of it.

        While sampling the result equals the image from ``margin_mm`` of the mask on; a sample with
        an empty mask comes back unchanged. Combined classes are in all channels. A mask that is not
        binary, no image channel, and classes that shall be combined but overlap or are not as many
        as image channels are a ``ValueError``.
        """
        if inputs.shape[1] <= self.mask_channels:
            raise ValueError(
                f"inputs must hold image channels and {self.mask_channels} of lesion mask, "
                f"got {inputs.shape[1]} channels"
            )
        inputs = torch.as_tensor(inputs).as_subclass(Tensor)
        image, mask = inputs[:, : -self.mask_channels], inputs[:, -self.mask_channels :]
        if condition is None and self.condition is not None:
            condition = self.condition.to(image).expand(len(image), -1)
        if timesteps is None:
            check_binary(mask)
            if self.margin_mm:
                parts = [with_rim(each, self.margin_mm, self.spacing_mm) for each in mask]
                mask = torch.stack(parts)
        inside = mask.amax(1, keepdim=True) > 0
        guides = [mask + self.mask_outside * (1 - mask)] if self.mask_input else []
        if self.background == "input":
            guides = [image.masked_fill(inside, 0.0) if shown is None else shown, *guides]
        if timesteps is None:
            return self._sample(image, mask, guides, network, condition, seeds, trace)
        noise = torch.randn_like(image) if noise is None else noise
        x_t = self.scheduler.add_noise(original_samples=image, noise=noise, timesteps=timesteps)
        if self.background == "clean":
            x_t = torch.where(inside, x_t, image)
        return self._predict([x_t, *guides], network, timesteps, condition)

    @torch.no_grad()
    def _sample(
        self,
        image: Tensor,
        mask: Tensor,
        guides: Sequence[Tensor],
        network: nn.Module,
        condition: Tensor | None,
        seeds: Sequence[int] | None,
        trace: list[Tensor] | None,
    ) -> Tensor:
        inside = mask.amax(1, keepdim=True) > 0
        if not bool(inside.any()):
            return image.clone()
        known = image.float()
        if seeds is None:
            seeds = [self.seed + i for i in range(len(image))]
            self.seed += len(image) * self.advance_seed
        joint = self.combine == "step"
        shape = known[:, :1].shape if joint else known.shape
        stream = SeededNoise(seeds, shape, known.device)
        x_t = stream.draw().expand_as(known).clone()
        for step, to in tqdm(self.transitions, disable=not self.progress, desc="sampling"):
            if to > step:
                x_t = mix(x_t, stream.draw(), self.alpha_bar[to] / self.alpha_bar[step])
            else:
                if self.background == "noised":
                    noised = mix(known, stream.draw(), self.alpha_bar[step])
                    x_t = torch.where(inside, x_t, noised)
                elif self.background == "clean":
                    x_t = torch.where(inside, x_t, known)
                x_0 = self._estimate(x_t, mask, guides, network, step, condition)
                fresh = None if self.sampler == "ddim" else stream.draw()
                now, then = self.alpha_bar[step], self.alpha_bar[to]
                x_t = denoise(x_t, x_0, now, then, fresh, last=to < 0)
                x_t = combine_classes(x_t, mask) if joint else x_t
            if trace is not None:
                trace.append(x_t.clone())
        x_t = combine_classes(x_t, mask) if self.combine == "end" else x_t
        # exact paste: the released sampler ends without it
        return torch.where(inside, x_t.to(image.dtype), image)

    def _estimate(
        self,
        x_t: Tensor,
        mask: Tensor,
        guides: Sequence[Tensor],
        network: nn.Module,
        step: int,
        condition: Tensor | None,
    ) -> Tensor:
        """Return the estimate of the clean image at timestep ``step``, clamped."""
        timesteps = torch.full((len(x_t),), step, device=x_t.device, dtype=torch.long)
        channels = [x_t, *guides]
        predicted = self._predict(channels, network, timesteps, condition)
        if self.guidance_scale != 1 and condition is not None:
            untold = torch.full_like(condition, -1)
            if self.guidance_from is not None:
                untold = condition.clone()
                untold[:, self.guidance_from :].clamp_(max=0)  # -1, no control at all, stays
            if not torch.equal(untold, condition):
                free = self._predict(channels, network, timesteps, untold)
                predicted = free + self.guidance_scale * (predicted - free)
        kind = str(self.scheduler.prediction_type)
        x_0 = clean_image(x_t, predicted, self.alpha_bar[step], kind)
        x_0 = x_0.clamp_(-1, 1) if getattr(self.scheduler, "clip_sample", True) else x_0
        if self.histogram_strength and condition is not None:
            self._match(x_0, mask, condition)
        return x_0

    def _match(self, x_0: Tensor, mask: Tensor, condition: Tensor) -> None:
        """Move the lesion of each controlled sample toward its histogram, in place."""
        blocks = condition.unflatten(1, (mask.shape[1], -1))
        for sample, masks, histograms in zip(x_0, mask > RIM, blocks, strict=True):
            for channel, (inside, histogram) in enumerate(zip(masks, histograms, strict=True)):
                values = sample[min(channel, len(sample) - 1)]
                strength = self.histogram_strength
                values[inside] = lean_to_histogram(values[inside], histogram, strength)

    def _predict(
        self,
        channels: Sequence[Tensor],
        network: nn.Module,
        timesteps: Tensor,
        condition: Tensor | None,
    ) -> Tensor:
        x = torch.cat(list(channels), 1)
        # autograd is on in training only, where batches are wanted
        size = 1 if self.one_by_one and not torch.is_grad_enabled() else len(x)
        conditions = [None] * len(x) if condition is None else condition.split(size)
        parts = zip(x.split(size), timesteps.split(size), conditions, strict=False)
        with autocast(x.device.type, self.amp_dtype):
            return torch.cat([network(*part).float() for part in parts])


def check_binary(lesion_mask: Tensor) -> None:
    """Refuse a mask that holds anything but 0 and 1."""
    if not bool(((lesion_mask == 0) | (lesion_mask == 1)).all()):
        values = lesion_mask.unique()[:5].tolist()
        raise ValueError(f"lesion_mask must be binary (0 or 1), got values {values}")


class SeededNoise:
    """Gaussian noise of a batch; that of a sample depends on its own seed only.

    It is drawn into one buffer that the next draw overwrites; the stream differs between device
    types.
    """

    def __init__(self, seeds: Sequence[int], shape: torch.Size, device: torch.device) -> None:
        if len(seeds) != shape[0]:
            raise ValueError(f"seeds must hold one seed per sample ({shape[0]}), got {len(seeds)}")
        self.generators = [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
        self.buffer = torch.empty(shape, device=device)

    def draw(self) -> Tensor:
        """Return the next noise of all samples."""
        for sample, generator in zip(self.buffer, self.generators, strict=True):
            torch.randn(sample.shape, generator=generator, out=sample)
        return self.buffer


def mix(x_0: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Return a noised image: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.

    Here and below alpha_bar is the product of 1 - beta up to a step.
    """
    return (x_0 * alpha_bar**0.5).add_(noise, alpha=(1 - alpha_bar) ** 0.5)


def clean_image(x_t: Tensor, predicted: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """Return the clean image that a prediction (named as MONAI does) about a noised one implies."""
    if prediction_type == "sample":
        return predicted
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if prediction_type == "v_prediction":
        return (x_t * signal).sub_(predicted, alpha=noise)
    return x_t.sub(predicted, alpha=noise).div_(signal)


def denoise(
    x_t: Tensor, x_0: Tensor, now: float, then: float, noise: Tensor | None, last: bool = False
) -> Tensor:
    """Take one step down from alpha_bar ``now`` to ``then``, at ``last`` to the clean image.

    DDPM's posterior, with fresh noise, is DDIM's step with eta = 1; noise of None is eta = 0.
    """
    variance = 0.0 if noise is None else (1 - then) / (1 - now) * (1 - now / then)
    # noise that x_0 (clamped) implies; at the clean image its weight is 0
    implied = 0.0 if last else ((1 - then - variance) / (1 - now)) ** 0.5
    result = x_0 * (then**0.5 - implied * now**0.5)
    result.add_(x_t, alpha=implied)
    return result if noise is None or variance <= 0 else result.add_(noise, alpha=variance**0.5)


def combine_classes(x: Tensor, mask: Tensor) -> Tensor:
    r"""Return :math:`\sum_i M^{(i)} x^{(i)}` in all channels, unchanged outside the masks.

    LeFusion, section 3.2: each class is drawn in a channel of its own, ``(B, K, H, W, D)``, and put
    together by masks of the same shape, above 0 where a class is; a class may be absent. Other
    shapes, or classes that overlap, are a ``ValueError``.

    Example:
        >>> x = torch.tensor([[[5.0, 6.0, 7.0]], [[1.0, 2.0, 3.0]]])[None]
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])[None]
        >>> combine_classes(x, mask)[0].squeeze(1).tolist()
        [[5.0, 2.0, 7.0], [5.0, 2.0, 3.0]]
    """
    if mask.shape != x.shape:
        raise ValueError(
            f"mask must have one channel per class as the image has, got {tuple(mask.shape)} "
            f"and {tuple(x.shape)}"
        )
    mask = (mask > 0).to(x)
    covered = mask.sum(1, keepdim=True)
    if bool((covered > 1).any()):
        raise ValueError("classes must not overlap, got voxels in several masks")
    return torch.where(covered > 0, (x * mask).sum(1, keepdim=True), x)

"""Histograms of lesions: measured, compared, kept as presets, perturbed, moved and imposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.files import read_object
from tools.sentences import short

__all__ = [
    "adapt_histogram",
    "choose_preset",
    "finite",
    "histogram_preset",
    "intensity_histogram",
    "jensen_shannon_divergence",
    "load_presets",
    "match_histogram",
    "normalize_blocks",
    "perturb_histogram",
    "soft_divergence",
    "soft_histogram",
]

_TINY = 1e-8
MOST_BINS = 1000


def intensity_histogram(
    image: Tensor,
    lesion_mask: Tensor,
    bins: int,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return the normalised intensity histogram of each sample inside its lesion mask.

    Bins are of equal width; values beyond ``value_range`` count in the outermost bins, as they do
    after an intensity window is applied. An empty mask gives a row of zeros (LeFusion, section 3.2:
    an absent lesion class has no histogram). Image and mask are ``(B, ...)``, the result
    ``(B, bins)``.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.tensor([[-0.9, 0.9, 0.9]])
        >>> intensity_histogram(image, torch.tensor([[1, 1, 0]]), bins=2)
        tensor([[0.5000, 0.5000]])
    """
    if image.shape != lesion_mask.shape:
        raise ValueError(
            f"lesion_mask must have the shape of image, got {tuple(lesion_mask.shape)} "
            f"and {tuple(image.shape)}"
        )
    low, high = value_range
    inside = (lesion_mask > 0).flatten(1)
    position = (image.flatten(1).float() - low) * (bins / (high - low))
    index = position.floor().clamp_(0, bins - 1).long()
    counts = torch.zeros(image.shape[0], bins, device=image.device)
    counts.scatter_add_(1, index, inside.float())
    return counts / inside.sum(1, keepdim=True).clamp(min=1)


def jensen_shannon_divergence(p: Tensor, q: Tensor) -> Tensor:
    r"""Return the Jensen-Shannon divergence of two histograms, in nats.

    :math:`D(p, q) = \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m)` with :math:`m = (p + q) / 2`; it
    lies in :math:`[0, \ln 2]` (Lin, IEEE Trans. Inf. Theory 1991). Rows ``(..., bins)`` of
    non-negative weights are normalised first; one without any weight gives NaN.

    Example:
        >>> jensen_shannon_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)
    """
    p = p.float() / p.float().sum(-1, keepdim=True)
    q = q.float() / q.float().sum(-1, keepdim=True)
    middle = (p + q) / 2
    # xlogy is 0 where its first argument is 0, so empty bins need no epsilon
    entropy = torch.special.xlogy(middle, middle)
    terms = (torch.special.xlogy(p, p) + torch.special.xlogy(q, q)) / 2 - entropy
    return terms.sum(-1).clamp(min=0)


def soft_histogram(
    values: Tensor,
    ranges: Tensor,
    bins: int,
    weight: Tensor | None = None,
    dense: bool = False,
) -> Tensor:
    r"""Return normalised histograms in which each value is shared by its two nearest bins.

    :math:`h_k = \frac{1}{|S|} \sum_{i \in S} \mathrm{ReLU}(1 - |f_i - \mu_k| / w)`, HR-LDM Eq. 7,
    with bin centres :math:`\mu_k` from the first to the last number of the range and w their
    distance. Values beyond the range count in the end bins and get no gradient. It is computed in
    float32 whatever comes in.

    Deviation from the paper: the range is an argument, not that of the values at hand, so that two
    histograms can be compared and a prediction cannot move its own ruler.

    Args:
        values: shape ``(B, C, N)``.
        ranges: centres of the first and last bin of each channel, shape ``(C, 2)`` or ``(1, 2)``.
        bins: at least 2.
        weight: share with which a value counts, 0 or more, shape ``(B, 1 or C, N)``; None: 1.
        dense: build the table of values and bins instead of adding up with ``scatter_add``: bins
            times the memory, but the same bits in every run on a GPU too.

    Returns:
        Tensor ``(B, C, bins)``; rows sum to 1, or to 0 where nothing counts (an empty mask).

    Raises:
        ValueError: if ``bins`` is below 2 or the ranges are no intervals.

    References:
        Kannan et al., HR-LDM, 2026. https://arxiv.org/abs/2605.30631
        Ustinova and Lempitsky, NIPS 2016. https://arxiv.org/abs/1611.00822

    Example:
        >>> values, ranges = torch.tensor([[[0.0, 0.25, 9.0]]]), torch.tensor([[0.0, 1.0]])
        >>> soft_histogram(values, ranges, bins=3)
        tensor([[[0.5000, 0.1667, 0.3333]]])
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    low, high = ranges.to(values.device, torch.float32)[None].unbind(-1)
    if not bool((low < high).all()):
        raise ValueError(f"ranges must hold intervals, lowest first, got {ranges.tolist()}")
    position = (values.float() - low[..., None]) / (high - low)[..., None] * (bins - 1)
    position = position.clamp(0, bins - 1)
    share = torch.ones_like(position) if weight is None else weight.float().expand_as(position)
    if dense:
        centres = torch.arange(bins, device=values.device, dtype=position.dtype)
        near = (1 - (position[..., None] - centres).abs()).relu()
        counts = (near * share[..., None]).sum(2)
    else:
        lower = position.detach().floor().clamp(max=bins - 2)
        upper_part, index = position - lower, lower.long()
        counts = position.new_zeros(*position.shape[:2], bins)
        counts = counts.scatter_add(2, index, share * (1 - upper_part))
        counts = counts.scatter_add(2, index + 1, share * upper_part)
    return counts / counts.sum(-1, keepdim=True).clamp(min=_TINY)


def soft_divergence(p: Tensor, q: Tensor) -> Tensor:
    r"""Return :func:`jensen_shannon_divergence` with finite gradients (HR-LDM Eq. 8).

    **Of two histograms that share no bin the gradient is 0**: bins must be wide enough for
    prediction and target to meet. Rows ``(..., bins)`` sum to 1; two empty ones give 0.

    Example:
        >>> soft_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)
    """
    middle = ((p + q) / 2).clamp(min=_TINY)
    terms = [torch.xlogy(x, x.clamp(min=_TINY)) - torch.xlogy(x, middle) for x in (p, q)]
    return (terms[0] + terms[1]).sum(-1) / 2


def load_presets(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the named histograms of a presets file, checked.

    The file is JSON with ``bins``, ``presets: {name: {"histogram": [...], "weight": w}}`` and,
    where there are several lesion classes, ``classes``: each has a block of bins of its own, all
    zero where the preset says nothing of the class. An entry may also state ``tissue``, and the
    file a ``gain`` (1 if it states none), see :func:`adapt_histogram`.

    Returns:
        ``{name: {"histogram": list of classes * bins numbers, each block of sum 1 or 0, "weight":
        float}}``, with ``"tissue": [wall, blood]`` and ``"gain"`` where a tissue is stated.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a histogram has the wrong length, a negative entry, or no weight at all.
    """
    content = read_object(path, "histogram presets")
    classes, bins, entries = content.get("classes", 1), content.get("bins"), content.get("presets")
    for name, value in (("classes", classes), ("bins", bins)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_BINS:
            raise ValueError(
                f"{name} of {path} must be a whole number from 1 to {MOST_BINS}, got {short(value)}"
            )
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"presets of {path} must be named histograms, got {short(entries)}")
    presets = {}
    for name, entry in entries.items():
        histogram, weight = _preset_of(entry, classes * bins, f"preset {name!r} of {path}")
        presets[name] = {"histogram": normalize_blocks(histogram, classes), "weight": weight}
        if "tissue" in entry:
            tissue, gain = finite(entry["tissue"]), finite(content.get("gain", 1.0))
            if tissue is None or tissue.shape != (2,) or gain is None or gain.shape != ():
                raise ValueError(
                    f"tissue and gain of preset {name!r} of {path} must be two numbers and one, "
                    f"got {short(entry['tissue'])} and {short(content.get('gain'))}"
                )
            presets[name] |= {"tissue": tissue.tolist(), "gain": float(gain)}
    return presets


def _preset_of(entry: Any, size: int, what: str) -> tuple[np.ndarray, float]:
    """Return histogram and weight of an entry of a presets file, checked."""
    entry = entry if isinstance(entry, dict) else {}
    histogram, weight = finite(entry.get("histogram")), finite(entry.get("weight", 1.0))
    right = histogram is not None and histogram.shape == (size,) and histogram.min() >= 0
    if histogram is None or not right or histogram.sum() <= 0:
        raise ValueError(
            f"{what} must hold {size} non-negative numbers, got {short(entry.get('histogram'))}"
        )
    if weight is None or weight.shape != () or weight < 0:
        raise ValueError(
            f"{what} must have a weight of at least 0, got {short(entry.get('weight'))}"
        )
    return histogram, float(weight)


def finite(value: Any) -> np.ndarray | None:
    """Return numbers as an array, or None for anything else, NaN and infinity included."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        return None
    if array.dtype.kind not in "iuf" or not array.size:
        return None
    with np.errstate(over="ignore"):  # a sum must be finite too
        return array.astype(float) if np.isfinite(array.sum(dtype=float)) else None


def histogram_preset(path: str | Path, name: str | None) -> list[float] | None:
    """Return one histogram of a presets file; ``None`` or ``"none"`` means no histogram control."""
    if name is None or name == "none":
        return None
    presets = load_presets(path)
    if name not in presets:
        raise ValueError(f"preset must be one of {sorted(presets)} or none, got {name!r}")
    return presets[name]["histogram"]


def choose_preset(presets: Mapping[str, Mapping[str, Any]], rng: np.random.Generator) -> str:
    """Draw the name of a preset by the weights (the paper's 75:20:5 is mostly solid)."""
    names = list(presets)
    weights = np.array([presets[name]["weight"] for name in names], dtype=float)
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _blocks(histogram: Sequence[float] | np.ndarray, classes: int) -> np.ndarray:
    values = np.asarray(histogram, dtype=float)
    if values.ndim != 1 or classes < 1 or values.size % classes:
        raise ValueError(
            f"histogram must be a row of {classes} blocks of equal length, got shape {values.shape}"
        )
    return values.reshape(classes, -1)


def normalize_blocks(histogram: Sequence[float] | np.ndarray, classes: int = 1) -> list[float]:
    """Return blocks of bins side by side, each divided by its sum; a block of zeros stays zero.

    Example:
        >>> normalize_blocks([3, 1, 0, 0], classes=2)
        [0.75, 0.25, 0.0, 0.0]
    """
    blocks = _blocks(histogram, classes)
    total = blocks.sum(1, keepdims=True)
    return (blocks / np.where(total > 0, total, 1)).ravel().tolist()


def perturb_histogram(
    histogram: Sequence[float], rng: np.random.Generator, amount: float = 0.1, classes: int = 1
) -> list[float]:
    """Fluctuate each component by up to ``amount`` of itself and keep the sum of each block.

    LeFusion (section 4.1) asks for components within 10 % and a sum of 1. Its code lets the sum
    drift; here the factors are drawn in a range narrow enough that the final division cannot push a
    component beyond ``amount``, which is in [0, 1). Zeros stay zero.
    """
    values = np.asarray(histogram, dtype=float)
    half = amount / (2 + amount)  # (1 + half) / (1 - half) = 1 + amount
    return normalize_blocks(values * rng.uniform(1 - half, 1 + half, size=values.shape), classes)


def match_histogram(
    values: Tensor, histogram: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Return ``values`` re-mapped by rank so that their histogram is the given one.

    Exact histogram specification: the value of rank r of n becomes the quantile (r + 1/2) / n of
    the piecewise uniform distribution that ``histogram`` describes, so the order of the voxels, and
    with it the spatial pattern, stays. Values are ``(n,)``, n may be 0, weights ``(bins,)``.

    Example:
        >>> match_histogram(torch.tensor([0.3, 0.1]), torch.tensor([0.5, 0.5]))
        tensor([ 0.5000, -0.5000])
    """
    if values.numel() == 0:
        return values
    weights = histogram.double().to(values.device)
    edges = torch.cat([weights.new_zeros(1), (weights / weights.sum()).cumsum(0)])
    quantile = (torch.arange(values.numel(), device=values.device).double() + 0.5) / values.numel()
    index = torch.searchsorted(edges, quantile, right=True).clamp(1, weights.numel()) - 1
    width = (edges[index + 1] - edges[index]).clamp(min=1e-12)
    position = index + ((quantile - edges[index]) / width).clamp(0, 1)
    low, high = value_range
    targets = low + position * ((high - low) / weights.numel())
    result = torch.empty_like(values)
    result[values.argsort(stable=True)] = targets.to(values.dtype)
    return result


def lean_to_histogram(
    values: Tensor,
    histogram: Tensor,
    strength: float,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return ``values`` moved by this share of the way to the histogram, by rank; see above.

    A histogram that asks for nothing, with a number below 0 or a sum of 0, moves nothing.

    Example:
        >>> values = torch.tensor([0.3, 0.1])
        >>> lean_to_histogram(values, torch.tensor([0.5, 0.5]), 0.5)
        tensor([ 0.4000, -0.2000])
        >>> lean_to_histogram(values, torch.tensor([-1.0, -1.0]), 0.5)
        tensor([0.3000, 0.1000])
    """
    if histogram.min() < 0 or histogram.sum() <= 0:
        return values
    return values.lerp(match_histogram(values, histogram, value_range), strength)


def adapt_histogram(
    histogram: Sequence[float],
    tissue_from: Sequence[float],
    tissue_to: Sequence[float],
    classes: int = 2,
    value_range: Sequence[float] = (-1.0, 1.0),
    gain: float = 1.0,
) -> list[float]:
    r"""Return the histogram that a lesion seen in one scan would have in another.

    .. math:: x \mapsto c' + (x - c) \left(\frac{b' - m'}{b - m}\right)^{gain}

    with wall m, blood b and their middle c = (m + b) / 2. ``gain=1`` takes both tissues of
    the one scan to those of the other, so that a lesion halfway between wall and blood stays
    there; ``gain=0`` moves by the difference of the middles and keeps the width: how far blood is
    from the wall depends on the minutes since the contrast agent, and weighs less then.
    Each block is a piecewise uniform distribution; what leaves the range counts in the end bins.

    Args:
        histogram: ``(classes * bins,)`` non-negative numbers, blocks of bins side by side.
        tissue_from: levels (wall, blood) of the scan that the histogram is of, see
            :func:`tools.intensity.tissue_levels`.
        tissue_to: those of the scan that it is for.
        classes: number of blocks; a block keeps its sum, and one of zeros stays zero.
        value_range: outer edges of the bins.
        gain: see above, in 0..1.

    Raises:
        ValueError: if the length is no multiple of ``classes``, or ``gain`` is outside 0..1, or
            blood and wall do not lie in the same order in both scans (unless gain is 0).

    Example:
        >>> adapt_histogram([0, 1, 0, 0], (-0.5, 0.0), (0.0, 0.5), classes=1)
        [0.0, 0.0, 1.0, 0.0]
        >>> adapt_histogram([0, 0, 1, 0], (0.0, 0.5), (0.0, 1.0), classes=1)
        [0.0, 0.0, 0.5, 0.5]
    """
    blocks = _blocks(histogram, classes)
    if not 0 <= gain <= 1:
        raise ValueError(f"gain must be in 0..1, got {gain}")
    (wall, blood), (wall_to, blood_to) = tissue_from, tissue_to
    if gain and not (blood - wall) * (blood_to - wall_to) > 0:
        raise ValueError(
            "tissue_to must have blood on the same side of myocardium as tissue_from "
            f"{list(tissue_from)}, got {list(tissue_to)}"
        )
    scale = ((blood_to - wall_to) / (blood - wall)) ** gain if gain else 1.0
    edges = np.linspace(value_range[0], value_range[1], blocks.shape[1] + 1)
    # where the edges of the result lie in the distribution that is moved
    places = (wall + blood) / 2 + (edges - (wall_to + blood_to) / 2) / scale
    moved = []
    for block in blocks:
        total = np.cumsum(block)
        running = np.interp(places, edges, [0.0, *total])
        # block.sum() may differ in the last digit: -1e-17 in a bin
        running[[0, -1]] = 0.0, total[-1]
        moved.append(np.diff(running))
    return np.concatenate(moved).tolist()

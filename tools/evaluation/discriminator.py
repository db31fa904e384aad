"""Can a small network tell real lesions from synthetic ones? 50 % means that it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.blocks import Convolution
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from tools.evaluation.lesions import ValidationLesion

__all__ = ["Discriminator", "constant_fill", "discriminate", "lesion_crops", "patient_folds"]


class Discriminator(nn.Sequential):
    """A few 3-D convolutions, mean over space, one logit (above 0: synthetic).

    Args:
        in_channels: image channels, and the mask's where it is shown.
        channels: width of each convolution; the default makes 25 thousand parameters.
    """

    def __init__(self, in_channels: int = 1, channels: Sequence[int] = (8, 16, 24, 24)) -> None:
        widths = [in_channels, *channels]
        layers = [
            Convolution(3, widths[i], widths[i + 1], 1 if i == 0 else 2, norm="batch", act="relu")
            for i in range(len(channels))
        ]
        head = nn.Linear(channels[-1], 1)
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2), head)


def constant_fill(lesion: ValidationLesion) -> Tensor:
    """Return the window with the lesion replaced by its own mean: the baseline without texture."""
    inside = lesion.lesion_mask > 0
    return torch.where(inside, lesion.image[inside].mean(), lesion.image)


def lesion_crops(
    lesions: Sequence[ValidationLesion],
    images: Sequence[Tensor] | None = None,
    size: int = 24,
    window_hu: Sequence[float] = (-1000.0, 400.0),
) -> Tensor:
    """Return cubes of 1 mm about the lesions, as the discriminator sees them.

    A lesion with its 5 mm of surroundings that needs more than the cube is cropped, not shrunk:
    shrinking would average away the noise by which a synthetic texture shows. Intensities are
    rounded to whole HU, as scans store them, so that rounding itself is no clue.

    Args:
        lesions: where to cut.
        images: what to cut, in the order of ``lesions``; None takes the real images.
        size: voxels per side, at most that of the smallest window.
        window_hu: intensities that -1 and 1 stand for.

    Returns:
        Shape ``(n, 1, size, size, size)``, in [-1, 1].
    """
    half = (window_hu[1] - window_hu[0]) / 2
    crops = []
    sources = [lesion.image for lesion in lesions] if images is None else images
    for lesion, image in zip(lesions, sources, strict=True):
        voxels = lesion.lesion_mask[0].nonzero()
        middle = (voxels.amin(0) + voxels.amax(0) + 1) // 2
        limit = torch.tensor(lesion.image.shape[1:]) - size
        start = (middle - size // 2).clamp(min=torch.zeros_like(limit), max=limit)
        i, j, k = start.tolist()
        crop = image[:, i : i + size, j : j + size, k : k + size]
        crops.append((crop * half).round() / half)
    return torch.stack(crops)


def patient_folds(patients: Sequence[str], folds: int = 5, seed: int = 0) -> list[int]:
    """Return the fold of each lesion: patients stay whole, folds are about equally large.

    Args:
        patients: of each lesion.
        folds: at least 2.
        seed: of the order in which patients are dealt out.

    Raises:
        ValueError: if there are fewer patients than folds.
    """
    names, counts = np.unique(patients, return_counts=True)
    if not 2 <= folds <= len(names):
        raise ValueError(f"folds must be in 2..{len(names)} (the number of patients), got {folds}")
    size = np.zeros(folds)
    fold_of = {}
    order = np.random.default_rng(seed).permutation(len(names))
    # patients with many lesions first, while there is room to even out
    for i in sorted(order, key=lambda i: -counts[i]):
        fold_of[names[i]] = int(size.argmin())
        size[size.argmin()] += counts[i]
    return [fold_of[patient] for patient in patients]


def discriminate(
    real: Tensor,
    synthetic: Tensor,
    patients: Sequence[str],
    folds: int = 5,
    epochs: int = 25,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a network per fold to tell real from synthetic crops, and test it on unseen patients.

    A real crop and its synthetic twin (same scan, same mask) always lie in the same fold, and in
    the same training batch with the same flips, so that only the lesion can tell them apart. The
    number of epochs is fixed: no test crop has a say in when to stop.

    Args:
        real: shape ``(n, C, H, W, D)``.
        synthetic: twins, same shape and order.
        patients: of each pair.
        folds: of the cross-validation.
        epochs: passes over the training pairs.
        seed: of folds, weights, order and flips.
        device: where the networks are trained.

    Returns:
        ``{"accuracy": {"mean", "sd", "folds"}, "auc": {...}, "pairs", "chance_sd"}``; accuracy 0.5
        means that the two cannot be told apart. ``chance_sd`` is the spread of one fold's accuracy
        under guessing.

    Raises:
        ValueError: if the shapes differ.
    """
    if real.shape != synthetic.shape or len(real) != len(patients):
        raise ValueError(
            f"synthetic and patients must match real, got {tuple(real.shape)}, "
            f"{tuple(synthetic.shape)} and {len(patients)} patients"
        )
    fold_of = np.array(patient_folds(patients, folds, seed))
    pairs = torch.stack([real, synthetic], 1).to(device)
    accuracy, auc = [], []
    for fold in tqdm(range(folds), desc="discriminator"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + fold)
            network = _train(pairs[fold_of != fold], epochs).eval()
        logits = _scores(network, pairs[fold_of == fold])
        accuracy.append(float(((logits[:, 0] <= 0).mean() + (logits[:, 1] > 0).mean()) / 2))
        wins = mannwhitneyu(logits[:, 1], logits[:, 0]).statistic
        auc.append(float(wins / len(logits) ** 2))
    return {
        "accuracy": _spread(accuracy),
        "auc": _spread(auc),
        "pairs": len(real),
        "chance_sd": 0.5 / float(np.sqrt(2 * len(real) / folds)),
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "folds": values}


def _batches(pairs: Tensor, size: int = 16) -> Iterator[Tensor]:
    """Yield shuffled, flipped batches ``(size, 2, C, H, W, D)``; twins share their flips."""
    for part in torch.randperm(len(pairs)).split(size):
        batch = pairs[part.to(pairs.device)]
        for i in range(len(batch)):
            axes = [2 + a for a in range(3) if torch.rand(()) < 0.5]
            batch[i] = batch[i].flip(axes)
        yield batch


def _train(pairs: Tensor, epochs: int) -> Discriminator:
    network = Discriminator(pairs.shape[2]).to(pairs.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in _batches(pairs):
            logits = network(batch.flatten(0, 1)).view(-1, 2)
            target = torch.tensor([0.0, 1.0], device=logits.device).expand_as(logits)
            loss = functional.binary_cross_entropy_with_logits(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return network


@torch.inference_mode()
def _scores(network: Discriminator, pairs: Tensor) -> np.ndarray:
    """Return logits ``(n, 2)``, real and synthetic, each the mean over the eight flips."""
    total = torch.zeros(len(pairs), 2)
    for code in range(8):
        axes = [3 + a for a in range(3) if code >> a & 1]
        for i, pair in enumerate(pairs.flip(axes).split(32)):
            total[32 * i : 32 * i + len(pair)] += network(pair.flatten(0, 1)).view(-1, 2).cpu()
    return (total / 8).numpy()

"""Classifiers: can real lesions be told from synthetic ones, and which subtype is a lesion?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.blocks import Convolution
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from tools.studies.cases import Range, class_histograms
from tools.transforms.conditions import SUBTYPES

Arrays = Sequence[np.ndarray]
FOLDS, TREES, EPOCHS = 5, 300, 25
CLIP_HU: Range = (-1000.0, 400.0)
SOLID_HU = -150.0
PERCENTILES = (5, 25, 50, 75, 95)


def patient_folds(patients: Sequence[str], folds: int, seed: int = 0) -> np.ndarray:
    """Return the fold of each lesion: patients stay whole, folds are about equally large.

    As scikit-learn's GroupKFold deals groups out, but the seed decides among patients with equally
    many lesions. There the sort of the processor does, and ``shuffle`` gives up the equal sizes.
    """
    names, members, counts = np.unique(patients, return_inverse=True, return_counts=True)
    size, fold_of = np.zeros(folds), np.zeros(len(names), int)
    order = np.random.default_rng(seed).permutation(len(names))
    # patients with many lesions first, while there is room to even out
    for i in sorted(order, key=lambda i: -counts[i]):
        fold_of[i] = size.argmin()
        size[fold_of[i]] += counts[i]
    return fold_of[members]


Score = Callable[[Any], np.ndarray]
Fit = Callable[[Any, Any, int], Score]


def _tell_apart(
    fit: Fit, real: Any, synthetic: Any, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Cross-validate by patient what scores synthetic lesions above 0 and real ones below.

    A real lesion and its synthetic twin always lie in the same fold. Fewer patients than folds make
    fewer folds; with fewer than two the result is empty. Accuracy 0.5 means that the two cannot be
    told apart; ``chance_sd`` is the spread of one fold's accuracy under guessing.
    """
    if real.shape != synthetic.shape or len(real) != len(patients):
        raise ValueError(
            f"synthetic and patients must match real, got {tuple(real.shape)}, "
            f"{tuple(synthetic.shape)} and {len(patients)} patients"
        )
    folds = min(FOLDS, len(set(patients)))
    if folds < 2:
        return {}
    fold_of = patient_folds(patients, folds, seed)
    found: dict[str, list[float]] = {"accuracy": [], "auc": []}
    for fold in tqdm(range(folds), desc="telling apart"):
        train, test = fold_of != fold, fold_of == fold
        score = fit(real[train], synthetic[train], seed + fold)
        scores = score(real[test]), score(synthetic[test])
        found["accuracy"].append(float(((scores[0] <= 0).mean() + (scores[1] > 0).mean()) / 2))
        target = np.repeat([0, 1], test.sum())
        found["auc"].append(float(roc_auc_score(target, np.concatenate(scores))))
    chance = 0.5 / float(np.sqrt(2 * len(real) / folds))
    return {k: _folds(v) for k, v in found.items()} | {"pairs": len(real), "chance_sd": chance}


def _folds(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "folds": values}


def pooled(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return several tests as one, their folds together; empty if the first is."""
    if not tests[0]:
        return {}
    folds = {key: [v for test in tests for v in test[key]["folds"]] for key in ("accuracy", "auc")}
    return tests[0] | {key: _folds(values) for key, values in folds.items()}


def forest_test(
    real: np.ndarray, synthetic: np.ndarray, patients: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Train a random forest per fold on features ``(n, features)``; see :func:`_tell_apart`."""

    def fit(real: np.ndarray, synthetic: np.ndarray, seed: int) -> Score:
        forest = RandomForestClassifier(TREES, min_samples_leaf=3, random_state=seed)
        forest.fit(np.concatenate([real, synthetic]), np.repeat([0, 1], len(real)))
        return lambda rows: forest.predict_proba(rows)[:, 1] - 0.5

    return _tell_apart(fit, real, synthetic, patients, seed)


class Discriminator(nn.Sequential):
    """A few 3-D convolutions, mean over space, one logit, above 0: synthetic; 25,000 weights."""

    def __init__(self, in_channels: int = 1, channels: Sequence[int] = (8, 16, 24, 24)) -> None:
        widths = [in_channels, *channels]
        layers = [
            Convolution(3, widths[i], widths[i + 1], 1 if i == 0 else 2, norm="batch", act="relu")
            for i in range(len(channels))
        ]
        head = nn.Linear(channels[-1], 1)
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2), head)


def network_test(
    real: Tensor,
    synthetic: Tensor,
    patients: Sequence[str],
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a small 3-D network per fold on ``(n, C, H, W, D)``; see :func:`_tell_apart`.

    Twins lie in the same training batch with the same flips, so that only the lesion can tell them
    apart. The number of epochs is fixed: no test lesion has a say in when to stop.
    """

    def fit(real: Tensor, synthetic: Tensor, seed: int) -> Score:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = train_discriminator(
                torch.stack([real, synthetic], 1).to(device), epochs
            ).eval()
        return lambda crops: discriminator_logits(network, crops.to(device))

    return _tell_apart(fit, real, synthetic, patients, seed)


def _batches(pairs: Tensor, size: int = 16) -> Iterator[Tensor]:
    """Yield shuffled, flipped batches ``(size, 2, C, H, W, D)``; twins share their flips."""
    for part in torch.randperm(len(pairs)).split(size):
        batch = pairs[part.to(pairs.device)]
        for i in range(len(batch)):
            axes = [2 + a for a in range(3) if torch.rand(()) < 0.5]
            batch[i] = batch[i].flip(axes)
        yield batch


def train_discriminator(pairs: Tensor, epochs: int = EPOCHS) -> Discriminator:
    """Train on pairs ``(n, 2, C, H, W, D)`` of a real lesion and a synthetic one."""
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
def discriminator_logits(network: Discriminator, crops: Tensor) -> np.ndarray:
    """Return a logit per crop, the mean over the eight flips."""
    total = torch.zeros(len(crops))
    for code in range(8):
        axes = [2 + a for a in range(3) if code >> a & 1]
        total += torch.cat([network(part)[:, 0].cpu() for part in crops.flip(axes).split(32)])
    return (total / 8).numpy()


def lesion_features(image: np.ndarray, lesion_mask: np.ndarray, bins: int = 40) -> np.ndarray:
    """Return what a simple reader would measure of a lesion, ``(bins + 13,)``.

    Histogram of HU, percentiles, spread, mean and spread of the gradient, grain, mean HU of core
    and rim, share of solid voxels, and the logarithm of the volume (1 mm voxels).
    """
    inside = np.asarray(lesion_mask, bool)
    if not inside.any():
        raise ValueError("lesion_mask must hold a lesion, got an empty mask")
    clipped = np.clip(image, *CLIP_HU).astype(np.float32)
    values = clipped[inside]
    gradient = ndimage.gaussian_gradient_magnitude(clipped, 1.0)[inside]
    grain = np.abs(clipped - ndimage.uniform_filter(clipped, 3))[inside]
    core = ndimage.distance_transform_edt(inside)[inside]
    deep = core >= np.median(core)
    rim = values[~deep].mean() if (~deep).any() else values.mean()
    moments = [values.std(), gradient.mean(), gradient.std(), grain.mean()]
    moments += [values[deep].mean(), rim, (values > SOLID_HU).mean(), np.log(inside.sum())]
    histogram = class_histograms(clipped, inside[None], bins, CLIP_HU)[0].tolist()
    return np.array([*histogram, *np.percentile(values, PERCENTILES), *moments])


class SubtypeClassifier:
    """A logistic regression that tells subtypes apart, trained on real lesions.

    Classes count the same, however rare: accuracy is balanced, chance is one in three. With few
    lesions of the rarest it generalises better than a random forest, which hardly names it.
    """

    def __init__(self, images: Arrays, masks: Arrays, subtypes: Sequence[int]) -> None:
        regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        self.model = make_pipeline(StandardScaler(), regression)
        self.model.fit(self._features(images, masks), subtypes)

    @staticmethod
    def _features(images: Arrays, masks: Arrays) -> np.ndarray:
        return np.stack([lesion_features(*pair) for pair in zip(images, masks, strict=True)])

    def measure(self, images: Arrays, masks: Arrays, asked: Sequence[int]) -> dict[str, Any]:
        """Return how often lesions are named as they were asked for.

        ``chance`` is of the balanced accuracy; rows of ``table`` are subtypes asked, columns
        subtypes named; ``named`` is ``"5 of 6"`` of each.
        """
        named = self.model.predict(self._features(images, masks))
        table = confusion_matrix(asked, named, labels=list(range(len(SUBTYPES))))
        shares = {
            name: f"{row[i]} of {sum(row)}" if sum(row) else "-"
            for i, (name, row) in enumerate(zip(SUBTYPES, table.tolist(), strict=True))
        }
        return {
            "accuracy": float(np.mean(named == np.asarray(asked))),
            "balanced_accuracy": float(balanced_accuracy_score(asked, named)),
            "chance": 1 / len(set(asked)),
            "table": table.tolist(),
            "named": shares,
        }

"""A classifier of real lesions that names the subtype of synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from tools.evaluation.subtype_cases import SubtypeCase, histogram_hu
from tools.transforms.conditions import SUBTYPES

__all__ = ["SubtypeClassifier", "lesion_features"]

CLIP_HU = (-1000.0, 400.0)
PERCENTILES = (5, 25, 50, 75, 95)


def lesion_features(image: np.ndarray, lesion_mask: np.ndarray, bins: int = 40) -> np.ndarray:
    """Return what a simple reader would measure of a lesion.

    Histogram of HU, percentiles, spread, mean and spread of the gradient, mean HU of core and rim,
    share of solid voxels (above -150 HU), and the logarithm of the volume.

    Args:
        image: HU, ``(H, W, D)``, 1 mm.
        lesion_mask: True inside, not empty.
        bins: of the histogram.

    Returns:
        Vector of ``bins + 13`` numbers.

    Raises:
        ValueError: if the mask is empty.

    Example:
        >>> mask = np.zeros((8, 8, 8), bool)
        >>> mask[2:6, 2:6, 2:6] = True
        >>> lesion_features(np.zeros((8, 8, 8)), mask).shape
        (53,)
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
    moments += [values[deep].mean(), rim, (values > -150).mean(), np.log(inside.sum())]
    histogram = histogram_hu(clipped, inside, bins, CLIP_HU)
    return np.array([*histogram, *np.percentile(values, PERCENTILES), *moments])


class SubtypeClassifier:
    """A logistic regression that tells subtypes apart, trained on real lesions.

    Classes count the same, however rare: accuracy is balanced, chance is one in three. With 45
    lesions of the rarest it generalises better than a random forest, which hardly names it.

    Args:
        cases: real lesions to learn from.
        strength: of the regularisation, as scikit-learn's C.
    """

    def __init__(self, cases: Sequence[SubtypeCase], strength: float = 0.01) -> None:
        rows = [
            lesion_features(case.image, case.lesion_mask)
            for case in tqdm(cases, desc="features of training lesions")
        ]
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
        self.model = make_pipeline(StandardScaler(), regression)
        self.model.fit(np.stack(rows), [case.subtype for case in cases])

    def measure(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], asked: Sequence[int]
    ) -> dict[str, Any]:
        """Return how often lesions are named as they were asked for.

        Args:
            images: HU.
            masks: of the lesions.
            asked: number of the subtype of each.

        Returns:
            ``accuracy``, ``balanced_accuracy``, ``chance`` (of the balanced one), and ``table``:
            rows are subtypes asked, columns subtypes named.
        """
        pairs = zip(images, masks, strict=True)
        named = self.model.predict(np.stack([lesion_features(*pair) for pair in pairs]))
        numbers = list(range(len(SUBTYPES)))
        table = confusion_matrix(asked, named, labels=numbers)
        return {
            "accuracy": float(np.mean(named == np.asarray(asked))),
            "balanced_accuracy": float(balanced_accuracy_score(asked, named)),
            "chance": 1 / len(set(asked)),
            "table": table.tolist(),
        }

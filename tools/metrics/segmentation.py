"""How well lesions are outlined and found: Dice and surface Dice, sensitivity, FROC, precision.

All of them can be taken of lesions of one size, which is what small lesions ask for: there are few
voxels in them, and means over all sizes do not show them. Sizes are diameters of spheres of equal
volume; ``size_mm=(6, 10)`` takes lesions of 6 mm and more, below 10 mm. Lesions of other sizes are
then not there, neither as something to find nor as a mistake:

* a part of the prediction that meets such lesions only is left out;
* so is one that meets no lesion, if it is itself of another size.

Parts and lesions are connected voxels, those that share a corner included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, compute_dice, compute_surface_dice
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score
from nibabel.affines import voxel_sizes
from scipy import ndimage
from torch import Tensor

from tools.metrics.per_case import CaseMetric
from tools.metrics.sphere import mask_affine

__all__ = [
    "SIZES_MM",
    "AveragePrecision",
    "Dice",
    "FrocScore",
    "LesionScore",
    "OfClasses",
    "SurfaceDice",
    "average_precision",
    "match_lesions",
    "of_size",
]

SIZES_MM = ((0.0, 6.0), (6.0, 10.0), (10.0, 20.0), (20.0, 30.0))
MOST_PARTS = 128  # of a case, the most probable first
FALSE_PER_CASE = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

Size = Sequence[float] | None


class Matches(NamedTuple):
    """Which lesions of a case were found.

    ``scores`` are of the lesions: the highest probability of a part that hits it, 0 where none
    does; ``false`` of the parts that hit no lesion.
    """

    scores: np.ndarray
    false: np.ndarray


class _Parts(NamedTuple):
    """Connected parts of two masks, numbered from 1, and how many voxels each pair shares."""

    predicted: np.ndarray
    lesions: np.ndarray
    shared: np.ndarray  # (lesions, parts)
    part_voxels: np.ndarray
    lesion_voxels: np.ndarray


def _parts(prediction: np.ndarray, reference: np.ndarray) -> _Parts:
    corners = np.ones((3,) * prediction.ndim)
    (predicted, n), (lesions, m) = (ndimage.label(x, corners) for x in (prediction, reference))
    pairs = np.bincount((lesions * (n + 1) + predicted).ravel(), minlength=(m + 1) * (n + 1))
    table = pairs.reshape(m + 1, n + 1)
    return _Parts(predicted, lesions, table[1:, 1:], table.sum(0)[1:], table.sum(1)[1:])


def _fits(voxels: np.ndarray, spacing_mm: Sequence[float], size_mm: Size) -> np.ndarray:
    """Return which numbers of voxels are lesions of a size."""
    if size_mm is None:
        return np.ones(len(voxels), bool)
    diameters = (6 / np.pi * voxels * float(np.prod(spacing_mm))) ** (1 / 3)
    return np.asarray((diameters >= size_mm[0]) & (diameters < size_mm[1]))


def of_size(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], size_mm: Size
) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and reference with lesions of one size only, as this module's text says.

    Args:
        prediction: True inside, of any dimension.
        reference: likewise.
        spacing_mm: of a voxel.
        size_mm: least diameter, and the first that is too large; None: all.

    Example:
        >>> lesions = np.array([1, 0, 1, 1, 1, 0, 0, 1], bool)
        >>> found = of_size(lesions, lesions, (1, 1, 1), (0, 1.5))
        >>> found[0].astype(int).tolist()
        [1, 0, 0, 0, 0, 0, 0, 1]
    """
    if size_mm is None:
        return prediction, reference
    parts = _parts(prediction, reference)
    wanted = _fits(parts.lesion_voxels, spacing_mm, size_mm)
    meets = parts.shared > 0
    alone = ~meets.any(0) & _fits(parts.part_voxels, spacing_mm, size_mm)
    kept = meets[wanted].any(0) | alone
    return (
        np.isin(parts.predicted, np.flatnonzero(kept) + 1),
        np.isin(parts.lesions, np.flatnonzero(wanted) + 1),
    )


def match_lesions(
    probability: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    threshold: float = 0.5,
    overlap: float = 0.1,
    size_mm: Size = None,
) -> Matches:
    """Match the parts of a prediction with the lesions of the reference.

    A part hits a lesion if their intersection over union is ``overlap`` or more. A lesion is found
    if a part hits it, and has the score of the highest of those; others that hit it as well count
    for nothing, and a part that hits several lesions finds them all. A part that hits none is
    false. An empty reference has no lesions, an empty prediction no parts.

    Args:
        probability: in [0, 1], or a mask.
        reference: True inside, same shape.
        spacing_mm: of a voxel.
        threshold: of the probability in a part, above 0.
        overlap: above 0, at most 1.
        size_mm: see :func:`of_size`.

    Raises:
        ValueError: if threshold or overlap is not above 0 and at most 1, or the shapes differ.

    Example:
        >>> probability = np.array([[0.9, 0.8, 0, 0, 0, 0.6]])
        >>> found = match_lesions(probability, np.array([[1, 1, 0, 1, 0, 0]]), (1, 1))
        >>> found.scores.tolist(), found.false.tolist()
        ([0.9, 0.0], [0.6])
    """
    for name, value in (("threshold", threshold), ("overlap", overlap)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
    if probability.shape != reference.shape:
        raise ValueError(
            f"reference must have the shape of probability, got {reference.shape} and "
            f"{probability.shape}"
        )
    parts = _parts(probability >= threshold, reference > 0)
    union = parts.lesion_voxels[:, None] + parts.part_voxels[None] - parts.shared
    hits = parts.shared >= overlap * union
    index = np.arange(1, len(parts.part_voxels) + 1)
    scores = np.asarray(ndimage.maximum(probability, parts.predicted, index), float)
    best = np.where(hits, scores, 0.0).max(1, initial=0.0)
    false = ~hits.any(0) & _fits(parts.part_voxels, spacing_mm, size_mm)
    return Matches(best[_fits(parts.lesion_voxels, spacing_mm, size_mm)], scores[false])


def average_precision(scores: np.ndarray, false: np.ndarray) -> float:
    r"""Return the area under the curve of precision and recall of lesions (AUPRC).

    :math:`\sum_n (R_n - R_{n-1}) P_n` over falling thresholds; the recall of a lesion that no part
    hits is never reached and adds nothing. As scikit-learn's where all lesions are found.

    Args:
        scores: of the lesions, 0 where missed, see :class:`Matches`.
        false: of parts that hit none.

    Returns:
        0 to 1; NaN without lesions.

    Example:
        >>> average_precision(np.array([0.9, 0.7, 0]), np.array([0.8]))
        0.5555555555555556
    """
    if not len(scores):
        return float("nan")
    levels = np.unique(scores[scores > 0])[::-1]
    found = np.array([(scores >= level).sum() for level in levels])
    wrong = np.array([(false >= level).sum() for level in levels])
    steps = np.diff(found, prepend=0) / len(scores)
    return float((steps * found / np.maximum(found + wrong, 1)).sum())


class _OfSize(CaseMetric):
    """What the metrics share: masks ``(B, 1, H, W, D)``, voxel size, size of lesions.

    ``spacing_mm`` is the size of the voxels; None: each mask's own affine (MetaTensor).
    """

    reduction = "mean"
    of_masks = True

    def __init__(self, size_mm: Size = None, spacing_mm: Sequence[float] | None = None) -> None:
        super().__init__()
        if size_mm is not None and not (len(size_mm) == 2 and 0 <= size_mm[0] < size_mm[1]):
            raise ValueError(f"size_mm must be two rising diameters, got {size_mm}")
        self.size_mm, self.spacing_mm = size_mm, spacing_mm

    def _spacing(self, y: Tensor) -> tuple[float, ...]:
        return tuple(voxel_sizes(mask_affine(y, self.spacing_mm)).tolist())

    def _of_size(self, y_pred: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return plain masks of 0 and 1 with lesions of the size only."""
        masks = [plain(x) > 0.5 for x in (y_pred, y)]
        if self.size_mm is not None:
            spacing_mm = self._spacing(y)
            for k in range(len(y)):
                pair = of_size(masks[0][k, 0], masks[1][k, 0], spacing_mm, self.size_mm)
                masks[0][k, 0], masks[1][k, 0] = pair
        first, second = (torch.from_numpy(mask.astype(np.float32)) for mask in masks)
        return first, second


def plain(x: Tensor) -> np.ndarray:
    """Return a tensor of any kind as an array."""
    return torch.as_tensor(x).as_subclass(Tensor).detach().cpu().numpy()


class Dice(_OfSize):
    """Dice of masks, MONAI's, the mean over cases.

    Where both masks are empty there is nothing to agree on: NaN, which does not count. Where one
    is, 0.

    Example:
        >>> y = torch.zeros(1, 1, 4, 4, 4)
        >>> y[..., :2] = 1
        >>> Dice()(y[..., [0, 0, 2, 3]], y).item()
        1.0
    """

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        result, wanted = self._of_size(y_pred, y)
        nothing = (result + wanted).flatten(1).sum(1) == 0
        return compute_dice(result, wanted, ignore_empty=False).masked_fill(
            nothing[:, None], float("nan")
        )


class SurfaceDice(_OfSize):
    """Share of both surfaces that is no farther than ``tolerance_mm`` from the other (NSD).

    MONAI's, with surfaces between voxels (``use_subvoxels``); the mean over cases, empty masks as
    in :class:`Dice`.

    References:
        Nikolov et al., 2018. https://arxiv.org/abs/1809.04430
    """

    def __init__(
        self,
        tolerance_mm: float = 2.0,
        size_mm: Size = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        super().__init__(size_mm, spacing_mm)
        if not tolerance_mm >= 0:
            raise ValueError(f"tolerance_mm must be 0 or more, got {tolerance_mm}")
        self.tolerance_mm = float(tolerance_mm)

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        spacing_mm, found = self._spacing(y), []
        for result, wanted in zip(*self._of_size(y_pred, y), strict=True):
            present = int(result.any()) + int(wanted.any())
            if present < 2:
                found.append(torch.full((1, 1), float("nan") if present == 0 else 0.0))
                continue
            both = (result[None], wanted[None], [self.tolerance_mm])
            options = {"include_background": True, "spacing": spacing_mm, "use_subvoxels": True}
            found.append(compute_surface_dice(*both, **options))  # type: ignore[arg-type]
        return torch.cat(found)


class OfClasses(CumulativeIterationMetric):
    """A metric of masks for label maps of several classes, ``(B, C, H, W, D)``, one-hot.

    Cases are rows, classes columns; ``aggregate`` is the mean over classes of their own figure, a
    class without one (NaN) left out.

    Args:
        metric: of masks, such as :class:`Dice`.
        classes: channels to measure.
        together: the classes are one: the mask of all.

    Example:
        >>> y = torch.eye(3)[torch.tensor([0, 1, 2, 2])].T.reshape(1, 3, 4, 1, 1)
        >>> metric = OfClasses(Dice(), [1, 2])
        >>> metric(y.roll(1, 2), y).tolist(), metric.aggregate().item()
        ([[0.0, 0.5]], 0.25)
    """

    def __init__(self, metric: CaseMetric, classes: Sequence[int], together: bool = False) -> None:
        super().__init__()
        self.metric, self.classes, self.together = metric, list(classes), together

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None or y_pred.shape != y.shape or y.shape[1] <= max(self.classes):
            shapes = tuple(y_pred.shape), None if y is None else tuple(y.shape)
            raise ValueError(
                f"y_pred and y must be one-hot, of equal shape, with classes {self.classes}, got "
                f"{shapes[0]} and {shapes[1]}"
            )
        if self.together:
            pair = (x[:, self.classes].amax(1, keepdim=True) for x in (y_pred, y))
            return self.metric._compute_tensor(*pair)
        rows = [
            self.metric._compute_tensor(*(x[:, [k]] for x in (y_pred, y))) for k in self.classes
        ]
        return torch.cat(rows, 1)

    def per_class(self) -> Tensor:
        """Return the figure of each class over all cases since ``reset``."""
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError("aggregate needs at least one sample, got none")
        parts = [values] if self.together else values.split(1, 1)
        return torch.stack([self._of(part) for part in parts])

    def _of(self, values: Tensor) -> Tensor:
        self.metric.reset()
        self.metric.extend(values)
        return self.metric.aggregate()

    def aggregate(self) -> Tensor:
        """Return one number over all cases since ``reset``."""
        return self.per_class().nanmean()


class _OfLesions(_OfSize):
    """Scores of lesions and of false parts of each case, ``(B, 2, 128)``, NaN where there is none.

    Called with probabilities or masks; matched as :func:`match_lesions` says.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        overlap: float = 0.1,
        size_mm: Size = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        super().__init__(size_mm, spacing_mm)
        self.threshold, self.overlap = threshold, overlap

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        # without a size nothing depends on it
        spacing_mm = (1.0, 1.0, 1.0) if self.size_mm is None else self._spacing(y)
        rows = torch.full((len(y), 2, MOST_PARTS), float("nan"))
        for row, probability, wanted in zip(rows, plain(y_pred), plain(y), strict=True):
            options = (spacing_mm, self.threshold, self.overlap, self.size_mm)
            found = match_lesions(probability[0], wanted[0], *options)
            for side, values in zip(row, found, strict=True):
                best = np.sort(values)[::-1][:MOST_PARTS]
                side[: len(best)] = torch.from_numpy(best.copy())
        return rows

    def matches(self) -> Matches:
        """Return the scores of all cases since ``reset``."""
        rows = self.measured().double().cpu().numpy()
        scores, false = (rows[:, side][~np.isnan(rows[:, side])] for side in (0, 1))
        return Matches(scores, false)


QUANTITIES: dict[str, Callable[[float, float, float, int], float]] = {
    "sensitivity": lambda hit, lesions, false, cases: hit / lesions,
    "precision": lambda hit, lesions, false, cases: hit / (hit + false),
    "f1": lambda hit, lesions, false, cases: 2 * hit / (lesions + hit + false),
    "false_per_case": lambda hit, lesions, false, cases: false / cases,
}


class LesionScore(_OfLesions):
    """Sensitivity, precision, F1 over all lesions together, or false parts per case.

    NaN where it cannot be told: sensitivity without lesions, precision without parts.

    Example:
        >>> y = torch.zeros(1, 1, 5, 5, 8)
        >>> y[..., :2], y[..., 5:] = 1, 1
        >>> metric = LesionScore("sensitivity")
        >>> _ = metric((y > 0) & (torch.arange(8) < 4), y)
        >>> metric.aggregate().item()
        0.5
    """

    def __init__(
        self,
        quantity: str = "sensitivity",
        threshold: float = 0.5,
        overlap: float = 0.1,
        size_mm: Size = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        super().__init__(threshold, overlap, size_mm, spacing_mm)
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity must be one of {sorted(QUANTITIES)}, got {quantity!r}")
        self.quantity = quantity

    def aggregate(self) -> Tensor:
        """Return one number over all cases since ``reset``."""
        scores, false = self.matches()
        counts = (float((scores > 0).sum()), len(scores), len(false), len(self.measured()))
        try:
            return torch.tensor(QUANTITIES[self.quantity](*counts))
        except ZeroDivisionError:
            return torch.tensor(float("nan"))


class FrocScore(_OfLesions):
    """Mean sensitivity at 1/8 to 8 false parts per case (FROC), with MONAI's functions.

    The threshold decides what belongs to a part, and should be low: the score of a part is its
    highest probability. NaN without lesions.

    References:
        Setio et al., LUNA16, 2017. https://arxiv.org/abs/1612.08012
    """

    def __init__(
        self,
        threshold: float = 0.1,
        overlap: float = 0.1,
        size_mm: Size = None,
        spacing_mm: Sequence[float] | None = None,
        false_per_case: Sequence[float] = FALSE_PER_CASE,
    ) -> None:
        super().__init__(threshold, overlap, size_mm, spacing_mm)
        self.false_per_case = tuple(false_per_case)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return false parts per case and sensitivity, by rising threshold."""
        scores, false = self.matches()
        # MONAI leaves the lowest score out, taking it for that of missed lesions: one of 0 is added
        return compute_froc_curve_data(
            np.append(false, 0.0), scores, len(scores), len(self.measured())
        )

    def aggregate(self) -> Tensor:
        """Return one number over all cases since ``reset``."""
        if not len(self.matches().scores):
            return torch.tensor(float("nan"))
        return torch.tensor(float(compute_froc_score(*self.curve(), self.false_per_case)))


class AveragePrecision(_OfLesions):
    """Area under the curve of precision and recall of lesions; see :func:`average_precision`."""

    def __init__(
        self,
        threshold: float = 0.1,
        overlap: float = 0.1,
        size_mm: Size = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        super().__init__(threshold, overlap, size_mm, spacing_mm)

    def aggregate(self) -> Tensor:
        """Return one number over all cases since ``reset``."""
        return torch.tensor(average_precision(*self.matches()))

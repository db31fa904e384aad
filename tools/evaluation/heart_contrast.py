"""How bright infarct and no-reflow are, in units in which scans without units compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

__all__ = ["border_jump", "compare_values", "heart_contrasts", "tissue_scale"]

CAVITY, MYOCARDIUM, INFARCT, NO_REFLOW = 1, 2, 3, 4
# of the window's 2: below this, blood and myocardium are alike and a ratio to them says nothing
SMALLEST_SCALE = 0.05


def tissue_scale(
    image: NDArray[np.floating], tissue: NDArray[np.floating]
) -> tuple[float, float] | None:
    """Return the median of remote myocardium and the distance of the blood's median from it.

    Args:
        image: in [-1, 1], any shape.
        tissue: 1 cavity, 2 myocardium without lesion; same shape.

    Returns:
        None where a tissue is absent or blood is hardly brighter than myocardium.
    """
    myocardium, blood = image[tissue == MYOCARDIUM], image[tissue == CAVITY]
    if not (myocardium.size and blood.size):
        return None
    zero, one = float(np.median(myocardium)), float(np.median(blood))
    return (zero, one - zero) if one - zero > SMALLEST_SCALE else None


def heart_contrasts(
    image: NDArray[np.floating], tissue: NDArray[np.floating]
) -> dict[str, float | None]:
    r"""Return :math:`(x - m) / (b - m)`: 0 is remote myocardium, 1 is blood; medians of tissues.

    Args:
        image: in [-1, 1], any shape.
        tissue: 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow; same shape.

    Returns:
        ``infarct`` and ``no_reflow`` (the x), and ``ratio``, no-reflow to infarct; None where a
        tissue is absent, blood is hardly brighter than myocardium, or, for the ratio, infarct is no
        brighter.

    Example:
        >>> image, tissue = np.array([0.5, -0.5, 1.0, 0.0]), np.array([1, 2, 3, 4])
        >>> heart_contrasts(image, tissue)
        {'infarct': 1.5, 'no_reflow': 0.5, 'ratio': 0.3333333333333333}
    """
    found: dict[str, float | None] = {"infarct": None, "no_reflow": None, "ratio": None}
    scale = tissue_scale(image, tissue)
    if scale is None:
        return found
    zero, unit = scale
    for name, value in (("infarct", INFARCT), ("no_reflow", NO_REFLOW)):
        inside = image[tissue == value]
        if inside.size:
            found[name] = float((np.median(inside) - zero) / unit)
    infarct, no_reflow = found["infarct"], found["no_reflow"]
    if infarct is not None and no_reflow is not None and infarct > SMALLEST_SCALE:
        found["ratio"] = no_reflow / infarct
    return found


def border_jump(
    image: NDArray[np.floating], tissue: NDArray[np.floating]
) -> dict[str, float] | None:
    """Return how far the intensity falls from infarct to the no-reflow voxel beside it.

    Only neighbours within a slice count: slices are 10 mm apart.

    Args:
        image: in [-1, 1], ``(H, W, D)``.
        tissue: 3 infarct, 4 no-reflow; same shape.

    Returns:
        ``fall``, the mean of infarct minus no-reflow over such pairs of neighbours, and ``step``,
        the mean of its absolute value, both in units of blood minus myocardium; ``pairs``. None
        where the two do not touch or there is no such unit.

    Example:
        >>> image = np.array([[[0.5], [-0.5], [1.0], [0.0]]])
        >>> border_jump(image, np.array([[[1], [2], [3], [4]]]))
        {'fall': 1.0, 'step': 1.0, 'pairs': 1}
    """
    scale = tissue_scale(image, tissue)
    falls: list[NDArray[np.floating]] = []
    for axis in (0, 1):
        near, far = (np.take(tissue, part, axis) for part in _neighbours(tissue.shape[axis]))
        change = np.diff(image, axis=axis)
        falls.append(-change[(near == INFARCT) & (far == NO_REFLOW)])
        falls.append(change[(near == NO_REFLOW) & (far == INFARCT)])
    values = np.concatenate(falls)
    if scale is None or not values.size:
        return None
    values = values / scale[1]
    step = float(np.abs(values).mean())
    return {"fall": float(values.mean()), "step": step, "pairs": int(values.size)}


def _neighbours(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.arange(count - 1), np.arange(1, count)


def compare_values(
    real: Sequence[float | None], synthetic: Sequence[Sequence[float | None]]
) -> dict[str, float | int | list[float]] | None:
    """Compare a measure on real hearts with the same on their synthetic twins.

    Args:
        real: one value per heart; None where it is undefined.
        synthetic: per heart, one value per sample.

    Returns:
        Quartiles of both (``real``, ``synthetic``: first, median, third), ``wasserstein``, the
        Wasserstein-1 distance of their distributions, ``error``, the median absolute difference of
        twins, and ``hearts``. None if no heart has both.

    Example:
        >>> compare_values([1.0, None, 3.0], [[1.5], [9.0], [3.5]])["wasserstein"]
        0.5
    """
    pairs = [
        (value, [twin for twin in twins if twin is not None])
        for value, twins in zip(real, synthetic, strict=True)
    ]
    kept = [(value, twins) for value, twins in pairs if value is not None and twins]
    if not kept:
        return None
    values = [value for value, _ in kept]
    # hearts count alike, whatever the number of their samples
    drawn = [twin for _, twins in kept for twin in twins]
    weights = [1 / len(twins) for _, twins in kept for _ in twins]
    errors = [float(np.mean([abs(twin - value) for twin in twins])) for value, twins in kept]
    return {
        "real": np.percentile(values, [25, 50, 75]).tolist(),
        "synthetic": np.percentile(drawn, [25, 50, 75]).tolist(),
        "wasserstein": float(wasserstein_distance(values, drawn, v_weights=weights)),
        "error": float(np.median(errors)),
        "hearts": len(kept),
    }

"""What networks miss of the training cases, and the requests that follow from it.

Three things are asked of synthetic lesions: the *sizes*, the *contrast* and the *place* of what was
missed. Each weighs the number of lesions that were missed, and one more, so that nothing is left
out. Contrast is that of the bundle's textures: a lesion counts to the word whose mean, at its size,
is nearest to its own, and each word has a mix of sizes of its own. Place is the surroundings: sites
are made more often of cases in which a lesion was missed. Bundles that take no texture, or whose
images have no units, are asked for sizes and places alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from tools.bundle import SYNTHESIZE, find_bundle, read_configs
from tools.studies.downstream.cases import Case
from tools.studies.downstream.effects import SIZES_MM
from tools.synthesis.catalogue import Subtype
from tools.synthesis.textures import NO_CONTROL, read_presets

__all__ = ["Lesion", "mix_of", "observed", "requests", "sentence", "word_means"]

Means = Mapping[str, Callable[[float], float]]  # HU at a diameter in mm, by texture
MIXED = "mixed"  # what a pool must say of its texture, or nothing, for contrast to be asked


class Lesion(NamedTuple):
    """A real lesion that a network was shown.

    Attributes:
        case: its name.
        diameter_mm: of the sphere of its volume.
        mean: of the image inside it.
        found: whether the network found it.
    """

    case: str
    diameter_mm: float
    mean: float
    found: bool


def observed(
    cases: Sequence[Case], rows: Sequence[Mapping[str, Any]], classes: Mapping[str, int]
) -> list[Lesion]:
    """Return the lesions of cases, of what :func:`..segmentation.measure` says of them."""
    by_name = {case.name: case for case in cases}
    lesions = []
    for row in rows:
        case = by_name[row["name"]]
        for name, value in classes.items():
            # numbered as the measure numbers them
            parts, number = ndimage.label((case.label == value) & case.known, np.ones((3, 3, 3)))
            means = ndimage.mean(case.image, parts, range(1, number + 1))
            for (diameter, hit), mean in zip(row["classes"][name]["lesions"], means, strict=True):
                lesions.append(Lesion(case.name, diameter, float(mean), hit))
    return lesions


def word_means(rule: Mapping[str, Any]) -> Means:
    """Return the mean HU that each texture of a pool has at a diameter; none: not to be asked for.

    Small lesions are all rim, and so are those of a library that are drawn for their size.
    """
    if rule.get("options", {}).get("texture", MIXED) != MIXED:
        return {}
    configs = find_bundle(rule["bundle"]) / "configs"
    presets, library = read_presets(configs)
    window = read_configs(configs, ["inference.json", SYNTHESIZE]).get("window_hu")
    if presets is NO_CONTROL or window is None:
        return {}
    found: Mapping[str, Any] = library or presets
    return {name: partial(_mean, window, each) for name, each in found.items()}


def _mean(
    window_hu: Sequence[float], texture: Subtype | Mapping[str, Any], diameter_mm: float
) -> float:
    """Return the mean of the histogram that a texture has at a diameter."""
    if isinstance(texture, Subtype):
        shares = texture.chances(diameter_mm) @ texture.histograms
    else:
        shares = np.asarray(texture["histogram"], float)
    low, high = window_hu
    middle = shares @ (np.arange(len(shares)) + 0.5) / len(shares) / shares.sum()
    return float(low + (high - low) * middle)


def mix_of(lesions: Sequence[Lesion]) -> list[dict[str, Any]]:
    """Return by range of diameters the number of lesions, of those missed, and the weight.

    Raises:
        ValueError: if there is none of the ranges.

    Example:
        >>> shown = [Lesion("a", d, 0.0, hit) for d, hit in ((4, False), (5, False), (8, True))]
        >>> [(part["size_mm"], part["missed"], part["weight"]) for part in mix_of(shown)]
        [([4.0, 6.0], 2, 3.0), ([8.0, 10.0], 0, 1.0)]
    """
    sizes = []
    for low, high in SIZES_MM:
        own = [each for each in lesions if low <= each.diameter_mm < high]
        if own:
            smallest = min(each.diameter_mm for each in own)
            ends = [max(low, float(np.floor(smallest))), high]
            sizes.append({"size_mm": ends, **_counted(own)})
    if not sizes:
        raise ValueError(f"datalist must hold lesions of up to {SIZES_MM[-1][1]:g} mm, got none")
    return sizes


def _counted(lesions: Sequence[Lesion]) -> dict[str, Any]:
    missed = sum(not each.found for each in lesions)
    return {"lesions": len(lesions), "missed": missed, "weight": missed + 1.0}


def requests(lesions: Sequence[Lesion], means: Means) -> dict[str, Any]:
    """Return what is asked of synthetic lesions.

    Args:
        lesions: shown to networks that were not trained on them.
        means: of textures, see :func:`word_means`.

    Returns:
        ``sizes``, see :func:`mix_of`; ``textures``, by word the same counts and the ``sizes`` of
        its lesions, empty without means; ``places``, by case the lesions missed, where there are.

    Example:
        >>> shown = [Lesion("a", 8.0, -600.0, False), Lesion("b", 8.0, 20.0, True)]
        >>> found = requests(shown, {"faint": lambda mm: -650.0, "solid": lambda mm: 0.0})
        >>> [(word, part["weight"]) for word, part in found["textures"].items()], found["places"]
        ([('faint', 2.0), ('solid', 1.0)], {'a': 1})
    """
    low, high = SIZES_MM[0][0], SIZES_MM[-1][1]
    drawn = [each for each in lesions if low <= each.diameter_mm < high]
    textures = {}
    for word in means:
        own = [each for each in drawn if _nearest(each, means) == word]
        if own:
            textures[word] = {**_counted(own), "sizes": mix_of(own)}
    places: dict[str, int] = {}
    for each in lesions:
        if not each.found:
            places[each.case] = places.get(each.case, 0) + 1
    return {"sizes": mix_of(drawn), "textures": textures, "places": places}


def sentence(asked: Mapping[str, Any]) -> str:
    """Return in words what was missed.

    Example:
        >>> shown = [Lesion("a", 8.0, -600.0, False), Lesion("b", 8.0, 20.0, True)]
        >>> sentence(requests(shown, {"faint": lambda mm: -650.0, "solid": lambda mm: 0.0}))
        'missed 1 of 2 lesions: 8 to 10 mm 1 of 2; faint 1 of 1, solid 0 of 1; in 1 case'
    """
    sizes = [("{:g} to {:g} mm".format(*part["size_mm"]), part) for part in asked["sizes"]]
    groups = [part for part in (sizes, list(asked["textures"].items())) if part]
    told = [
        ", ".join(f"{name} {part['missed']} of {part['lesions']}" for name, part in group)
        for group in groups
    ]
    missed, shown = (sum(part[key] for _, part in sizes) for key in ("missed", "lesions"))
    places = f"in {len(asked['places'])} case{'s' * (len(asked['places']) != 1)}"
    return f"missed {missed} of {shown} lesions: " + "; ".join([*told, places])


def _nearest(lesion: Lesion, means: Means) -> str:
    return min(means, key=lambda word: math.fabs(means[word](lesion.diameter_mm) - lesion.mean))

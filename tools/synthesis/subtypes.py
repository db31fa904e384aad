"""Subtype and histogram of a lesion, drawn together from what training lesions had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.histograms import normalize_blocks
from tools.synthesis.plan import TextureChoice

__all__ = [
    "SUBTYPES_FILE",
    "Subtype",
    "SubtypeLibrary",
    "SubtypeTextures",
    "read_subtypes",
]

SUBTYPES_FILE = "subtypes.json"
NEAR = 0.25  # spread of the sizes taken for near, in natural logarithms of the diameter


@dataclass(frozen=True)
class Subtype:
    """Training lesions of one subtype.

    Args:
        number: of the subtype in the model's condition.
        frequency: share of the training lesions.
        diameters_mm: of the n lesions of the library, spheres of their volume.
        histograms: of the same lesions, ``(n, bins)``, rows sum to 1.
        medoid: the histogram nearest to all others, ``(bins,)``.
    """

    number: int
    frequency: float
    diameters_mm: np.ndarray
    histograms: np.ndarray
    medoid: list[float]

    def draw(self, diameter_mm: float | None, rng: np.random.Generator) -> list[float]:
        """Return the histogram of one lesion, those near in size being the likely ones.

        Size and histogram belong together: a small lesion is all rim. The chance of a lesion falls
        as a Gaussian of the logarithm of the two diameters' ratio.

        Args:
            diameter_mm: of the lesion to make; None: any size.
            rng: source of chance.
        """
        weights = np.ones(len(self.diameters_mm))
        if diameter_mm is not None:
            far = np.log(self.diameters_mm / diameter_mm) ** 2
            # from the nearest on, so that a size that training never saw has a neighbour too
            weights = np.exp(-(far - far.min()) / (2 * NEAR**2))
        return self.histograms[rng.choice(len(weights), p=weights / weights.sum())].tolist()


class SubtypeLibrary(dict[str, Subtype]):
    """Subtypes by name, in the order of their numbers."""

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        """Medoid and frequency of each subtype in the form of texture presets."""
        return {
            name: {"histogram": subtype.medoid, "weight": subtype.frequency}
            for name, subtype in self.items()
        }


def read_subtypes(path: str | Path) -> SubtypeLibrary:
    """Return the library of a ``subtypes.json``, checked.

    Args:
        path: JSON with ``bins`` and ``subtypes: {name: {"number", "frequency", "diameters_mm",
            "histograms", "medoid"}}``, as the command ``subtypes`` writes it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is missing or a value breaks its rule.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"subtypes must be an existing JSON file, got {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        bins, entries = int(content["bins"]), dict(content["subtypes"])
        library = SubtypeLibrary({k: _read_subtype(k, v, bins, path) for k, v in entries.items()})
    except KeyError as error:
        raise ValueError(f"subtypes file {path} must have every key, got none of {error}") from None
    if not library or sum(subtype.frequency for subtype in library.values()) <= 0:
        raise ValueError(f"subtypes file {path} must hold a subtype with a frequency above 0")
    if len({subtype.number for subtype in library.values()}) < len(library):
        raise ValueError(f"numbers of subtypes file {path} must differ, got {list(library)}")
    return library


def _read_subtype(name: str, entry: Mapping[str, Any], bins: int, path: Path) -> Subtype:
    rows = np.asarray([*entry["histograms"], entry["medoid"]], dtype=float)
    diameters = np.asarray(entry["diameters_mm"], dtype=float)
    if rows.ndim != 2 or rows.shape[1] != bins or rows.min() < 0 or (rows.sum(1) <= 0).any():
        raise ValueError(
            f"histograms of {name!r} in {path} must be rows of {bins} non-negative numbers, not "
            f"all 0, got shape {rows.shape}"
        )
    if diameters.shape != (len(rows) - 1,) or len(rows) < 2 or not (diameters > 0).all():
        raise ValueError(
            f"diameters_mm of {name!r} in {path} must be one number above 0 for each of "
            f"{len(rows) - 1} histograms, got {entry['diameters_mm']}"
        )
    frequency, number = float(entry["frequency"]), int(entry["number"])
    if frequency < 0 or number < 0:
        raise ValueError(
            f"frequency and number of {name!r} in {path} must be at least 0, got {frequency:g} "
            f"and {number}"
        )
    rows = np.array([normalize_blocks(row) for row in rows])
    return Subtype(number, frequency, diameters, rows[:-1], rows[-1].tolist())


class SubtypeTextures(TextureChoice):
    """Textures asked for, where the bundle's words are subtypes with a library of lesions each.

    The word of a subtype draws the histogram of one of its training lesions, near in size to the
    lesion that is made; ``mixed`` draws the subtype first, by its frequency. So subtype and
    histogram always belong together (paper 3.3, step 2). All else is as in :class:`TextureChoice`;
    ``none``, ``like:`` and files have no subtype.

    Args:
        text: words with commas between.
        library: of the bundle.
        fluctuation: relative change of each bin.
        window_hu: of the histograms.

    Example:
        >>> faint = Subtype(2, 1.0, np.array([8.0, 30.0]), np.eye(2), [0.5, 0.5])
        >>> library = SubtypeLibrary(ground_glass=faint)
        >>> textures = SubtypeTextures("ground_glass", library, fluctuation=0.0)
        >>> textures.draw(0, np.random.default_rng(0), diameter_mm=7.0)
        ('ground_glass', [1.0, 0.0])
        >>> textures.subtype(0, "ground_glass")
        2
    """

    def __init__(
        self,
        text: str,
        library: SubtypeLibrary,
        fluctuation: float = 0.1,
        window_hu: Sequence[float] | None = None,
    ) -> None:
        self.library = library
        super().__init__(text, library.presets, fluctuation, window_hu)

    def _histogram(
        self,
        name: str,
        choices: Mapping[str, Mapping[str, Any]],
        rng: np.random.Generator,
        diameter_mm: float | None,
    ) -> list[float]:
        if choices[name] is self.presets.get(name):
            return self.library[name].draw(diameter_mm, rng)
        return super()._histogram(name, choices, rng, diameter_mm)

    def subtype(self, number: int, name: str) -> int:
        """Return the number of the subtype that :meth:`draw` named, -1 if it is none."""
        # a file of the user may call a histogram of its own "solid": that is no subtype
        preset = self.choices[number % len(self.choices)].get(name)
        known = preset is not None and preset is self.presets.get(name)
        return self.library[name].number if known else -1

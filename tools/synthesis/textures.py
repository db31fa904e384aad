"""What a lesion shall look like: the words that people use, drawn as histograms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tools.histograms import (
    adapt_histogram,
    choose_preset,
    intensity_histogram,
    load_presets,
    normalize_blocks,
    perturb_histogram,
)
from tools.organs.organ import Organ
from tools.scans.scan import Scan
from tools.synthesis.catalogue import Subtype, SubtypeLibrary, read_subtypes, read_textures
from tools.synthesis.core import split_histogram
from tools.synthesis.view import SlicesView

__all__ = ["Presets", "Texture", "Textures", "read_presets"]

Presets = Mapping[str, Mapping[str, Any]]
LIKE = "like:IMAGE.nii.gz:MASK.nii.gz"
# a path may hold colons, so the image ends where its ending does
_LIKE_PATHS = re.compile(r"like:(.+?\.nii(?:\.gz)?):(.+)")
_JSON_FILE = re.compile(r"(.+?\.json)(?::(.+))?")


class Texture(NamedTuple):
    """The texture of one lesion.

    Attributes:
        name: for the record.
        histogram: bins of each class one after the other, each class of sum 1, or 0 where it is
            absent; None: no control.
        subtype: number of the subtype in the model's condition; -1: none.
        solid_share: share of the lesion that is a solid core; None: there is none to place.
    """

    name: str
    histogram: list[float] | None
    subtype: int = -1
    solid_share: float | None = None


def read_presets(folder: str | Path) -> tuple[Presets, SubtypeLibrary | None]:
    """Return the presets of a bundle by name, and the library that some are drawn from.

    Args:
        folder: ``configs`` of the bundle: ``subtypes.json`` (histograms of training lesions by
            subtype), if there is one, else ``histograms.json``; neither: :data:`NO_CONTROL`.
    """
    library, histograms = Path(folder) / "subtypes.json", Path(folder) / "histograms.json"
    if library.is_file():
        subtypes = read_subtypes(library)
        return subtypes.presets, subtypes
    return load_presets(histograms) if histograms.is_file() else NO_CONTROL, None


NO_CONTROL: Presets = {"none": {"histogram": [1 / 16] * 16, "weight": 1.0}}
"""Of bundles without a catalogue, whose networks take no histogram; the bins are of records."""


class Textures:
    """Names and histograms of the textures asked for.

    The word of a subtype, where the bundle has a library, draws the histogram of one of its
    training lesions, near in size to the lesion that is made; ``mixed`` draws the subtype first, by
    its frequency: so subtype and histogram belong together (HR-LDM 3.3, step 2). Presets that state
    the tissue round them (scans without units) are moved to the tissue of the scan at hand.

    Args:
        text: one or several of these with commas between, taken in turn: the name of a preset;
            ``mixed`` (drawn by the presets' weights); ``none`` (no control);
            ``like:IMAGE.nii.gz:MASK.nii.gz`` (a real lesion and its mask, or label map); a JSON
            file, see :func:`tools.synthesis.catalogue.read_textures`, several histograms in it
            drawn by their weights; ``FILE.json:NAME`` for one of them.
        presets: of the bundle.
        organ: its classes.
        library: of the bundle, that its presets are drawn from.
        window_hu: intensities that are -1 and 1 for the model, where they are the same in all
            scans; a file that states others is refused.
        view: how the model cuts and scales scans without units; ``like:`` needs it.
        fluctuation: relative change of each bin, see :func:`perturb_histogram`.
        solid_share: share of a lesion with a core that is solid, one number or two to draw from;
            None: as the lesion of the library has it.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a name is unknown, a file does not hold a histogram of the right length, or a
            share is asked for of lesions that have no core.
    """

    def __init__(
        self,
        text: str,
        presets: Presets,
        organ: Organ,
        library: SubtypeLibrary | None = None,
        window_hu: Sequence[float] | None = None,
        view: SlicesView | None = None,
        fluctuation: float = 0.1,
        solid_share: Any = None,
    ) -> None:
        self.presets, self.organ, self.library = presets, organ, library
        self.window_hu, self.view, self.fluctuation = window_hu, view, fluctuation
        self.classes = len(organ.classes)
        self.bins = len(next(iter(presets.values()))["histogram"])
        gains = [preset["gain"] for preset in presets.values() if "gain" in preset]
        self.gain = float(gains[0]) if gains else 1.0  # of what the user brings
        read = [self._read(word.strip()) for word in text.split(",")]
        self.names = [name for name, _ in read]
        self.choices = [choices for _, choices in read]
        self.solid_share = self._checked_share(solid_share)

    @property
    def file_histogram(self) -> dict[str, Any] | None:
        """Histograms from the user's files by name, JSON values only; None if all are presets."""
        known = [*self.presets, "mixed", "none"]
        pairs = zip(self.names, self.choices, strict=True)
        return {name: dict(choices) for name, choices in pairs if name not in known} or None

    def draw(
        self,
        number: int,
        rng: np.random.Generator,
        diameter_mm: float | None = None,
        tissue: tuple[float, float] | None = None,
        present: Sequence[bool] = (True,),
        rim_share: float | None = None,
    ) -> Texture:
        """Return the texture of lesion ``number``.

        Args:
            number: of the lesion.
            rng: source of chance.
            diameter_mm: of the lesion; libraries of lesions heed it.
            tissue: levels of wall and blood of the scan in [-1, 1]; None: nothing is moved.
            present: whether the lesion has voxels of each class; bins of absent ones are 0.
            rim_share: share of its voxels that is rim; libraries of lesions heed it.

        Raises:
            ValueError: if ``present`` is not one entry per class, or the tissues are in an order
                that the preset cannot be moved to.
        """
        if len(present) != self.classes:
            raise ValueError(f"present must have {self.classes} entries, got {list(present)}")
        choices = self.choices[number % len(self.names)]
        if not choices:
            return Texture("none", None)
        # one histogram alone takes no draw
        several = len(choices) > 1 or self.names[number % len(self.names)] == "mixed"
        name = choose_preset(choices, rng) if several else next(iter(choices))
        preset, subtype, share = choices[name], -1, None
        histogram = preset["histogram"]
        # a file of the user may call a histogram of its own "solid": that is no subtype
        if self.library is not None and preset is self.presets.get(name):
            found = self.library[name]
            subtype, histogram = found.number, found.draw(diameter_mm, rng, rim_share)
            if found.solid_bin is not None:
                histogram, share = self._cored(histogram, found, rng)
        if tissue is not None and "tissue" in preset:
            histogram = adapt_histogram(
                histogram, preset["tissue"], tissue, self.classes, gain=preset["gain"]
            )
        changed = perturb_histogram(histogram, rng, self.fluctuation, self.classes)
        blocks = np.reshape(changed, (self.classes, -1)) * np.asarray(present, float)[:, None]
        return Texture(name, blocks.ravel().tolist(), subtype, share)

    def _cored(
        self, histogram: Sequence[float], subtype: Subtype, rng: np.random.Generator
    ) -> tuple[Sequence[float], float]:
        """Return the histogram with the share of solid that is asked for, and that share."""
        first = subtype.solid_bin
        if self.solid_share is None:
            return histogram, float(np.sum(histogram[first:]))
        share = float(rng.uniform(*self.solid_share))
        # where a lesion has next to nothing of a class, all of its kind lend theirs
        row = 0.99 * np.asarray(histogram) + 0.01 * subtype.histograms.mean(0)
        return split_histogram(row, int(first or 0), share).tolist(), share

    def _checked_share(self, share: Any) -> tuple[float, float] | None:
        if share is None:
            return None
        words = share.split(",") if isinstance(share, str) else np.atleast_1d(share)
        try:
            numbers = [float(word) for word in words]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in (1, 2) or not 0 <= numbers[0] <= numbers[-1] <= 1:
            raise ValueError(
                f"solid_share must be one number or two from 0 to 1, smallest first, got {share}"
            )
        cored = {name for name, found in (self.library or {}).items() if found.solid_bin}
        named = {name for choices in self.choices for name in choices}
        if not cored & named:
            raise ValueError(
                f"solid_share goes with textures that have a core ({', '.join(cored) or 'none'} "
                f"here), got {self.names}"
            )
        return numbers[0], numbers[-1]

    def _read(self, word: str) -> tuple[str, Presets]:
        """Return the name of a word of the command line and its histograms; none for "none"."""
        if word == "none" or (word == "mixed" and self.presets is NO_CONTROL):
            return "none", {}
        if word in self.presets:
            return word, self._blocks({word: self.presets[word]})
        if word == "mixed":
            return word, self._blocks(self.presets)
        if word.startswith("like:"):
            name, like = self._like(word)
            return name, {name: like}
        file = _JSON_FILE.fullmatch(word)
        if file is None:
            known = [*self.presets, "mixed", "none"]
            raise ValueError(f"texture must be one of {known}, {LIKE} or a JSON file, got {word!r}")
        found, name = read_textures(file[1], self.bins, self.window_hu), Path(file[1]).name
        if file[2] is None:
            return name, self._blocks(found)
        if file[2] not in found:
            raise ValueError(f"texture must be one of {list(found)} in {file[1]}, got {file[2]!r}")
        return f"{name}:{file[2]}", self._blocks({file[2]: found[file[2]]})

    def _blocks(self, choices: Presets) -> Presets:
        """Return histograms whose every class has sum 1 or 0."""
        if self.classes == 1:
            return choices
        return {
            name: {
                "gain": self.gain,
                **preset,
                "histogram": normalize_blocks(preset["histogram"], self.classes),
            }
            for name, preset in choices.items()
        }

    def _like(self, text: str) -> tuple[str, dict[str, Any]]:
        """Return name and histogram of a real lesion: ``like:IMAGE.nii.gz:MASK.nii.gz``."""
        image, mask = _like_paths(text)
        try:
            scan = Scan(image)
            if self.window_hu is not None:
                preset = self._like_in_units(scan, mask, self.window_hu)
            elif self.view is not None:
                preset = self._like_in_view(scan, mask, self.view)
            else:
                raise ValueError("the model's window is needed, got none")
        except ValueError as error:
            raise ValueError(f"texture {text!r} must be a lesion and its mask: {error}") from error
        return f"like:{Path(image).name}", {"weight": 1.0, **preset}

    def _like_in_units(self, scan: Scan, mask: str, window: Sequence[float]) -> dict[str, Any]:
        """Return the histogram of the voxels as they lie in the file.

        The model works at its own voxel size, where the rim of a small lesion is a little more
        blurred.
        """
        values = np.asarray(scan.image[scan.load_mask(mask, "mask")], np.float64)
        _require_finite(values)
        row = torch.from_numpy(values)[None]
        low, high = window
        histogram = intensity_histogram(row, torch.ones_like(row), self.bins, (low, high))[0]
        return {"histogram": histogram.double().tolist()}

    def _like_in_view(self, scan: Scan, label: str, view: SlicesView) -> dict[str, Any]:
        """Return the histograms of a lesion as the model would see it, and the tissue round it."""
        opened = view.open(scan, scan.load_labels(label, "label"))
        assert opened.scale is not None
        values = opened.scale.scaled(opened.image)
        masks = opened.masks(opened.labels, self.organ.values)
        if not masks.any():
            raise ValueError(f"label must hold one of {self.organ.values}, got none")
        _require_finite(values)
        rows = torch.from_numpy(np.broadcast_to(values, masks.shape).reshape(len(masks), -1).copy())
        inside = torch.from_numpy(masks.reshape(len(masks), -1))
        histogram = intensity_histogram(rows, inside, self.bins // self.classes)
        preset = {"histogram": histogram.double().flatten().tolist(), "gain": self.gain}
        if opened.tissue is not None:
            preset["tissue"] = [float(level) for level in opened.tissue]
        return preset


def _like_paths(text: str) -> tuple[str, str]:
    found = _LIKE_PATHS.fullmatch(text)
    if found is None:
        raise ValueError(f"texture of a lesion must be {LIKE}, got {text!r}")
    for role, path in zip(("image", "mask"), found.groups(), strict=True):
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"texture needs an existing file as {role} of {LIKE}, got {path}"
            )
    return found[1], found[2]


def _require_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("values must be finite inside the mask, got NaN or inf")

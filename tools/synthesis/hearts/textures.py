"""Textures of lesions in hearts: presets, files and real hearts, moved to the tissue of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.histograms import (
    adapt_histogram,
    choose_preset,
    intensity_histogram,
    normalize_blocks,
    perturb_histogram,
)
from tools.synthesis.generator import SliceSettings, scaled
from tools.synthesis.hearts.pipeline import HeartWindow
from tools.synthesis.plan import TextureChoice
from tools.synthesis.scan import Scan
from tools.synthesis.textures import like_paths

__all__ = ["HEART_LIKE", "HeartTextures", "heart_preset"]

HEART_LIKE = "like:IMAGE.nii.gz:LABEL.nii.gz"


class HeartTextures(TextureChoice):
    """Names and histograms of the textures asked for, a block of bins for each lesion class.

    MRI has no units, so a histogram in the model's range says little without the tissue round the
    lesion. Presets that state it are moved to the tissue of the scan at hand, others are taken as
    they are.

    Args:
        text: one or several of these with commas between, taken in turn: the name of a preset;
            ``mixed`` (drawn by the presets' weights); ``none`` (no control);
            ``like:IMAGE.nii.gz:LABEL.nii.gz`` (a real heart, see :func:`heart_preset`); a JSON
            file in the form of the bundle's ``histograms.json``, or a bare list of numbers, several
            histograms in it drawn by their weights; ``FILE.json:NAME`` for one of them.
        presets: the bundle's presets, see :func:`tools.histograms.load_presets`.
        fluctuation: relative change of each bin, see :func:`perturb_histogram`.
        slices: how the model cuts and scales its window; ``like:`` needs it.
        classes: number of lesion classes, read where ``slices`` does not say it.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a name is unknown or a file does not hold histograms of the right length.

    Example:
        >>> preset = {"histogram": [1, 0, 0, 1], "weight": 1, "tissue": [-0.5, 0], "gain": 1}
        >>> textures = HeartTextures("pale", {"pale": preset}, fluctuation=0)
        >>> textures.draw(0, np.random.default_rng(), (-1.25, -0.75), present=[True, False])
        ('pale', [1.0, 0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        text: str,
        presets: Mapping[str, Mapping[str, Any]],
        fluctuation: float = 0.1,
        slices: SliceSettings | None = None,
        classes: int = 2,
    ) -> None:
        self.slices = slices
        self.classes = classes if slices is None else len(slices.classes)
        gains = [preset["gain"] for preset in presets.values() if "gain" in preset]
        self.gain = float(gains[0]) if gains else 1.0  # of what the user brings
        super().__init__(text, presets, fluctuation)

    def _read(self, word: str) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
        """Return name and histograms of a word, blocks of sum 1 or 0."""
        if word.startswith("like:"):
            if self.slices is None:
                raise ValueError(f"texture {HEART_LIKE} needs the model's window, got none")
            name, like = heart_preset(word, self.slices, self.bins // self.classes)
            return name, {name: like | {"gain": self.gain}}
        name, choices = super()._read(word)
        normal = {}
        for key, preset in choices.items():
            blocks = {"histogram": normalize_blocks(preset["histogram"], self.classes)}
            normal[key] = {"gain": self.gain, **preset, **blocks}
        return name, normal

    def draw(  # type: ignore[override]
        self,
        number: int,
        rng: np.random.Generator,
        tissue: tuple[float, float] | None,
        present: Sequence[bool],
    ) -> tuple[str, list[float] | None]:
        """Return name and histogram of lesion ``number``; None means no control.

        Args:
            number: of the lesion.
            rng: source of chance.
            tissue: levels of myocardium and blood of the scan in [-1, 1]; None: nothing is moved.
            present: whether the lesion has voxels of each class; blocks of absent ones are zero.

        Raises:
            ValueError: if ``present`` is not one entry per class, or the tissues are in an order
                that the preset cannot be moved to.
        """
        if len(present) != self.classes:
            raise ValueError(f"present must have {self.classes} entries, got {list(present)}")
        place = number % len(self.names)
        choices = self.choices[place]
        if not choices:
            return "none", None
        several = len(choices) > 1 or self.names[place] == "mixed"
        name = choose_preset(choices, rng) if several else next(iter(choices))
        preset = choices[name]
        histogram = preset["histogram"]
        if tissue is not None and "tissue" in preset:
            histogram = adapt_histogram(
                histogram, preset["tissue"], tissue, self.classes, gain=preset["gain"]
            )
        changed = perturb_histogram(histogram, rng, self.fluctuation, self.classes)
        blocks = np.reshape(changed, (self.classes, -1)) * np.asarray(present, float)[:, None]
        return name, blocks.ravel().tolist()


def heart_preset(text: str, slices: SliceSettings, bins: int = 16) -> tuple[str, dict[str, Any]]:
    """Return name and histograms of the lesions of a real heart, as the model would see them.

    Args:
        text: ``like:IMAGE.nii.gz:LABEL.nii.gz``, a scan and a label map on its grid: cavity,
            myocardium and at least one lesion class. Without cavity or healthy myocardium the
            result states no tissue.
        slices: how the model cuts and scales its window.
        bins: of each class.

    Returns:
        ``(name, {"histogram": (classes * bins) numbers, "weight": 1, "tissue": levels})``.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the text, a file, the grids or the labels break their rule.
    """
    image, label = like_paths(text, HEART_LIKE)
    try:
        scan = Scan(image)
        window = HeartWindow.open(scan, scan.load_labels(label, "label"), slices)
    except ValueError as error:
        raise ValueError(f"texture {text!r} must be a heart and its labels: {error}") from error
    values = scaled(window.image, window.range)
    masks = window.masks(window.organ, slices.classes)
    if not masks.any():
        raise ValueError(f"label of texture {text!r} must hold one of {slices.classes}, got none")
    if not np.isfinite(values).all():
        raise ValueError(f"texture {text!r} must have finite values round the heart, got others")
    rows = torch.from_numpy(np.broadcast_to(values, masks.shape).reshape(len(masks), -1).copy())
    inside = torch.from_numpy(masks.reshape(len(masks), -1))
    histogram = intensity_histogram(rows, inside, bins).double().flatten().tolist()
    preset: dict[str, Any] = {"histogram": histogram, "weight": 1.0}
    if window.tissue is not None:
        preset["tissue"] = [float(level) for level in window.tissue]
    return f"like:{Path(image).name}", preset

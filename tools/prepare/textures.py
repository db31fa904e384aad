"""Lesions of a dataset as the model sees them: their intensities, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from monai.bundle import ConfigParser
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from tqdm import tqdm

from tools.bundle import find_bundle
from tools.files import read_object
from tools.histograms import adapt_histogram, intensity_histogram, load_presets
from tools.intensity import HuWindow
from tools.phantoms.datasets import lesion_datalist
from tools.phantoms.heart_datasets import heart_datalist
from tools.scans.scan import Scan
from tools.synthesis.catalogue import lesion_rim
from tools.synthesis.view import SlicesView

__all__ = [
    "HuWindows",
    "Look",
    "Sight",
    "Stacks",
    "Textures",
    "lesion_name",
    "measure_textures",
    "read_look",
]

FINE = 16  # bins of a measurement per bin of a preset, so that a move to other tissue blurs little


class Sight(NamedTuple):
    """One entry of a datalist as the model sees it.

    Attributes:
        image: in [-1, 1], slices along the last axis; ``units``: in those of the model's window.
        masks: one per lesion class, ``(classes, ...)``.
        spacing_mm: within the slice.
        tissue: levels of myocardium and blood in [-1, 1]; None where intensities have units.
        rim: of the first class, where lesions have one.
    """

    image: np.ndarray
    units: np.ndarray
    masks: np.ndarray
    spacing_mm: Sequence[float]
    tissue: tuple[float, float] | None = None
    rim: np.ndarray | None = None


class HuWindows:
    """Windows round one lesion each; the model sees the ends of ``window_hu`` as -1 and 1."""

    moved = False
    files = staticmethod(lesion_datalist)
    classes: Sequence[int] = (1,)

    def __init__(self, window_hu: Sequence[float]) -> None:
        self.window = (float(window_hu[0]), float(window_hu[1]))

    def open(self, entry: Mapping[str, Any]) -> Sight | None:
        """Return a window, its axes to patient left and back, so that it is seen from the feet."""
        scan = Scan(entry["image"], in_hu=True, argument="image")
        label = scan.load_labels(entry["label"], "label")
        turn = io_orientation(scan.affine)
        parts = np.asarray(scan.image), label, lesion_rim(label > 0, scan.affine)
        values, inside, rim = (apply_orientation(a, turn)[::-1, ::-1] for a in parts)
        spacing = voxel_sizes(scan.affine @ inv_ornt_aff(turn, scan.shape))[:2]
        units = np.clip(values, *self.window)
        return Sight(
            HuWindow(*self.window).scaled(values),
            units,
            inside[None] > 0,
            spacing.tolist(),
            rim=rim,
        )


class Stacks:
    """Stacks of few thick slices without units, such as hearts in MRI."""

    moved = True
    files = staticmethod(heart_datalist)
    window = (-1.0, 1.0)

    def __init__(self, view: SlicesView) -> None:
        self.view, self.classes = view, view.organ.values

    def open(self, entry: Mapping[str, Any]) -> Sight | None:
        """Return the model's window of a stack; None without the tissues that it is moved by."""
        scan = Scan(entry["image"], argument="image")
        canvas = self.view.open(scan, scan.load_labels(entry["label"], "label"))
        if canvas.tissue is None or canvas.scale is None:
            return None
        masks = canvas.masks(canvas.labels, self.classes)
        spacing = [float(self.view.rule.spacing_mm or 1.0)] * 2
        image = canvas.scale.scaled(canvas.image)
        return Sight(image, image, masks, spacing, canvas.tissue)


Model: TypeAlias = HuWindows | Stacks


class Look(NamedTuple):
    """How the textures of a bundle are described: model, and its section ``textures``.

    ``bins`` are those of a class of a preset, ``names`` those of three groups in order of their
    mean; for ``gain`` see :func:`tools.histograms.adapt_histogram`.
    """

    model: Model
    bins: int
    names: Sequence[str]
    gain: float = 0.0


def read_look(bundle: str) -> tuple[Path, Look]:
    """Return folder and look of a bundle: bins and gain of its presets, if it has any."""
    folder = find_bundle(bundle)
    parser, train = ConfigParser(), ConfigParser()
    parser.read_config([folder / "configs" / n for n in ("inference.json", "synthesize.json")])
    train.read_config(folder / "configs" / "train.json")
    if train.get("textures") is None:
        raise ValueError(f"bundle must have a section textures in train.json, got {bundle}")
    section = dict(train.get_parsed_content("textures"))
    path = folder / "configs" / "histograms.json"
    if path.is_file():  # what the presets state goes before what a first run starts with
        first = next(iter(load_presets(path).values()))
        section |= read_object(path, "histogram presets") | {"gain": first.get("gain")}
    view = parser.get_parsed_content("view")
    model: Model = Stacks(view) if isinstance(view, SlicesView) else HuWindows(view.scale)
    gain = float(section.get("gain") or 0.0)
    return folder, Look(model, int(section["bins"]), section["names"], gain)


@dataclass(frozen=True)
class Textures:
    """What is known of the intensities inside n lesions.

    Attributes:
        entries: of the datalist, with ``image`` and ``label``.
        fine: blocks of sum 1, or 0 for an absent class, ``(n, classes, bins)``, with ``FINE`` times
            as many bins where lesions are to be moved.
        tissue: levels of the tissues round each, ``(n, 2)``; None where intensities have units.
        means, spreads (standard deviations), medians: of the first class, in the units of the
            model's window, ``(n,)``.
        voxels: of each class, ``(n, classes)``.
        left_out: entries without a lesion of the first class.
        rims: histograms of the rims of the first class, ``(n, bins)``, see :func:`lesion_rim`;
            empty where intensities have no units.
        rim_shares: share of the voxels that is rim, ``(n,)``.
    """

    entries: list[Mapping[str, Any]]
    fine: np.ndarray
    tissue: np.ndarray | None
    means: np.ndarray
    spreads: np.ndarray
    medians: np.ndarray
    voxels: np.ndarray
    left_out: int = 0
    rims: np.ndarray = field(default_factory=lambda: np.empty(0))
    rim_shares: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def contrast(self) -> np.ndarray:
        """Medians on a scale where the first tissue is 0 and the second 1, ``(n,)``."""
        assert self.tissue is not None
        wall, blood = self.tissue.T
        return (self.medians - wall) / (blood - wall)

    def histograms(
        self, number: int, tissue: Sequence[float] | None = None, gain: float = 0.0
    ) -> np.ndarray:
        """Return the histograms of one lesion, as it would be in other tissue, (classes, bins)."""
        blocks = self.fine[number]
        if self.tissue is None or tissue is None:
            return blocks
        moved = adapt_histogram(
            blocks.ravel().tolist(), self.tissue[number], tissue, len(blocks), gain=gain
        )
        return np.reshape(moved, (len(blocks), -1, FINE)).sum(-1)


def measure_textures(files: Sequence[Mapping[str, Any]], model: Model, bins: int = 16) -> Textures:
    """Return the intensities of the lesions of a datalist; entries without are left out.

    Values beyond the window of the model count in the outermost bins.

    Raises:
        ValueError: if a file is unfit, or no entry has a lesion.
    """
    entries, rows, tissue, voxels, rims = [], [], [], [], []
    numbers: list[tuple[float, ...]] = []
    for entry in tqdm(files, desc="measuring lesions", unit="lesion"):
        sight = model.open(entry)
        if sight is None or not sight.masks[0].any():
            continue
        values = torch.from_numpy(np.ascontiguousarray(sight.image).reshape(1, -1))
        inside = torch.from_numpy(sight.masks.reshape(len(sight.masks), -1))
        count = bins * (FINE if model.moved else 1)
        row = intensity_histogram(values.expand(len(inside), -1), inside, count)
        rows.append(row.double().numpy())
        if sight.rim is not None:
            rim = torch.from_numpy(np.ascontiguousarray(sight.rim).reshape(1, -1))
            found = intensity_histogram(values, rim, count)[0].double().numpy()
            rims.append((found, float(rim.sum() / inside[0].sum())))
        own = sight.units[sight.masks[0]].astype(float)
        numbers.append((own.mean(), own.std(), float(np.median(own))))
        voxels.append(inside.sum(1).numpy())
        tissue.append(sight.tissue)
        entries.append(entry)
    if not entries:
        raise ValueError(f"dataset must hold a lesion, got {len(files)} entries with empty labels")
    levels = np.array(tissue, float) if model.moved else None
    left_out = len(files) - len(entries)
    means, spreads, medians = np.array(numbers).T
    counts = np.stack(voxels)
    edges = [np.array(part) for part in zip(*rims, strict=True)]
    return Textures(
        entries, np.stack(rows), levels, means, spreads, medians, counts, left_out, *edges
    )


def lesion_name(entry: Mapping[str, Any]) -> str:
    """Return the name of a datalist entry, or of its image file."""
    return str(entry.get("name", Path(str(entry.get("image", ""))).name))

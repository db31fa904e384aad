"""Texture presets from one's own hearts: infarcts grouped by their histograms (``cluster``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from tools.bundle import find_bundle
from tools.files import claimed, write_json
from tools.histograms import (
    adapt_histogram,
    intensity_histogram,
    jensen_shannon_divergence,
    load_presets,
)
from tools.phantoms.heart_datasets import heart_datalist
from tools.prepare.cluster import CLUSTER_FILES, PRESETS, check_config_preset, cluster_names
from tools.prepare.cluster_textures import (
    Clustering,
    LesionTextures,
    cluster_textures,
    compare_cluster_numbers,
    lesion_name,
)
from tools.prepare.heart_textures_figure import write_heart_figure
from tools.synthesis.generator import SliceSettings, scaled
from tools.synthesis.hearts.pipeline import HeartWindow
from tools.synthesis.scan import Scan

__all__ = ["HeartLesions", "cluster_hearts", "has_slices", "measure_hearts"]

NAMES = ("faint", "moderate", "bright")
FINE = 16  # bins of the measurement per bin of a preset, so that a move blurs little
# A move by the middle of the tissues alone (0) met the infarcts of 37 hearts best, one by their
# gap too (1) those of 10 others: the gap also depends on the minutes since the contrast agent.
GAIN = 0.5
FEWEST = 5  # hearts that speak for a further class of a group, its own or like them


@dataclass(frozen=True)
class HeartLesions:
    """The lesions of n hearts, each class of its own.

    Attributes:
        entries: of the datalist.
        histograms: blocks of sum 1, or 0 for an absent class, ``(n, classes, FINE * bins)``.
        tissue: levels of myocardium and blood in [-1, 1], ``(n, 2)``.
        medians: of the first class, in [-1, 1], ``(n,)``.
        voxels: of each class in the window, ``(n, classes)``.
        left_out: hearts without cavity, myocardium or a lesion of the first class.
    """

    entries: list[Mapping[str, Any]]
    histograms: np.ndarray
    tissue: np.ndarray
    medians: np.ndarray
    voxels: np.ndarray
    left_out: int = 0

    @property
    def contrast(self) -> np.ndarray:
        """Medians on a scale where myocardium is 0 and blood 1, ``(n,)``."""
        wall, blood = self.tissue.T
        return (self.medians - wall) / (blood - wall)

    def move(self, number: int, tissue: Sequence[float], gain: float) -> np.ndarray:
        """Return the histograms of one heart as they would be in another, ``(classes, bins)``."""
        blocks = self.histograms[number]
        moved = adapt_histogram(
            blocks.ravel().tolist(), self.tissue[number], tissue, len(blocks), gain=gain
        )
        return np.reshape(moved, (len(blocks), -1, FINE)).sum(-1)


def has_slices(bundle: str) -> bool:
    """Whether a bundle is one for scans of few thick slices without units, such as hearts."""
    path = find_bundle(bundle) / "configs" / "inference.json"
    return "slice_window" in ConfigParser.load_config_file(str(path))


def measure_hearts(
    files: Sequence[Mapping[str, Any]], settings: SliceSettings, bins: int
) -> HeartLesions:
    """Return the lesions of hearts as the model sees them, in its window and its scale.

    Args:
        files: entries with paths under ``image`` and ``label``.
        settings: of the model.
        bins: of a preset; the measurement has ``FINE`` times as many.

    Raises:
        ValueError: if an image and its label differ in grid, or no heart has a lesion.
    """
    entries, histograms, tissue, medians, voxels = [], [], [], [], []
    for entry in tqdm(files, desc="measuring hearts", unit="heart"):
        scan = Scan(entry["image"])
        window = HeartWindow.open(scan, scan.load_labels(entry["label"], "label"), settings)
        masks = window.masks(window.organ, settings.classes)
        if window.tissue is None or not masks[0].any():
            continue
        values = scaled(window.image, window.range)
        rows = torch.from_numpy(values.reshape(1, -1)).expand(len(masks), -1)
        inside = torch.from_numpy(masks.reshape(len(masks), -1))
        histograms.append(intensity_histogram(rows, inside, FINE * bins).double().numpy())
        tissue.append(window.tissue)
        medians.append(float(np.median(values[masks[0]])))
        voxels.append(masks.sum((1, 2, 3)))
        entries.append(entry)
    if not entries:
        raise ValueError(f"dataset must hold a lesion, got {len(files)} hearts without")
    arrays = np.stack(histograms), np.array(tissue), np.array(medians), np.stack(voxels)
    return HeartLesions(entries, *arrays, left_out=len(files) - len(entries))


def cluster_hearts(
    dataset_dir: str,
    bundle: str,
    clusters: int = 3,
    out: str | Path = "out/cluster",
    write: bool = False,
    seed: int = 0,
    section: str = "training",
    space: str = "histogram",
    preset: str = "mean",
) -> dict[str, Any]:
    """Group hearts by their infarcts and write a preset for each group, all classes in it.

    MRI has no units: all histograms are first moved to one standard tissue, the median of the
    hearts, with the ``gain`` that the bundle's presets state. Groups are k-means of the first
    class, as for nodules, in order of its mean there. Three of them are named faint, moderate,
    bright. Further classes of a preset are those of the same hearts; where fewer than five of
    them have the class, of the five whose first class is most like the group's.

    Args:
        dataset_dir: folder with ``datalist.json``; "" is the embedded phantom.
        bundle: its ``inference.json`` has the window and the classes, its ``histograms.json``, if
            there is one, bins and gain.
        clusters: number of groups, from 2 to the number of different histograms.
        out: folder for ``cluster.json``, ``cluster.png`` and ``histograms.json``.
        write: replace the bundle's ``configs/histograms.json`` instead.
        seed: of the restarts.
        section: of the datalist; presets belong to training data only.
        space: see :func:`tools.prepare.cluster_textures.cluster_textures`.
        preset: "mean" of a group, or "medoid", the heart nearest to its centre.

    Returns:
        The content of ``cluster.json``; ``fit`` is the median divergence (nats) of the hearts from
        the preset of their group, moved to each of them, by kind of preset and class.

    Raises:
        FileNotFoundError: if dataset or bundle does not exist.
        ValueError: naming the argument that breaks its rule.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {preset!r}")
    folder, out = find_bundle(bundle), Path(out)
    settings, bins, gain = _model_settings(folder)
    hearts = measure_hearts(heart_datalist(dataset_dir, section), settings, bins)
    standard = np.median(hearts.tissue, axis=0).round(4)
    moved = np.stack([hearts.move(i, standard, gain) for i in range(len(hearts.entries))])
    middles = np.linspace(-1, 1, 2 * bins + 1)[1::2]
    means = moved[:, 0] @ middles
    # not HU here: the mean on the scale of the model, which gives the groups their order
    textures = LesionTextures(
        hearts.entries, moved[:, 0], means, 0 * means, hearts.voxels[:, 0], hearts.left_out
    )
    clustering = cluster_textures(textures, clusters, seed, space)
    kinds = {kind: _presets(moved, clustering, kind) for kind in PRESETS}
    presets_path = folder / "configs" / "histograms.json" if write else out / "histograms.json"
    results = {
        "dataset": dataset_dir or "embedded phantom",
        "section": section,
        "lesions": len(hearts.entries),
        "left_out": hearts.left_out,
        "bins": bins,
        "gain": gain,
        "tissue": standard.tolist(),
        "settings": {"clusters": clusters, "space": space, "preset": preset, "seed": seed},
        "presets_file": str(presets_path),
        "fit": {k: _fit(hearts, p, clustering, standard, gain) for k, p in kinds.items()},
        "by_clusters": compare_cluster_numbers(textures, seed, space),
        "clusters": _describe(hearts, means, clustering, kinds[preset]),
    }
    if write:
        check_config_preset(folder, [group["name"] for group in results["clusters"]])
    with claimed(out, CLUSTER_FILES):
        write_heart_figure(out / "cluster.png", hearts, moved, clustering, results, settings)
        write_json(out / "cluster.json", results, indent=1)
        write_json(presets_path, _presets_content(results, len(settings.classes)), indent=1)
    return results


def _model_settings(folder: Path) -> tuple[SliceSettings, int, float]:
    """Return window, bins per class and gain of a bundle."""
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    settings = SliceSettings.from_config(parser)
    path = folder / "configs" / "histograms.json"
    if not path.is_file():
        return settings, 16, GAIN
    first = next(iter(load_presets(path).values()))
    return settings, len(first["histogram"]) // len(settings.classes), first.get("gain", GAIN)


def _presets(moved: np.ndarray, clustering: Clustering, kind: str) -> np.ndarray:
    """Return a histogram of each class for each group, ``(groups, classes, bins)``."""
    groups = int(clustering.labels.max()) + 1
    result = np.zeros((groups, *moved.shape[1:]))
    running = np.cumsum(moved[:, 0], axis=-1)
    for group in range(groups):
        members = clustering.labels == group
        for block in range(moved.shape[1]):
            having = moved[:, block].sum(-1) > 0
            chosen = np.flatnonzero(members & having)
            if chosen.size < min(FEWEST, members.sum()):
                # one small lesion is no group: hearts with the most similar first class join
                apart = np.abs(running - running[members].mean(0)).sum(-1)
                apart[~having] = np.inf
                chosen = np.argsort(apart, kind="stable")[: min(FEWEST, having.sum())]
            if not chosen.size:
                continue
            nearest = chosen[clustering.distances[chosen].argmin()]
            row = moved[chosen, block].mean(0) if kind == "mean" else moved[nearest, block]
            result[group, block] = row / row.sum()
    return result


def _fit(
    hearts: HeartLesions,
    presets: np.ndarray,
    clustering: Clustering,
    standard: np.ndarray,
    gain: float,
) -> list[float | None]:
    """Return the median divergence of lesions from their group's preset, by class."""
    classes = presets.shape[1]
    found: list[list[float]] = [[] for _ in range(classes)]
    for number, group in enumerate(clustering.labels):
        tissue = hearts.tissue[number]
        asked = adapt_histogram(
            presets[group].ravel().tolist(), standard.tolist(), tissue, classes, gain=gain
        )
        own = hearts.move(number, tissue, gain)
        pairs = zip(np.reshape(asked, own.shape), own, strict=True)
        for values, (want, have) in zip(found, pairs, strict=True):
            if have.sum() > 0:
                jsd = jensen_shannon_divergence(torch.from_numpy(want), torch.from_numpy(have))
                values.append(float(jsd))
    return [round(float(np.median(values)), 4) if values else None for values in found]


def _describe(
    hearts: HeartLesions, means: np.ndarray, clustering: Clustering, presets: np.ndarray
) -> list[dict[str, Any]]:
    """Return name, size, histograms and figures of each group."""
    sizes = np.bincount(clustering.labels)
    # rounded running sums: whole numbers that add up to 100
    weights = np.diff(np.rint(100 * np.cumsum(sizes) / sizes.sum()), prepend=0)
    groups = []
    for i, name in enumerate(cluster_names(len(sizes), NAMES)):
        members = np.flatnonzero(clustering.labels == i)
        quartiles = np.percentile(hearts.contrast[members], [25, 50, 75])
        running = np.round(np.cumsum(presets[i], axis=-1), 6)
        groups.append(
            {
                "name": name,
                "size": len(members),
                "weight": int(weights[i]),
                "mean": round(float(means[members].mean()), 3),
                "mean_sd": round(float(means[members].std()), 3),
                "contrast_quartiles": [round(float(v), 2) for v in quartiles],
                "members_by_class": (hearts.voxels[members] > 0).sum(0).tolist(),
                "medoid": lesion_name(
                    hearts.entries[members[clustering.distances[members].argmin()]]
                ),
                "members": [lesion_name(hearts.entries[j]) for j in members],
                "histogram": np.diff(running, axis=-1, prepend=0).round(6).ravel().tolist(),
            }
        )
    return groups


def _presets_content(results: Mapping[str, Any], classes: int) -> dict[str, Any]:
    presets = {
        group["name"]: {
            "weight": group["weight"],
            "tissue": results["tissue"],
            "histogram": group["histogram"],
        }
        for group in results["clusters"]
    }
    return {
        "bins": results["bins"],
        "classes": classes,
        "gain": results["gain"],
        "presets": presets,
    }

"""Texture presets from one's own lesions: k-means on their histograms (``cluster``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from tools.files import claimed, write_json
from tools.histograms import adapt_histogram, jensen_shannon_divergence
from tools.prepare.cluster_figure import write_cluster_figure
from tools.prepare.clustering import (
    Clustering,
    Measured,
    cluster_histograms,
    compare_cluster_numbers,
)
from tools.prepare.textures import Look, Textures, lesion_name, measure_textures, read_look

__all__ = ["cluster_lesions"]

logger = logging.getLogger(__name__)

PRESETS = ("mean", "medoid")
SATURATED = 0.2  # share of voxels in the brightest bin from which a group is called so
FEWEST = 5  # lesions that speak for a further class of a group, its own or like them


def cluster_lesions(
    dataset_dir: str,
    bundle: str = "bundles/lefusion_lidc",
    clusters: int = 3,
    out: str | Path = "out/cluster",
    write: bool = False,
    seed: int = 0,
    section: str = "training",
    space: str = "histogram",
    preset: str = "mean",
) -> dict[str, Any]:
    """Group the lesions of a dataset by texture; write a preset for each, and ``cluster.json``.

    LeFusion (figure 3) groups lung nodules into three by their histograms and finds them to be
    roughly ground-glass, part-solid and solid; it names neither algorithm nor metric. Here it is
    k-means with 20 restarts. **The names of three groups are their order of the mean and nothing
    more**: look at the figure before you trust them. A few calcified lesions can take a group of
    their own, and "solid" with it.

    Groups are those of the first lesion class. Images without units are first moved to one standard
    tissue, the median of all, with the ``gain`` that the bundle states. Further classes of a preset
    are those of the same lesions; where fewer than five of them have the class, of the five whose
    first class is most like the group's.

    Options are those of the command. The preset "mean" of a group is broader than the histogram of
    a lesion, because it holds the differences between lesions too; "medoid", the histogram of the
    lesion nearest to the centre, is narrow and noisy as a real one is. ``fit`` in the result is the
    median divergence (nats) of the lesions from the preset of their group, by kind and class.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {preset!r}")
    folder, look = read_look(bundle)
    measured = _measured(look, dataset_dir, section)
    textures, rows, means = measured.textures, measured.rows, measured.means
    clustering = cluster_histograms(rows[:, 0], means, clusters, seed, space)
    kinds = {kind: _presets(rows, clustering, kind) for kind in PRESETS}
    groups = _describe(measured, clustering, kinds[preset])
    key, digits = ("mean_hu", 1) if measured.standard is None else ("mean", 3)
    out = Path(out)
    path = folder / "configs" / "histograms.json" if write else out / "histograms.json"
    results = {
        "dataset": dataset_dir or "embedded phantom",
        "section": section,
        "lesions": len(textures.entries),
        "left_out": textures.left_out,
        **_scale(measured),
        "settings": {"clusters": clusters, "space": space, "preset": preset, "seed": seed},
        "presets_file": str(path),
        "fit": {kind: _fit(measured, found, clustering) for kind, found in kinds.items()},
        "by_clusters": compare_cluster_numbers(rows[:, 0], means, seed, space),
        "clusters": groups,
        "members": [
            {"name": lesion_name(e), "cluster": groups[g]["name"], key: round(float(m), digits)}
            for e, g, m in zip(textures.entries, clustering.labels, means, strict=True)
        ],
    }
    if write:
        _check_config_preset(folder, [group["name"] for group in groups])
    with claimed(out, ("cluster.png", "cluster.json", "histograms.json")):
        write_cluster_figure(out / "cluster.png", measured, clustering, results)
        write_json(out / "cluster.json", results, indent=1)
        write_json(path, _presets_content(measured, groups), indent=1)
    return results


def _measured(look: Look, dataset_dir: str, section: str) -> Measured:
    textures = measure_textures(look.model.files(dataset_dir, section), look.model, look.bins)
    standard = None if textures.tissue is None else np.median(textures.tissue, axis=0).round(4)
    count = len(textures.entries)
    rows = np.stack([textures.histograms(i, standard, look.gain) for i in range(count)])
    middles = np.linspace(-1, 1, 2 * look.bins + 1)[1::2]
    means = textures.means if standard is None else rows[:, 0] @ middles
    return Measured(look, textures, standard, rows, means)


def _scale(measured: Measured) -> dict[str, Any]:
    """Return what histograms are stated in: a window of units, or the tissue round them."""
    look, standard = measured.look, measured.standard
    if standard is None:
        return {"bins": look.bins, "window_hu": list(look.model.window)}
    return {"bins": look.bins, "gain": look.gain, "tissue": standard.tolist()}


def _presets(rows: np.ndarray, clustering: Clustering, kind: str) -> np.ndarray:
    """Return a histogram of each class for each group, ``(groups, classes, bins)``."""
    result = np.zeros((len(clustering.members), *rows.shape[1:]))
    running = np.cumsum(rows[:, 0], axis=-1)
    for group, members in enumerate(clustering.members):
        for block in range(rows.shape[1]):
            having = rows[:, block].sum(-1) > 0
            chosen = members[having[members]]
            if chosen.size < min(FEWEST, len(members)):
                # one small lesion is no group: those with the most similar first class join
                apart = np.abs(running - running[members].mean(0)).sum(-1)
                apart[~having] = np.inf
                chosen = np.argsort(apart, kind="stable")[: min(FEWEST, having.sum())]
            if not chosen.size:
                continue
            nearest = chosen[clustering.distances[chosen].argmin()]
            row = rows[chosen, block].mean(0) if kind == "mean" else rows[nearest, block]
            result[group, block] = row / row.sum()
    return result


def _fit(measured: Measured, presets: np.ndarray, clustering: Clustering) -> list[float | None]:
    """Return the median divergence of lesions from their group's preset, by class."""
    textures, standard, gain = measured.textures, measured.standard, measured.look.gain
    classes = presets.shape[1]
    found: list[list[float]] = [[] for _ in range(classes)]
    for number, group in enumerate(clustering.labels):
        asked, tissue = presets[group], None
        if textures.tissue is not None and standard is not None:
            tissue = textures.tissue[number]
            flat = asked.ravel().tolist()
            moved = adapt_histogram(flat, standard.tolist(), tissue, classes, gain=gain)
            asked = np.reshape(moved, asked.shape)
        own = textures.histograms(number, tissue, gain)
        for values, want, have in zip(found, asked, own, strict=True):
            if have.sum() > 0:
                jsd = jensen_shannon_divergence(torch.from_numpy(want), torch.from_numpy(have))
                values.append(float(jsd))
    return [round(float(np.median(values)), 4) if values else None for values in found]


def _describe(
    measured: Measured, clustering: Clustering, presets: np.ndarray
) -> list[dict[str, Any]]:
    """Return name, size, histograms and figures of each group."""
    textures, rows = measured.textures, measured.rows
    sizes = np.bincount(clustering.labels)
    numbered = [f"cluster_{i + 1}" for i in range(len(sizes))]
    names = measured.look.names if len(sizes) == 3 else numbered
    groups = []
    for i, members in enumerate(clustering.members):
        medoid = members[clustering.distances[members].argmin()]
        share = 100 * len(members) / int(sizes.sum())
        histogram, weight = presets[i].round(6), round(share, 1)
        if textures.tissue is not None:
            # rounded running sums: whole numbers that add up to 100, blocks that add up to 1
            weight = int(np.diff(np.rint(100 * np.cumsum(sizes) / sizes.sum()), prepend=0)[i])
            running = np.round(np.cumsum(presets[i], axis=-1), 6)
            histogram = np.diff(running, axis=-1, prepend=0).round(6)
        group: dict[str, Any] = {"name": names[i], "size": len(members), "weight": weight}
        group |= _levels(textures, measured.means, members) | {
            "top_bin_share": round(float(rows[members, 0, -1].mean()), 4),
            "voxels_median": int(np.median(textures.voxels[members, 0])),
            "members_by_class": (textures.voxels[members] > 0).sum(0).tolist(),
            "medoid": lesion_name(textures.entries[medoid]),
            "members": [lesion_name(textures.entries[j]) for j in members],
            "histogram": histogram.ravel().tolist(),
            "histogram_sd": rows[members].std(0).round(6).ravel().tolist(),
        }
        if textures.tissue is None and group["top_bin_share"] >= SATURATED:
            logger.warning(
                "%s has %.0f %% of its voxels in the brightest bin: calcified lesions, or a window "
                "too narrow; its name says order of mean HU only",
                *(group["name"], 100 * group["top_bin_share"]),
            )
        groups.append(group)
    return groups


def _levels(textures: Textures, means: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """Return how bright a group is, in HU or against the tissue."""
    mean, deviation = float(means[members].mean()), float(means[members].std())
    if textures.tissue is None:
        spread = round(float(np.median(textures.spreads[members])), 1)
        own = {"mean_hu": round(mean, 1), "mean_hu_sd": round(deviation, 1)}
        return own | {"spread_hu_median": spread}
    quartiles = np.percentile(textures.contrast[members], [25, 50, 75])
    own = {"mean": round(mean, 3), "mean_sd": round(deviation, 3)}
    return own | {"contrast_quartiles": [round(float(v), 2) for v in quartiles]}


def _check_config_preset(folder: Path, names: Sequence[str]) -> None:
    """Refuse presets that the bundle's own configuration could not find."""
    path = folder / "configs" / "inference.json"
    content = ConfigParser.load_config_file(str(path))
    asked = content.get("displayable_configs", {}).get("texture", "none")
    if asked not in (*names, "none", None):
        raise ValueError(
            f"write needs presets with the texture that {path} names ({asked!r}), got {list(names)}"
        )


def _presets_content(measured: Measured, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scale, tissue = _scale(measured), {}
    if measured.standard is not None:
        tissue = {"tissue": scale.pop("tissue")}
        classes = {"classes": len(measured.look.model.classes)}
        scale = {"bins": scale["bins"], **classes, "gain": scale["gain"]}
    presets = {
        group["name"]: {"weight": group["weight"], **tissue, "histogram": group["histogram"]}
        for group in groups
    }
    return {**scale, "presets": presets}

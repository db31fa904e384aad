"""Texture presets from one's own lesions: k-means on their histograms (``cluster``)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from tools.bundle import find_bundle
from tools.files import claimed, write_json
from tools.phantoms.datasets import lesion_datalist
from tools.prepare.cluster_figure import write_cluster_figure
from tools.prepare.cluster_textures import (
    Clustering,
    LesionTextures,
    cluster_textures,
    compare_cluster_numbers,
    lesion_name,
    measure_textures,
)

__all__ = ["PRESETS", "check_config_preset", "cluster_lesions", "cluster_names", "write_json"]

logger = logging.getLogger(__name__)

CLUSTER_FILES = ("cluster.png", "cluster.json", "histograms.json")
PRESETS = ("mean", "medoid")
SATURATED = 0.2  # share of voxels in the brightest bin from which a group is called so


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
    """Group the lesions of a dataset by texture and write a preset for each group.

    LeFusion (figure 3) groups lung nodules into three by their histograms and finds them to be
    roughly ground-glass, part-solid and solid; it names neither algorithm nor metric. Here it is
    k-means with 20 restarts. **The names of three groups are their order of mean HU and nothing
    more**: look at the figure before you trust them. A few calcified lesions can take a group of
    their own, and "solid" with it.

    Args:
        dataset_dir: folder with ``datalist.json``, windows with one lesion each (``prepare
            crops``); "" is the embedded phantom.
        bundle: its ``inference.json`` has the window, its ``histograms.json`` the number of bins
            (16 if there is none).
        clusters: number of groups, from 2 to the number of different histograms.
        out: folder for ``cluster.json``, ``cluster.png`` and ``histograms.json``.
        write: replace the bundle's ``configs/histograms.json`` instead of writing
            ``OUT/histograms.json``.
        seed: of the restarts.
        section: of the datalist; presets belong to training data only.
        space: see :func:`cluster_textures`.
        preset: "mean", the mean histogram of a group, broader than that of a lesion because
            it holds the differences between lesions too; or "medoid", the histogram of the lesion
            nearest to the centre, narrow and noisy as a real one is.

    Returns:
        The content of ``cluster.json``.

    Raises:
        FileNotFoundError: if dataset or bundle does not exist.
        ValueError: naming the argument that breaks its rule.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {preset!r}")
    folder, out = find_bundle(bundle), Path(out)
    window_hu, bins = _model_settings(folder)
    textures = measure_textures(lesion_datalist(dataset_dir, section), window_hu, bins)
    clustering = cluster_textures(textures, clusters, seed, space)
    groups = _describe(textures, clustering, preset)
    presets_path = folder / "configs" / "histograms.json" if write else out / "histograms.json"
    if write:
        check_config_preset(folder, [group["name"] for group in groups])
    results = {
        "dataset": dataset_dir or "embedded phantom",
        "section": section,
        "lesions": len(textures.voxels),
        "left_out": textures.left_out,
        "bins": bins,
        "window_hu": list(window_hu),
        "settings": {"clusters": clusters, "space": space, "preset": preset, "seed": seed},
        "presets_file": str(presets_path),
        "by_clusters": compare_cluster_numbers(textures, seed, space),
        "clusters": groups,
        "members": [
            {
                "name": lesion_name(entry),
                "cluster": groups[label]["name"],
                "mean_hu": round(float(hu), 1),
            }
            for entry, label, hu in zip(
                textures.entries, clustering.labels, textures.mean_hu, strict=True
            )
        ],
    }
    for group in groups:
        if group["top_bin_share"] >= SATURATED:
            logger.warning(
                "%s has %.0f %% of its voxels in the brightest bin: calcified lesions, or a window "
                "too narrow; its name says order of mean HU only",
                group["name"],
                100 * group["top_bin_share"],
            )
    with claimed(out, CLUSTER_FILES):
        write_cluster_figure(out / "cluster.png", textures, clustering, results)
        write_json(out / "cluster.json", results, indent=1)
        write_json(presets_path, _presets_content(groups, window_hu, bins), indent=1)
    return results


def cluster_names(
    clusters: int, three: Sequence[str] = ("ground_glass", "part_solid", "solid")
) -> list[str]:
    """Return the names of groups in order of their mean.

    Args:
        clusters: number of groups.
        three: their names if they are three.

    Example:
        >>> cluster_names(3), cluster_names(2)
        (['ground_glass', 'part_solid', 'solid'], ['cluster_1', 'cluster_2'])
    """
    if clusters == 3:
        return list(three)
    return [f"cluster_{i + 1}" for i in range(clusters)]


def _describe(
    textures: LesionTextures, clustering: Clustering, preset: str
) -> list[dict[str, Any]]:
    """Return name, size, histograms and figures of each group."""
    groups = []
    for i, name in enumerate(cluster_names(int(clustering.labels.max()) + 1)):
        members = np.flatnonzero(clustering.labels == i)
        rows = textures.histograms[members]
        medoid = members[clustering.distances[members].argmin()]
        chosen = rows.mean(0) if preset == "mean" else textures.histograms[medoid]
        groups.append(
            {
                "name": name,
                "size": len(members),
                "weight": round(100 * len(members) / len(clustering.labels), 1),
                "mean_hu": round(float(textures.mean_hu[members].mean()), 1),
                "mean_hu_sd": round(float(textures.mean_hu[members].std()), 1),
                "spread_hu_median": round(float(np.median(textures.spread_hu[members])), 1),
                "top_bin_share": round(float(rows[:, -1].mean()), 4),
                "voxels_median": int(np.median(textures.voxels[members])),
                "medoid": lesion_name(textures.entries[medoid]),
                "histogram": [round(float(v), 6) for v in chosen],
                "histogram_sd": [round(float(v), 6) for v in rows.std(0)],
            }
        )
    return groups


def _model_settings(folder: Path) -> tuple[tuple[float, float], int]:
    """Return window and number of bins of a bundle."""
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    low, high = parser.get_parsed_content("window_hu")
    path = folder / "configs" / "histograms.json"
    bins = int(json.loads(path.read_text())["bins"]) if path.is_file() else 16
    return (float(low), float(high)), bins


def check_config_preset(folder: Path, names: Sequence[str]) -> None:
    """Refuse presets that the bundle's own configuration could not find."""
    content = json.loads((folder / "configs" / "inference.json").read_text())
    asked = content.get("displayable_configs", {}).get("texture", "none")
    if asked not in (*names, "none", None):
        raise ValueError(
            f"write needs presets with the texture that {folder / 'configs' / 'inference.json'} "
            f"names ({asked!r}), got {list(names)}"
        )


def _presets_content(
    groups: Sequence[Mapping[str, Any]], window_hu: Sequence[float], bins: int
) -> dict[str, Any]:
    presets = {g["name"]: {"weight": g["weight"], "histogram": g["histogram"]} for g in groups}
    return {"bins": bins, "window_hu": list(window_hu), "presets": presets}

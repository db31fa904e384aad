"""The results of nodules by subtype as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.transforms.conditions import SUBTYPES

__all__ = ["subtype_page"]

REQUESTS = {
    "own": "own histogram and subtype",
    "histogram only": "own histogram",
    "subtype only": "own subtype, no histogram",
    "nothing": "nothing",
    "solid": "solid, histogram of training",
    "part_solid": "part-solid, histogram of training",
    "ground_glass": "ground-glass, histogram of training",
}


def subtype_page(results: Mapping[str, Any]) -> str:
    """Return Markdown: settings, divergences by subtype, consistency, background.

    Args:
        results: as :func:`tools.evaluation.subtype_study.evaluate_subtypes` collects them.
    """
    models = results["models"]
    parts = [
        "# Evaluation by subtype",
        ", ".join(f"{name} {value}" for name, value in results["settings"].items()),
        _divergence_table(models),
        _consistency_table(results["real"], models),
        "## Background and time",
    ]
    for name, model in models.items():
        parts.append(
            f"{name} (weights {model['weights_sha256']}): {model['changed_beyond_margin']} voxels "
            f"changed {model['margin_mm']:g} mm from the lesion and farther (must be 0); "
            f"{model['seconds_per_lesion']:.2f} s per lesion."
        )
    return "\n\n".join(parts) + "\n"


def _divergence_table(models: Mapping[str, Any]) -> str:
    lines = [
        "## Asked and drawn",
        "",
        "Histogram inside the lesion: Jensen-Shannon divergence in nats, 0 to 0.693, and "
        "Wasserstein-1 distance in HU, both median (quartiles) over lesions; median of mean HU. "
        "Lesions asked for less than all are compared with what the real one was.",
        "",
        "| model | asked | subtype | n | JSD | W1, HU | mean HU asked | drawn |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, found in models.items():
        for request, groups in found["requests"].items():
            for subtype, row in groups.items():
                if request in SUBTYPES and subtype == "all":
                    continue
                jsd, w1 = _quartiles(row["jsd"], 3), _quartiles(row["w1_hu"], 0)
                means = [f"{row[f'mean_hu_{key}']['median']:.0f}" for key in ("asked", "drawn")]
                lines.append(
                    f"| {model} | {REQUESTS.get(request, request)} | {subtype} | {row['jsd']['n']} "
                    f"| {jsd} | {w1} | {means[0]} | {means[1]} |"
                )
    return "\n".join(lines)


def _quartiles(row: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{row[key]:.{digits}f}" for key in ("median", "q1", "q3"))
    return f"{middle} ({low} to {high})"


def _consistency_table(real: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    lines = [
        "## Subtype that a classifier of real lesions names",
        "",
        "Trained on histogram, gradient and grain of real training lesions. Balanced accuracy: "
        f"mean of the subtypes' own; chance {real['chance']:.1%}. Columns: share of the "
        "lesions of a subtype that are named so.",
        "",
        "| lesions | balanced accuracy | accuracy | solid | part-solid | ground-glass |",
        "|---|---|---|---|---|---|",
        _row("real validation lesions", real),
    ]
    for name, model in models.items():
        for request, found in model["consistency"].items():
            text = "all three subtypes" if request == "asked" else REQUESTS.get(request, request)
            lines.append(_row(f"{name}: {text}", found))
    return "\n".join(lines)


def _row(name: str, found: Mapping[str, Any]) -> str:
    shares = []
    for i, row in enumerate(found["table"]):
        shares.append(f"{row[i] / sum(row):.0%} of {sum(row)}" if sum(row) else "-")
    overall = f"{found['balanced_accuracy']:.1%} | {found['accuracy']:.1%}"
    return f"| {name} | {overall} | {' | '.join(shares)} |"

"""The results of an evaluation as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["results_page"]

DIVERGENCES = {
    "own": "the lesion's own histogram",
    "other": "another lesion's histogram",
    "none_own": "no control, compared with the own",
    "none_other": "no control, compared with the other's",
    "floor_own": "chance: a draw per voxel from the own",
    "floor_other": "chance: a draw per voxel from the other's",
}


def results_page(results: Mapping[str, Any]) -> str:
    """Return Markdown: settings, divergences, order of the textures, background, discriminator.

    Args:
        results: as :func:`tools.evaluation.bundle.evaluate_bundle` collects them.
    """
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    parts = ["# Evaluation", settings, _divergence_table(results), _order_table(results["order"])]
    worst = max(results[part]["background_difference"] for part in ("control", "order"))
    parts.append(f"Largest change outside the masks: {worst:g} (must be 0).")
    parts.append(f"Sampling: {results['seconds_per_lesion']:.2f} s per lesion.")
    if results.get("discriminator"):
        parts.append(_discriminator_table(results["discriminator"]))
    return "\n\n".join(parts) + "\n"


def _divergence_table(results: Mapping[str, Any]) -> str:
    summary = results["control"]["summary"]
    n = summary["own"]["n"]
    lines = [
        f"## Requested and achieved histogram ({n} lesions)",
        "",
        "Jensen-Shannon divergence in nats, 0 to 0.693.",
        "",
        "| requested | median | quartiles | mean |",
        "|---|---|---|---|",
    ]
    rows = {text: summary[name] for name, text in DIVERGENCES.items()}
    if "repaint" in results:
        rows["baseline with the global loss, own histogram"] = results["repaint"]["own"]
    for text, row in rows.items():
        lines.append(
            f"| {text} | {row['median']:.4f} | {row['q1']:.4f} to {row['q3']:.4f} "
            f"| {row['mean']:.4f} |"
        )
    ratios = [f"{name} {_ratio(summary, name):.2f}" for name in ("own", "other")]
    return "\n".join([*lines, "", f"Median with control / without: {', '.join(ratios)}."])


def _ratio(summary: Mapping[str, Any], name: str) -> float:
    free = summary[f"none_{name}"]["median"]
    return summary[name]["median"] / free if free else float("nan")


def _order_table(order: Mapping[str, Any]) -> str:
    lines = [
        "## Textures asked on the same scan, mask and noise",
        "",
        f"Mean HU rises {' < '.join(order['order'])} in {order['ordered_fraction']:.1%} of "
        f"{len(order['lesions'])} triples.",
        "",
        "| preset | asked, mean HU | got, median of mean HU | quartiles | divergence, median |",
        "|---|---|---|---|---|",
    ]
    for name in order["order"]:
        row, jsd = order["mean_hu"][name], order["jsd"][name]["median"]
        asked = order["requested_hu"][name]
        lines.append(
            f"| {name} | {asked:.0f} | {row['median']:.0f} | {row['q1']:.0f} to {row['q3']:.0f} "
            f"| {jsd:.4f} |"
        )
    return "\n".join(lines)


def _discriminator_table(sources: Mapping[str, Any]) -> str:
    first = next(iter(sources.values()))
    lines = [
        f"## Real or synthetic? ({first['pairs']} pairs)",
        "",
        "Cross-validation by patient; 50 % means that the network cannot tell. "
        f"One fold's accuracy varies by {first['chance_sd']:.1%} under guessing.",
        "",
        "| source | accuracy | AUC |",
        "|---|---|---|",
    ]
    for name, row in sources.items():
        accuracy, auc = row["accuracy"], row["auc"]
        lines.append(
            f"| {name} | {accuracy['mean']:.1%} ± {accuracy['sd']:.1%} "
            f"| {auc['mean']:.3f} ± {auc['sd']:.3f} |"
        )
    return "\n".join(lines)

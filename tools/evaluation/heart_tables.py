"""The results of hearts as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.evaluation.heart_cases import CLASS_NAMES

__all__ = ["heart_page"]

REQUESTS = {
    "own": "own histograms",
    "other": "another heart's",
    "none_own": "no control, compared with the own",
    "none_other": "no control, compared with the other's",
}
MEASURES = {
    "infarct": "infarct",
    "no_reflow": "no-reflow",
    "ratio": "no-reflow / infarct",
    "fall": "fall across their border",
    "step": "absolute step across it",
}
SOURCES = {
    "own": "own histograms",
    "none": "no control",
    "constant": "floor: each class filled with its mean",
    "real_other": "chance: real against real of other patients",
}
ABSENT = "-"


def heart_page(results: Mapping[str, Any]) -> str:
    """Return Markdown: settings, divergences, contrasts, combination, tests, variants.

    Args:
        results: as :func:`tools.evaluation.hearts.evaluate_hearts` collects them.
    """
    settings = results["settings"]
    changed, seconds = results["background"], results["seconds_per_heart"]
    parts = [
        "# Evaluation of hearts",
        ", ".join(f"{name} {value}" for name, value in settings.items()),
        _divergence_table(results["control"]),
        _contrast_table(results["contrast"]),
        _combine_table(results["combine"]),
        _test_table(results["discriminator"]),
        _variant_table(results["variants"]),
        f"Voxels changed outside the lesion labels: {changed['scan']} on the scans' own grids, "
        f"{changed['window']} in the windows (must be 0); inside: {changed['changed_inside']}.",
        f"Sampling: median {seconds['median']:.2f} s per heart (quartiles {seconds['q1']:.2f} to "
        f"{seconds['q3']:.2f}), all lesions at once, {settings['threads']} threads, "
        f"{settings['steps']} steps.",
    ]
    return "\n\n".join(parts) + "\n"


def _quartiles(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ABSENT
    return f"{row['median']:.4f} ({row['q1']:.4f} to {row['q3']:.4f}; {row['n']})"


def _divergence_table(control: Mapping[str, Any]) -> str:
    lines = [
        "## Requested and achieved histogram",
        "",
        "Jensen-Shannon divergence in nats, 0 to 0.693: median (quartiles; hearts).",
        "",
        "| requested | infarct | no-reflow |",
        "|---|---|---|",
    ]
    for name, text in REQUESTS.items():
        cells = " | ".join(_quartiles(control[name][kind]) for kind in CLASS_NAMES)
        lines.append(f"| {text} | {cells} |")
    return "\n".join(lines)


def _three(values: list[float]) -> str:
    return f"{values[1]:.2f} ({values[0]:.2f} to {values[2]:.2f})"


def _comparison_lines(label: str, compared: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, text in MEASURES.items():
        row = compared[name]
        cells = [ABSENT] * 5
        if row is not None:
            cells = [_three(row["real"]), _three(row["synthetic"])]
            cells += [f"{row['wasserstein']:.3f}", f"{row['error']:.3f}", str(row["hearts"])]
        lines.append(f"| {label} | {text} | {' | '.join(cells)} |")
    return lines


def _contrast_table(contrast: Mapping[str, Any]) -> str:
    lines = [
        "## Contrasts",
        "",
        "(x - myocardium) / (blood - myocardium), medians of tissues; a border is counted between "
        "neighbours in the slice. Median (quartiles) over hearts; W1: Wasserstein-1 distance of "
        "the distributions; error: median absolute difference from the real lesion there.",
        "",
        "| request | measure | real | synthetic | W1 | error | hearts |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("own", "none"):
        lines += _comparison_lines(REQUESTS["own"] if name == "own" else "none", contrast[name])
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None, key: str) -> str:
    return ABSENT if row is None else f"{row[key]:.3f}"


def _combine_table(combine: Mapping[str, Any]) -> str:
    lines = [
        "## Classes combined at every step or at the end",
        "",
        "Same weights, requests and seeds.",
        "",
        "| combine | JSD infarct | JSD no-reflow | measure | real | synthetic | W1 | error | "
        "hearts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for how, row in combine.items():
        jsd = " | ".join(_cell(row["jsd"][kind], "median") for kind in CLASS_NAMES)
        lines += _comparison_lines(f"{how} | {jsd}", row["contrast"])
    return "\n".join(lines)


def _test_table(tests: Mapping[str, Any]) -> str:
    lines = [
        "## Real or synthetic?",
        "",
        "A random forest on levels, spread, grain and edges of slices with lesion; "
        "cross-validation by patient, 50 % is chance: mean ± sd over folds.",
        "",
        "| source | pairs | accuracy | AUC | sd of guessing |",
        "|---|---|---|---|---|",
    ]
    for name, found in tests.items():
        cells = [ABSENT] * 4
        if found:
            cells = [str(found["pairs"]), _spread(found["accuracy"], percent=True)]
            cells += [_spread(found["auc"]), f"{found['chance_sd']:.1%}"]
        lines.append(f"| {SOURCES.get(name, name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(row: Mapping[str, Any], percent: bool = False) -> str:
    form = "{:.1%} ± {:.1%}" if percent else "{:.3f} ± {:.3f}"
    return form.format(row["mean"], row["sd"])


def _variant_table(variants: Mapping[str, Any]) -> str:
    names = ("infarct", "no_reflow", "ratio")
    lines = [
        "## Variants",
        "",
        "Same hearts, masks and seeds, own histograms where the network takes them. JSD: median in "
        "nats; W1 and error of the contrasts as above.",
        "",
        "| model | JSD infarct | JSD no-reflow | "
        + " | ".join(f"{kind} {MEASURES[name]}" for kind in ("W1", "error") for name in names)
        + " | s per heart |",
        "|---" * 10 + "|",
    ]
    for name, row in variants.items():
        cells = [_cell(row["jsd"][kind], "median") for kind in CLASS_NAMES]
        for key in ("wasserstein", "error"):
            cells += [_cell(row["contrast"][measure], key) for measure in names]
        cells.append(f"{row['seconds_per_heart']['median']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)

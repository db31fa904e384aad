"""The results of an evaluation of shapes as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.evaluation.shape_sizes import size_table
from tools.metrics import ShapeFeatures

__all__ = ["shapes_page"]


def shapes_page(results: Mapping[str, Any]) -> str:
    """Return Markdown: spheres, features, distances, tests, diversity, ratings.

    Args:
        results: as :func:`tools.evaluation.shapes.evaluate_shapes` collects them.
    """
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    parts = [
        "# Evaluation of shapes",
        settings,
        _sphere_table(results),
        size_table(results["sizes"]),
        _feature_table(results["sources"]),
        _distance_table(results["sources"]),
        _test_table(results["sources"]),
        _diversity_table(results["diversity"]),
        _steering_table(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _sphere_table(results: Mapping[str, Any]) -> str:
    rows = {k: v for k, v in results["sources"].items() if "empty" in v}
    if "boundary" in results:
        rows[f"{results['settings']['source']}, cut by a plane"] = results["boundary"]
    lines = [
        "## Does the shape keep to its sphere?",
        "",
        "Errors of the smallest enclosing sphere in mm: median, 95 % of the masks below. Inside: "
        "share of voxels in the sphere and the boundary, mean and least mask.",
        "",
        "| source | diameter error | signed, median | centre error | inside | least | empty "
        "| s per mask |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        inside, seconds = row.get("inside"), row.get("seconds")
        size = row.get("diameter_error_mm")
        cells = [
            _label(name),
            _error(size),
            f"{size['signed_median']:+.2f}" if size else "–",
            _error(row.get("centre_error_mm")),
            f"{inside['mean']:.3f}" if inside else "–",
            f"{inside['least']:.3f}" if inside else "–",
            str(row["empty"]),
            f"{seconds['median']:.2f}" if seconds else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _error(row: Mapping[str, float] | None) -> str:
    return f"{row['median']:.2f}, {row['p95']:.2f}" if row else "–"


def _feature_table(sources: Mapping[str, Any]) -> str:
    lines = [
        "## Features: median (quartiles)",
        "",
        f"| feature | {' | '.join(_label(name) for name in sources)} |",
        f"|---|{'---|' * len(sources)}",
    ]
    for name in ShapeFeatures._fields:
        rows = [source["features"][name] for source in sources.values()]
        cells = [f"{r['median']:.3g} ({r['q1']:.3g} to {r['q3']:.3g})" for r in rows]
        lines.append(f"| {_label(name)} | {' | '.join(cells)} |")
    means = [f"{source['features']['components']['mean']:.3f}" for source in sources.values()]
    lines.append(f"| components, mean | {' | '.join(means)} |")
    return "\n".join(lines)


def _distance_table(sources: Mapping[str, Any]) -> str:
    shown = {name: source["distance"] for name, source in sources.items() if "distance" in source}
    lines = [
        "## Distance from the real validation masks",
        "",
        "1-Wasserstein distance in real standard deviations ± bootstrap; the last row is the key "
        "metric of the training.",
        "",
        f"| feature | {' | '.join(_label(name) for name in shown)} |",
        f"|---|{'---|' * len(shown)}",
    ]
    for name in (*ShapeFeatures._fields, "mean"):
        cells = [f"{rows[name]['value']:.3f} ± {rows[name]['sd']:.3f}" for rows in shown.values()]
        lines.append(f"| {_label(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _test_table(sources: Mapping[str, Any]) -> str:
    shown = {name: source["tests"] for name, source in sources.items() if source.get("tests")}
    if not shown:
        return ""
    first = next(iter(shown.values()))["features"]
    lines = [
        f"## Real or drawn? ({first['pairs']} pairs)",
        "",
        "Cross-validation by patient, mean ± standard deviation over folds; 50 % means that the "
        f"classifier cannot tell. One fold varies by {first['chance_sd']:.1%} under guessing.",
        "",
        "| source | forest on features, accuracy | AUC | 3-D network on masks, accuracy | AUC |",
        "|---|---|---|---|---|",
    ]
    for name, tests in shown.items():
        cells = [
            f"{t['accuracy']['mean']:.1%} ± {t['accuracy']['sd']:.1%} "
            f"| {t['auc']['mean']:.3f} ± {t['auc']['sd']:.3f}"
            for t in (tests["features"], tests["network"])
        ]
        lines.append(f"| {_label(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _diversity_table(rows: Mapping[str, Any]) -> str:
    lines = [
        "## Diversity",
        "",
        "Mean intersection over union of pairs: draws with different seeds in one sphere; real "
        "masks of nearly equal size. ± standard error.",
        "",
        "| source | overlap | spheres |",
        "|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['mean']:.3f} ± {row['error']:.3f} | {row['n']} |")
    return "\n".join(lines)


def _steering_table(results: Mapping[str, Any]) -> str:
    steered, real = results["steering"], results["real_slopes"]
    if not any(steered.values()):
        return ""
    lines = [
        "## Ratings: score 5 against score 1, same sphere and seed",
        "",
        "± standard error. Real: regression over the training masks at equal size.",
        "",
        "| score | feature | at 1 | at 5 | change | rises in | change, real |",
        "|---|---|---|---|---|---|---|",
    ]
    for score, features in steered.items():
        for name, row in features.items():
            slope = real.get(score, {}).get(name)
            expected = f"{slope['mean']:+.4f} ± {slope['error']:.4f}" if slope else "–"
            lines.append(
                f"| {score} | {name} | {row['low']:.4f} | {row['high']:.4f} | {row['mean']:+.4f} "
                f"± {row['error']:.4f} | {row['rising']:.0%} of {row['n']} | {expected} |"
            )
    return "\n".join(lines)

"""What a study of use found: tables, plots, and one page."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tools.files import new_file, read_object, write_json
from tools.report.findings import Section, data_uri, findings_page, png
from tools.studies.downstream.design import BASELINE, Design, Run
from tools.studies.downstream.effects import (
    SIZES_MM,
    case_values,
    effect,
    sensitivity,
    summary,
)
from tools.studies.tables import ABSENT, grid

__all__ = ["FILES", "gather", "gather_folds", "write_pages"]

FILES = ("study.json", "results.json", "results.csv", "results.md", "results.png", "results.html")
MEASURES = {"dice": "Dice", "nsd": "NSD", "sensitivity": "found"}
PERCENT = 100.0
Table = tuple[list[str], list[list[str]]]


def gather(design: Design, metrics: Mapping[Run, Path]) -> dict[str, Any]:
    """Return all that a study measured so far, JSON values only.

    Args:
        design: of the study.
        metrics: file of each run; those that are not there yet are left out, and an arm is compared
            with the one without synthetic cases on the seeds that both have.
    """
    return gather_folds(design, [metrics])


def gather_folds(design: Design, folds: Sequence[Mapping[Run, Path]]) -> dict[str, Any]:
    """Return the same of several folds: the cases of all of them are those of one run.

    A run that a fold lacks is left out in all.
    """
    metrics = folds[0]
    there = [run for run in metrics if all(fold[run].is_file() for fold in folds)]
    made = {run: _joined([read_object(fold[run], "out") for fold in folds]) for run in there}
    results: dict[str, Any] = {
        "title": design.preset["title"],
        "protocol": design.preset["protocol"],
        "runs": {"made": len(made), "wanted": len(metrics)},
        "groups": [],
    }
    for fraction in design.fractions:
        base = {run.seed: made[run] for run in made if run[::2] == (fraction, BASELINE)}
        for arm in design.arms:
            own = {run.seed: made[run] for run in made if run[::2] == (fraction, arm)}
            seeds = sorted(own.keys() & base.keys())
            if seeds:
                pair = [base[seed] for seed in seeds], [own[seed] for seed in seeds]
                found = _group(design, *pair, arm == BASELINE)
                results["groups"].append({"fraction": fraction, "arm": arm, **found})
    return results


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a run over all folds; numbers of cases are means."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0]["synthetic"]
    return {
        **{key: float(np.mean([part[key] for part in parts])) for key in ("real", "patients")},
        "seconds": float(sum(part["seconds"] for part in parts)),
        "synthetic": {k: float(np.mean([part["synthetic"][k] for part in parts])) for k in names},
        "losses": np.mean([part["losses"] for part in parts], axis=0).tolist(),
        "cases": [row for part in parts for row in part["cases"]],
    }


def _group(
    design: Design,
    base: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
    alone: bool,
) -> dict[str, Any]:
    """Return what an arm reaches, and how it differs from the one without synthetic cases."""
    patients = [row["patient"] for row in own[0]["cases"]]
    rows = [run["cases"] for run in own]
    found: dict[str, Any] = {
        "seeds": len(own),
        "real": float(np.mean([run["real"] for run in own])),
        "patients": float(np.mean([run["patients"] for run in own])),
        "synthetic": float(np.mean([sum(run["synthetic"].values()) for run in own])),
        "seconds": float(np.mean([run["seconds"] for run in own])),
        "losses": np.mean([_smooth(run["losses"]) for run in own], axis=0).tolist(),
        "classes": {},
    }
    for name in design.preset["classes"]:
        part: dict[str, Any] = {}
        for measure in MEASURES:
            values, before = (
                np.array([case_values(run["cases"], name, measure) for run in runs])
                for runs in (own, base)
            )
            part[measure] = summary(values)
            if not alone:
                part[measure]["effect"] = effect(before, values, patients)
        part["false_per_case"] = float(
            np.mean([row["classes"][name]["false"] for each in rows for row in each])
        )
        part["by_size"] = [
            {"size_mm": list(size), "sensitivity": share, "lesions": count}
            for size, (share, count) in ((size, sensitivity(rows, name, size)) for size in SIZES_MM)
        ]
        found["classes"][name] = part
    return found


def _smooth(losses: Sequence[float], parts: int = 25) -> list[float]:
    return [float(np.mean(part)) for part in np.array_split(losses, min(parts, len(losses)))]


def write_pages(folder: Path, design: Design, results: dict[str, Any]) -> list[str]:
    """Write all of :data:`FILES` but the first into a folder; return the lines of Markdown."""
    lines = _markdown(design, results)
    write_json(folder / "results.json", _finite(results))
    with new_file(folder / "results.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with new_file(folder / "results.csv") as partial, partial.open("w", newline="") as stream:
        csv.writer(stream).writerows(_rows_of_csv(results))
    plots = [_effects(design, results), _curves(design, results)]
    with new_file(folder / "results.png") as partial:
        partial.write_bytes(plots[0])
    with new_file(folder / "results.html") as partial:
        partial.write_text(_html(design, results, plots), encoding="utf-8")
    return lines


def _finite(value: Any) -> Any:
    """Return JSON values with None for what is not finite."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _facts(results: Mapping[str, Any]) -> str:
    runs = results["runs"]
    return (
        f"{runs['made']} of {runs['wanted']} runs made, protocol {results['protocol']}. Means over "
        "seeds ± standard deviation; difference from P: mean of pairs of equal seed and test case, "
        "95 % interval over seeds and patients; p of the signed-rank test over patients and of the "
        "rank test over runs. found: share of the lesions that a part of the prediction meets."
    )


def _markdown(design: Design, results: Mapping[str, Any]) -> list[str]:
    lines = [f"# {results['title']}", "", _facts(results)]
    for title, table in _tables(design, results):
        lines += ["", f"## {title}", "", *grid(*table)]
    return lines


def _tables(design: Design, results: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    for name in design.preset["classes"]:
        yield f"{name}: what each arm reaches", _reached(design, results, name)
        yield f"{name}: share found, by diameter", _by_size(design, results, name)
    published = design.preset["published"]
    if published:
        yield (
            f"Published: {published['source']} What differs: {published['differs']}",
            _published(design, published),
        )


def _reached(design: Design, results: Mapping[str, Any], name: str) -> Table:
    headers = ["real cases", "arm", "synthetic", "seeds"]
    headers += [*MEASURES.values(), "false per case", "Dice, difference from P", "p patients"]
    headers += ["p runs", "NSD, difference", ""]
    rows = []
    for group in results["groups"]:
        part = group["classes"][name]
        values = [_spread(part[measure]) for measure in MEASURES]
        change = part["dice"].get("effect")
        rows.append(
            [
                f"{group['fraction']:.0%} ({group['real']:.0f})",
                design.label(group["arm"]),
                f"{group['synthetic']:.0f}",
                str(group["seeds"]),
                *values,
                f"{part['false_per_case']:.2f}",
                _interval(change),
                *(_number(change, key) for key in ("p_wilcoxon", "p_mann_whitney")),
                _interval(part["nsd"].get("effect")),
                change["verdict"] if change else ABSENT,
            ]
        )
    return headers, rows


def _spread(found: Mapping[str, float]) -> str:
    mean, sd = found["mean"] * PERCENT, found["sd"] * PERCENT
    return f"{mean:.1f} ± {sd:.1f}" if np.isfinite(sd) else f"{mean:.1f}"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ABSENT
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(
        *(PERCENT * found[key] for key in ("effect", "low", "high"))
    )


def _number(found: Mapping[str, Any] | None, key: str) -> str:
    return ABSENT if found is None or not np.isfinite(found[key]) else f"{found[key]:.2g}"


def _by_size(design: Design, results: Mapping[str, Any], name: str) -> Table:
    sizes = [f"{low:g} to {high:g} mm" for low, high in SIZES_MM]
    rows = []
    for group in results["groups"]:
        cells = [
            f"{each['sensitivity']:.0%} of {each['lesions']}" if each["lesions"] else ABSENT
            for each in group["classes"][name]["by_size"]
        ]
        rows.append([f"{group['fraction']:.0%}", design.label(group["arm"]), *cells])
    return ["real cases", "arm", *sizes], rows


def _published(design: Design, published: Mapping[str, Any]) -> Table:
    labels = published.get("measures", ["Dice", "NSD"])
    rows = [
        [design.label(arm), *(f"{value:g}" for value in values)]
        for arm, values in published["arms"].items()
    ]
    return ["arm", *labels], rows


def _rows_of_csv(results: Mapping[str, Any]) -> Iterator[list[Any]]:
    keys = ("effect", "low", "high", "p_wilcoxon", "p_mann_whitney", "verdict")
    yield ["fraction", "arm", "class", "measure", "mean", "sd", "seeds", *keys]
    for group in results["groups"]:
        for name, part in group["classes"].items():
            for measure in MEASURES:
                found = part[measure]
                change = found.get("effect", {})
                row = [group["fraction"], group["arm"], name, measure, found["mean"], found["sd"]]
                yield [*row, group["seeds"], *(change.get(key, "") for key in keys)]


def _effects(design: Design, results: Mapping[str, Any]) -> bytes:
    """Return a PNG: the difference in Dice from P of each arm, with its interval."""
    names = list(design.preset["classes"])
    groups = [group for group in results["groups"] if group["arm"] != BASELINE]
    height = 0.34 * max(1, len(groups)) + 1.0
    figure = Figure(figsize=(4.2 * len(names) + 2, height), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, group in enumerate(groups):
            found = group["classes"][name]["dice"]["effect"]
            low, value, high = (PERCENT * found[key] for key in ("low", "effect", "high"))
            colour = {"helps": "#2a8f5b", "harms": "#c0392b"}.get(found["verdict"], "#666666")
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(value, place, "o", color=colour)
        labels = [f"{group['fraction']:.0%}  {design.label(group['arm'])}" for group in groups]
        axes.set_yticks(range(len(groups)), labels, fontsize=8)
        axes.axvline(0, color="0.6", zorder=0)
        axes.invert_yaxis()
        axes.set_title(f"{name}: Dice, difference from P (points)", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _curves(design: Design, results: Mapping[str, Any]) -> bytes:
    """Return a PNG: how the loss falls in each arm."""
    fractions = list(dict.fromkeys(group["fraction"] for group in results["groups"])) or [0]
    figure = Figure(figsize=(3.6 * len(fractions) + 1, 2.8), layout="constrained")
    for axes, fraction in zip(
        figure.subplots(1, len(fractions), squeeze=False)[0], fractions, strict=True
    ):
        for group in results["groups"]:
            if group["fraction"] == fraction:
                shares = np.linspace(0, 100, len(group["losses"]))
                label = design.label(group["arm"])
                axes.plot(shares, group["losses"], label=label, linewidth=1)
        axes.set_title(f"{fraction:.0%} of the real cases", fontsize=9)
        axes.set(xlabel="training, %", ylabel="loss")
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _html(design: Design, results: Mapping[str, Any], plots: Sequence[bytes]) -> str:
    pictures = " ".join(data_uri(plot) for plot in plots)
    parts = [Section("What it did", sentences=[_facts(results)], plot=pictures)]
    for title, (headers, rows) in _tables(design, results):
        parts.append(Section(title, headers=headers, rows=rows))
    return findings_page(str(results["title"]), parts)

"""What a study of use found: tables, plots, and one page."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tools.files import new_file, read_object, write_json
from tools.kinds import without_nan
from tools.report.findings import Section, data_uri, findings_page, png
from tools.studies.downstream.design import BASELINE, Design, Run
from tools.studies.downstream.effects import (
    Measure,
    Report,
    Rows,
    compared,
    summary,
)
from tools.studies.downstream.tasks import TASKS
from tools.studies.tables import ABSENT, grid

__all__ = ["FILES", "gather", "gather_folds", "write_pages"]

FILES = ("study.json", "results.json", "results.csv", "results.md", "results.png", "results.html")
Runs = Sequence[Mapping[str, Any]]
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
        for arm in design.arms:
            base, own = (
                {run.seed: made[run] for run in made if run[::2] == (fraction, name)}
                for name in (design.base(arm), arm)
            )
            seeds = sorted(own.keys() & base.keys())
            if seeds:
                pair = [base[seed] for seed in seeds], [own[seed] for seed in seeds]
                found = _group(design, *pair, arm == design.base(arm))
                results["groups"].append({"fraction": fraction, "arm": arm, **found})
    return results


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a run over all folds; numbers of cases are means."""
    if len(parts) == 1:
        return parts[0]
    # folds may ask for other textures
    names = dict.fromkeys(name for part in parts for name in part["synthetic"])
    return {
        **{key: float(np.mean([part[key] for part in parts])) for key in ("real", "patients")},
        "seconds": float(sum(part["seconds"] for part in parts)),
        "synthetic": {
            name: float(np.mean([part["synthetic"].get(name, 0) for part in parts]))
            for name in names
        },
        "losses": np.mean([part["losses"] for part in parts], axis=0).tolist(),
        "cases": [row for part in parts for row in part["cases"]],
    }


def _group(design: Design, base: Runs, own: Runs, alone: bool) -> dict[str, Any]:
    """Return what an arm reaches, and how it differs from the one it is compared with."""
    report = _report(design)
    found: dict[str, Any] = {
        "seeds": len(own),
        "real": float(np.mean([run["real"] for run in own])),
        "patients": float(np.mean([run["patients"] for run in own])),
        "synthetic": float(np.mean([sum(run["synthetic"].values()) for run in own])),
        "seconds": float(np.mean([run["seconds"] for run in own])),
        "losses": np.mean([_smooth(run["losses"]) for run in own], axis=0).tolist(),
        "classes": {},
    }
    rows, before = ([run["cases"] for run in runs] for runs in (own, base))
    for name in report.names(design.preset["classes"]):
        part: dict[str, Any] = _measured(report.measures, before, rows, name, alone)
        part["by_size"] = []
        for size in report.sizes_mm:
            (few, *_), (sized, *counts) = (
                zip(*(report.sized(each, name, size) for each in runs), strict=True)
                for runs in (before, rows)
            )
            values = _measured(report.by_size, few, sized, name, alone) if counts[0][0] else {}
            part["by_size"].append({"size_mm": list(size), "lesions": counts[0][0], **values})
        part["curves"] = {
            title: np.mean([curve.values(each, name) for each in rows], axis=0).tolist()
            for title, curve in report.curves.items()
        }
        found["classes"][name] = part
    return found


def _report(design: Design) -> Report:
    return TASKS[design.preset["task"]].REPORT


def _measured(
    measures: Mapping[str, Measure],
    base: Sequence[Rows],
    own: Sequence[Rows],
    name: str,
    alone: bool,
) -> dict[str, Any]:
    """Return by measure mean and spread over the runs of an arm, and differences from another."""
    found: dict[str, Any] = {}
    for key, measure in measures.items():
        found[key] = summary(np.array([measure.of_run(rows, name) for rows in own]))
        if measure.told and not alone:
            found[key]["effect"] = compared(measure, base, own, name)
    return found


def _smooth(losses: Sequence[float], parts: int = 25) -> list[float]:
    return [float(np.mean(part)) for part in np.array_split(losses, min(parts, len(losses)))]


def write_pages(folder: Path, design: Design, results: dict[str, Any]) -> list[str]:
    """Write all of :data:`FILES` but the first into a folder; return the lines of Markdown."""
    lines = _markdown(design, results)
    write_json(folder / "results.json", without_nan(results))
    with new_file(folder / "results.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with new_file(folder / "results.csv") as partial, partial.open("w", newline="") as stream:
        csv.writer(stream).writerows(_rows_of_csv(design, results))
    plots = [_effects(design, results), _losses(design, results), *_curves(design, results)]
    with new_file(folder / "results.png") as partial:
        partial.write_bytes(plots[0])
    with new_file(folder / "results.html") as partial:
        partial.write_text(_html(design, results, plots), encoding="utf-8")
    return lines


def _facts(design: Design, results: Mapping[str, Any]) -> str:
    runs = results["runs"]
    return (
        f"{runs['made']} of {runs['wanted']} runs made, protocol {results['protocol']}. Means over "
        "seeds ± standard deviation; differences from P, or from the arm that is named: mean of "
        "pairs of equal seed and test case, 95 % interval over seeds and patients; p of the "
        "signed-rank test over patients and of the rank test over runs. " + _report(design).facts
    )


def _markdown(design: Design, results: Mapping[str, Any]) -> list[str]:
    lines = [f"# {results['title']}"]
    for text in [*results.get("notes", []), _facts(design, results)]:
        lines += ["", text]
    for title, note, table in _tables(design, results):
        lines += ["", f"## {title}", "", *([note, ""] if note else []), *grid(*table)]
    return lines


def _tables(design: Design, results: Mapping[str, Any]) -> Iterator[tuple[str, str, Table]]:
    """Yield title, note and table."""
    report = _report(design)
    for name in report.names(design.preset["classes"]):
        yield f"{name}: what each arm reaches", "", _reached(design, results, name)
        for key, measure in report.by_size.items():
            yield f"{name}: {measure.label}, by diameter", "", _by_size(design, results, name, key)
    published = design.preset["published"]
    if published:
        note = f"{published['source']} What differs: {published['differs']}"
        yield "Published figures", note, _published(design, published)


def _reached(design: Design, results: Mapping[str, Any], name: str) -> Table:
    measures = _report(design).measures
    first, *others = [key for key, measure in measures.items() if measure.told]
    second = others[0]
    headers = [
        "real cases",
        "arm",
        "synthetic",
        "seeds",
        "",
        f"{measures[first].label}, difference",
    ]
    headers += ["p patients", "p runs", *(m.label for m in measures.values())]
    headers += [f"{measures[second].label}, difference"]
    rows = []
    for group in results["groups"]:
        part = group["classes"][name]
        change = part[first].get("effect")
        rows.append(
            [
                f"{group['fraction']:.0%} ({group['real']:.0f})",
                _label(design, group["arm"]),
                f"{group['synthetic']:.0f}",
                str(group["seeds"]),
                change["verdict"] if change else ABSENT,
                _interval(change, measures[first]),
                *(_number(change, key) for key in ("p_wilcoxon", "p_mann_whitney")),
                *(_spread(part[key], measure) for key, measure in measures.items()),
                _interval(part[second].get("effect"), measures[second]),
            ]
        )
    return headers, rows


def _label(design: Design, arm: str) -> str:
    """Return what an arm is called, with the one that it is compared with where that is not P."""
    base = design.base(arm)
    return design.label(arm) + ("" if base in (BASELINE, arm) else f" (to {design.label(base)})")


def _spread(found: Mapping[str, float], measure: Measure) -> str:
    mean, sd = found["mean"] * measure.scale, found["sd"] * measure.scale
    digits = 1 if measure.scale > 1 else 2
    if not np.isfinite(mean):
        return ABSENT
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if np.isfinite(sd) else "")


def _interval(found: Mapping[str, Any] | None, measure: Measure) -> str:
    if found is None or not np.isfinite(found["effect"]):
        return ABSENT
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(
        *(measure.scale * found[key] for key in ("effect", "low", "high"))
    )


def _number(found: Mapping[str, Any] | None, key: str) -> str:
    return ABSENT if found is None or not np.isfinite(found[key]) else f"{found[key]:.2g}"


def _by_size(design: Design, results: Mapping[str, Any], name: str, key: str) -> Table:
    measure = _report(design).by_size[key]
    headers = ["real cases", "arm"]
    for low, high in _report(design).sizes_mm:
        headers += [f"{low:g} to {high:g} mm", "difference, p runs"]
    rows = []
    for group in results["groups"]:
        cells = []
        for each in group["classes"][name]["by_size"]:
            found = each.get(key)
            change = None if found is None else found.get("effect")
            interval = _interval(change, measure)
            told = f"{interval}, {_number(change, 'p_mann_whitney')}"
            share = ABSENT if found is None else _spread(found, measure)
            cells += [ABSENT if share == ABSENT else f"{share} of {each['lesions']}"]
            cells += [ABSENT if interval == ABSENT else told]
        rows.append([f"{group['fraction']:.0%}", _label(design, group["arm"]), *cells])
    return headers, rows


def _published(design: Design, published: Mapping[str, Any]) -> Table:
    labels = published.get("measures", ["Dice", "NSD"])
    rows = [
        [design.label(arm), *(f"{value:g}" for value in values)]
        for arm, values in published["arms"].items()
    ]
    return ["arm", *labels], rows


def _rows_of_csv(design: Design, results: Mapping[str, Any]) -> Iterator[list[Any]]:
    keys = ("effect", "low", "high", "p_wilcoxon", "p_mann_whitney", "verdict")
    yield ["fraction", "arm", "class", "measure", "mean", "sd", "seeds", *keys]
    for group in results["groups"]:
        for name, part in group["classes"].items():
            for measure in _report(design).measures:
                found = part[measure]
                change = found.get("effect", {})
                row = [group["fraction"], group["arm"], name, measure, found["mean"], found["sd"]]
                yield [*row, group["seeds"], *(change.get(key, "") for key in keys)]


def _effects(design: Design, results: Mapping[str, Any]) -> bytes:
    """Return a PNG: the difference of each arm in the first measure, with its interval."""
    report = _report(design)
    names = report.names(design.preset["classes"])
    key, measure = next(iter(report.measures.items()))
    groups = [group for group in results["groups"] if group["arm"] != design.base(group["arm"])]
    height = 0.34 * max(1, len(groups)) + 1.0
    figure = Figure(figsize=(4.2 * len(names) + 2, height), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, group in enumerate(groups):
            found = group["classes"][name][key]["effect"]
            low, value, high = (measure.scale * found[part] for part in ("low", "effect", "high"))
            colour = {"helps": "#2a8f5b", "harms": "#c0392b"}.get(found["verdict"], "#666666")
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(value, place, "o", color=colour)
        labels = [f"{group['fraction']:.0%}  {_label(design, group['arm'])}" for group in groups]
        axes.set_yticks(range(len(groups)), labels, fontsize=8)
        axes.axvline(0, color="0.6", zorder=0)
        axes.invert_yaxis()
        axes.set_title(f"{name}: {measure.label}, difference (points)", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _losses(design: Design, results: Mapping[str, Any]) -> bytes:
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


def _curves(design: Design, results: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a PNG of each curve of the task: means over seeds, a panel per fraction and class."""
    report = _report(design)
    panels = [
        (fraction, name)
        for fraction in dict.fromkeys(group["fraction"] for group in results["groups"])
        for name in report.names(design.preset["classes"])
    ]
    for title, curve in report.curves.items() if panels else ():
        figure = Figure(figsize=(3.6 * len(panels) + 1, 3.2), layout="constrained")
        for axes, (fraction, name) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for group in results["groups"]:
                if group["fraction"] == fraction:
                    values = group["classes"][name]["curves"][title]
                    label = design.label(group["arm"])
                    axes.plot(curve.places, values, label=label, linewidth=1)
            axes.set(xlabel=curve.labels[0], ylabel=curve.labels[1], ylim=(0, 1.02))
            axes.set_title(f"{title}: {name}, {fraction:.0%} of the real cases", fontsize=9)
            if curve.logarithmic:
                axes.set_xscale("log", base=2)
            axes.legend(fontsize=7, frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        yield png(figure)


def _html(design: Design, results: Mapping[str, Any], plots: Sequence[bytes]) -> str:
    pictures = " ".join(data_uri(plot) for plot in plots)
    told = [*results.get("notes", []), _facts(design, results)]
    parts = [Section("What it did", sentences=told, plot=pictures)]
    for title, note, (headers, rows) in _tables(design, results):
        parts.append(Section(title, sentences=[note] * bool(note), headers=headers, rows=rows))
    return findings_page(str(results["title"]), parts)

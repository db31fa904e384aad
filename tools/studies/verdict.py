"""What the judge found, for people: tables, plots, and one page with lesions of both sets."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.files import claimed, new_file, write_json
from tools.kinds import without_nan
from tools.metrics.border import EDGES_MM
from tools.report.findings import Section, data_uri, findings_page, png
from tools.report.montage import Picture, montage
from tools.studies.judge import PLANES, Measured
from tools.studies.tables import grid

__all__ = ["FILES", "table", "write_verdict"]

FILES = ("judge.json", "judge.csv", "judge.md", "judge.png", "judge.html")
COLOURS = {"real": "tab:blue", "synthetic": "tab:orange"}
COLUMNS = 4  # of the plot
SHOWN = 8  # lesions of each set in the montage
HEADERS = ("measure", "synthetic against real", "real against real", "within the band")
NOTES = (
    "Distances: median (5 to 95 %) over random halves by patient. Forest and network: area under "
    "the curve (95 % by bootstrap of patients), 0.5 means that the two cannot be told apart. "
    "Border in the scan's units, noise inside over that around: medians (95 % by bootstrap of "
    "patients), within the band if the median lies between the real quartiles. The band is what "
    "two halves of the real lesions differ by. Nearer to the training: share of lesions that lie "
    "nearer to the nearest lesion of the training than 5 % of its lesions of like size do to one "
    "of another patient; 0.05 without copies. Difference of seeds: mean of absolute differences "
    "inside the lesion; below what the scan's noise alone would make, seeds change nothing."
)
# what is read first, in this order
MAIN = (
    *("forest on all features (AUC)", "network on cubes (AUC)", "frechet_radiomics_all"),
    *("fid_radimagenet_axial", "swd_axial", "precision", "recall"),
    *("nearer to the training, pictures", "nearer to the training, features"),
    *("border: step", "border: edge_mm", "border: noise_ratio"),
)
ASKED = {
    "diameter_mm": "diameter, got less asked, mm",
    "centre_mm": "middle from its site, mm",
    "histogram_jsd": "histogram, JSD in nats",
    "histogram_w1": "histogram, W1 in the scan's units",
    "inside_share": "share inside the organ",
}


def table(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return one row per measure: its name, the sets compared, the real band, within it or not.

    Those of :data:`MAIN` come first.
    """
    rows = [*_distance_rows(result), *_feature_rows(result), *_memory_rows(result)]
    place = {name: number for number, name in enumerate(MAIN)}
    return sorted(rows, key=lambda row: place.get(row[0], len(MAIN)))


def _distance_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, found in result["distances"].items():
        better = (lambda x, band: x >= band["low"]) if name in ("precision", "recall") else None
        inside = (
            better(found["value"], found["real"])
            if better
            else found["value"] <= found["real"]["high"]
        )
        yield name, _interval(found), _interval(found["real"]), _word(inside)
    for name, found in result["told_apart"].items():
        inside = found["low"] <= 0.5
        label = f"forest on {name} features (AUC)" if name != "network" else MAIN[1]
        yield label, _interval(found), _interval(found["real"]), _word(inside)


def _feature_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for group, words in (("border", "border: "), ("noise_spectrum", "noise at frequency ")):
        for name, found in result[group].items():
            pair = [found[key] for key in ("synthetic", "real")]
            if all(pair):
                inside = pair[1]["q1"] <= pair[0]["median"] <= pair[1]["q3"]
                texts = [_interval(each, "median", "low", "high") for each in pair]
                few = f" ({pair[0]['n']} and {pair[1]['n']} lesions)" if group != "border" else ""
                yield f"{words}{name}{few}", texts[0], texts[1], _word(inside)


def _memory_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name in ("pictures", "features"):
        found = result.get("memory", {}).get(name)
        if found is None or not np.isfinite(found["share"]):
            continue
        inside = found["low"] <= 0.05
        label = f"nearer to the training, {name}"
        yield label, _interval(found, "share", "low", "high"), "0.05", _word(inside)
    seeds = result.get("seeds")
    if seeds is not None and seeds["noise"]:
        texts = [_interval(seeds[key], "median", "low", "high") for key in ("difference", "noise")]
        # the band is what the noise alone makes: two seeds should differ by more
        inside = seeds["difference"]["high"] >= seeds["noise"]["low"]
        yield "difference of seeds, against noise alone", texts[0], texts[1], _word(inside)


def _tables(
    result: Mapping[str, Any], rows: Sequence[Sequence[str]]
) -> Iterator[tuple[str, Sequence[str], list[Sequence[str]]]]:
    """Yield title, headers and rows of each table, the main one first."""
    yield "", HEADERS, [row for row in rows if row[0] in MAIN]
    asked = result.get("asked")
    if asked is not None:
        headers = ("asked against got", "median (95 %)", "quartiles", "lesions")
        lines: list[Sequence[str]] = []
        for name, words in ASKED.items():
            if found := asked[name]:
                spread = f"{found['q1']:.3g} to {found['q3']:.3g}"
                middle = _interval(found, "median", "low", "high")
                lines.append((words, middle, spread, str(found["n"])))
        yield "Asked against got", headers, lines
    found = result.get("found")
    if found is not None:
        yield "Found by a segmenter trained elsewhere", ("size", *COLOURS), list(_found_rows(found))
    subtypes = result.get("subtypes")
    if subtypes is not None:
        names = [name.replace("_", "-") for name in subtypes["names"]]
        lines = [
            (f"real {names[k]}", *map(str, row)) for k, row in enumerate(subtypes["named_real"])
        ]
        for asked_for, row in subtypes["named"].items():
            lines.append((f"synthetic, asked {asked_for.replace('_', '-')}", *map(str, row)))
        told = [
            f"{side} {_interval(subtypes[side])}"
            for side in ("real", "synthetic")
            if subtypes[side] is not None
        ]
        accuracy = f"balanced accuracy: {', '.join(told)}; chance {subtypes['chance']:.2g}"
        title = f"Subtypes that a classifier of real lesions names ({accuracy})"
        yield title, ("lesions", *(f"named {name}" for name in names)), lines
    yield "All else", HEADERS, [row for row in rows if row[0] not in MAIN]


def _found_rows(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield size, and how many real and synthetic lesions of it are found."""
    sizes = sorted({*found["real"], *found["synthetic"]}, key=lambda size: float(size.split()[0]))
    for size in sizes:
        sides = [found[side].get(size) for side in COLOURS]
        yield size, *("-" if x is None else f"{x['found']} of {x['lesions']}" for x in sides)


def write_verdict(
    out: str | Path, result: Mapping[str, Any], real: Measured, synthetic: Measured, title: str
) -> list[tuple[str, str, str, str]]:
    """Write ``judge.json``, ``.csv``, ``.md``, ``.png`` and ``.html``; return the table.

    Args:
        out: folder.
        result: as :func:`tools.studies.judge.judge` returns it.
        real: measured.
        synthetic: likewise.
        title: of the page.
    """
    rows = table(result)
    with claimed(out, FILES) as folder:
        write_json(folder / "judge.json", without_nan(result))
        with new_file(folder / "judge.csv") as partial, partial.open("w", newline="") as stream:
            csv.writer(stream).writerows([HEADERS, *rows])
        parts = [f"# {title}", "", *_counts(result)]
        for name, headers, each in _tables(result, rows):
            parts += ["", *([f"## {name}", ""] if name else []), *grid(headers, each)]
        text = "\n".join([*parts, "", _notes(result)])
        with new_file(folder / "judge.md") as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        plot = _plot(result)
        with new_file(folder / "judge.png") as partial:
            partial.write_bytes(plot)
        with new_file(folder / "judge.html") as partial:
            partial.write_text(_page(title, result, rows, plot, real, synthetic), encoding="utf-8")
    return rows


def _interval(found: Mapping[str, float], *keys: str) -> str:
    middle, low, high = (found[key] for key in keys or ("value", "low", "high"))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _word(inside: bool) -> str:
    return "yes" if inside else "no"


def _notes(result: Mapping[str, Any]) -> str:
    few = "Halves and folds are by lesion here, not by patient: there are fewer than four. "
    return (few if result.get("halves") == "lesion" else "") + NOTES


def _counts(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {count['lesions']} lesions of {count['patients']} patients or scans  "
        for name, count in result["counts"].items()
    ]


def _plot(result: Mapping[str, Any]) -> bytes:
    """Return a PNG: profiles by size and subtype, noise, areas under the curve."""
    profiles = result["profile"]
    count = len(profiles) + 2
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(4 * min(count, COLUMNS), 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, min(count, COLUMNS), squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    middles = np.add(EDGES_MM[:-1], EDGES_MM[1:]) / 2
    for axis, (kind, found) in zip(axes, profiles.items(), strict=False):
        for name, each in found.items():
            values = [np.nan if v is None else v for v in each["median"]]
            label = f"{name} ({each['lesions']})"
            axis.plot(middles, values, "o-", color=COLOURS[name], label=label)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(title=kind, xlabel="mm from the border, inside < 0", ylabel="median intensity")
        axis.legend(fontsize=8)
    spectra = {
        name: [each[name] for each in result["noise_spectrum"].values()]
        for name in ("synthetic", "real")
    }
    _draw_intervals(axes[count - 2], list(result["noise_spectrum"]), spectra, "median")
    axes[count - 2].axhline(1, color="grey", linewidth=0.8)
    axes[count - 2].set(title="noise power inside / around", xlabel="share of highest frequency")
    told = result["told_apart"]
    areas = {"synthetic": list(told.values()), "real": [each["real"] for each in told.values()]}
    _draw_intervals(axes[count - 1], list(told), areas, "value")
    axes[count - 1].axhline(0.5, color="grey", linewidth=0.8)
    axes[count - 1].set(title="told apart from real (AUC)", ylim=(0.2, 1.02))
    return png(figure)


def _draw_intervals(
    axis: Axes, names: Sequence[str], found: Mapping[str, Sequence[Any]], key: str
) -> None:
    """Draw values with their intervals, synthetic and real side by side."""
    for offset, (side, rows) in zip((-0.15, 0.15), found.items(), strict=True):
        known = [(place, row) for place, row in enumerate(rows) if row]
        values = [row[key] for _, row in known]
        spread = [[abs(row[key] - row[end]) for _, row in known] for end in ("low", "high")]
        places = [place + offset for place, _ in known]
        axis.errorbar(places, values, spread, fmt="o", color=COLOURS[side], label=side)
    axis.set_xticks(range(len(names)), names)
    axis.legend(fontsize=8, loc="upper right")


def _montage(measured: Measured) -> bytes:
    """Return a PNG with lesions from small to large, in three planes each."""
    order = np.argsort([crop.diameter_mm for crop in measured.crops])
    chosen = order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int)]
    rows = [[Picture(np.rot90(measured.pictures[plane][k])) for k in chosen] for plane in PLANES]
    titles = [f"{measured.crops[k].diameter_mm:.0f} mm" for k in chosen]
    return montage(rows, titles, PLANES)


def _page(
    title: str,
    result: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    plot: bytes,
    real: Measured,
    synthetic: Measured,
) -> str:
    tables = [
        Section(heading or "Main measures", headers=headers, rows=cells)
        for heading, headers, cells in _tables(result, rows)
    ]
    counts = [line.strip() for line in _counts(result)]
    main = tables[0]._replace(sentences=[*counts, _notes(result)], plot=data_uri(plot))
    montages = [
        Section(f"{name}, from small to large", plot=data_uri(_montage(each)))
        for name, each in (("Real", real), ("Synthetic", synthetic))
    ]
    return findings_page(title, [main, *tables[1:-1], *montages, tables[-1]])


def lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the table as text for a terminal."""
    widths = [max(len(row[k]) for row in (HEADERS, *rows)) for k in range(len(HEADERS))]
    for row in (HEADERS, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

"""What the judge found, for people: tables, plots, and one page with lesions of both sets."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tools.files import claimed, new_file, write_json
from tools.metrics.border import EDGES_MM
from tools.scans.crops import Crop
from tools.studies.judge import PLANES, Measured, without_nan
from tools.studies.tables import grid

__all__ = ["FILES", "table", "write_verdict"]

FILES = ("judge.json", "judge.csv", "judge.md", "judge.png", "judge.html")
COLOURS = {"real": "tab:blue", "synthetic": "tab:orange"}
SHOWN = 8  # lesions of each set in the montage
HEADERS = ("measure", "synthetic against real", "real against real", "within the band")
NOTES = (
    "Distances: median (5 to 95 %) over random halves by patient. Forest: area under the curve "
    "(95 % by bootstrap of patients), 0.5 means that the two cannot be told apart. Border, in the "
    "scan's units: medians (quartiles). The band is what two halves of the real lesions differ by."
)


def table(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return one row per measure: its name, the sets compared, the real band, within it or not."""
    rows = []
    for name, found in result["distances"].items():
        better = (lambda x, band: x >= band["low"]) if name in ("precision", "recall") else None
        inside = (
            better(found["value"], found["real"])
            if better
            else found["value"] <= found["real"]["high"]
        )
        rows.append((name, _interval(found), _interval(found["real"]), _word(inside)))
    for name, found in result["told_apart"].items():
        inside = found["low"] <= 0.5
        label = f"forest on {name} features (AUC)"
        rows.append((label, _interval(found), _interval(found["real"]), _word(inside)))
    for name, found in result["border"].items():
        pair = [found[key] for key in ("synthetic", "real")]
        if all(pair):
            inside = pair[1]["q1"] <= pair[0]["median"] <= pair[1]["q3"]
            texts = [_interval(each, "median", "q1", "q3") for each in pair]
            rows.append((f"border: {name}", texts[0], texts[1], _word(inside)))
    return rows


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
        text = "\n".join([f"# {title}", "", *_counts(result), "", *grid(HEADERS, rows), "", NOTES])
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


def _counts(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {count['lesions']} lesions of {count['patients']} patients or scans  "
        for name, count in result["counts"].items()
    ]


def _plot(result: Mapping[str, Any]) -> bytes:
    """Return a PNG: a profile across the border by size, and the areas under the curve."""
    sizes = result["profile"]
    figure = Figure(figsize=(4 * (len(sizes) + 1), 3.6), layout="constrained")
    axes = figure.subplots(1, len(sizes) + 1, squeeze=False)[0]
    middles = np.add(EDGES_MM[:-1], EDGES_MM[1:]) / 2
    for axis, (size, found) in zip(axes, sizes.items(), strict=False):
        for name, each in found.items():
            values = [np.nan if v is None else v for v in each["median"]]
            label = f"{name} ({each['lesions']})"
            axis.plot(middles, values, "o-", color=COLOURS[name], label=label)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(title=size, xlabel="mm from the border, inside < 0", ylabel="median intensity")
        axis.legend(fontsize=8)
    names = list(result["told_apart"])
    for offset, key in ((-0.15, "synthetic"), (0.15, "real")):
        found = [
            result["told_apart"][n] if key == "synthetic" else result["told_apart"][n]["real"]
            for n in names
        ]
        values = [each["value"] for each in found]
        spread = [[abs(e["value"] - e[end]) for e in found] for end in ("low", "high")]
        axes[-1].errorbar(
            np.arange(len(names)) + offset, values, spread, fmt="o", color=COLOURS[key],
            label=f"{key} against real",
        )  # fmt: skip
    axes[-1].axhline(0.5, color="grey", linewidth=0.8)
    axes[-1].set(title="told apart (AUC)", ylim=(0.2, 1.02))
    axes[-1].set_xticks(range(len(names)), names)
    axes[-1].legend(fontsize=8)
    with io.BytesIO() as stream:
        figure.savefig(stream, dpi=110)
        return stream.getvalue()


def _montage(measured: Measured) -> bytes:
    """Return a PNG with lesions from small to large, in three planes each."""
    order = np.argsort([crop.diameter_mm for crop in measured.crops])
    chosen = order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).astype(int)]
    figure = Figure(figsize=(1.5 * len(chosen), 4.8), layout="constrained")
    axes = figure.subplots(len(PLANES), len(chosen), squeeze=False)
    for column, index in enumerate(chosen):
        crop: Crop = measured.crops[index]
        axes[0, column].set_title(f"{crop.diameter_mm:.0f} mm", fontsize=9)
        for axis, plane in zip(axes[:, column], PLANES, strict=True):
            picture = np.rot90(measured.pictures[plane][index])
            axis.imshow(picture, cmap="gray", vmin=-1, vmax=1, interpolation="bicubic")
            axis.set_axis_off()
    with io.BytesIO() as stream:
        figure.savefig(stream, dpi=110)
        return stream.getvalue()


def _page(
    title: str,
    result: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    plot: bytes,
    real: Measured,
    synthetic: Measured,
) -> str:
    parts = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{line}</p>" for line in _counts(result))]
    parts += ["<table>", _row("th", HEADERS), *(_row("td", row) for row in rows), "</table>"]
    parts += [f"<p>{NOTES}</p>", _picture(plot, "profiles across the border")]
    for name, each in (("real", real), ("synthetic", synthetic)):
        parts += [f"<h2>{name}, from small to large</h2>", _picture(_montage(each), name)]
    style = (
        "body{font:15px system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.25rem .6rem;"
        "text-align:left}img{max-width:100%}"
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"


def _picture(content: bytes, words: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the table as text for a terminal."""
    widths = [max(len(row[k]) for row in (HEADERS, *rows)) for k in range(len(HEADERS))]
    for row in (HEADERS, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

"""What ``compare`` found, for people: tables, figures like those of papers, and one page.

``published`` of a preset: ``source``; ``differs``, a sentence; ``measures``, by header the path of
our figure in the results of a method, null where we have none; ``methods``, by name one figure per
measure, null where there is none.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tools.files import new_file, write_json
from tools.kinds import without_nan
from tools.report.findings import Section, data_uri, findings_page, png
from tools.report.montage import COLOURS, INK, Picture, montage
from tools.scans.crops import Crop
from tools.studies.redraw import Real
from tools.studies.tables import ABSENT, grid

__all__ = ["FILES", "Controls", "evenly", "page", "write_comparison"]

FIGURES = ("compare.png", "compare_controls.png", "compare_measures.png")
FILES = ("compare.json", "compare.md", "compare.csv", "compare.html", *FIGURES)
FRAME_MM = 12.0  # shown round a lesion
BARS = (  # measures that are drawn: title, key, whether of real halves too
    ("Jensen-Shannon divergence", ("jsd",)),
    ("AUC, inside", ("told_apart", "inside")),
    ("AUC, border", ("told_apart", "border")),
    ("AUC, all", ("told_apart", "all")),
)


class Controls(NamedTuple):
    """Lesions drawn without control and with each texture.

    Attributes:
        method: that drew them.
        before: the scans without their lesions.
        made: by texture, one per lesion.
        alike: by texture, PSNR and SSIM of two draws; less is more diverse.
    """

    method: str
    before: list[Crop]
    made: dict[str, list[Crop]]
    alike: dict[str, dict[str, float]]


def evenly(lesions: Sequence[Real], count: int) -> list[int]:
    """Return which lesions to show: evenly over the sizes, from small to large."""
    order = np.argsort([each.crop.diameter_mm for each in lesions], kind="stable")
    chosen = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(order[k]) for k in chosen]


def write_comparison(
    folder: Path,
    results: dict[str, Any],
    preset: Mapping[str, Any],
    lesions: Sequence[Real],
    made: Mapping[str, Sequence[Crop]],
    controls: Controls | None,
) -> None:
    """Write all of :data:`FILES` into a folder.

    Args:
        folder: claimed.
        results: as ``compare`` returns them; what was measured of controls is added.
        preset: of the comparison.
        lesions: real ones.
        made: what each method made of them.
        controls: of the first method that has them.
    """
    results["title"], results["published"] = preset["title"], preset["published"]
    if controls is not None:
        results["controls"] = {"method": controls.method, "alike": controls.alike}
    pictures = {"compare.png": _cases(lesions, made, preset["shown"])}
    if controls is not None:
        pictures["compare_controls.png"] = _controlled(lesions, controls, preset["shown"])
    pictures["compare_measures.png"] = _bars(results["methods"])
    write_json(folder / "compare.json", without_nan(results))
    for name, content in pictures.items():
        with new_file(folder / name) as partial:
            partial.write_bytes(content)
    with new_file(folder / "compare.md") as partial:
        partial.write_text("\n".join(page(results)) + "\n", encoding="utf-8")
    with new_file(folder / "compare.csv") as partial, partial.open("w", newline="") as stream:
        csv.writer(stream).writerows(_rows_of_csv(results["methods"]))
    with new_file(folder / "compare.html") as partial:
        partial.write_text(_html(results, pictures), encoding="utf-8")


def page(results: Mapping[str, Any]) -> list[str]:
    """Return the tables as Markdown: all methods, by class, and published figures beside ours."""
    parts = [f"# {results['title']}", "", _facts(results["settings"]), ""]
    parts += [_notes(results["settings"]), "", *grid(*_overview(results["methods"]))]
    for title, note, table in _more(results):
        parts += ["", f"## {title}", "", *([note, ""] if note else []), *grid(*table)]
    return parts


def _facts(settings: Mapping[str, Any]) -> str:
    phantom = " **Phantoms: results say nothing about real scans.**" if settings["phantom"] else ""
    steps = settings["steps"] or "as many as the bundle says"
    if isinstance(steps, Mapping):
        listed = ", ".join(f"{bundle} {count}" for bundle, count in steps.items())
        steps = f"{listed}, others as many as their bundle says"
    return (
        f"{settings['lesions']} lesions, section {settings['section'] or 'all'}, seed "
        f"{settings['seed']}, steps: {steps}, surroundings: {settings['surroundings']}.{phantom}"
    )


def _notes(settings: Mapping[str, Any]) -> str:
    low, high = settings["window"]
    unit = settings["unit"].replace("%", "% of the scan's own scale")
    halves = {"lesion": "lesion, as patients are few"}.get(settings["halves"], "patient")
    return (
        "JSD (nats), W1 (in the scan's unit), PSNR (dB) and SSIM (%, within slices) against the "
        "real lesion, means ± standard error; PSNR and SSIM in the box of the lesion. Distances: "
        f"medians of halves by {halves} (5 to 95 %); smaller is better, within that of real halves "
        "it cannot be told from real. AUC: a forest against real, 95 % interval. Step, width and "
        f"noise of the border: medians. Window {low:g} to {high:g} {unit}. Row healed: the real "
        "lesion put back, the trace of the healing itself."
    )


def _overview(methods: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    headers = ["method", "JSD", "W1", "PSNR", "SSIM", "Frechet inside", "border"]
    headers += ["AUC inside", "AUC border", "AUC all", "SWD axial", "precision", "recall"]
    headers += ["step", "edge mm", "noise ratio"]
    first = next(iter(methods.values()))
    rows = [_overview_row("real halves", first, "real")]
    rows += [_overview_row(name, found, "synthetic") for name, found in methods.items()]
    return headers, rows


def _overview_row(name: str, found: Any, side: str) -> list[str]:
    def of(part: str, key: str, form: str) -> str:
        each = found[part][key] if side == "synthetic" else found[part][key]["real"]
        return f"{{:{form}}} ({{:{form}}} to {{:{form}}})".format(*_ends(each))

    def middle(each: Mapping[str, float] | None) -> str:
        return ABSENT if each is None else f"{each['median']:.3g}"

    paired = [_mean(found[key], form) for key, form in _FORMS] if side == "synthetic" else [""] * 4
    return [
        name,
        *paired,
        *(of("distances", f"frechet_radiomics_{part}", ".3g") for part in ("inside", "border")),
        *(of("told_apart", part, ".2f") for part in ("inside", "border", "all")),
        *(of("distances", key, ".2g") for key in ("swd_axial", "precision", "recall")),
        *(middle(found["border"][key][side]) for key in ("step", "edge_mm", "noise_ratio")),
    ]


_FORMS = (("jsd", ".3f"), ("w1", ".3g"), ("psnr", ".1f"), ("ssim", ".0f"))


def _ends(each: Mapping[str, float]) -> list[float]:
    return [np.nan if each[key] is None else each[key] for key in ("value", "low", "high")]


def _mean(each: Mapping[str, float], form: str) -> str:
    return f"{each['mean']:{form}} ± {each['error']:{form}}" if each["n"] else ABSENT


def _more(results: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[list[str], list]]]:
    """Yield title, note, and headers and rows of each further table."""
    methods, published = results["methods"], results["published"]
    classes = next(iter(methods.values()))["classes"]
    if len(classes) > 1:
        headers = ["method", "class", "JSD", "W1", "PSNR", "SSIM", "n"]
        rows = [
            [name, label, *(_mean(each[key], form) for key, form in _FORMS), str(each["jsd"]["n"])]
            for name, found in methods.items()
            for label, each in found["classes"].items()
        ]
        yield "By class", "", (headers, rows)
    if published["methods"]:
        note = f"{published['source']} What differs: {published['differs']}"
        yield "Published figures beside ours", note, _beside(methods, published)
    if "controls" in results:
        note = (
            f"Of {results['controls']['method']}: similarity in the box of the lesion of two draws "
            "of the same lesion with different noise; less is more diverse."
        )
        rows = [
            [word, f"{each['psnr']:.1f}", f"{each['ssim']:.0f}"]
            for word, each in results["controls"]["alike"].items()
        ]
        yield "Diversity under control", note, (["texture", "PSNR", "SSIM"], rows)


def _beside(
    methods: Mapping[str, Any], published: Mapping[str, Any]
) -> tuple[list[str], list[list[str]]]:
    headers, names = ["method"], dict.fromkeys([*published["methods"], *methods])
    for measure, path in published["measures"].items():
        headers += [measure, *(["ours"] if path else [])]
    rows = []
    for name in names:
        theirs = published["methods"].get(name, [None] * len(published["measures"]))
        row = [name]
        for value, path in zip(theirs, published["measures"].values(), strict=True):
            row.append(ABSENT if value is None else f"{value:g}")
            if path:
                found: Any = methods.get(name)
                if found is not None:
                    found = reduce(lambda each, key: each[key], path.split("/"), found)
                row.append(ABSENT if not found or not found["n"] else f"{found['mean']:.3g}")
        rows.append(row)
    return headers, rows


def _rows_of_csv(methods: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield one row per method and measure, with its interval and that of real halves."""
    ends = ("value", "low", "high")
    yield ["method", "measure", *ends, *(f"real_{end}" for end in ends), "n"]
    for name, found in methods.items():
        for part in ("distances", "told_apart"):
            for key, each in found[part].items():
                row = [*(each[end] for end in ends), *(each["real"][end] for end in ends)]
                yield [name, f"{part}_{key}", *row, found["counts"]["synthetic"]["lesions"]]
        for key, each in found["border"].items():
            sides = [each[side] for side in ("synthetic", "real")]
            if all(sides):
                row = [side[q] for side in sides for q in ("median", "q1", "q3")]
                yield [name, f"border_{key}", *row, sides[0]["n"]]
        for label, each in {"": found, **found["classes"]}.items():
            for key, _ in _FORMS:
                mean, error = each[key]["mean"], 1.96 * each[key]["error"]
                row = [mean, mean - error, mean + error, "", "", "", each[key]["n"]]
                yield [name, f"{key}_{label}".rstrip("_"), *row]


def _level(real: Real) -> int:
    """Return the slice with most of the innermost class that is there."""
    present = [mask for mask in real.classes if mask.any()]
    return int(present[-1].sum((0, 1)).argmax())


def _picture(real: Real, image: np.ndarray, shown: Mapping[str, Any], outline: bool) -> Picture:
    """Return the slice of a lesion with 12 mm round it; ``mirror``: the patient's right is left."""
    k, margin = _level(real), np.ceil(FRAME_MM / np.array(real.crop.spacing_mm)).astype(int)
    ends = [np.flatnonzero(real.crop.mask.any(tuple({0, 1, 2} - {axis}))) for axis in (0, 1)]
    pair = zip(ends, margin[:2], strict=True)
    across, down = (slice(max(0, end[0] - m), end[-1] + 1 + m) for end, m in pair)
    step = -1 if shown["mirror"] else 1
    parts = [mask[across, down, k][::step].T for mask in (real.classes if outline else ())]
    aspect = real.crop.spacing_mm[1] / real.crop.spacing_mm[0]
    values = image[across, down, k][::step].T
    return Picture(values, tuple(shown["window"]), parts, aspect, shown["origin"])


def _table_of_pictures(
    reals: Sequence[Real], columns: Mapping[str, Sequence[np.ndarray]], shown: Mapping[str, Any]
) -> bytes:
    """Return a PNG: a row per lesion, a column per title; outlines on the first column."""
    rows = [
        [_picture(real, images[n], shown, k == 0) for k, images in enumerate(columns.values())]
        for n, real in enumerate(reals)
    ]
    titles = [title.replace("_", " ") for title in columns]
    return montage(rows, titles, [f"{each.crop.diameter_mm:.0f} mm" for each in reals])


def _cases(
    lesions: Sequence[Real], made: Mapping[str, Sequence[Crop]], shown: Mapping[str, Any]
) -> bytes:
    """Return cases against methods, as figure 5 of LeFusion."""
    chosen = evenly(lesions, shown["lesions"])
    reals = [lesions[k] for k in chosen]
    columns = {title: [each.crop.image for each in reals] for title in ("mask", "real")}
    columns |= {name: [crops[k].image for k in chosen] for name, crops in made.items()}
    columns = {name.replace("healed", "real, put back"): each for name, each in columns.items()}
    return _table_of_pictures(reals, columns, shown)


def _controlled(lesions: Sequence[Real], controls: Controls, shown: Mapping[str, Any]) -> bytes:
    """Return one lesion per row under each texture, as figure 6 of LeFusion."""
    by_name = {each.crop.name: each for each in lesions}
    reals = [by_name[crop.name] for crop in controls.before]
    columns = {"before": [crop.image for crop in controls.before]}
    for word, crops in controls.made.items():
        alike = controls.alike[word]
        title = "no control" if word == "none" else word
        title += f"\n{alike['psnr']:.1f} dB, {alike['ssim']:.0f} %"
        columns[title] = [crop.image for crop in crops]
    return _table_of_pictures(reals, columns, shown)


def _bars(methods: Mapping[str, Any]) -> bytes:
    """Return a PNG with the measures of each method and their intervals, real halves in grey."""
    names = list(methods)
    figure = Figure(figsize=(3.0 * len(BARS), 0.32 * len(names) + 1.1), layout="constrained")
    for number, (axes, (title, keys)) in enumerate(
        zip(figure.subplots(1, len(BARS), sharey=True), BARS, strict=True)
    ):
        for place, name in enumerate(names):
            found = reduce(lambda each, key: each[key], keys, methods[name])
            value, low, high = _interval(found)
            colour = COLOURS[place % len(COLOURS)]
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(value, place, "o", color=colour)
        if "real" in found:
            axes.axvspan(found["real"]["low"], found["real"]["high"], color="0.9", zorder=0)
            axes.axvline(found["real"]["value"], color="0.6", zorder=0)
            axes.set_xlim(0.2, 1.02)
        axes.set_title(title, fontsize=9, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 0:
            labels = [name.replace("_", " ") for name in names]
            axes.set_yticks(range(len(names)), labels, fontsize=8)
            axes.invert_yaxis()
    return png(figure, 120)


def _interval(found: Mapping[str, float]) -> tuple[float, float, float]:
    if "mean" in found:
        error = 1.96 * found["error"]
        return found["mean"], found["mean"] - error, found["mean"] + error
    return found["value"], found["low"], found["high"]


CAPTIONS = {
    "compare.png": "The same lesions by all methods, from small to large; the outline is the mask",
    "compare_controls.png": "The same lesions under control; below the names the similarity of two "
    "draws",
    "compare_measures.png": "Measures with their 95 % intervals; grey: two halves of the real "
    "lesions",
}


def _html(results: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the page, which opens offline and needs no other file."""
    settings = results["settings"]
    parts = [Section(CAPTIONS[name], plot=data_uri(content)) for name, content in pictures.items()]
    headers, rows = _overview(results["methods"])
    said = [_facts(settings).replace("**", ""), _notes(settings)]
    parts.append(Section("All methods", sentences=said, headers=headers, rows=rows))
    for name, note, table in _more(results):
        parts.append(Section(name, "", [note] if note else [], "", "", *table))
    return findings_page(results["title"], parts)

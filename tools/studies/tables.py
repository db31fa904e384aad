"""The results of a study as a page of Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ABSENT = "-"


def quartiles(form: str, key: str = "") -> str:
    """Return the template of a median with its quartiles, which may lie under a key."""
    middle, q1, q3 = (f"{key}[{name}]" if key else name for name in ("median", "q1", "q3"))
    return f"{{{middle}:{form}}} ({{{q1}:{form}}} to {{{q3}:{form}}})"


def spread(key: str, form: str) -> str:
    """Return the template of a mean with its standard deviation."""
    return f"{{{key}[mean]:{form}}} ± {{{key}[sd]:{form}}}"


TEST = {
    "accuracy": spread("accuracy", ".1%"),
    "AUC": spread("auc", ".3f"),
    "pairs": "{pairs}",
    "sd of guessing": "{chance_sd:.1%}",
}
TEST_NOTE = "Cross-validation by patient, mean ± sd over folds; 50 % means that it cannot tell."


class Table(NamedTuple):
    """How the results of one measure are told.

    ``labels`` say what the keys between the method and the numbers are, ``columns`` how each is
    filled from a row of numbers. ``turned``: methods are columns, for a measure with many rows and
    one thing to tell of each.
    """

    title: str
    note: str
    labels: tuple[str, ...]
    columns: Mapping[str, str]
    turned: bool = False


TABLES = {
    "histograms": Table(
        "Asked and drawn",
        "Histogram inside the lesion against the one named: Jensen-Shannon divergence in nats, 0 "
        "to 0.693, Wasserstein-1 distance and means in the scan's units; median (quartiles).",
        ("compared with", "of"),
        {
            "JSD": quartiles(".4f", "divergence"),
            "mean": "{divergence[mean]:.4f}",
            "W1": quartiles(".0f", "wasserstein"),
            "mean asked": "{mean_asked[median]:.0f}",
            "drawn": "{mean_drawn[median]:.0f}",
            "n": "{divergence[n]}",
        },
    ),
    "chance": Table(
        "Asked and drawn: what chance leaves",
        "Divergence of one draw from the histogram per voxel of the lesion.",
        (),
        {"median (quartiles)": quartiles(".4f"), "mean": "{mean:.4f}", "n": "{n}"},
    ),
    "log_linear": Table(
        "What the drawn histogram follows: original or control",
        "One fit of all methods here: log drawn = r log original + s log asked + offset "
        "(LeFusion, Eq. 7-8), least squares over bins and lesions. JSD from what was drawn, of the "
        "fit and of the histogram asked for: median (quartiles).",
        (),
        {
            "r, original": "{r:.2f}",
            "s, control": "{s:.2f}",
            "offset": "{offset:.2f}",
            "JSD of the fit": quartiles(".3f", "divergence"),
            "JSD of the control": quartiles(".3f", "control"),
            "n": "{control[n]}",
        },
    ),
    "order": Table(
        "Textures asked on the same scan, mask and noise",
        "Mean in the lesion, in the scan's units.",
        (),
        {"asked": "{asked:.0f}", "drawn, median (quartiles)": quartiles(".0f", "drawn")},
    ),
    "contrast": Table(
        "Contrasts",
        "(x - dark tissue) / (bright tissue - dark tissue), medians of tissues; fall and step "
        "across the border of the classes, between neighbours in the slice. Median (quartiles); "
        "W1: Wasserstein-1 distance of the distributions; error: median absolute difference from "
        "the real lesion there.",
        ("measure",),
        {
            "real": quartiles(".2f", "real"),
            "drawn": quartiles(".2f", "synthetic"),
            "W1": "{wasserstein:.3f}",
            "error": "{error:.3f}",
            "n": "{n}",
        },
    ),
    "realism": Table("Real or synthetic?", TEST_NOTE, (), TEST),
    "mask_realism": Table("Real or drawn?", TEST_NOTE, ("classifier",), TEST),
    "subtype": Table(
        "Subtype that a classifier of real lesions names",
        "Trained on histogram, gradient and grain of real training lesions. Balanced accuracy: "
        "mean of the subtypes' own; the columns of subtypes: lesions that are named so.",
        (),
        {
            "balanced accuracy": "{balanced_accuracy:.1%}",
            "chance": "{chance:.1%}",
            "accuracy": "{accuracy:.1%}",
            "solid": "{named[solid]}",
            "part-solid": "{named[part_solid]}",
            "ground-glass": "{named[ground_glass]}",
        },
    ),
    "background": Table(
        "Changes outside the lesions",
        "Voxels changed; outside it must be none, on the scans' own grids too.",
        (),
        {
            "outside": "{outside}",
            "largest change": "{largest:g}",
            "inside": "{inside}",
            "outside, in the scans": "{scan_outside}",
            "inside, in the scans": "{scan_inside}",
        },
    ),
    "sphere": Table(
        "Does the shape keep to its sphere?",
        "Errors of the smallest enclosing sphere in mm: median, 95 % of the masks below. Inside: "
        "share of voxels in the sphere and the boundary, mean and least mask.",
        (),
        {
            "diameter error": "{diameter[median]:.2f}, {diameter[p95]:.2f}",
            "signed, median": "{diameter[signed]:+.2f}",
            "centre error": "{centre[median]:.2f}, {centre[p95]:.2f}",
            "inside": "{inside[mean]:.3f}",
            "least": "{inside[least]:.3f}",
            "empty": "{empty}",
        },
    ),
    "sizes": Table(
        "Sizes on the grids of scans",
        "Diameter of the sphere round the lesion in mm, one draw each.",
        ("voxels, mm", "asked, mm"),
        {"got": "{got_mm:.1f}"},
        turned=True,
    ),
    "features": Table(
        "Features: median (quartiles); distance from the real masks",
        "Distance: 1-Wasserstein in real standard deviations ± bootstrap; the last row is the key "
        "metric of the training.",
        ("feature",),
        {
            "quartiles": quartiles(".3g"),
            "mean": "{mean:.3g}",
            "distance": "{distance:.3f} ± {error:.3f}",
        },
        turned=True,
    ),
    "diversity": Table(
        "Diversity",
        "Mean intersection over union of pairs: draws with different seeds in one sphere; real "
        "masks of nearly equal size. ± standard error.",
        (),
        {"overlap": "{mean:.3f} ± {error:.3f}", "spheres": "{n}"},
    ),
    "steering": Table(
        "Ratings: score 5 against score 1, same sphere and seed",
        "± standard error. Real: regression over the training masks at equal size.",
        ("score", "feature"),
        {
            "at 1": "{low:.4f}",
            "at 5": "{high:.4f}",
            "change": "{mean:+.4f} ± {error:.4f}",
            "rises in": "{rising:.0%}",
            "n": "{n}",
        },
    ),
    "reconstruction": Table(
        "Reconstruction",
        "Mean ± standard deviation over patches. Peak of PSNR: the whole intensity range. Lung: "
        "voxels of the patch below -400 HU. Lesion: voxels of the label.",
        ("patches", "region"),
        {
            "n": "{n}",
            "PSNR (dB)": spread("psnr", ".1f"),
            "SSIM": spread("ssim", ".3f"),
            "MAE (HU)": spread("mae_hu", ".1f"),
            "bias (HU)": spread("bias_hu", ".1f"),
        },
    ),
    "seconds": Table("Time", "Seconds per case.", (), {"median (quartiles)": quartiles(".2f")}),
}


def page(results: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Return Markdown: the settings, what was compared, and a table per measure.

    ``results`` are those of :func:`tools.studies.study.evaluate_bundle`, ``study`` the part of
    ``study.json``.
    """
    words = {name: entry["label"] for name, entry in study["methods"].items() if entry.get("label")}
    parts = [f"# {study['title']}", _pairs(results["settings"])]
    for name, found in results["methods"].items():
        if "facts" in found:
            parts.append(f"{words.get(name, name)}: {_pairs(found['facts'])}")
    for measure in (*study["measures"], "seconds"):
        parts += _section(measure, results, words)
    return "\n\n".join(parts) + "\n"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _section(measure: str, results: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    """Return the table of one measure, nothing where it was not taken."""
    table = TABLES[measure]
    found = {
        words.get(name, name): row[measure]
        for name, row in results["methods"].items()
        if row.get(measure)
    }
    if not found:
        return []
    together = results["together"].get(measure, {})
    if measure == "subtype":
        found |= {f"{name}, all subtypes asked": row for name, row in together.items()}
    real = results["real"].get(measure)
    if real:
        found = {"real": real} | found
    lines = _turned(table, found) if table.turned else _lines(table, found)
    parts = [f"## {table.title}", table.note, "\n".join(lines)]
    if measure == "order":
        share = f"{together['ordered_fraction']:.1%} of {together['n']}"
        parts.append(f"The mean rises {together['rising']} in {share}.")
    return parts


def _leaves(node: Any, depth: int, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield the keys and the row of numbers of every branch, ``depth`` keys long."""
    if len(above) == depth or not isinstance(node, Mapping):
        yield above, node
        return
    for key, value in node.items():
        yield from _leaves(value, depth, (*above, str(key).replace("_", " ")))


def _cell(template: str, row: Any) -> str:
    try:
        return template.format(**row)
    except (KeyError, TypeError):  # not measured of this one
        return ABSENT


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table, columns without anything to tell left out."""
    kept = [i for i in range(len(headers)) if any(row[i] != ABSENT for row in rows)]
    lines = [[headers[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i] for i in kept] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _lines(table: Table, found: Mapping[str, Any]) -> list[str]:
    depth = len(table.labels)
    rows = []
    for name, node in found.items():
        for keys, row in _leaves(node, depth):
            cells = [_cell(template, row) for template in table.columns.values()]
            rows.append([name, *keys, *[ABSENT] * (depth - len(keys)), *cells])
    return grid(["method", *table.labels, *table.columns], rows)


def _turned(table: Table, found: Mapping[str, Any]) -> list[str]:
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for name, node in found.items():
        for keys, row in _leaves(node, len(table.labels)):
            for header, template in table.columns.items():
                key = keys if len(table.columns) == 1 else (*keys, header)
                rows.setdefault(key, {})[name] = _cell(template, row)
    labels = table.labels if len(table.columns) == 1 else (*table.labels, "")
    lines = [
        [*keys, *(cells.get(name, ABSENT) for name in found)]
        for keys, cells in rows.items()
        if set(cells.values()) != {ABSENT}
    ]
    return grid([*labels, *found], lines)

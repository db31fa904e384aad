"""The page of an audit: what was found, in sentences and plots (``tools audit``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tools.files import claimed, new_file, write_json
from tools.kinds import without_nan
from tools.report.findings import Section, data_uri, findings_page, png
from tools.report.montage import Picture, montage
from tools.studies.audit import Audit

__all__ = ["FILES", "sections", "write_audit"]

FILES = ("audit.json", "audit.md", "audit.html")
MADE, REAL, ASKED = "#ffb454", "#7cc7ff", "#7ee0a1"
STYLE = {
    "figure.facecolor": "#12171e",
    "axes.facecolor": "#0b0e12",
    "savefig.facecolor": "#12171e",
    "axes.edgecolor": "#3a4554",
    "axes.labelcolor": "#93a0b1",
    "axes.titlecolor": "#e6eaf0",
    "axes.titlesize": 10,
    "xtick.color": "#93a0b1",
    "ytick.color": "#93a0b1",
    "text.color": "#e6eaf0",
    "legend.facecolor": "#12171e",
    "legend.edgecolor": "#3a4554",
    "legend.fontsize": 8,
    "font.size": 9,
}
SHOWN = 6  # lesions beside their nearest of the training
# axis cut, across, down, what stands left and right; left and top are the high ends of their axes
PROJECTIONS = (("axial", 2, 0, 1), ("coronal", 1, 0, 2), ("sagittal", 0, 1, 2))


def write_audit(out: str | Path, audit: Audit) -> list[Section]:
    """Write ``audit.json``, ``audit.md`` and ``audit.html`` into a folder, and return the parts."""
    with mpl.rc_context(STYLE):
        parts = list(sections(audit))
    title = f"Audit of {audit.facts['dir']}"
    with claimed(out, FILES) as folder:
        write_json(folder / FILES[0], without_nan(audit.facts))
        for name, text in (
            (FILES[1], _markdown(title, parts)),
            (FILES[2], findings_page(title, parts)),
        ):
            with new_file(folder / name) as partial:
                partial.write_text(text, encoding="utf-8")
    return parts


def _markdown(title: str, parts: Sequence[Section]) -> str:
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [f"## {part.title}", "", *part.sentences, ""]
    return "\n".join(lines)


def sections(audit: Audit) -> Iterator[Section]:
    """Yield the parts of the page."""
    facts = audit.facts
    yield _background(facts["background"])
    yield _control(facts["control"])
    yield _sizes(facts["sizes"])
    yield _places(facts["places"], audit.maps)
    yield _training(facts["training"], audit)
    yield _diversity(facts["diversity"])
    yield _licences(facts["licences"])
    yield _origin(facts)


def _background(found: Mapping[str, Any]) -> Section:
    cases, verdict = found["cases"], found["verdict"]
    known = [case for case in cases if case["changed"] is not None]
    margin = max(case["margin_mm"] for case in cases)
    where = f"{margin:g} mm or more from the lesions" if margin else "outside the lesions"
    where += " and beyond host reactions" if any(case["reacted"] for case in cases) else ""
    said = [
        f"{found['compared']} of {len(cases)} cases were compared with the scans they come from."
    ]
    if known:
        changed, voxels = (sum(case[key] for case in known) for key in ("changed", "voxels"))
        inside = sum(case["labelled"] for case in known)
        said.append(
            f"Of {voxels:,} voxels {inside:,} are lesion. Voxels {where} that differ from the "
            f"scan: {changed:,}. The hash of each scan is that of its record."
        )
    if verdict == "not compared":
        said.append("Give all of the scans (--scan) for a proof of the background.")
    said += [f"Wrong: {text}." for text in found["findings"]]
    if not found["findings"]:
        said.append("Files, shapes, places, volumes and histograms are as the records say.")
    rows = [
        f"{case['name']}: image {case['image_sha256']}"
        + ("" if case["changed"] is None else f", {case['changed']} voxels changed {where}")
        for case in cases
    ]
    heading = {"proven": "proven", "failed": "FAILED", "not compared": "not proven"}[verdict]
    good = {"proven": "good", "failed": "bad"}.get(verdict, "")
    return Section(f"Background: {heading}", good, said, "", "\n".join(rows))


def _control(found: Mapping[str, Any]) -> Section:
    rows, said = found["lesions"], []
    errors, jsd, site = (found[key] for key in ("diameter_error_mm", "jsd", "site_error_mm"))
    if errors:
        said.append(
            f"Diameters: {errors['n']} were asked for; what came differs by "
            f"{_spread(errors, 'mm')}, at most {found['largest_error_mm']:.2f} mm."
        )
    else:
        said.append("No diameter was asked for.")
    if jsd:
        said.append(f"Histograms: Jensen-Shannon divergence of {_spread(jsd, 'nats')}; 0 is exact.")
    else:
        said.append("No histogram was asked for.")
    if site:
        said.append(f"Places: {site['n']} were given; centres lie {_spread(site, 'mm')} from them.")
    again = sum(row["attempts"] > 1 for row in rows)
    said.append(f"{again} of {len(rows)} lesions took more than one attempt.")

    def plot(axes: Sequence[Axes]) -> None:
        pairs = [(r["asked_mm"], r["diameter_mm"]) for r in rows if r["asked_mm"] is not None]
        if pairs:
            ends = [min(map(min, pairs)), max(map(max, pairs))]
            axes[0].plot(ends, ends, color=ASKED, linewidth=1)
            axes[0].plot(*zip(*pairs, strict=True), "o", color=MADE, markersize=4)
        axes[0].set(title="diameter, mm", xlabel="asked for", ylabel="achieved")
        known = [row["jsd"] for row in rows if row["jsd"] is not None]
        axes[1].hist(known, bins=20, color=MADE)
        axes[1].set(title="histogram, asked against achieved", xlabel="JSD, nats", ylabel="lesions")

    return Section("Control", "", said, _plot(2, plot))


def _sizes(found: Mapping[str, Any]) -> Section:
    values, parts = found["values_mm"], found["asked"]
    said = [f"{len(values)} lesions of {min(values):.1f} to {max(values):.1f} mm."]
    if parts:
        total = sum(weight for weight, *_ in parts)
        texts = [
            f"{low:g} to {high:g} mm" + (f" ({weight / total:.0%})" if len(parts) > 1 else "")
            for weight, low, high in parts
        ]
        said.append(
            f"Asked for: {', '.join(texts)}; {found['within']} of {len(values)} lie there, "
            "5 % on either side allowed."
        )
    else:
        said.append("No range was asked for.")

    def plot(axes: Sequence[Axes]) -> None:
        edges = np.histogram_bin_edges([*values, *(end for part in parts for end in part[1:])], 16)
        axes[0].hist(values, edges.tolist(), color=MADE, label="made")
        total = sum(weight for weight, *_ in parts)
        shares = np.zeros(len(edges) - 1)
        for weight, low, high in parts:
            overlap = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
            shares += weight / total * overlap / max(high - low, 1e-9)
        if parts:
            axes[0].stairs(shares * len(values), edges, color=ASKED, label="asked, on average")
        axes[0].set(xlabel="diameter, mm", ylabel="lesions")
        axes[0].legend()

    return Section("Sizes", "", said, _plot(1, plot))


def _places(found: Mapping[str, Any], maps: Sequence[np.ndarray]) -> Section:
    asked, sites = found["asked"], np.array(found["sites"])
    said = [f"Asked for: {', '.join(map(str, asked))}." if asked else "No placement was asked for."]
    halves = [int((sites[:, axis] > 0.5).sum()) for axis in range(3)]
    words = ("the right half of the scan", "the front half", "the upper half")
    counts = [f"{n} in {word}" for n, word in zip(halves, words, strict=True)]
    said.append(f"Of {len(sites)} lesions {', '.join(counts)}.")
    said.append("Behind them: the mean of all scans, each stretched to one box.")

    def plot(axes: Sequence[Axes]) -> None:
        for axis, (name, cut, across, down) in zip(axes, PROJECTIONS, strict=True):
            # rows of the picture are the axis that runs down; both from their high ends
            axis.imshow(maps[cut].T[::-1, ::-1], cmap="gray", extent=(0, 1, 0, 1))
            axis.plot(
                1 - sites[:, across], sites[:, down], "o", color=MADE, markersize=4, alpha=0.8
            )
            axis.set(title=name, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))

    return Section("Places", "", said, _plot(3, plot))


def _training(found: Mapping[str, Any] | None, audit: Audit) -> Section:
    title = "Nearest training lesions"
    if found is None:
        return Section(title, "", ["Not measured: give the training data (--training)."])
    said = [f"Compared with {found['lesions']} training lesions of {found['patients']} patients."]
    names = {"features": "features", "pictures": "pictures, 1 less correlation"}
    for key, name in names.items():
        each = found[key]
        if each["synthetic"] is None or each["real"] is None:
            said.append(f"By {name}: no lesion could be compared.")
            continue
        said.append(
            f"By {name}: {_spread(each['synthetic'])} from the nearest; real lesions of two "
            f"patients and like size: {_spread(each['real'])}. {each['share']:.0%} are nearer "
            "than 95 % of those are, where chance gives 5 %."
        )
    said.append("Lesions copied from training data would pile up at 0.")

    def plot(axes: Sequence[Axes]) -> None:
        for axis, (key, name) in zip(axes, names.items(), strict=True):
            each = found[key]
            real, made = (_finite(each[name]) for name in ("real_distances", "distances"))
            edges = np.histogram_bin_edges(real + made, 30)
            for label, values, colour in (
                ("real to real", real, REAL),
                ("synthetic to training", made, MADE),
            ):
                axis.hist(
                    values, edges.tolist(), density=True, color=colour, alpha=0.6, label=label
                )
            axis.set(title=name, xlabel="distance to the nearest", ylabel="density")
            axis.legend()

    copied = _pairs_plot(found["pictures"], audit)
    return Section(title, "", said, _plot(2, plot) + copied)


def _pairs_plot(found: Mapping[str, Any], audit: Audit) -> str:
    """Return the synthetic lesions that are nearest to a training lesion, each above that one."""
    if audit.training_pictures is None:
        return ""
    nearest = np.argsort(found["distances"])[:SHOWN]  # those that are not known last
    known = [found["nearest"][k] for k in nearest]
    rows = [
        [Picture(np.rot90(pictures[k])) for k in chosen]
        for pictures, chosen in ((audit.pictures, nearest), (audit.training_pictures, known))
    ]
    titles = [f"{found['distances'][k]:.2f}" for k in nearest]
    return " " + data_uri(montage(rows, titles, ("synthetic", "training"), 1.3))


def _diversity(found: Mapping[str, Any] | None) -> Section:
    if found is None:
        return Section("Diversity", "", ["Not measured: there is one lesion."])
    said = ["The lesions are even: their pictures cannot be compared."]
    if found["distance"]:
        said = [
            "Nearest other synthetic lesion by pictures, 1 less correlation: "
            f"{_spread(found['distance'])}."
        ]
    band = found["band"]
    if band:
        said.append(
            f"Its median of as many real lesions of like size: {band['value']:.3g} "
            f"({band['low']:.3g} to {band['high']:.3g}, 5 to 95 % of draws). Less than that is "
            "less diverse than real."
        )
    else:
        said.append("Without more training lesions than these there is nothing to compare with.")
    twice = found["duplicates"]
    said.append(
        "No two are alike."
        if not twice
        else f"{len(twice)} pairs are alike: {', '.join(' and '.join(p) for p in twice[:5])}."
    )

    def plot(axes: Sequence[Axes]) -> None:
        axes[0].hist(_finite(found["distances"]), 20, color=MADE, label="synthetic to synthetic")
        if band:
            axes[0].axvspan(band["low"], band["high"], color=REAL, alpha=0.4, label="median, real")
        axes[0].set(xlabel="distance to the nearest other", ylabel="lesions")
        axes[0].legend()

    return Section("Diversity", "bad" if twice else "", said, _plot(1, plot))


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def _licences(found: Mapping[str, Any]) -> Section:
    said = [f"Scans: {found['scans']}."]
    for each in found["weights"]:
        terms = "; ".join(each["licences"]) or (
            "not weights that a bundle ships: the terms of what they were trained on"
        )
        said.append(f"Weights ({each['of']}, {each['sha256'][:12]}): {terms}.")
    if not found["weights"]:
        said.append("Weights: none, nothing was learned.")
    said.append("What is made of scans and weights keeps the terms of both.")
    texts = [each["text"] for each in found["weights"] if each["text"]]
    return Section("Licences", "", said, "", "\n\n".join(dict.fromkeys(texts)))


def _origin(facts: Mapping[str, Any]) -> Section:
    said = [
        f"{each['name']} {each['version']} (weights {(each['weights_sha256'] or 'none')[:12]}), "
        f"software {each['software']}: {each['cases']} cases."
        for each in facts["made_by"]
    ]
    seeds = sorted({case["seed"] for case in facts["cases"] if case["seed"] is not None})
    said.append(f"Seed: {', '.join(map(str, seeds)) or 'not recorded'}.")
    if any(case["phantom"] for case in facts["cases"]):
        said.append("Some scans are phantoms, not of patients.")
    said += [f"{case['name']}: {note}" for case in facts["cases"] for note in case["notes"]]
    rows = [
        f"{case['name']}: scan {case['sha256']}, organ {case['organ']}, seeds of lesions "
        f"{', '.join(map(str, case['seeds']))}"
        for case in facts["cases"]
    ]
    return Section("Versions and seeds", "", said, "", "\n".join(rows))


def _spread(found: Mapping[str, float], unit: str = "") -> str:
    middle, low, high = (f"{found[k]:.3g}".replace("-", "\u2212") for k in ("median", "q1", "q3"))
    return f"{middle}{' ' * bool(unit)}{unit} (quartiles {low} to {high})"


def _plot(columns: int, draw: Callable[[Sequence[Axes]], None]) -> str:
    """Return a PNG as a data URI."""
    wide = 4.8 if columns < 3 else 3.2
    figure = Figure(figsize=(wide * columns, 3.2), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0].tolist()
    draw(axes)
    for axis in axes:
        if axis.get_ylabel() == "lesions":
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    return data_uri(png(figure))

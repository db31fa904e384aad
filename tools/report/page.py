"""The report: a page per scan (each lesion before, after, difference, asked and got), an index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nibabel.spatialimages import SpatialImage

from tools.files import mark_folder, new_file, read_mark
from tools.report.slices import (
    AXIAL,
    CORONAL,
    DIFFERENCE_COLOURS,
    OrientedVolume,
    Plane,
    changed_outside,
    difference_uri,
    grey_uri,
    lesion_focus,
    lesion_views,
    outline_path,
    patch_uri,
    photo_uri,
    smaller_uri,
    to_grey,
)
from tools.scans.scan import read_labels
from tools.synthesis.host_reaction import in_reach
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    LesionRecord,
    ScanRecord,
    read_record,
)

REPORT_FILE = "report.html"
SECTION_FILE = ".report.html"  # of one case, up to version 0.7.0: without head and style
HEAD_BYTES = 1 << 16  # of a page; its icon is there
ICON = re.compile(r'<link rel="icon" href="(data:image/jpeg;base64,[A-Za-z0-9+/=]+)">')
PHOTO = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
TITLE = "Synthetic lesion report"
FIELD_MM = 60.0
PIXELS = 272
OVERVIEW_PIXELS = 440
CHART_WIDTH = 320.0
CHART_HEIGHT = 132.0


class PageReport:
    """The report of a run: a page in the folder of each case, and an index of them beside.

    Each page opens offline and needs no other file. ``window`` is the display window in HU; None
    takes the 0.5 and 99.5 percentiles of each original, for MRI.

    Raises:
        ValueError: if the window is empty.
    """

    def __init__(self, window: Sequence[float] | None) -> None:
        if window is not None and not window[0] < window[1]:
            raise ValueError(f"window must be (low, high) with low < high, got {window}")
        self.window = None if window is None else (float(window[0]), float(window[1]))

    def add(
        self, folder: Path, name: str, original: SpatialImage, values: Sequence[Any] | None = None
    ) -> None:
        """Write the page of a case into its folder, beside image, label and record.

        Args:
            folder: of the case.
            name: of the case.
            original: the scan before.
            values: stored ones of the scan before and after, and of the label, where they are in
                memory already; None: they are read.

        Raises:
            ValueError: if image, label and original do not share one grid.
        """
        scan = _Section(folder, name, original, self.window, values)
        section = render("scan.html", scan=scan)
        _write_page(folder, name, scan.record, section, smaller_uri(scan.overviews[0]["source"]))

    def write(self, out: Path, cases: Sequence[Mapping[str, Any]]) -> None:
        """Write ``report.html``, the index of all cases, each with ``name`` and ``folder``.

        It costs a few numbers and a small picture of each case. Of one case alone it shows all.
        """
        scans = [_entry(Path(case["folder"]), str(case["name"])) for case in cases]
        section = _section_of(Path(cases[0]["folder"])) if len(scans) == 1 else ""
        content = {
            "title": TITLE,
            "icon": "",
            "back": "",
            "scans": [] if section else scans,
            "section": section,
            "lesions": _lesion_links(scans[0]["record"], scans[0]["name"]) if section else [],
            "summary": _summary([scan["record"] for scan in scans]),
        }
        with new_file(out / REPORT_FILE) as partial:
            partial.write_text(render("page.html", **content), encoding="utf-8")


def _write_page(folder: Path, name: str, record: ScanRecord, section: str, icon: str) -> None:
    content = {
        "title": f"{name} \u2013 {TITLE}",
        "icon": icon,
        "back": f"../{REPORT_FILE}",
        "scans": [],
        "section": section,
        "lesions": _lesion_links(record, name),
        "summary": _summary([record])[1:],
    }
    with new_file(folder / REPORT_FILE) as partial:
        partial.write_text(render("page.html", **content), encoding="utf-8")


def _entry(folder: Path, name: str) -> dict[str, Any]:
    """Return what the index says of a case."""
    record = read_record(folder / RECORD_FILE)
    if (folder / SECTION_FILE).is_file():
        _bring_up_to_date(folder, name, record)
    page, icon = folder / REPORT_FILE, None
    if page.is_file():
        with page.open(encoding="utf-8") as stream:
            icon = ICON.search(stream.read(HEAD_BYTES))
    return {
        "anchor": _anchor(name),
        "name": name,
        "record": record,
        "summary": dict(_summary([record])),
        "page": f"{quote(folder.name)}/{REPORT_FILE}" if page.is_file() else "",
        "icon": icon[1] if icon else "",
    }


def _bring_up_to_date(folder: Path, name: str, record: ScanRecord) -> None:
    """Make a page of what an earlier version wrote of a case."""
    section = (folder / SECTION_FILE).read_text(encoding="utf-8")
    if not (folder / REPORT_FILE).is_file():
        mark = read_mark(folder)
        if mark is not None and REPORT_FILE not in mark["owns"]:
            mark_folder(folder, [*mark["owns"], REPORT_FILE], mark["request"])
        photo = PHOTO.search(section)
        _write_page(folder, name, record, section, smaller_uri(photo[0]) if photo else "")
    (folder / SECTION_FILE).unlink()


def _section_of(folder: Path) -> str:
    """Return the section on a scan from its page; empty where it has none."""
    page = folder / REPORT_FILE
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    first, last = text.find('<section class="scan"'), text.rfind("</section>")
    return text[first : last + len("</section>")] if 0 <= first < last else ""


def _anchor(name: str) -> str:
    return f"scan-{name}"


def _lesion_links(record: ScanRecord, name: str) -> list[str]:
    return [f"{_anchor(name)}-lesion-{n}" for n in range(1, len(record.lesions) + 1)]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number_text
    return environment


def render(template: str, **content: Any) -> str:
    """Return a page made of a template beside this file; all pages share ``page.css``."""
    sizes = {
        "colours": DIFFERENCE_COLOURS,
        "pixels": PIXELS,
        "chart_width": CHART_WIDTH,
        "chart_height": CHART_HEIGHT,
    }
    return _templates().get_template(template).render(**sizes, **content)


class _Section:
    """What the report says of one scan, for its template."""

    def __init__(
        self,
        folder: Path,
        name: str,
        original: SpatialImage,
        window: tuple[float, float] | None,
        values: Sequence[Any] | None = None,
    ) -> None:
        self.anchor, self.name = _anchor(name), name
        self.record = read_record(folder / RECORD_FILE)
        before, after, label = values or (None, None, None)
        self.before = OrientedVolume(original, before)
        self.after = OrientedVolume(folder / IMAGE_FILE, after)
        self.labels = lesion_labels(folder, self.record, label)
        grid = self.before.affine
        for file, volume in ((IMAGE_FILE, self.after), (LABEL_FILE, self.labels)):
            if volume.shape != self.before.shape or not np.allclose(volume.affine, grid, atol=1e-3):
                raise ValueError(
                    f"{file} of {name} must lie on the grid of the original, got {volume.shape}"
                )
        self.window = window or self.before.percentiles(0.5, 99.5)
        self.unit = "" if window is None else " HU"
        self.facts = self._facts()
        self.lesions = [self._lesion(n, lesion) for n, lesion in enumerate(self.record.lesions, 1)]
        self.overviews = self._overviews()

    def _facts(self) -> list[tuple[str, str, str]]:
        """Return name, value and what stands behind the value for each fact about the scan."""
        record, weights = self.record, self.record.bundle.weights_sha256
        seeds = [str(lesion.seed) for lesion in record.lesions]
        more = ", …" if len(seeds) > 4 else ""
        digits = 0 if self.window[1] - self.window[0] > 20 else 2
        window = " to ".join(number_text(value, digits) for value in self.window) + self.unit
        spacing = " × ".join(number_text(value, 3) for value in record.spacing_mm)
        return [
            ("Spacing", f"{spacing} mm", ""),
            ("Shape", " × ".join(str(value) for value in record.shape), ""),
            ("Made by", f"{record.bundle.name} {record.bundle.version}", ""),
            ("Weights", weights[:12] if weights else "none", weights or ""),
            ("Seed", ", ".join(seeds[:4]) + more if seeds else "none", ", ".join(seeds)),
            ("Input", record.sha256[:12], record.sha256),
            ("Window", window, ""),
            *_organ_fact(record),
            self._changed_fact(),
        ]

    def _changed_fact(self) -> tuple[str, str, str]:
        """Return what changed where nothing should: beyond labels, blend and host reactions."""
        margins = [float(lesion.sampler.get("margin_mm", 0.0)) for lesion in self.record.lesions]
        margin, volumes = max(margins, default=0.0), (self.before, self.after, self.labels)
        changed = changed_outside(*volumes, margin, partial(in_reach, self.record))
        text = f"{changed:,} voxel{'' if changed == 1 else 's'}"
        reacted = any("host_reaction" in lesion.sampler for lesion in self.record.lesions)
        if margin == 0 and not reacted:
            return "Changed outside label", text, ""
        ring = changed_outside(*volumes) - changed
        more = f"{ring:,} voxels nearer than that, where each lesion fades out"
        more += " or the host reacts" if reacted else ""
        where = f"{number_text(margin)} mm or more from label" if margin else "outside label"
        where += " and beyond host reactions" if reacted else ""
        return f"Changed {where}", text, more

    def _lesion(self, number: int, record: LesionRecord) -> dict[str, Any]:
        shared = [lesion.label for lesion in self.record.lesions].count(record.label) > 1
        field_mm = max(FIELD_MM, 10.0 * np.ceil(0.16 * record.diameter_mm))
        focus = lesion_focus(self.labels, record.label, record.site_mm, field_mm / 2)
        field_mm, planes = lesion_views(self.labels, record.label, focus, field_mm, shared)
        views = [self._view(plane, place, field_mm) for plane, place in planes]
        limit = _round_up(max(float(np.abs(view["difference"]).max()) for view in views))
        for view in views:
            view["difference"] = difference_uri(view["difference"], limit)
        asked = record.diameter_requested_mm
        return {
            "anchor": f"{self.anchor}-lesion-{number}",
            "number": number,
            "record": record,
            "focus": focus,
            "views": views,
            "field_mm": field_mm,
            "limit": f"{number_text(limit)}{self.unit}",
            "deviation": None if not asked else 100.0 * (record.diameter_mm / asked - 1.0),
            "chart": histogram_chart(record, self.window, self.unit),
        }

    def _view(self, plane: Plane, focus: np.ndarray, field_mm: float) -> dict[str, Any]:
        frame = (plane, focus, (field_mm, field_mm), (PIXELS, PIXELS))
        old, new = (v.sample(*frame, fill=self.window[0]) for v in (self.before, self.after))
        grey, changed = to_grey(old, self.window), to_grey(new, self.window)
        values = np.unique(self.labels.sample(*frame, order=0)).astype(int)
        outlines = [
            (int(value), outline_path(self.labels.sample(*frame, order=1, value=int(value))))
            for value in values[values > 0]
        ]
        return {
            "plane": plane,
            "before": grey_uri(grey),
            "patch": patch_uri(grey, changed),
            "difference": np.nan_to_num(new - old),
            "outlines": outlines,
        }

    def _overviews(self) -> list[dict[str, Any]]:
        """Return two slices of the whole scan, through its largest lesion."""
        volume = self.after
        centre = (np.array(volume.shape) - 1) / 2
        largest = max(self.lesions, key=lambda lesion: lesion["record"].volume_mm3, default=None)
        focus = centre if largest is None else largest["focus"]
        full_mm = np.array(volume.shape) * volume.spacing_mm
        scale = OVERVIEW_PIXELS / full_mm.max()  # one scale for both, so that they compare
        offset = (focus - centre) * volume.spacing_mm
        pictures = []
        for plane, other in ((AXIAL, CORONAL), (CORONAL, AXIAL)):
            extent = full_mm[plane.across], full_mm[plane.down]
            size = (max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale)))
            middle = np.where(np.arange(3) == plane.axis, focus, centre)
            grey = to_grey(volume.sample(plane, middle, extent, size), self.window)
            pictures.append(
                {
                    "plane": plane,
                    "source": photo_uri(grey),
                    "size": size,
                    "level": size[1] / 2 - offset[other.axis] * scale,
                    "marks": [self._mark(plane, each, focus, scale, size) for each in self.lesions],
                }
            )
        return pictures

    def _mark(
        self,
        plane: Plane,
        lesion: Mapping[str, Any],
        focus: np.ndarray,
        scale: float,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        spacing, diameter = self.after.spacing_mm, lesion["record"].diameter_mm
        offset = (lesion["focus"] - (np.array(self.after.shape) - 1) / 2) * spacing
        depth = abs(lesion["focus"] - focus)[plane.axis] * spacing[plane.axis]
        return {
            "lesion": lesion,
            "x": size[0] / 2 - offset[plane.across] * scale,
            "y": size[1] / 2 - offset[plane.down] * scale,
            "radius": max(diameter * scale / 2 + 4, 8.0),
            "cut": bool(depth <= diameter / 2),
        }


def lesion_labels(folder: Path, record: ScanRecord, label: np.ndarray | None) -> OrientedVolume:
    """Return the label map without what it holds of the organ."""
    if not (record.organ_mask or {}).get("labels"):
        return OrientedVolume(folder / LABEL_FILE, label)
    label, affine = read_labels(folder / LABEL_FILE, "label")
    lesions = np.isin(label, [lesion.label for lesion in record.lesions])
    return OrientedVolume(nib.Nifti1Image(np.where(lesions, label, 0), affine))


def _organ_fact(record: ScanRecord) -> list[tuple[str, str, str]]:
    if not record.organ_mask:
        return []
    details = ", ".join(f"{key}: {value}" for key, value in record.organ_mask.items())
    source, name = (str(record.organ_mask.get(key, "")) for key in ("source", "name"))
    return [("Organ mask", name if source in ("file", "none") else source, details)]


def histogram_chart(
    record: LesionRecord, window: tuple[float, float], unit: str
) -> dict[str, Any] | None:
    """Return bars, outline and ticks that draw the histogram asked for over the one achieved.

    Coordinates inside ``CHART_WIDTH`` x ``CHART_HEIGHT``, or None without any histogram. ``window``
    are the intensities at the two ends of the axis; without a ``unit`` it is labelled by intensity
    scaled to [-1, 1].

    Raises:
        ValueError: if the two histograms differ in length.
    """
    asked, got = list(record.histogram_requested or ()), list(record.histogram_achieved or ())
    if not asked and not got:
        return None
    if asked and got and len(asked) != len(got):
        raise ValueError(
            f"histogram_achieved must have {len(asked)} bins as the one requested, got {len(got)}"
        )
    bins = len(asked or got)
    low, high = window if unit else (-1.0, 1.0)
    edges = [number_text(edge) for edge in np.linspace(low, high, bins + 1)]
    top = max(*asked, *got, 1e-9)
    step = CHART_WIDTH / bins
    bars = [
        {
            "x": index * step + 1,
            "height": CHART_HEIGHT * value / top,
            "text": f"{edges[index]} to {edges[index + 1]}{unit}: {value:.1%}"
            + (f", asked {asked[index]:.1%}" if asked else ""),
        }
        for index, value in enumerate(got)
    ]
    levels = [CHART_HEIGHT * (1 - value / top) for value in asked]
    path = "".join(f"L{i * step:.1f} {y:.1f}H{(i + 1) * step:.1f}" for i, y in enumerate(levels))
    ticks = [
        (CHART_WIDTH * part, number_text(low + part * (high - low)))
        for part in (0, 0.25, 0.5, 0.75, 1)
    ]
    return {
        "bars": bars,
        "step": step - 2,
        "path": f"M0 {CHART_HEIGHT}{path}V{CHART_HEIGHT}" if path else "",
        "ticks": ticks,
        "top": f"{top:.0%}",
        "unit": unit.strip() or "scaled intensity",
    }


def number_text(value: float, digits: int = 2) -> str:
    """Return a number without needless zeros and with a true minus sign."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return ("0" if text == "-0" else text).replace("-", "\u2212")


def _summary(records: Sequence[ScanRecord]) -> list[tuple[str, str]]:
    lesions = [lesion for record in records for lesion in record.lesions]
    divergences = [item.histogram_jsd for item in lesions if item.histogram_jsd is not None]
    summary = [("Scans", str(len(records))), ("Lesions", str(len(lesions)))]
    if lesions:
        diameters = [
            number_text(item.diameter_mm, 1)
            for item in sorted(lesions, key=attrgetter("diameter_mm"))
        ]
        ends = dict.fromkeys((diameters[0], diameters[-1]))  # one number where both are the same
        summary.append(("Diameter", " to ".join(ends) + " mm"))
    if divergences:
        summary.append(("Median JSD", f"{median(divergences):.3f}"))
    return summary


def _round_up(value: float) -> float:
    if value <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return float(next(step * unit for step in steps if step * unit >= value * (1 - 1e-6)))

"""The report page: each lesion before, after and as a difference, with what was asked and got."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, cast

import nibabel as nib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nibabel.spatialimages import SpatialImage

from tools.files import new_file
from tools.report.charts import CHART_HEIGHT, CHART_WIDTH, histogram_chart, number_text
from tools.report.facts import scan_facts
from tools.report.slices import (
    AXIAL,
    CORONAL,
    DIFFERENCE_COLOURS,
    OrientedVolume,
    Plane,
    difference_uri,
    grey_uri,
    lesion_focus,
    lesion_views,
    outline_path,
    patch_uri,
    photo_uri,
    to_grey,
)
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    LesionRecord,
    ScanRecord,
    read_record,
)

REPORT_FILE = "report.html"
SECTION_FILE = ".report.html"  # of one case
FIELD_MM = 60.0
PIXELS = 272
OVERVIEW_PIXELS = 440


class PageReport:
    """The report of a run, put together case by case.

    Args:
        window: display window; None: that of each scan, for MRI.
    """

    def __init__(self, window: Sequence[float] | None) -> None:
        self.window = None if window is None else (float(window[0]), float(window[1]))

    def add(self, folder: Path, name: str, original: nib.Nifti1Image) -> None:
        """Write what there is to say of a case into its folder."""
        write_section(folder, name, original, self.window)

    def write(self, out: Path, cases: Sequence[Mapping[str, Any]]) -> None:
        """Write the page of all cases."""
        write_report(out, cases, self.window)


def write_section(
    folder: Path, name: str, original: Any, window: tuple[float, float] | None
) -> None:
    """Write what the report says of one case, beside its files.

    So a report is put together from what earlier runs left, and their scans are not read again.

    Args:
        folder: with ``image.nii.gz``, ``label.nii.gz`` and ``lesions.json``.
        name: of the case.
        original: the input as a NIfTI path or as a nibabel image in memory.
        window: display window; None takes the 0.5 and 99.5 percentiles of the original, for MRI.

    Raises:
        ValueError: if image, label and original do not share one grid.
    """
    scan = _scan(_anchor(name), {"name": name, "folder": folder, "original": original}, window)
    section = _render("scan.html", scan=scan)
    (folder / SECTION_FILE).write_text(section, encoding="utf-8")


def write_report(
    out_dir: str | Path,
    cases: Iterable[Mapping[str, Any]],
    window: tuple[float, float] | None = (-1000.0, 400.0),
    title: str = "Synthetic lesion report",
) -> Path:
    """Write ``report.html``, one page that holds its pictures and opens offline.

    Args:
        out_dir: folder to write into.
        cases: one mapping per scan: ``name``; ``folder`` with ``image.nii.gz``, ``label.nii.gz``
            and ``lesions.json``; ``original``, the input as a NIfTI path or as a nibabel image in
            memory, where :func:`write_section` has not been called. Consumed one at a time.
        window: display window in HU; None takes the 0.5 and 99.5 percentiles of each original,
            for MRI.
        title: heading of the page.

    Returns:
        The path written.

    Raises:
        ValueError: if the window is empty, or the image, label and original of a case do not share
            one grid.
    """
    if window is not None and not window[0] < window[1]:
        raise ValueError(f"window must be (low, high) with low < high, got {window}")
    scans = [_entry(case, window) for case in cases]
    page = _render(
        "page.html",
        title=title,
        scans=scans,
        summary=_summary([scan["record"] for scan in scans]),
    )
    path = Path(out_dir) / REPORT_FILE
    with new_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _entry(case: Mapping[str, Any], window: tuple[float, float] | None) -> dict[str, Any]:
    folder, name = Path(case["folder"]), str(case["name"])
    section = folder / SECTION_FILE
    if case.get("original") is not None:
        text = _render("scan.html", scan=_scan(_anchor(name), case, window))
    elif section.is_file():
        text = section.read_text(encoding="utf-8")
    else:
        shown = escape(name)
        text = f'<section class="scan" id="{_anchor(shown)}"><h2>{shown}</h2></section>'
    record = read_record(folder / RECORD_FILE)
    return {
        "anchor": _anchor(name),
        "name": name,
        "record": record,
        "summary": _summary([record])[2:],
        "section": text,
    }


def _anchor(name: str) -> str:
    return f"scan-{name}"


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number_text
    sizes = {
        "colours": DIFFERENCE_COLOURS,
        "pixels": PIXELS,
        "chart_width": CHART_WIDTH,
        "chart_height": CHART_HEIGHT,
    }
    return environment.get_template(template).render(**sizes, **content)


def _scan(
    anchor: str, case: Mapping[str, Any], window: tuple[float, float] | None
) -> dict[str, Any]:
    folder = Path(case["folder"])
    record = read_record(folder / RECORD_FILE)
    before = OrientedVolume(case["original"])
    after, labels = OrientedVolume(folder / IMAGE_FILE), _lesion_labels(folder, record)
    for name, volume in ((IMAGE_FILE, after), (LABEL_FILE, labels)):
        if volume.shape != before.shape or not np.allclose(volume.affine, before.affine, atol=1e-3):
            raise ValueError(
                f"{name} of {case['name']} must lie on the grid of the original, got {volume.shape}"
            )
    shown = window or before.percentiles(0.5, 99.5)
    unit = "" if window is None else " HU"
    digits = 0 if shown[1] - shown[0] > 20 else 2
    window_text = " to ".join(number_text(value, digits) for value in shown) + unit
    volumes = (before, after, labels)
    values = [lesion.label for lesion in record.lesions]
    lesions = [
        _lesion(
            f"{anchor}-lesion-{number}",
            number,
            lesion,
            volumes,
            shown,
            unit,
            values.count(lesion.label) > 1,
        )
        for number, lesion in enumerate(record.lesions, 1)
    ]
    return {
        "anchor": anchor,
        "name": str(case["name"]),
        "record": record,
        "facts": scan_facts(record, window_text, before, after, labels),
        "lesions": lesions,
        "overviews": _overviews(after, lesions, shown),
    }


def _lesion_labels(folder: Path, record: ScanRecord) -> OrientedVolume:
    """Return the label map without what it holds of the organ."""
    image = cast(SpatialImage, nib.load(folder / LABEL_FILE))
    if not (record.organ_mask or {}).get("labels"):
        return OrientedVolume(image)
    label = np.asarray(image.dataobj)
    lesions = np.isin(label, [lesion.label for lesion in record.lesions])
    return OrientedVolume(nib.Nifti1Image(np.where(lesions, label, 0), image.affine))


def _lesion(
    anchor: str,
    number: int,
    record: LesionRecord,
    volumes: tuple[OrientedVolume, OrientedVolume, OrientedVolume],
    window: tuple[float, float],
    unit: str,
    shared: bool,
) -> dict[str, Any]:
    field_mm = max(FIELD_MM, 10.0 * np.ceil(0.16 * record.diameter_mm))
    focus = lesion_focus(volumes[2], record.label, record.site_mm, field_mm / 2)
    field_mm, planes = lesion_views(volumes[2], record.label, focus, field_mm, shared)
    views = [_view(plane, place, field_mm, volumes, window) for plane, place in planes]
    limit = _round_up(max(float(np.abs(view["difference"]).max()) for view in views))
    for view in views:
        view["difference"] = difference_uri(view["difference"], limit)
    asked = record.diameter_requested_mm
    return {
        "anchor": anchor,
        "number": number,
        "record": record,
        "focus": focus,
        "views": views,
        "field_mm": field_mm,
        "limit": f"{number_text(limit)}{unit}",
        "deviation": None if not asked else 100.0 * (record.diameter_mm / asked - 1.0),
        "chart": histogram_chart(record, window, unit),
    }


def _view(
    plane: Plane,
    focus: np.ndarray,
    field_mm: float,
    volumes: tuple[OrientedVolume, OrientedVolume, OrientedVolume],
    window: tuple[float, float],
) -> dict[str, Any]:
    before, after, labels = volumes
    frame = (plane, focus, (field_mm, field_mm), (PIXELS, PIXELS))
    old, new = (volume.sample(*frame, fill=window[0]) for volume in (before, after))
    grey, changed = to_grey(old, window), to_grey(new, window)
    values = np.unique(labels.sample(*frame, order=0)).astype(int)
    outlines = [
        (int(value), outline_path(labels.sample(*frame, order=1, value=int(value))))
        for value in values[values > 0]
    ]
    return {
        "plane": plane,
        "before": grey_uri(grey),
        "patch": patch_uri(grey, changed),
        "difference": np.nan_to_num(new - old),
        "outlines": outlines,
    }


def _overviews(
    volume: OrientedVolume, lesions: Sequence[Mapping[str, Any]], window: tuple[float, float]
) -> list[dict[str, Any]]:
    largest = max(lesions, key=lambda lesion: lesion["record"].volume_mm3, default=None)
    focus = (np.array(volume.shape) - 1) / 2 if largest is None else largest["focus"]
    centre = (np.array(volume.shape) - 1) / 2
    full_mm = np.array(volume.shape) * volume.spacing_mm
    scale = OVERVIEW_PIXELS / full_mm.max()  # one scale for both, so that they compare
    pictures = []
    for plane in (AXIAL, CORONAL):
        width, height = full_mm[plane.across], full_mm[plane.down]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        middle = np.where(np.arange(3) == plane.axis, focus, centre)
        grey = to_grey(
            volume.sample(
                plane,
                middle,
                (width, height),
                size,
            ),
            window,
        )
        offset = (focus - centre) * volume.spacing_mm
        other = CORONAL if plane is AXIAL else AXIAL
        pictures.append(
            {
                "plane": plane,
                "source": photo_uri(grey),
                "size": size,
                "level": size[1] / 2 - offset[other.axis] * scale,
                "marks": [_mark(volume, plane, lesion, focus, scale, size) for lesion in lesions],
            }
        )
    return pictures


def _mark(
    volume: OrientedVolume,
    plane: Plane,
    lesion: Mapping[str, Any],
    focus: np.ndarray,
    scale: float,
    size: tuple[int, int],
) -> dict[str, Any]:
    offset = (lesion["focus"] - (np.array(volume.shape) - 1) / 2) * volume.spacing_mm
    depth = abs(lesion["focus"] - focus)[plane.axis] * volume.spacing_mm[plane.axis]
    return {
        "lesion": lesion,
        "x": size[0] / 2 - offset[plane.across] * scale,
        "y": size[1] / 2 - offset[plane.down] * scale,
        "radius": max(lesion["record"].diameter_mm * scale / 2 + 4, 8.0),
        "cut": bool(depth <= lesion["record"].diameter_mm / 2),
    }


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

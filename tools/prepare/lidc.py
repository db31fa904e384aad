"""LIDC-IDRI as downloaded, DICOM and XML, to scans with consensus masks (``prepare lidc``)."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from skimage.draw import line, polygon2mask
from tqdm import tqdm

from tools.dicom.files import scan_in, series_uids
from tools.dicom.series import DicomSeries, read_series
from tools.files import claimed, safe_names, write_json
from tools.organs.lung_recipe import lung_mask
from tools.prepare.lesions import Rule
from tools.prepare.scans import Cases, check_rule, prepare_scans, run_cases, volume
from tools.scans.reader import existing_files

__all__ = [
    "Outline",
    "ReadMessage",
    "Reading",
    "ReadingMask",
    "cluster_readings",
    "consensus",
    "enclosed",
    "find_scans",
    "parse_read_message",
    "prepare_lidc",
    "reading_mask",
]

NAMESPACE = "{http://www.nih.gov}"
READERS = 4  # of each scan; no nodule has more readings
RATINGS = (
    *("subtlety", "internalStructure", "calcification", "sphericity", "margin"),
    *("lobulation", "spiculation", "texture", "malignancy"),
)


class ScanFiles(NamedTuple):
    """Where a scan lies: the folder of its DICOM files, its series UID, its XML candidates."""

    folder: Path
    series_uid: str
    annotations: tuple[Path, ...]


class Outline(NamedTuple):
    """A closed chain of pixels on one slice.

    Attributes:
        inclusion: whether what it encloses belongs to the nodule or is taken out of it.
        points: integer (column, row) from the upper left pixel, 0-based, shape (n, 2).
    """

    sop_uid: str
    inclusion: bool
    points: np.ndarray


class Reading(NamedTuple):
    """One nodule of at least 3 mm as one reader outlined and rated it.

    Attributes:
        reader: number of the reading session in the file, from 1; files do not share readers.
        nodule_id: the reader's own name of the nodule.
        ratings: by name, 1 to 5 (1 to 6 for calcification); only those that were given.
    """

    reader: int
    nodule_id: str
    ratings: dict[str, int]
    outlines: tuple[Outline, ...]


class ReadMessage(NamedTuple):
    """All marks on one series: readings of nodules, and those below 3 mm, one point each."""

    series_uid: str
    readings: tuple[Reading, ...]
    small_nodules: tuple[Outline, ...]


class ReadingMask(NamedTuple):
    """The voxels of a reading in a box of the scan that starts at (column, row, slice)."""

    start: np.ndarray
    mask: np.ndarray
    reading: Reading

    @property
    def box(self) -> tuple[slice, ...]:
        """Where it lies in the scan."""
        return tuple(map(slice, self.start, self.start + self.mask.shape))


def prepare_lidc(
    dicom: str | Path,
    out: str | Path,
    rule: Rule,
    min_readers: int = 3,
    agreement: float = 0.5,
    workers: int = 2,
    validation_fraction: float = 0.2,
) -> dict[str, Any]:
    """Write label maps of the nodules of LIDC-IDRI, and of them what a bundle trains on.

    A nodule is what readers' outlines of at least 3 mm have in common (:func:`cluster_readings`); a
    voxel belongs to it if enough of the readers who marked it hold it. ``scans.json`` lists the
    series with their label maps; it goes through :func:`tools.prepare.scans.prepare_scans` (whose
    result and errors these are), and may again, for another bundle. Options are those of the
    command.
    """
    if not 1 <= min_readers <= READERS:
        raise ValueError(f"min_readers must be from 1 to {READERS}, got {min_readers}")
    if not 0 < agreement <= 1:
        raise ValueError(f"agreement must be above 0, at most 1, got {agreement}")
    check_rule(rule, workers, validation_fraction)
    out = Path(out)
    scans = {
        f"{patient}_s{number}": [patient, *files]
        for patient, found in find_scans(dicom).items()
        for number, files in enumerate(found, start=1)
    }
    settings = {"min_readers": min_readers, "agreement": agreement, "normal": rule.normal > 0}
    with claimed(out, ("scans", "scans.json", "cases", "datalist.json")):
        place = Cases(out / "scans", settings, workers, "readings")
        records, broken = run_cases(place, scans, partial(_convert, settings))
        datalist = {
            "name": "LIDC-IDRI",
            "description": (
                f"nodules outlined by at least {min_readers} readers, {agreement:g} of whom hold "
                "each voxel; ratings are means of those given, those of each reader beside them"
            ),
            "licence": "LIDC-IDRI: CC BY 3.0, doi:10.7937/K9/TCIA.2015.LO9QL9SX",
            "modality": {"0": "CT"},
            "training": [records[name]["entry"] for name in scans if name in records],
        }
        write_json(out / "scans.json", datalist, indent=1)
        if not records:
            return {"training": 0, "validation": 0, "left_out": {}, "broken": broken}
        # the list is our own, the series lie where the user said
        anywhere = out.resolve().anchor
        summary = prepare_scans(
            out / "scans.json", out, rule, workers, validation_fraction, dataset_dir=anywhere
        )
    found = (Counter(record["left_out"]) for record in records.values())
    left_out = sum(found, Counter(summary["left_out"]))
    return {**summary, "left_out": dict(left_out), "broken": broken | summary["broken"]}


def find_scans(dicom: str | Path) -> dict[str, list[ScanFiles]]:
    """Return the CT series below a folder by patient, both sorted, with their XML files.

    Patients' names are made safe. As many files of a folder are opened as it takes to find two
    slices of a scan. XML files beside the slices are taken; a series without any gets those
    elsewhere below ``dicom`` whose header names it, or another one of its folder.
    """
    root = Path(dicom)
    if not root.is_dir():
        raise FileNotFoundError(f"dicom must be an existing folder, got {dicom}")
    found: list[tuple[str, ScanFiles]] = []
    loose: list[Path] = []
    below: dict[Path, list[Path]] = defaultdict(list)
    for path in existing_files(_walk(root)):
        below[path.parent].append(path)
    for folder, paths in below.items():
        beside = tuple(path for path in paths if path.suffix.lower() == ".xml")
        header = scan_in(folder)
        if header is None or str(header.get("Modality", "CT")) != "CT":
            loose.extend(beside if header is None else ())
            continue
        parts = folder.relative_to(root).parts or (root.resolve().name,)
        patient = str(header.get("PatientID", "")).strip() or parts[0]
        uid = str(header.get("SeriesInstanceUID", ""))
        found.append((patient, ScanFiles(folder.resolve(), uid, beside)))
    if not found:
        raise FileNotFoundError(f"dicom must hold CT series, found none below {dicom}")
    named = {} if all(scan.annotations for _, scan in found) else _by_series(loose)
    patients: dict[str, list[ScanFiles]] = defaultdict(list)
    for patient, scan in sorted(found, key=lambda item: (item[0], item[1].series_uid)):
        uids = () if scan.annotations else (scan.series_uid, *sorted(series_uids(scan.folder)))
        elsewhere = next((named[uid] for uid in uids if uid in named), ())
        patients[patient].append(scan._replace(annotations=scan.annotations or elsewhere))
    return dict(zip(safe_names(patients), patients.values(), strict=True))


def _walk(root: Path) -> Iterator[Path]:
    """Yield what lies below a folder, but for what is hidden."""
    for folder, subfolders, names in tqdm(os.walk(root), desc="looking for series", unit="folder"):
        subfolders.sort()
        for name in sorted(names):
            if not name.startswith(".") or name.startswith(("._", ".DS_Store")):
                yield Path(folder, name)


def _by_series(paths: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    named: dict[str, tuple[Path, ...]] = defaultdict(tuple)
    for path in tqdm(paths, desc="reading annotations"):
        try:
            uid = parse_read_message(path).series_uid if _is_read_message(path) else ""
        except ValueError:  # its series will be named as one without XML
            continue
        if uid:
            named[uid] += (path,)
    return named


def _convert(
    settings: Mapping[str, Any], name: str, case: Sequence[Any], folder: Path
) -> dict[str, Any]:
    """Write the label map of one series, what any reader marked, and the lung."""
    patient, place, _, annotations = case
    messages = [path for path in annotations if _is_read_message(path)]
    if len(messages) != 1:
        raise ValueError(
            f"series must have one LidcReadMessage XML, got {[str(m) for m in messages]} "
            f"for {place}"
        )
    message = parse_read_message(messages[0])
    uid = message.series_uid if message.series_uid in series_uids(Path(place)) else None
    series = read_series(place, uid, pixels=settings["normal"])
    left_out: Counter[str] = Counter()
    masks = [reading_mask(reading, series) for reading in message.readings]
    marked = [mask for mask in masks if mask is not None]
    left_out["outlines that enclose no voxel"] = len(masks) - len(marked)
    label, lesions = _label(cluster_readings(marked, series.affine), series, settings, left_out)
    maps = {"label": label, "marks": _marks(marked, message.small_nodules, series)}
    if settings["normal"]:
        try:
            maps["organ_mask"] = np.asarray(lung_mask(series.image, series.affine))
        except ValueError:  # the nodules of such a scan are as good as any
            left_out["scans whose lung was not found"] += 1
    entry: dict[str, Any] = {"name": name, "patient": patient, "image": str(place)}
    for key, values in maps.items():
        nib.save(volume(values.astype(np.uint8), series.affine), folder / f"{key}.nii.gz")
        entry[key] = f"scans/{name}/{key}.nii.gz"
    entry |= {"series_uid": series.series_uid, "lesions": lesions}
    return {"entry": entry, "left_out": {reason: n for reason, n in left_out.items() if n}}


def _label(
    nodules: Sequence[Sequence[ReadingMask]],
    series: DicomSeries,
    settings: Mapping[str, Any],
    left_out: Counter[str],
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return a map of the agreed nodules, numbered, and what is known of each."""
    label = np.zeros(series.image.shape, np.uint8)
    lesions: list[dict[str, Any]] = []
    for nodule in nodules:
        agreed = consensus(nodule, settings["agreement"])
        if len(nodule) < settings["min_readers"]:
            left_out["too few readers"] += 1
        elif agreed is None:
            left_out["no agreement"] += 1
        else:
            box, mask = agreed
            value = len(lesions) + 1
            part = label[box]
            part[mask & (part == 0)] = value
            lesions.append({"value": value, **_ratings(nodule)})
    return label, lesions


def _marks(
    readings: Sequence[ReadingMask], small: Sequence[Outline], series: DicomSeries
) -> np.ndarray:
    """Return all that any reader marked, nodules below 3 mm as points."""
    marks = np.zeros(series.image.shape, bool)
    for reading in readings:
        marks[reading.box] |= reading.mask
    slices = {uid: k for k, uid in enumerate(series.sop_uids)}
    for outline in small:
        if outline.sop_uid in slices:
            columns, rows = outline.points.T
            width, height = series.image.shape[:2]
            inside = (columns < width) & (rows < height)
            marks[columns[inside], rows[inside], slices[outline.sop_uid]] = True
    return marks


def _ratings(nodule: Sequence[ReadingMask]) -> dict[str, Any]:
    """Return number of readers, means of the ratings given, and those of each possible reader.

    Lists have one place for each, 0 for none, so that loaders can batch them.
    """
    given = [m.reading.ratings for m in nodule]
    values = {name: [ratings.get(name, 0) for ratings in given] for name in RATINGS}
    rated = {name: [v for v in row if v] for name, row in values.items()}
    return {
        "readers": len(given),
        "ratings": {n: round(float(np.mean(row)), 3) if row else 0.0 for n, row in rated.items()},
        "ratings_by_reader": {n: row + [0] * (READERS - len(row)) for n, row in values.items()},
    }


def _is_read_message(path: Path) -> bool:
    """Return whether an XML file holds marks on a CT series; those on radiographs do not."""
    try:
        for _, element in ElementTree.iterparse(path, events=("start",)):
            return element.tag == f"{NAMESPACE}LidcReadMessage"
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation must be well-formed XML, got {path} ({error})") from error
    return False


def parse_read_message(path: str | Path) -> ReadMessage:
    """Read the marks of all readers on one series.

    A mark counts as nodule of at least 3 mm if it carries ratings and an outline of more than one
    point; other nodule marks are below 3 mm. Marks of non-nodules are left out.

    Raises:
        ValueError: if the file is no XML whose first element is ``LidcReadMessage`` (namespace
            http://www.nih.gov), or an element of a mark is missing or no number.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation must be well-formed XML, got {path} ({error})") from error
    if root.tag != f"{NAMESPACE}LidcReadMessage":
        raise ValueError(f"annotation must be a LidcReadMessage, got {root.tag} in {path}")
    readings: list[Reading] = []
    small: list[Outline] = []
    try:
        for reader, session in enumerate(_all(root, "readingSession"), start=1):
            for nodule in _all(session, "unblindedReadNodule"):
                reading = _reading(reader, nodule)
                if reading.ratings and any(len(part.points) > 1 for part in reading.outlines):
                    readings.append(reading)
                else:
                    small.extend(reading.outlines)
    except ValueError as error:
        raise ValueError(
            f"annotation must give every mark in full, got {error} in {path}"
        ) from error
    # the header's spelling of the element changed over the years
    found = (root.iter(f"{NAMESPACE}{name}") for name in ("SeriesInstanceUid", "SeriesInstanceUID"))
    uids = [(element.text or "").strip() for elements in found for element in elements]
    return ReadMessage(uids[0] if uids else "", tuple(readings), tuple(small))


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return element.findall(f"{NAMESPACE}{name}")


def _text(element: ElementTree.Element, name: str) -> str:
    text = (element.findtext(f"{NAMESPACE}{name}") or "").strip()
    if not text:
        raise ValueError(f"{element.tag.removeprefix(NAMESPACE)} without {name}")
    return text


def _reading(reader: int, nodule: ElementTree.Element) -> Reading:
    given = {
        name: (nodule.findtext(f"{NAMESPACE}characteristics/{NAMESPACE}{name}") or "").strip()
        for name in RATINGS
    }
    ratings = {name: int(value) for name, value in given.items() if value}
    outlines = tuple(_outline(roi) for roi in _all(nodule, "roi"))
    return Reading(reader, _text(nodule, "noduleID"), ratings, outlines)


def _outline(roi: ElementTree.Element) -> Outline:
    inclusion = _text(roi, "inclusion").upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise ValueError(f"inclusion {inclusion}")
    points = [[int(_text(p, "xCoord")), int(_text(p, "yCoord"))] for p in _all(roi, "edgeMap")]
    array = np.array(points, int).reshape(-1, 2)
    return Outline(_text(roi, "imageSOP_UID"), inclusion == "TRUE", array)


def enclosed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels inside a closed chain, without the chain itself.

    The readers' chain runs through the first pixels outside the nodule, so it is no part of it;
    where two neighbours of the chain do not touch, the straight line between them belongs to it.

    Points are integer (column, row), shape (n, 2); fewer than three enclose nothing. Returned are
    the first (column, row) of the bounding box, and a bool mask of the box.

    Example:
        >>> ring = np.array([[4, 4], [7, 4], [7, 7], [4, 7]])
        >>> start, mask = enclosed(ring)
        >>> start.tolist(), np.argwhere(mask).tolist()
        ([4, 4], [[1, 1], [1, 2], [2, 1], [2, 2]])
    """
    start = points.min(0)
    chain = points - start
    mask = polygon2mask(tuple(chain.max(0) + 1), chain)
    for here, there in zip(chain, np.roll(chain, -1, axis=0), strict=True):
        mask[line(*here, *there)] = False
    return start, mask


def reading_mask(reading: Reading, series: DicomSeries) -> ReadingMask | None:
    """Return what a reader outlined on all slices: inclusions together, less the exclusions.

    Slices are found by their SOP instance UID, pixels are not used. None if the outlines enclose no
    voxel.

    Raises:
        ValueError: if an outline lies on a slice that the series lacks, or beyond its border.
    """
    place = {uid: k for k, uid in enumerate(series.sop_uids)}
    for outline in reading.outlines:
        _check_outline(outline, reading.nodule_id, place, series)
    outlines = [outline for outline in reading.outlines if len(outline.points) > 2]
    if not outlines:
        return None
    slices = np.array([place[outline.sop_uid] for outline in outlines])
    points = np.concatenate([outline.points for outline in outlines])
    start = np.append(points.min(0), slices.min())
    mask = np.zeros(np.append(points.max(0), slices.max()) - start + 1, bool)
    for inclusion in (True, False):  # exclusions last, whatever the order of the file
        for k, outline in zip(slices - start[2], outlines, strict=True):
            if outline.inclusion is inclusion:
                (i, j), inside = enclosed(outline.points)
                i, j = i - start[0], j - start[1]
                mask[i : i + inside.shape[0], j : j + inside.shape[1], k][inside] = inclusion
    return ReadingMask(start, mask, reading) if mask.any() else None


def _check_outline(
    outline: Outline, nodule_id: str, place: dict[str, int], series: DicomSeries
) -> None:
    if outline.sop_uid not in place:
        raise ValueError(
            f"outlines must lie on slices of the series, got nodule {nodule_id} "
            f"on {outline.sop_uid}, which series {series.series_uid} lacks"
        )
    points = outline.points
    if len(points) and (points.min() < 0 or (points >= series.image.shape[:2]).any()):
        raise ValueError(
            f"outlines must lie inside slices of {series.image.shape[:2]} pixels, got nodule "
            f"{nodule_id} from {points.min(0).tolist()} to {points.max(0).tolist()}"
        )


def cluster_readings(masks: Sequence[ReadingMask], affine: np.ndarray) -> list[list[ReadingMask]]:
    """Gather the readings that mean one nodule.

    Two readings of different readers may be one nodule if they share a voxel, or if their
    centroids are closer than the larger equivalent radius (or one slice). Pairs are joined from
    the largest Dice overlap down, then from the smallest distance up; a nodule never gets two
    readings of one reader, nor more than four. Nodules are in the order
    of their first reading.
    """
    sizes = np.abs(np.linalg.det(affine[:3, :3])) * np.array([m.mask.sum() for m in masks])
    radii = (3 * sizes / (4 * np.pi)) ** (1 / 3)
    centres = [apply_affine(affine, m.start + np.argwhere(m.mask).mean(0)) for m in masks]
    slice_mm = np.linalg.norm(affine[:3, 2])
    pairs = []
    for a, b in combinations(range(len(masks)), 2):
        distance = float(np.linalg.norm(centres[a] - centres[b]))
        dice = _dice(masks[a], masks[b])
        if dice > 0 or distance <= max(radii[a], radii[b], slice_mm):
            pairs.append((-dice, distance, a, b))
    cluster = [{i} for i in range(len(masks))]
    for _, _, a, b in sorted(pairs):
        joined = cluster[a] | cluster[b]
        readers = [masks[i].reading.reader for i in joined]
        if len(set(readers)) == len(readers) <= READERS:
            for i in joined:
                cluster[i] = joined
    return [[masks[i] for i in sorted(c)] for k, c in enumerate(cluster) if min(c) == k]


def _dice(a: ReadingMask, b: ReadingMask) -> float:
    low = np.maximum(a.start, b.start)
    high = np.minimum(a.start + a.mask.shape, b.start + b.mask.shape)
    if (high <= low).any():
        return 0.0
    parts = [m.mask[tuple(map(slice, low - m.start, high - m.start))] for m in (a, b)]
    return 2.0 * float((parts[0] & parts[1]).sum()) / float(a.mask.sum() + b.mask.sum())


def consensus(
    masks: Sequence[ReadingMask], agreement: float = 0.5
) -> tuple[tuple[slice, ...], np.ndarray] | None:
    """Return the voxels on which enough of a nodule's readers agree: a box, and a mask of it.

    A voxel belongs to the nodule if at least that share of the readings holds it; those who did not
    mark it have no vote. The box is that of all readings; None if no voxel finds enough agreement.

    Example:
        >>> start, reading = np.zeros(3, int), Reading(1, "a", {}, ())
        >>> marked = [ReadingMask(start, np.ones((n, 1, 1), bool), reading) for n in (2, 3)]
        >>> [int(consensus(marked, share)[1].sum()) for share in (0.5, 0.6)]
        [3, 2]
    """
    start = np.min([m.start for m in masks], axis=0)
    stop = np.max([m.start + m.mask.shape for m in masks], axis=0)
    votes = np.zeros(stop - start, int)
    for m in masks:
        votes[tuple(map(slice, m.start - start, m.start - start + m.mask.shape))] += m.mask
    agreed = votes >= agreement * len(masks) - 1e-9  # 0.6 * 5 must be reached by 3
    return (tuple(map(slice, start, stop)), agreed) if agreed.any() else None

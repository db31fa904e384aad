"""LIDC-IDRI as downloaded to windows with consensus masks (``prepare lidc``)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pydicom
import torch
from pydicom.dataset import Dataset
from tqdm import tqdm

from tools.dicom.series import is_dicom
from tools.files import claimed, safe_names
from tools.prepare.archive import write_datalist
from tools.prepare.lidc_rois import RoiSettings, ScanFiles, write_patient
from tools.prepare.lidc_xml import READERS, is_read_message, parse_read_message

__all__ = ["check_settings", "find_scans", "prepare_lidc", "validation_patient"]


def prepare_lidc(
    dicom: str | Path,
    out: str | Path,
    settings: RoiSettings | None = None,
    workers: int = 2,
    validation_fraction: float = 0.2,
) -> dict[str, Any]:
    """Write windows round the nodules of LIDC-IDRI, normal windows, and a datalist by patient.

    A nodule is what readers' outlines of at least 3 mm have in common (see
    :func:`tools.prepare.lidc_consensus.cluster_readings`); a voxel of the scan belongs to it if
    enough of the readers who marked it hold it. A window has the label of one nodule;
    ``other_nodules`` of its entry counts what else readers marked in it.

    A patient is done when its folder under ``rois`` exists; it is then not touched again. A patient
    who cannot be prepared is named in the result, and tried again by the next run.

    Args:
        dicom: the download, patient/study/series: DICOM files, and the XML beside them or anywhere
            else below. Series other than CT are ignored.
        out: folder for ``rois/<patient>/*.nii.gz`` (int16 HU, uint8 masks) and ``datalist.json``.
        settings: choices for the windows.
        workers: processes; the result does not depend on it.
        validation_fraction: about this share of patients is for validation, by a hash of the name:
            a patient stays in its section when more are downloaded.

    Returns:
        ``training``, ``validation``, ``normal``: number of windows; ``left_out``: nodules without
        window, by reason; ``broken``: a sentence for each patient who could not be prepared.

    Raises:
        FileNotFoundError: if ``dicom`` is no folder, or has no CT series.
        ValueError: if a setting is out of range, or ``out`` was prepared with other settings.

    Example:
        ``python -m tools prepare lidc --dicom LIDC-IDRI --out work/lidc --workers 8``
    """
    settings = settings or RoiSettings()
    check_settings(settings, workers, validation_fraction)
    out = Path(out)
    patients = find_scans(dicom)
    with claimed(out, ("rois", "datalist.json")):
        records = {name: _done(out / "rois" / name, settings) for name in patients}
        pending = {name: scans for name, scans in patients.items() if records[name] is None}
        broken: dict[str, str] = {}
        bar = tqdm(total=len(patients), initial=len(patients) - len(pending), desc="patients")
        with bar:
            for name, result in _prepare_all(pending, out / "rois", settings, workers):
                if isinstance(result, str):
                    broken[name] = result
                else:
                    records[name] = result
                bar.set_postfix(broken=len(broken), refresh=False)
                bar.update()
        complete = [record for record in records.values() if record is not None]
        summary = _write_windows(out / "datalist.json", complete, settings, validation_fraction)
    return {**summary, "broken": dict(sorted(broken.items()))}


def find_scans(dicom: str | Path) -> dict[str, list[ScanFiles]]:
    """Return the CT series below a folder by patient, both sorted, with their XML files.

    Patients' names are made safe (:func:`tools.files.safe_name`).

    One file per folder is opened. XML files beside the slices are taken; a series without any gets
    those elsewhere below ``dicom`` whose header names it.

    Args:
        dicom: folder of a download.

    Raises:
        FileNotFoundError: if it is no folder, or has no CT series.
    """
    root = Path(dicom)
    if not root.is_dir():
        raise FileNotFoundError(f"dicom must be an existing folder, got {dicom}")
    patients: dict[str, list[ScanFiles]] = {}
    loose: list[Path] = []
    for folder, subfolders, names in tqdm(
        os.walk(root), desc="looking for series", unit=" folders"
    ):
        subfolders.sort()
        beside = tuple(Path(folder, n) for n in sorted(names) if n.lower().endswith(".xml"))
        header = _first_header(Path(folder), sorted(names))
        if header is None or str(header.get("Modality", "")) != "CT":
            loose.extend(beside if header is None else ())
            continue
        below = Path(folder).relative_to(root).parts or (root.resolve().name,)
        patient = str(header.get("PatientID", "")).strip() or below[0]
        scan = ScanFiles(Path(folder), str(header.get("SeriesInstanceUID", "")), beside)
        patients.setdefault(patient, []).append(scan)
    if not patients:
        raise FileNotFoundError(f"dicom must hold CT series, found none below {dicom}")
    if not all(scan.annotations for scans in patients.values() for scan in scans):
        named = _by_series(loose)
        for scans in patients.values():
            scans[:] = [
                s if s.annotations else s._replace(annotations=named[s.series_uid]) for s in scans
            ]
    found = sorted(patients.items())
    return {
        name: sorted(scans, key=lambda scan: scan.series_uid)
        for name, (_, scans) in zip(safe_names(name for name, _ in found), found, strict=True)
    }


def _first_header(folder: Path, names: Sequence[str]) -> Dataset | None:
    """Return what identifies the first DICOM file of a folder, or None if there is none."""
    tags = ["PatientID", "SeriesInstanceUID", "Modality"]
    for name in names:
        if is_dicom(folder / name):
            try:
                return pydicom.dcmread(folder / name, stop_before_pixels=True, specific_tags=tags)
            except Exception:  # the series is named as broken when it is read
                unreadable = Dataset()
                unreadable.Modality = "CT"
                return unreadable
    return None


def _by_series(paths: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    named: dict[str, tuple[Path, ...]] = defaultdict(tuple)
    for path in tqdm(paths, desc="reading annotations"):
        try:
            uid = parse_read_message(path).series_uid if is_read_message(path) else ""
        except ValueError:  # its series will be named as one without XML
            continue
        if uid:
            named[uid] += (path,)
    return named


def check_settings(
    settings: RoiSettings, workers: int = 1, validation_fraction: float = 0.0
) -> None:
    """Refuse settings out of range.

    Args:
        settings: choices for the windows.
        workers: processes.
        validation_fraction: share of the patients.

    Raises:
        ValueError: if one is out of range.
    """
    rules = {
        "min_readers": ("from 1 to 4", 1 <= settings.min_readers <= READERS),
        "agreement": ("above 0, at most 1", 0 < settings.agreement <= 1),
        "size": ("three numbers of voxels", len(settings.size) == 3 and min(settings.size) > 0),
        "spacing_mm": ("positive", settings.spacing_mm > 0),
        "normal_rois": ("0 or more", settings.normal_rois >= 0),
        "seed": ("0 or more", settings.seed >= 0),
    }
    values = settings._asdict() | {"workers": workers, "validation_fraction": validation_fraction}
    rules["workers"] = ("1 or more", workers >= 1)
    rules["validation_fraction"] = ("from 0 to below 1", 0 <= validation_fraction < 1)
    for name, (rule, holds) in rules.items():
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {values[name]}")


def _done(folder: Path, settings: RoiSettings) -> dict[str, Any] | None:
    """Return the record of a patient who is done, or None."""
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    if record["settings"] != json.loads(json.dumps(settings._asdict())):
        raise ValueError(
            f"out must be a new folder or one prepared with the same settings, got {path} "
            f"with {record['settings']}"
        )
    return record


def _prepare_all(
    pending: dict[str, list[ScanFiles]], rois: Path, settings: RoiSettings, workers: int
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield each patient as he is done, with his record or the sentence that says why not."""
    if workers == 1 or len(pending) < 2:
        for name, scans in pending.items():
            yield name, _prepare_one(name, scans, rois / name, settings)
        return
    # spawn: a forked child would inherit the locks of torch's threads and could wait for ever
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(pending)), context, torch.set_num_threads, (1,))
    try:
        futures = {
            pool.submit(_prepare_one, name, scans, rois / name, settings): name
            for name, scans in pending.items()
        }
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_one(
    name: str, scans: Sequence[ScanFiles], folder: Path, settings: RoiSettings
) -> dict[str, Any] | str:
    try:
        return write_patient(name, scans, folder, settings)
    except (ValueError, OSError) as error:
        return str(error)
    except Exception as error:  # one odd patient of a thousand must not end the run
        return f"{type(error).__name__}: {error}"


def validation_patient(patient: str, seed: int, fraction: float) -> bool:
    """Return whether a patient is for validation: a hash of his name decides.

    Args:
        patient: name.
        seed: gives another split.
        fraction: expected share of the patients.

    Example:
        >>> [validation_patient("LIDC-IDRI-0001", 0, fraction) for fraction in (0.0, 1.0)]
        [False, True]
    """
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _write_windows(
    path: Path, records: Sequence[dict[str, Any]], settings: RoiSettings, fraction: float
) -> dict[str, Any]:
    sections: dict[str, list[dict]] = {"training": [], "validation": [], "normal": []}
    left_out: Counter[str] = Counter()
    for record in records:
        section = ("training", "validation")[
            validation_patient(record["patient"], settings.seed, fraction)
        ]
        sections[section] += record["lesions"]
        sections["normal"] += [entry | {"section": section} for entry in record["normal"]]
        left_out.update(record["left_out"])
    description = {
        "name": "LIDC-IDRI windows",
        "description": (
            f"windows of {settings.spacing_mm:g} mm round nodules outlined by at least "
            f"{settings.min_readers} readers, {settings.agreement:g} of whom hold each voxel; "
            "ratings of 0 were not given; normal windows touch no mark; split by patient"
        ),
        "licence": "LIDC-IDRI: CC BY 3.0, doi:10.7937/K9/TCIA.2015.LO9QL9SX",
        "modality": {"0": "CT"},
    }
    write_datalist(path, sections, description)
    counts = {name: len(entries) for name, entries in sections.items()}
    return {**counts, "left_out": {name: n for name, n in left_out.items() if n}}

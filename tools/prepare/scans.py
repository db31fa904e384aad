"""Any scans with lesion masks to what a bundle trains on (``prepare scans``)."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from tools.bundle import find_bundle
from tools.files import (
    DATASET_DIR,
    claimed,
    listed_path,
    new_folder,
    read_object,
    safe_names,
    write_json,
)
from tools.prepare.lesions import (
    Lesion,
    Rule,
    as_stored,
    find_lesions,
    healthy_windows,
    isotropic_mask,
    lesion_window,
    patch_grid,
    scan_patches,
)
from tools.prepare.sections import (
    case_names,
    divided_sections,
    listed_twice,
    patient_of,
    read_datalist,
)
from tools.scans.scan import AIR_HU, Scan
from tools.sentences import a_few, short

__all__ = [
    "Cases",
    "Record",
    "bundle_rule",
    "check_rule",
    "prepare_scans",
    "require_prepared",
    "run_cases",
    "volume",
]

logger = logging.getLogger(__name__)

# by form, what an entry must have; the first is the grid
NEEDED = {
    "windows": ("image", "label"),
    "masks": ("label",),
    "stacks": ("image", "label"),
    "patches": ("image",),
}
LARGEST = 512  # voxels along an axis of a window
SMALLEST = 32  # voxels along an axis; what is thinner gives no patches
PATHS = ("image", "label", "organ_mask", "lung", "marks")
# what is said of one scan, and not of each of its lesions
OF_SCAN = {*PATHS, "name", "patient", "lesions", "ratings", "fold", "truncated", "spacing_mm"}


def prepare_scans(
    datalist: str | Path,
    out: str | Path,
    rule: Rule,
    workers: int = 1,
    validation_fraction: float = 0.2,
    fold: int = 0,
    dataset_dir: str | Path | None = None,
    fill_nan: str | float | None = None,
    hu_offset: float = 0.0,
) -> dict[str, Any]:
    """Write what a bundle trains on, and a datalist split by patient.

    A scan is done when its folder under ``cases`` is there; it is then not touched again. One that
    cannot be prepared is named in the result, and tried again by the next run.

    Options are those of the command, the form of the datalist too. Returned are the number of
    entries by section; ``left_out``: lesions and scans, by reason; ``broken``: a sentence for each
    scan that could not be prepared.

    Raises:
        FileNotFoundError: if there is no such datalist.
        ValueError: if something breaks its rule, or no scan gives anything to train on.
    """
    content, base = read_datalist(datalist)
    within = base if dataset_dir is None else Path(dataset_dir).resolve()
    check_rule(rule, workers, validation_fraction)
    reading = _reading(rule, fill_nan, hu_offset)
    _check_classes(rule, content)
    sections = divided_sections(content, fold, validation_fraction, rule.seed)
    listed = [(name, entry) for name, entries in sections.items() for entry in entries]
    names = safe_names(case_names([entry for _, entry in listed]))
    cases = dict(zip(names, [entry for _, entry in listed], strict=True))
    owners: dict[str, str] = {}  # one scan, one patient, however often it is listed
    for name, entry in cases.items():
        entry["patient"] = str(entry.get("patient") or owners.setdefault(patient_of(entry), name))
    with claimed(out, ("cases", "datalist.json")):
        place = Cases(Path(out) / "cases", rule._asdict() | reading, workers)
        twice = listed_twice(base, cases)
        once = {name: entry for name, entry in cases.items() if name not in twice}
        records, broken = run_cases(place, once, partial(_write_scan, base, within, rule, reading))
        broken = dict(sorted({**twice, **broken}.items()))
        written = [
            (part, records.get(name, {})) for name, (part, _) in zip(names, listed, strict=True)
        ]
        result = _listed(sections, written)
        if not any(result.values()):
            raise ValueError(_nothing(records, broken, datalist))
        described = _description(content, rule) | result
        write_json(Path(out) / "datalist.json", described, indent=1)
    left_out = Counter[str]()
    for name, record in records.items():
        left_out.update(record["left_out"])
        for why, number in record["left_out"].items():
            logger.warning("%s is left out: %s%s", name, why, f" ({number})" * (number > 1))
    counts = {name: len(entries) for name, entries in result.items()}
    return {**counts, "left_out": dict(left_out), "broken": broken}


def _listed(
    sections: Iterable[str], written: Iterable[tuple[str, Mapping[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return entries by section; what is healthy goes to ``normal``.

    That is trained on, so nothing of patients whose lesions are for validation or tests is in it.
    """
    result: dict[str, list[dict[str, Any]]] = {name: [] for name in sections}
    healthy: list[dict[str, Any]] = []
    for section, record in written:
        for entry in record.get("entries", ()):
            normal = entry.pop("normal", False) and section != "normal"
            (healthy if normal else result[section]).append(entry)
    tested = {
        entry["patient"]
        for name in result.keys() - {"training", "normal"}
        for entry in result[name]
    }
    if kept := [entry for entry in healthy if entry["patient"] not in tested]:
        result.setdefault("normal", []).extend(kept)
    return result


def require_prepared(made: Mapping[str, Any]) -> None:
    """Refuse what :func:`prepare_scans` returned where a scan could not be prepared."""
    if broken := made["broken"]:
        said = a_few(f"{name}: {reason}" for name, reason in broken.items())
        raise ValueError(f"scans must all be prepared, got {len(broken)} that cannot be: {said}")


def bundle_rule(bundle: str, stage: str = "", **changes: Any) -> Rule:
    """Return what a bundle wants to be trained on; ``changes`` that are None keep the bundle's.

    A stage is ``train_STAGE.json``, or ``STAGE.json`` on top of ``train.json``.

    Raises:
        FileNotFoundError: if there is no such bundle or stage.
        ValueError: if its section ``prepare`` is missing or has a key that is not known.
    """
    configs = find_bundle(bundle) / "configs"
    paths = [configs / "train.json"]
    if stage:
        alone = configs / f"train_{stage}.json"
        paths = [alone] if alone.is_file() else [*paths, configs / f"{stage}.json"]
    if not paths[-1].is_file():
        raise FileNotFoundError(f"stage must be one of the bundle {bundle}, got {stage!r}")
    parser = ConfigParser()
    parser.read_config(paths)
    section = parser.get("prepare")
    if section is None:
        raise ValueError(f"bundle must have a section prepare in {paths[-1].name}, got {bundle}")
    content = dict(parser.get_parsed_content("prepare"))
    content.pop("_desc_", None)
    unknown = sorted(content.keys() - set(Rule._fields))
    if unknown:
        raise ValueError(f"prepare must have keys of {list(Rule._fields)}, got {unknown}")
    return Rule(**content)._replace(**{k: v for k, v in changes.items() if v is not None})


def check_rule(rule: Rule, workers: int = 1, fraction: float = 0.0) -> None:
    """Refuse what is out of range, in one sentence."""
    size, smallest = rule.size or (1, 1, 1), rule.smallest
    rules = {
        "form": (f"one of {list(NEEDED)}", rule.form in NEEDED, rule.form),
        "size": (
            f"three numbers of voxels, at most {LARGEST}",
            len(size) == 3 and 0 < min(size) <= max(size) <= LARGEST,
            rule.size,
        ),
        "spacing_mm": ("positive", rule.spacing_mm > 0, rule.spacing_mm),
        "smallest": ("a multiple of 8", smallest > 0 and smallest % 8 == 0, smallest),
        "largest": (
            f"at least smallest and at most {LARGEST}",
            smallest <= rule.largest <= LARGEST,
            rule.largest,
        ),
        "classes": ("from 1 to 255", all(0 < n < 256 for n in rule.classes or ()), rule.classes),
        "patch_size": ("at least 32", rule.patch_size >= SMALLEST, rule.patch_size),
        "normal": ("0 or more", rule.normal >= 0, rule.normal),
        "seed": ("0 or more", rule.seed >= 0, rule.seed),
        "workers": ("1 or more", 1 <= workers <= 256, workers),
        "validation_fraction": ("from 0 to below 1", 0 <= fraction < 1, fraction),
    }
    for name, (wanted, holds, value) in rules.items():
        if not holds:
            raise ValueError(f"{name} must be {wanted}, got {value}")


def _reading(rule: Rule, fill_nan: str | float | None, hu_offset: float) -> dict[str, float]:
    """Return how scans are to be read, where that is not as they are."""
    numbers: dict[str, Any] = {"hu_offset": hu_offset} if hu_offset else {}
    if fill_nan is not None:
        air = str(fill_nan).lower() == "air" and rule.lowest is not None
        numbers["fill_nan"] = AIR_HU if air else fill_nan
    for name, value in numbers.items():
        try:
            numbers[name] = float(value)
        except ValueError:
            numbers[name] = np.nan
        if not np.isfinite(numbers[name]):
            raise ValueError(f"{name} must be a number, got {value!r}")
    return numbers


def _check_classes(rule: Rule, content: Mapping[str, Any]) -> None:
    labels = content.get("labels")
    classes = {k: v for k, v in labels.items() if k != "0"} if isinstance(labels, dict) else {}
    if rule.classes is None and len(classes) > 1 and rule.form != "patches":
        raise ValueError(f"classes must say which of {classes} are lesions, got none")


def _nothing(
    records: Mapping[str, Mapping[str, Any]], broken: dict[str, str], datalist: str | Path
) -> str:
    reasons = {name: ", ".join(record["left_out"]) for name, record in records.items()} | broken
    said = a_few(f"{name}: {reason}" for name, reason in reasons.items())
    return (
        f"datalist must list scans that give something to train on, got none in {datalist}: {said}"
    )


def _description(content: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    kept = {k: content[k] for k in ("name", "licence", "modality") if k in content}
    labels = content.get("labels") if rule.form == "stacks" else None
    labels = labels or {"0": "background", "1": "lesion"}
    description = f"{rule.form} of lesions; split by patient"
    return {"labels": labels, "name": "lesions", **kept, "description": description}


@dataclass(frozen=True)
class Cases:
    """Where cases are written, each whole or not at all, and with which settings."""

    folder: Path
    settings: Mapping[str, Any]
    workers: int = 1
    noun: str = "scans"


def run_cases(
    place: Cases, cases: Mapping[str, Any], write: Callable[[str, Any, Path], dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Write all cases that are not done; return their records, and sentences for the broken.

    ``write`` gets the name of a case, the case (plain data, kept with the record) and an empty
    folder, and returns the record; it runs in any process.

    Raises:
        ValueError: if the folder of a case was written with other settings.
    """
    records = {name: _done(place, name, case) for name, case in cases.items()}
    pending = {name: case for name, case in cases.items() if records[name] is None}
    broken: dict[str, str] = {}
    start = len(cases) - len(pending)
    with tqdm(total=len(cases), initial=start, desc=f"preparing {place.noun}") as bar:
        for name, result in _all(place, pending, write):
            if isinstance(result, str):
                broken[name] = result
            else:
                records[name] = result
            bar.set_postfix(broken=len(broken), refresh=False)
            bar.update()
    done = {name: record for name, record in records.items() if record is not None}
    return done, dict(sorted(broken.items()))


def _done(place: Cases, name: str, case: Any) -> dict[str, Any] | None:
    """Return the record of a case that is there, whole and of the same source."""
    folder = place.folder / name
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = read_object(path, "out")
    if record.get("settings") != _plain(place.settings):
        raise ValueError(
            f"out must be a new folder or one prepared with the same settings, got {path} with "
            f"{short(record.get('settings'))}"
        )
    files = record.get("files")
    whole = isinstance(files, list) and all((folder / str(file)).is_file() for file in files)
    return record if whole and record.get("case") == _plain(case) else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _all(
    place: Cases, pending: Mapping[str, Any], write: Callable[..., dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    if place.workers == 1 or len(pending) < 2:
        for name, case in pending.items():
            yield name, _one(place, name, case, write)
        return
    # spawn: a forked child would inherit the locks of torch's threads and could wait for ever
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(place.workers, len(pending)), context, torch.set_num_threads, (1,)
    )
    try:
        jobs = {pool.submit(_one, place, n, case, write): n for n, case in pending.items()}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _one(
    place: Cases, name: str, case: Any, write: Callable[..., dict[str, Any]]
) -> dict[str, Any] | str:
    try:
        with new_folder(place.folder / name, ("*.nii.gz", "record.json"), replace=True) as folder:
            record = write(name, case, folder)
            files = sorted(path.name for path in folder.glob("*.nii.gz"))
            kept = {"settings": place.settings, "case": case, "files": files}
            record = _plain({**record, **kept})
            write_json(folder / "record.json", record, indent=1)
        return record
    except (ValueError, OSError) as error:
        return str(error)
    except Exception as error:  # one odd scan of a thousand must not end the run
        return f"{type(error).__name__}: {error}"


def volume(values: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """Return an image in memory whose header places it in the scanner, in mm."""
    image = nib.Nifti1Image(np.ascontiguousarray(values), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image


@dataclass
class Record:
    """What becomes of one scan: files in its folder, entries of the datalist, what is left out."""

    name: str
    patient: str
    folder: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(
        self, name: str, files: Mapping[str, nib.Nifti1Image], facts: Mapping[str, Any]
    ) -> None:
        """Write images and keep their entry."""
        entry: dict[str, Any] = {"name": name, "patient": self.patient}
        for key, image in files.items():
            file = f"{name}_{key}.nii.gz"
            nib.save(image, self.folder / file)
            entry[key] = f"cases/{self.name}/{file}"
        self.entries.append({**entry, **facts})

    def content(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {"entries": self.entries, "left_out": {k: n for k, n in self.left_out.items() if n}}


def _write_scan(
    base: Path,
    within: Path,
    rule: Rule,
    reading: Mapping[str, float],
    name: str,
    entry: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Write one scan of a datalist; paths of its entry start from ``base``."""
    paths = {
        key: listed_path(entry[key], key, base, "the datalist", DATASET_DIR, within)
        for key in PATHS
        if entry.get(key)
    }
    record = Record(name, str(entry["patient"]), folder)
    missing = next((key for key in NEEDED[rule.form] if key not in paths), None)
    if missing or entry.get("truncated"):
        record.left_out[f"no {missing}" if missing else "truncated"] += 1
        return record.content()
    grid = NEEDED[rule.form][0]
    # padding is of CT alone: a rule with a lower limit has intensities in HU
    in_hu = grid == "image" and rule.lowest is not None
    kept = reading if grid == "image" else {}
    scan = Scan(paths[grid], entry.get("series_uid"), in_hu, argument=grid, **kept)
    label = np.zeros(scan.shape, np.int16)
    if "label" in paths:
        label = scan.load_labels(paths["label"], "label")
    opened = _OneScan(rule, entry, paths, scan, label, record)
    getattr(opened, rule.form)()
    return record.content() | ({"notes": scan.notes} if scan.notes else {})


class _OneScan(NamedTuple):
    """A scan that is open, with a method for each form of a rule."""

    rule: Rule
    entry: Mapping[str, Any]
    paths: Mapping[str, Path]
    scan: Scan
    label: np.ndarray
    record: Record

    @property
    def said(self) -> dict[str, Any]:
        return {key: value for key, value in self.entry.items() if key not in OF_SCAN}

    def lesions(self) -> Iterator[tuple[str, Lesion, dict[str, Any]]]:
        """Yield name, lesion and facts of each."""
        voxel = float(abs(np.linalg.det(self.scan.affine[:3, :3])))
        found = find_lesions(self.label, self.entry, self.rule, voxel)
        if not found and "lesions" not in self.entry:
            self.record.left_out["no lesion"] += 1
        for number, lesion in enumerate(found, start=1):
            mm3 = lesion.mask.sum() * voxel
            known = {k: v for k, v in lesion.facts.items() if k not in (*OF_SCAN, "value")}
            ratings = lesion.facts.get("ratings") or {}  # one of nought was not given
            facts: dict[str, Any] = self.said | known
            facts |= {k: v for k, v in ratings.items() if v}
            facts["diameter_mm"] = round(float((6 * mm3 / np.pi) ** (1 / 3)), 2)
            facts["volume_mm3"] = round(float(mm3), 2)
            centre = nib.affines.apply_affine(self.scan.affine, lesion.centre())
            facts["centre_mm"] = centre.round(2).tolist()
            alone = len(found) == 1 and "lesions" not in self.entry
            yield self.record.name if alone else f"{self.record.name}_n{number:02d}", lesion, facts

    def masks(self) -> None:
        for name, lesion, facts in self.lesions():
            affine = np.array(self.scan.affine)
            affine[:3, 3] = nib.affines.apply_affine(affine, [part.start for part in lesion.box])
            mask, place = isotropic_mask(lesion.mask, affine, self.rule.spacing_mm)
            self.record.add(name, {"label": volume(mask.astype(np.uint8), place)}, facts)

    def windows(self) -> None:
        image, affine = _numbers(self.scan), self.scan.affine
        for name, lesion, facts in self.lesions():
            found = lesion_window(image, affine, lesion, self.rule)
            if found is None:
                self.record.left_out["larger than the window"] += 1
                continue
            window, inside, grid, facts["known"] = found
            self.record.add(name, _pair(window, "label", inside, grid.affine, image), facts)
        organ = self.paths.get("organ_mask", self.paths.get("lung"))
        if organ is None or not self.rule.normal:
            return
        marks = self.label > 0
        if "marks" in self.paths:
            marks |= np.asarray(self.scan.load_mask(self.paths["marks"], "marks", empty=True))
        where = np.asarray(self.scan.load_mask(organ, "organ_mask", empty=True))
        seed = (self.rule.seed, crc32(self.record.name.encode()))
        healthy = healthy_windows(image, affine, where, marks, self.rule, seed)
        for number, (window, inside, grid) in enumerate(healthy, start=1):
            files = _pair(window, "organ_mask", inside, grid.affine, image)
            name = f"{self.record.name}_normal{number:02d}"
            self.record.add(name, files, {**self.said, "normal": True})

    def stacks(self) -> None:
        """Write scan, label map and organ mask as they are, slices along the last axis."""
        spacing = np.round(self.scan.spacing_mm, 3)
        axis = 2 - int(np.argmax(spacing[::-1]))
        order = (*(n for n in range(3) if n != axis), axis)
        affine = self.scan.affine[:, [*order, 3]]
        image = as_stored(np.transpose(_numbers(self.scan), order), _numbers(self.scan))
        healthy = self.rule.classes is not None and not np.isin(self.label, self.rule.classes).any()
        files, maps = {"image": volume(image, affine)}, {"label": self.label}
        if "organ_mask" in self.paths:
            organ = self.scan.load_mask(self.paths["organ_mask"], "organ_mask", empty=True)
            maps["organ_mask"] = np.asarray(organ)
        for key, values in maps.items():
            files[key] = volume(np.transpose(values, order).astype(np.uint8), affine)
        self.record.add(self.record.name, files, self.said | ({"normal": True} if healthy else {}))

    def patches(self) -> None:
        scan, rule, name = self.scan, self.rule, self.record.name
        if min(scan.spacing_mm) > rule.coarsest_mm:
            self.record.left_out["coarse scans"] += 1
            return
        if min(patch_grid(scan.shape, scan.affine, rule.spacing_mm).size) < SMALLEST:
            self.windows()  # a crop round a lesion
            return
        inside = self.label > 0 if rule.classes is None else np.isin(self.label, rule.classes)
        image = _numbers(scan)
        patches = scan_patches(image, scan.affine, inside, rule)
        for number, (values, part, affine) in enumerate(patches):
            files = _pair(values, "label", part, affine, image)
            self.record.add(f"{name}_{number:03d}", files, self.said)
        self.record.left_out["scans of air"] += not self.record.entries


def _pair(
    window: np.ndarray, key: str, mask: np.ndarray, affine: np.ndarray, image: np.ndarray
) -> dict[str, nib.Nifti1Image]:
    files = {"image": volume(as_stored(window, image), affine)}
    return files | {key: volume(mask.astype(np.uint8), affine)}


def _numbers(scan: Scan) -> np.ndarray:
    """Return the intensities of a scan, whole numbers where they are; NaN makes it a broken one."""
    image = np.asarray(scan.image)
    if image.dtype.kind != "f":
        return image
    whole = np.array_equal(image, np.rint(image)) and np.abs(image).max() < 2**15
    return image.astype(np.int16) if whole else image

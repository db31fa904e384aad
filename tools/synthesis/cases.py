"""Scans as users bring them: a file, a DICOM series, a folder of many, a datalist."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib

from tools.dicom.files import is_dicom, is_dicom_folder, scan_in, series_folders, series_uids
from tools.files import DATASET_DIR, listed_path, read_object, safe_name, safe_names
from tools.organs.organ import Organ
from tools.phantoms.datasets import phantom_scan
from tools.scans.reader import bare_name, existing_files, is_image_name

__all__ = ["Case", "find_cases", "input_folders", "open_cases", "with_masks"]

logger = logging.getLogger(__name__)

ORGAN_KEYS = ("organ_mask", "lung")
LESION_KEY = "label"
# how data sets name what is no scan (BIDS, nnU-Net, this program)
MASK_NAME = re.compile(
    r"(.*_)?(labels?|mask|masks|seg|segmentation|dseg|probseg|lung|organ_mask)", re.IGNORECASE
)
MASK_FOLDER = re.compile(r"(labels?|masks?|segs?|segmentations?)(Tr|Ts|Va)?", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One scan to work on.

    Args:
        name: of the folder that is written; unique in a run, source of the case's chance.
        path: NIfTI file, or folder of one DICOM series.
        organ_mask: NIfTI mask of where lesions may lie, a file or an image in memory; None asks the
            run's organ source.
        lesion_mask: likewise, of existing lesions to keep away from; None: there are none.
        series_uid: which series of the folder; None where it holds only one.
    """

    name: str
    path: Path
    organ_mask: Path | nib.Nifti1Image | None = None
    lesion_mask: Path | nib.Nifti1Image | None = None
    series_uid: str | None = None


def find_cases(
    scan: str | Path,
    dataset_dir: str | Path | None = None,
    series_uid: str | None = None,
    section: str | None = None,
    argument: str = "scan",
) -> list[Case]:
    """Return the scans behind a path, in an order that does not depend on the file system.

    * An image file, or a folder with the files of a DICOM series, is one case.
    * Any other folder: its image files, and the DICOM series folders at any depth below it; those
      with reports, localizers or other objects only are passed over. Where it has no image file
      itself, those of the folders below count. Where ``X_image.nii.gz`` exists, other files
      ``X_....nii.gz`` are no scans: ``X_organ_mask`` or ``X_lung`` is its organ mask, ``X_label``
      its existing lesions; likewise ``image.nii.gz`` with ``label.nii.gz``. Below, what is named as
      a mask (``..._seg``, folder ``labelsTr``) is passed over.
    * A datalist in the form of the Decathlon: every list in it (``training``, ``validation``,
      ``testing``, ``normal``, ...) whose entries have an ``image``. Optional keys of an entry:
      ``organ_mask`` or ``lung``, where lesions may lie; ``label``, existing lesions (voxels above
      0) to keep away from, ignored if it is no path. A scan that is listed twice counts once. Its
      paths lead nowhere out of ``dataset_dir``.

    What systems leave behind (``._*``) and links to nowhere are passed over, with a line in the
    log. A case is named by its file without ending and ``_image``, or by its folder; where that
    does not tell them apart, by its path below ``scan``; where that does not either, by a number.
    Names are made safe (:func:`tools.files.safe_name`).

    Args:
        scan: what the user brings.
        dataset_dir: folder that the paths of a datalist start from; None is the datalist's own.
        series_uid: the one DICOM series to take, in this folder or at any depth below it.
        section: the one list of a datalist to take, such as ``normal``; None takes all.
        argument: name of ``scan`` in messages.

    Raises:
        FileNotFoundError: if there is no scan, or a file of the datalist does not exist.
        ValueError: if a datalist cannot be understood, or the series is not there.

    Example:
        >>> folder = Path(getfixture("tmp_path"))
        >>> _ = (folder / "b.nii.gz").touch(), (folder / "a_image.nii").touch()
        >>> [case.name for case in find_cases(folder)]
        ['a', 'b']
    """
    scan = Path(scan)
    listed = scan.suffix.lower() == ".json" and scan.is_file()
    _check_options(scan, listed, dataset_dir, series_uid, section)
    if listed:
        base = scan.parent if dataset_dir is None else Path(dataset_dir)
        return _named(list(_listed(scan, base, section)), base)
    if scan.is_file():
        if is_dicom(scan):
            raise ValueError(f"scan must be the folder of a DICOM series, got a file of it: {scan}")
        return [Case(safe_name(_stem(scan)), scan)]
    if series_uid is not None:
        return _named(list(_of_series(scan, series_uid)), scan)
    cases = _in_folder(scan) if scan.is_dir() else []
    if not cases:
        raise FileNotFoundError(
            f"{argument} must be an image file, a DICOM series folder, a folder of scans or a "
            f"datalist, got {scan}"
        )
    return _named(cases, scan)


def open_cases(
    scan: str | Path,
    organ: Organ,
    organ_mask: str | Path | None = None,
    lesion_mask: str | Path | None = None,
    **options: Any,
) -> list[Case]:
    """Return the scans behind a path with the masks that were named; without a path, a phantom.

    Args:
        scan: see :func:`find_cases`; empty: the phantom of the organ.
        organ: its table.
        organ_mask: of the one scan, see :func:`with_masks`.
        lesion_mask: likewise.
        options: of :func:`find_cases`.
    """
    if not str(scan):
        folder = phantom_scan(organ.name)
        logger.warning("no scan given: running on the phantom in %s", folder)
        found = [case for case in find_cases(folder) if case.path.name.endswith("_image.nii.gz")]
    else:
        given: dict[str, Any] = {key: value or None for key, value in options.items()}
        found = find_cases(scan, **given)
    return with_masks(found, organ_mask, lesion_mask)


def input_folders(scan: str | Path, cases: Sequence[Case]) -> list[Path]:
    """Return the folders that an output folder must neither be, nor lie in, nor hold.

    That is the folder of scans or of the datalist, and of each scan that it lists. One scan that
    is named as a file lies anywhere; only its own folder is not written to.

    Args:
        scan: as for :func:`find_cases`.
        cases: what that returned.
    """
    scan = Path(scan)
    if scan.is_dir():
        return [scan]
    if scan.suffix.lower() != ".json":
        return []
    return [scan.parent, *(c.path if c.path.is_dir() else c.path.parent for c in cases)]


def with_masks(
    cases: Sequence[Case], organ_mask: str | Path | None, lesion_mask: str | Path | None
) -> list[Case]:
    """Return the cases with the masks that were named for the one scan, if any.

    Raises:
        FileNotFoundError: if a mask does not exist.
        ValueError: if there are several scans.
    """
    given = {"organ_mask": organ_mask, "lesion_mask": lesion_mask}
    masks: dict[str, Any] = {name: Path(path) for name, path in given.items() if path is not None}
    for name, path in masks.items():
        if len(cases) > 1:
            raise ValueError(
                f"{name} goes with one scan (a datalist names masks for many), "
                f"got {len(cases)} scans"
            )
        if not path.is_file():
            raise FileNotFoundError(f"{name} must be an existing image file, got {path}")
    return [replace(case, **masks) for case in cases]


def _in_folder(folder: Path) -> list[Case]:
    images = _images(folder)
    itself = [Case("", folder)] if is_dicom_folder(folder) else []
    if itself and scan_in(folder) is not None:
        if images:
            raise ValueError(
                f"scan must not hold a DICOM series and image files side by side, got {folder}"
            )
        return itself
    cases = [*_with_companions(images), *(Case("", path) for path in _series_below(folder))]
    if not images:
        cases += _images_below(folder)
    return cases or itself  # which whoever reads it says what is wrong with


def _check_options(
    scan: Path, listed: bool, dataset_dir: object, series_uid: object, section: object
) -> None:
    for name, value in (("dataset_dir", dataset_dir), ("section", section)):
        if value is not None and not listed:
            raise ValueError(f"{name} goes with a datalist as scan, got {scan}")
    if series_uid is not None and not scan.is_dir():
        raise ValueError(f"series_uid goes with a folder as scan, got {scan}")


def _images(folder: Path) -> list[Path]:
    """Return the image files of a folder; what only looks like one is named in the log."""
    return [f for f in existing_files(sorted(folder.glob("*"))) if is_image_name(f.name)]


def _stem(path: Path) -> str:
    name = bare_name(path.name)
    return (path.resolve().name if name == path.name else name).removesuffix("_image")


def _with_companions(files: Sequence[Path], masks: bool = True) -> Iterator[Case]:
    """Turn the image files of a folder into cases; masks go to the image they are named after.

    Args:
        files: of one folder.
        masks: whether what is named as a mask, after no image, is a scan all the same.
    """
    by_name = {bare_name(path.name): path for path in files}
    images = {name for name in by_name if name == "image" or name.endswith("_image")}
    stems = {name: name.removesuffix("image") for name in images}  # "" or "X_"
    for path in files:  # a.nii and a.nii.gz have one name: both stay, and get a number
        name = bare_name(path.name)
        if name in images:
            near = {key: by_name.get(f"{stems[name]}{key}") for key in (*ORGAN_KEYS, LESION_KEY)}
            organ = next((near[key] for key in ORGAN_KEYS if near[key]), None)
            yield Case("", path, organ, near[LESION_KEY])
        elif any(stem and name.startswith(stem) for stem in stems.values()):
            continue
        elif (masks and "image" not in images) or not MASK_NAME.fullmatch(name):
            yield Case("", path)
        else:
            logger.info("%s is taken for a mask, no scan", path)


def _images_below(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Case]:
    """Yield the image files at any depth below a folder; links are followed, but not in circles."""
    seen |= {folder.resolve()}
    for path in sorted(folder.glob("*")):
        hidden = path.name.startswith(".") or not path.is_dir() or path.resolve() in seen
        if not (hidden or MASK_FOLDER.fullmatch(path.name) or is_dicom_folder(path)):
            yield from _with_companions(_images(path), masks=False)
            yield from _images_below(path, seen)


def _series_below(folder: Path) -> Iterator[Path]:
    """Yield the folders with a DICOM scan at any depth below a folder, none within another."""
    last: Path | None = None
    found: dict[str, Path] = {}
    for path in series_folders(folder):
        if path == folder or (last is not None and last in path.parents):
            continue
        header = scan_in(path)
        if header is None:
            continue
        uid = str(header.get("SeriesInstanceUID", "") or path)
        if found.setdefault(uid, path) != path:
            logger.warning("%s holds the series of %s too: two cases", path, found[uid])
        last = path
        yield path


def _of_series(folder: Path, series_uid: str) -> Iterator[Case]:
    """Yield the folders, this one or below it, that hold files of a series."""
    found: set[str] = set()
    for path in series_folders(folder):
        uids = series_uids(path)
        found |= uids
        if series_uid in uids:
            yield Case("", path, series_uid=series_uid)
    if series_uid not in found:
        raise ValueError(
            f"series_uid must be in {folder}, got {series_uid}, found "
            f"{', '.join(sorted(found)) or 'no DICOM series'}"
        )


def _listed(datalist: Path, base: Path, section: str | None) -> Iterator[Case]:
    """Yield the cases of a datalist, each scan once."""
    content = read_object(datalist, "scan")
    sections = {name: value for name, value in content.items() if isinstance(value, list)}
    if section is not None and section not in sections:
        raise ValueError(f"section must be one of {sorted(sections)}, got {section!r}")
    chosen = sections.values() if section is None else [sections[section]]
    entries = [entry for part in chosen for entry in part]
    seen = set()
    for entry in entries:
        if isinstance(entry, str) and is_image_name(Path(entry).name):
            entry = {"image": entry}  # the Decathlon lists its test scans so
        if not isinstance(entry, dict) or "image" not in entry:
            continue
        path = _existing(entry, "image", base, datalist)
        if path.resolve() not in seen:
            seen.add(path.resolve())
            yield _entry_case(path, entry, base, datalist)
    if not seen:
        raise ValueError(f"scan must list at least one image, got none in {datalist}")


def _entry_case(path: Path, entry: Mapping[str, Any], base: Path, datalist: Path) -> Case:
    organ_key = next((key for key in ORGAN_KEYS if entry.get(key)), None)
    organ = None if organ_key is None else _existing(entry, organ_key, base, datalist)
    # a number is the label of a classification, not a mask
    has_label = isinstance(entry.get(LESION_KEY), str) and entry[LESION_KEY]
    lesions = _existing(entry, LESION_KEY, base, datalist) if has_label else None
    return Case("", path, organ, lesions)


def _existing(entry: Mapping[str, Any], key: str, base: Path, datalist: Path) -> Path:
    path = listed_path(entry[key], key, base, datalist, DATASET_DIR)
    if not path.exists():
        raise FileNotFoundError(f"{key} of a datalist entry must exist, got {path} in {datalist}")
    return path


def _named(cases: Sequence[Case], base: Path) -> list[Case]:
    """Name cases by their file or folder, by the path below ``base`` where that is not enough."""
    count = Counter(_stem(case.path) for case in cases)
    names = []
    for case in cases:
        stem = _stem(case.path)
        # image.nii.gz in a folder per case: its name says nothing, however many there are
        names.append(_long_name(case.path, base) if count[stem] > 1 or stem == "image" else stem)
    return [replace(case, name=name) for case, name in zip(cases, safe_names(names), strict=True)]


def _long_name(path: Path, base: Path) -> str:
    path, base = path.resolve(), base.resolve()
    inner = path.relative_to(base) if path.is_relative_to(base) else Path(*path.parts[-2:])
    return "_".join([*inner.parent.parts, bare_name(path.name)]).removesuffix("_image")

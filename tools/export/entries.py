"""Real and synthetic entries as their datalists hold them, with the hashes that tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.files import DATASET_DIR, listed_path, read_object
from tools.scans.reader import bare_name, is_image_name
from tools.scans.scan import scan_hash
from tools.sentences import short
from tools.synthesis.cases import find_cases
from tools.synthesis.datalist import DATALIST_FILE
from tools.synthesis.records import RECORD_FILE, ScanRecord, read_record

__all__ = [
    "MODALITIES",
    "RealEntry",
    "SyntheticEntry",
    "read_modality",
    "read_real",
    "read_synthetic",
]

DATALIST_NAMES = (DATALIST_FILE, "dataset.json")
MODALITIES = {"CT": "CT", "MR": "MRI", "MRI": "MRI"}
SECTIONS: dict[str, tuple[str, ...]] = {
    "training": ("training",),
    "validation": ("validation",),
    "testing": ("testing", "test"),
}


@dataclass(frozen=True)
class SyntheticEntry:
    """One case that ``python -m tools synthesize`` wrote; ``sha256`` is that of its image."""

    name: str
    image: Path
    label: Path
    sha256: str
    record: ScanRecord
    instances: Path | None = None


@dataclass(frozen=True)
class RealEntry:
    """One scan of the real dataset.

    Attributes:
        label: None of scans that are only tested on, or of no use to train on.
        sha256: of the image.
        section: ``training``, ``validation``, ``testing`` or ``other``.
        group: the patient if the datalist says who it is, else the hash of the image.
        fold: as the datalist states it; None where it does not.
    """

    name: str
    image: Path
    label: Path | None
    sha256: str
    section: str
    group: str
    fold: int | None = None


def read_synthetic(folder: str | Path) -> tuple[dict[str, Any], list[SyntheticEntry]]:
    """Return the datalist and the cases of a folder written by ``synthesize``.

    Raises:
        FileNotFoundError: if the folder has no datalist, or a file of it is missing.
        ValueError: if an entry is not synthetic or lies elsewhere, or there is none.
    """
    folder = Path(folder)
    path = folder / DATALIST_FILE
    content = read_object(path, "synthetic")
    entries = []
    for item in tqdm(_section(content, ("training",), path), desc="synthetic cases", unit="case"):
        if item.get("synthetic") is not True:
            raise ValueError(
                f"synthetic must list synthetic cases only, got {short(item)} in {path}"
            )
        image, label = (_entry_path(item, key, folder, path) for key in ("image", "label"))
        if any(Path(item[key]).is_absolute() for key in ("image", "label")):
            raise ValueError(f"files of synthetic must lie in {folder}, got {item['image']}")
        record = image.parent / RECORD_FILE
        if not record.is_file():
            raise FileNotFoundError(f"synthetic must have a record per case, got none at {record}")
        numbers = _entry_path(item, "instances", folder, path) if "instances" in item else None
        known = (scan_hash(image), read_record(record), numbers)
        entries.append(SyntheticEntry(image.parent.name, image, label, *known))
    if not entries:
        raise ValueError(f"synthetic must hold at least one case, got none in {path}")
    return content, entries


def read_real(
    real: str | Path, dataset_dir: str | Path | None = None
) -> tuple[dict[str, Any], list[RealEntry]]:
    """Return the datalist and the scans of a real dataset.

    ``real`` is a datalist in the form of the Decathlon (``training``, perhaps ``validation``,
    ``test`` or ``testing``; other sections are not exported, but their scans are known as sources),
    a folder with ``datalist.json`` or ``dataset.json``, or a folder of ``X_image.nii.gz`` with
    ``X_label.nii.gz``. Paths of a datalist start from ``dataset_dir`` and lead nowhere out of it;
    None is its own folder.

    Raises:
        FileNotFoundError: if there is no such file or folder, or a listed file is missing.
        ValueError: if an entry cannot be used, is synthetic, or a scan is listed twice, or as that
            of two patients.
    """
    real = Path(real)
    if not real.exists():
        raise FileNotFoundError(f"real must be a datalist or a folder, got {real}")
    if real.is_dir():
        listed = [real / name for name in DATALIST_NAMES if (real / name).is_file()]
        if not listed:
            return {}, list(_paired(real, dataset_dir))
        real = listed[0]
    content = read_object(real, "real")
    base = real.parent if dataset_dir is None else Path(dataset_dir)
    entries = _with_patients(list(_listed(content, base, real)))
    first: dict[str, RealEntry] = {}
    for entry in entries:
        other = first.setdefault(entry.sha256, entry)
        if other is not entry and "other" not in (entry.section, other.section):
            raise ValueError(
                f"real scans must be listed once, got {other.image} ({other.section}) and "
                f"{entry.image} ({entry.section}) with the same content"
            )
    return content, entries


def _with_patients(entries: Sequence[RealEntry]) -> list[RealEntry]:
    """Give a scan that two sections list the patient that only one of them states."""
    stated: dict[str, RealEntry] = {}
    for entry in entries:
        if entry.group == entry.sha256:
            continue
        other = stated.setdefault(entry.sha256, entry)
        if other.group != entry.group:
            raise ValueError(
                f"real scans with the same content must be of one patient, got {other.image} of "
                f"{other.group} and {entry.image} of {entry.group}"
            )
    return [replace(entry, group=stated.get(entry.sha256, entry).group) for entry in entries]


def _listed(content: dict[str, Any], base: Path, path: Path) -> Iterator[RealEntry]:
    parts = [
        (kind, item) for kind, names in SECTIONS.items() for item in _section(content, names, path)
    ]
    used = {name for names in SECTIONS.values() for name in names}
    for name, items in content.items():
        if isinstance(items, list) and name not in used:
            usable = [x for x in items if isinstance(x, dict) and isinstance(x.get("image"), str)]
            parts += [("other", item) for item in usable]
    for kind, item in tqdm(parts, desc="real scans", unit="scan"):
        if kind == "other" and not (base / item["image"]).is_file():
            continue
        yield _real_entry(kind, item, base, path)


def _real_entry(kind: str, item: dict[str, Any], base: Path, path: Path) -> RealEntry:
    image = _entry_path(item, "image", base, path)
    if item.get("synthetic") or (image.parent / RECORD_FILE).is_file():
        raise ValueError(f"real must list no synthetic case, got {image} in {path}")
    has_label = item.get("label") is not None or kind in ("training", "validation")
    label = _entry_path(item, "label", base, path) if has_label and kind != "other" else None
    fold = item.get("fold")
    if fold is not None and (isinstance(fold, bool) or not isinstance(fold, int) or fold < 0):
        raise ValueError(f"fold must be a whole number from 0, got {fold!r} in {path}")
    sha256 = scan_hash(image)
    patient = item.get("patient")
    group = sha256 if patient in (None, "") else str(patient)
    return RealEntry(_name(image), image, label, sha256, kind, group, fold)


def _paired(folder: Path, dataset_dir: str | Path | None) -> Iterator[RealEntry]:
    if dataset_dir is not None:
        raise ValueError(f"dataset_dir goes with a datalist as real, got the folder {folder}")
    cases = find_cases(folder)
    for case in tqdm(cases, desc="real scans", unit="scan"):
        if case.lesion_mask is None or not case.path.is_file():
            raise ValueError(
                f"real must be a datalist, or a folder of X_image.nii.gz with X_label.nii.gz, got "
                f"{case.path} without a label"
            )
        sha256 = scan_hash(case.path)
        yield RealEntry(case.name, case.path, case.lesion_mask, sha256, "training", sha256)


def _name(image: Path) -> str:
    stem = bare_name(image.name).removesuffix("_image")
    return image.parent.name if stem == "image" else stem


def _section(content: Mapping[str, Any], names: tuple[str, ...], path: Path) -> list[dict]:
    """Return the entries of sections that mean the same, each a dictionary with ``image``."""
    result = []
    for name in names:
        if not isinstance(content.get(name) or [], list):
            raise ValueError(f"{name} must be a list, got {short(content[name])} in {path}")
    for entry in (item for name in names for item in content.get(name) or []):
        if isinstance(entry, str):
            entry = {"image": entry}  # the Decathlon lists its test scans so
        if not isinstance(entry, dict) or "image" not in entry:
            raise ValueError(
                f"entries of {names[0]} must have an image, got {short(entry)} in {path}"
            )
        result.append(entry)
    return result


def _entry_path(entry: Mapping[str, Any], key: str, base: Path, datalist: Path) -> Path:
    """Return the image file that an entry names."""
    value = entry.get(key)
    if not isinstance(value, str) or not is_image_name(Path(value).name):
        raise ValueError(
            f"{key} of an entry must be one image file (one channel), got {short(value)} in "
            f"{datalist}"
        )
    path = listed_path(value, key, base, datalist, DATASET_DIR)
    if not path.is_file():
        raise FileNotFoundError(f"{key} of an entry must exist, got {path} in {datalist}")
    return path


def read_modality(content: Mapping[str, Any], argument: str) -> str | None:
    """Return ``CT`` or ``MRI``, or what else the one channel is called; None if it is not said.

    Raises:
        ValueError: if there is more than one channel.

    Example:
        >>> read_modality({"modality": {"0": "MR"}}, "real")
        'MRI'
    """
    stated = content.get("modality", content.get("channel_names"))
    names = list(stated.values()) if isinstance(stated, Mapping) else [stated] if stated else []
    if len(names) > 1:
        raise ValueError(f"{argument} must have one channel, got {names}")
    return MODALITIES.get(str(names[0]).upper(), str(names[0])) if names else None

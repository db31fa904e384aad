"""Records of what was synthesised: ``lesions.json`` per scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from tools.files import read_object, write_json
from tools.kinds import record_of
from tools.sentences import short

SCHEMA_VERSION = "1.1"
RECORD_FILE = "lesions.json"
IMAGE_FILE = "image.nii.gz"
LABEL_FILE = "label.nii.gz"
INSTANCES_FILE = "instances.nii.gz"
DICOM_FOLDER = "dicom"
SEGMENTATION_FILE = "segmentation.dcm"


@dataclass(frozen=True)
class BundleRecord:
    """The bundle that made the lesions.

    Args:
        name: folder name of the bundle, or of the baseline method.
        version: ``version`` of its ``metadata.json``.
        weights_sha256: hash of the weights file; None where nothing was learned.
    """

    name: str
    version: str
    weights_sha256: str | None = None


@dataclass(frozen=True)
class LesionRecord:
    """How one synthetic lesion was made and what came out.

    Args:
        label: value in the label map, 1 or more.
        class_name: name of that value; written as ``class``.
        site_mm: centre of the lesion, (x, y, z) in RAS millimetres.
        diameter_mm: achieved diameter, as the organ's table defines it.
        diameter_kind: what that is: ``equal_volume_sphere`` or ``enclosing_sphere``.
        volume_mm3: achieved volume.
        diameter_requested_mm: diameter asked for; None if the user's mask decided.
        texture: name of the texture preset, or of the histogram file.
        histogram_requested: bin fractions asked for; None without histogram control.
        histogram_achieved: bin fractions inside the lesion afterwards.
        histogram_jsd: Jensen-Shannon divergence of the two in nats, 0 to ln 2.
        shape_source: where the mask came from.
        seed: seed of this lesion's random generator.
        sampler: settings of the sampler, JSON values only.
        attempts: how many lesions were drawn until this one was accepted, 1 or more.
        seconds: wall time of all attempts.

    Raises:
        ValueError: if ``label`` or ``attempts`` is below 1, ``site_mm`` is not three numbers, or a
            number is not finite.
    """

    label: int
    class_name: str
    site_mm: Sequence[float]
    diameter_mm: float
    volume_mm3: float
    texture: str
    shape_source: str
    seed: int
    diameter_kind: str = "equal_volume_sphere"
    diameter_requested_mm: float | None = None
    histogram_requested: Sequence[float] | None = None
    histogram_achieved: Sequence[float] | None = None
    histogram_jsd: float | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.label <= 255:
            raise ValueError(f"label must be from 1 to 255, got {self.label}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")
        if len(self.site_mm) != 3:
            raise ValueError(f"site_mm must be three numbers (x, y, z), got {list(self.site_mm)}")
        for item in fields(self):
            value = getattr(self, item.name)
            numbers = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
            if any(isinstance(n, (float, np.floating)) and not math.isfinite(n) for n in numbers):
                raise ValueError(f"{item.name} must be finite, got {value}")

    def to_dict(self) -> dict[str, Any]:
        """Return the record with the keys of ``lesions.json``."""
        return {("class" if key == "class_name" else key): v for key, v in asdict(self).items()}


@dataclass(frozen=True)
class ScanRecord:
    """Everything ``lesions.json`` says about one scan.

    Args:
        name: name of the input scan.
        sha256: hash of the input, as :attr:`tools.scans.scan.Scan.sha256` defines it.
        spacing_mm: voxel size along the array axes (i, j, k).
        shape: array shape (i, j, k).
        bundle: what made the lesions.
        lesions: one record per lesion; empty if none was placed.
        phantom: True if the scan is not of a patient but from the embedded data.
        organ_mask: where the mask of the organ came from; None in records of older versions.
        request: what was asked for, so that a run that goes on can tell whether it is the same.
        notes: sentences on what was asked for and could not be done.
    """

    name: str
    sha256: str
    spacing_mm: Sequence[float]
    shape: Sequence[int]
    bundle: BundleRecord
    lesions: Sequence[LesionRecord] = ()
    phantom: bool = False
    organ_mask: Mapping[str, Any] | None = None
    request: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record with the keys of ``lesions.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "synthetic": True,
            "scan": {
                "name": self.name,
                "sha256": self.sha256,
                "spacing_mm": list(self.spacing_mm),
                "shape": list(self.shape),
                "phantom": self.phantom,
            },
            "bundle": asdict(self.bundle),
            "organ_mask": self.organ_mask,
            "request": self.request,
            "notes": list(self.notes),
            "lesions": [lesion.to_dict() for lesion in self.lesions],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ScanRecord:
        """Return the record held by the content of a ``lesions.json``.

        Args:
            content: as :meth:`to_dict` returns it; keys of later minor versions are ignored.

        Raises:
            ValueError: if the major schema version is another one, a key is missing, or a value is
                not of its kind.
        """
        version = str(content.get("schema_version"))
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION[0]}.x, got {version}")
        try:
            lesions = tuple(
                record_of(LesionRecord, {**item, "class_name": item["class"]})
                for item in content["lesions"]
            )
            bundle = record_of(BundleRecord, content["bundle"])
            later = {key: content.get(key) for key in ("organ_mask", "request")}
            notes = content.get("notes") or ()
            later["notes"] = tuple(notes) if isinstance(notes, list) else notes
            names = (later["organ_mask"] or {}).get("labels", {})
            if not all(key.isdecimal() and isinstance(names[key], str) for key in names):
                raise ValueError(f"labels must be numbers with names, got {short(names)}")
            return record_of(
                cls, {**content["scan"], **later, "bundle": bundle, "lesions": lesions}
            )
        except KeyError as error:
            raise ValueError(f"key {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ValueError("a key is missing, or an object is none") from error


def write_record(path: str | Path, record: ScanRecord) -> Path:
    """Write one ``lesions.json``, whole or not at all.

    Args:
        path: file to write; its folder is made if it is missing.
        record: numpy numbers and arrays in it become plain JSON.

    Returns:
        The path written.

    Example:
        >>> method = BundleRecord("copy_paste", "0.1.0")
        >>> record = ScanRecord("a", "0" * 64, (1, 1, 2), (8, 8, 4), method)
        >>> read_record(write_record(Path(getfixture("tmp_path")) / "lesions.json", record)).shape
        [8, 8, 4]
    """
    return write_json(path, record.to_dict(), default=_plain)


def read_record(path: str | Path) -> ScanRecord:
    """Return the record stored in a ``lesions.json``.

    Raises:
        ValueError: if the file is no JSON object, of another major version, or lacks a key; the
            message names the file.
    """
    try:
        return ScanRecord.from_dict(read_object(path, "record"))
    except ValueError as error:
        raise ValueError(f"{path} must be a lesion record, got: {error}") from error


def _plain(value: object) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return value.name  # a record travels with the data, machine paths do not
    raise TypeError(f"a record must hold JSON values, got {type(value).__name__}")

"""``datalist.json`` of a folder of synthetic cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.synthesis.records import (
    IMAGE_FILE,
    INSTANCES_FILE,
    LABEL_FILE,
    RECORD_FILE,
    ScanRecord,
    read_record,
    write_json,
)

__all__ = ["DATALIST_FILE", "write_datalist"]

DATALIST_FILE = "datalist.json"


def write_datalist(
    out_dir: str | Path,
    cases: Iterable[Mapping[str, Any]],
    name: str = "synthetic_lesions",
    description: str = "Real scans with synthetic lesions; not for diagnostic use",
    modality: str = "CT",
) -> Path:
    """Write ``datalist.json`` in the form of the Decathlon, which Auto3DSeg reads too.

    The names of the label values come from the records, those of an organ that the label map
    carries too; without any, 1 is ``lesion``.

    Args:
        out_dir: folder that holds the case folders; paths in the file are relative to it.
        cases: mappings with ``folder`` (of the image, label and record of one scan) and
            perhaps ``fold``, which is passed on.
        name: name of the dataset.
        description: one sentence.
        modality: name of the single channel.

    Returns:
        The path written.

    Raises:
        ValueError: if a case lies outside ``out_dir``, or two cases name one label differently.
    """
    out_dir = Path(out_dir).resolve()
    labels = {"0": "background"}
    training = []
    for case in cases:
        folder = Path(case["folder"]).resolve()
        if not folder.is_relative_to(out_dir):
            raise ValueError(f"folder of a case must lie inside {out_dir}, got {folder}")
        record = read_record(folder / RECORD_FILE)
        names = dict((record.organ_mask or {}).get("labels", {}))
        names |= {str(lesion.label): lesion.class_name for lesion in record.lesions}
        for value, class_name in names.items():
            known = labels.setdefault(value, class_name)
            if known != class_name:
                raise ValueError(f"label {value} must have one class, got {known} and {class_name}")
        item = _datalist_item(folder.relative_to(out_dir), record, case)
        if (folder / INSTANCES_FILE).is_file():
            item["instances"] = (folder.relative_to(out_dir) / INSTANCES_FILE).as_posix()
        training.append(item)
    if len(labels) == 1:
        labels["1"] = "lesion"
    content = {
        "name": name,
        "description": description,
        "modality": {"0": modality},
        "labels": dict(sorted(labels.items(), key=lambda item: int(item[0]))),
        "numTraining": len(training),
        "numTest": 0,
        "training": training,
        "test": [],
    }
    return write_json(out_dir / DATALIST_FILE, content)


def _datalist_item(folder: Path, record: ScanRecord, case: Mapping[str, Any]) -> dict[str, Any]:
    item = {
        "image": (folder / IMAGE_FILE).as_posix(),
        "label": (folder / LABEL_FILE).as_posix(),
        "record": (folder / RECORD_FILE).as_posix(),
        "synthetic": True,
        "phantom": record.phantom,
        "lesions": len(record.lesions),
    }
    return {**item, "fold": case["fold"]} if "fold" in case else item

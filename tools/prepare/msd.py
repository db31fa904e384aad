"""Organs with tumours of the Medical Segmentation Decathlon, as unpacked (``prepare msd``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.files import listed_path, read_object, safe_names
from tools.prepare.tumours import ORGAN, TUMOUR, Release
from tools.scans.reader import bare_name

__all__ = ["read_msd"]

LICENCE = "MSD: CC BY-SA 4.0, Antonelli et al., Nature Communications 13:4128, 2022"


def read_msd(source: str | Path) -> Release:
    """Return the cases of a task, by its ``dataset.json``.

    Its labels must be an organ (1) and a tumour in it (2), as those of Task03_Liver and
    Task07_Pancreas are.

    Raises:
        FileNotFoundError: if ``source`` is no folder, or has no dataset.json.
        ValueError: if that is no list of a task with an organ and a tumour.
    """
    folder = Path(source)
    path = folder / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"source must be an unpacked task with dataset.json, such as Task03_Liver, got {source}"
        )
    content = read_object(path, "source")
    labels, entries = content.get("labels"), content.get("training")
    if not isinstance(labels, dict) or set(labels) != {"0", "1", "2"}:
        raise ValueError(
            f"source must be a task with an organ (1) and its tumour (2), got {labels} in {path}"
        )
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"training must be a list of cases, got {entries!r} in {path}")
    pairs = [_pair(entry, folder, path) for entry in entries]
    names = safe_names(bare_name(image.name) for image, _ in pairs)
    tests = content.get("test")
    about = {
        "name": str(content.get("name", folder.name)),
        "licence": LICENCE,
        "labels": {"0": "background", "1": str(labels["1"]), "2": str(labels["2"])},
    }
    unlabelled = len(tests) if isinstance(tests, list) else 0
    cases = dict(zip(names, pairs, strict=True))
    return Release(cases, {1: ORGAN, 2: TUMOUR}, about, unlabelled)


def _pair(entry: Any, folder: Path, path: Path) -> tuple[Path, Path]:
    if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
        raise ValueError(f"cases must have an image and a label, got {entry!r} in {path}")
    image, label = (listed_path(entry[key], key, folder, path) for key in ("image", "label"))
    return image, label

"""Releases of an abdominal organ and its tumours to scans with masks, and a datalist of them.

What the releases share; where their files lie is told by :mod:`tools.prepare.msd` and
:mod:`tools.prepare.kits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from tools.files import claimed, write_json
from tools.prepare.lesions import Rule
from tools.prepare.scans import Cases, check_rule, prepare_scans, run_cases, volume
from tools.scans.scan import Scan

__all__ = ["ORGAN", "TUMOUR", "Release", "prepare_tumours"]

ORGAN, TUMOUR = 1, 2


class Release(NamedTuple):
    """What a download holds.

    Attributes:
        cases: paths of image and label by case; each is a patient of its own.
        values: what its label values become: ``ORGAN``, ``TUMOUR``; 0 stays 0.
        about: name, licence and the like of the datalist.
        unlabelled: scans without a label.
    """

    cases: Mapping[str, tuple[Path, Path]]
    values: Mapping[int, int]
    about: Mapping[str, Any]
    unlabelled: int


def prepare_tumours(
    release: Release,
    out: str | Path,
    rule: Rule,
    workers: int = 1,
    validation_fraction: float = 0.2,
) -> dict[str, Any]:
    """Write label maps (1 organ, 2 tumour) and organ masks, and of them what a bundle trains on.

    Images stay where they are. ``scans.json`` lists them with their masks, in the sections training
    and normal (no tumour); it goes through :func:`tools.prepare.scans.prepare_scans`, whose result
    and errors these are, and may again, for another bundle. A case that cannot be prepared is named
    in the result and tried again by the next run.
    """
    check_rule(rule, workers, validation_fraction)
    out = Path(out)
    cases = {name: [str(path.resolve()) for path in pair] for name, pair in release.cases.items()}
    with claimed(out, ("scans", "scans.json", "cases", "datalist.json")):
        values = {str(value): into for value, into in release.values.items()}
        place = Cases(out / "scans", {"values": values}, workers)
        records, broken = run_cases(place, cases, partial(_write_case, values))
        sections: dict[str, list[dict[str, Any]]] = {"training": [], "normal": []}
        for name in cases:
            if name in records:
                entry = records[name]["entry"]
                sections["training" if entry["tumour_ml"] else "normal"].append(entry)
        labels = {"0": "background", str(ORGAN): "organ", str(TUMOUR): "tumour"}
        content = {"labels": labels, "modality": {"0": "CT"}, **release.about, **sections}
        write_json(out / "scans.json", content, indent=1)
        facts = {"unlabelled": release.unlabelled, "broken": broken}
        if not records:
            return {"training": 0, "validation": 0, "left_out": {}, **facts}
        # the list is our own, the images lie where the user said
        anywhere = out.resolve().anchor
        summary = prepare_scans(
            out / "scans.json", out, rule, workers, validation_fraction, dataset_dir=anywhere
        )
    return {**summary, **facts, "broken": broken | summary["broken"]}


def _write_case(
    values: Mapping[str, int], name: str, case: tuple[str, str], folder: Path
) -> dict[str, Any]:
    """Write label and organ mask of a case, on the grid of its image."""
    image, given = case
    scan = Scan(image, in_hu=True, argument="image")
    found = scan.load_labels(given, "label")
    known = np.array([0, *map(int, values)])
    odd = np.setdiff1d(found, known)
    if odd.size:
        raise ValueError(
            f"label must hold {known.tolist()} only, got {odd[:8].tolist()} in {given}"
        )
    label = np.zeros(found.shape, np.uint8)
    for value, into in values.items():
        label[found == int(value)] = into
    if not label.any():
        raise ValueError(f"label must hold the organ, got 0 only in {given}")
    entry: dict[str, Any] = {"name": name, "patient": name, "image": image}
    for key, mask in (("label", label), ("organ_mask", label > 0)):
        nib.save(volume(mask.astype(np.uint8), scan.affine), folder / f"{key}.nii.gz")
        entry[key] = f"scans/{name}/{key}.nii.gz"
    voxel_ml = float(abs(np.linalg.det(scan.affine[:3, :3]))) / 1000
    entry["tumour_ml"] = round(float((label == TUMOUR).sum()) * voxel_ml, 4)
    return {"entry": entry}

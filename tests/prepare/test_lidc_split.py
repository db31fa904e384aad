"""The split by patient against its rule written out, and against the archive it comes from."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tools.prepare.lidc_split import lidc_split


def test_rule_by_hand() -> None:
    expected = {}
    for number in range(4, 1013):
        patient = f"LIDC-IDRI-{number:04d}"
        share = int(hashlib.sha1(f"lidc-split-v1:{patient}".encode()).hexdigest(), 16) / 16**40
        expected[patient] = "test" if share < 0.18 else "val" if share < 0.32 else "train"
    expected["LIDC-IDRI-0314"] = "train"
    assert {patient: lidc_split(patient) for patient in expected} == expected
    placed = [lidc_split(f"LIDC-IDRI-{number:04d}") for number in (1, 2, 3)]
    assert placed == ["train", "test", "test"]


@pytest.mark.real
def test_archive_has_the_same_split(shared_dir: Path) -> None:
    path = shared_dir / "data" / "lidc_masks" / "lidc_nodule_masks.npz"
    if not path.is_file():
        pytest.skip("no archive of masks in ../shared/data")
    with np.load(path) as archive:
        pairs = set(zip(archive["patient_id"].tolist(), archive["split"].tolist(), strict=True))
    assert len(pairs) > 500
    assert all(lidc_split(patient) == split for patient, split in pairs)

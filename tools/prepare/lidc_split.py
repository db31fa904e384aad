"""Which patients of LIDC-IDRI train a model, validate it, or are kept for tests."""

from __future__ import annotations

import hashlib

__all__ = ["lidc_split"]

SALT = "lidc-split-v1:"
TEST_SHARE, VALIDATION_SHARE = 0.18, 0.14
# published sample scans come from these patients, so they were placed by hand
PLACED = {
    "LIDC-IDRI-0001": "train",
    "LIDC-IDRI-0002": "test",
    "LIDC-IDRI-0003": "test",
    "LIDC-IDRI-0314": "train",
}


def lidc_split(patient: str) -> str:
    """Return ``train``, ``val`` or ``test``: a SHA-1 hash of the patient's name decides.

    This is the rule by which the archives of masks and of crops were split, so a model trained on
    what it calls ``train`` may be validated on theirs.

    Args:
        patient: as in the DICOM header, e.g. ``LIDC-IDRI-0078``.

    Example:
        >>> [lidc_split(f"LIDC-IDRI-{number:04d}") for number in (1, 2, 12)]
        ['train', 'test', 'train']
    """
    if patient in PLACED:
        return PLACED[patient]
    digest = hashlib.sha1(f"{SALT}{patient}".encode(), usedforsecurity=False).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "val" if share < TEST_SHARE + VALIDATION_SHARE else "train"

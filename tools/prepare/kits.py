"""KiTS, kidneys with tumours in CT, as downloaded (``prepare kits``)."""

from __future__ import annotations

from pathlib import Path

from tools.prepare.tumours import ORGAN, TUMOUR, Release

__all__ = ["read_kits"]

LICENCE = "KiTS: CC BY-NC-SA 4.0, Heller et al., Medical Image Analysis 67:101821, 2021"
IMAGE = "imaging.nii.gz"
# of KiTS19 and KiTS23, and of KiTS21, the majority of its readers
LABELS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")
CYST = 3  # of kidneys, where they are told from tumours


def read_kits(source: str | Path) -> Release:
    """Return the cases ``case_X/imaging.nii.gz`` with ``segmentation.nii.gz``.

    They lie in the folder or in one below it. Cysts count as kidney. Cases without segmentation,
    such as those of the challenge's test, are counted; one without its image, which the release
    downloads by itself, cannot be prepared.

    Raises:
        FileNotFoundError: if ``source`` is no folder, or holds no case.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"source must be an existing folder, got {source}")
    found = sorted(path for below in ("", "*/") for path in folder.glob(f"{below}case_*"))
    labels = {
        case: label
        for case in found
        for name in reversed(LABELS)
        if (label := case / name).is_file()
    }
    if not labels:
        raise FileNotFoundError(
            f"source must hold cases (case_00000/{IMAGE} and {LABELS[0]}), found none in {source}"
        )
    cases = {case.name: (case / IMAGE, label) for case, label in labels.items()}
    if len(cases) < len(labels):
        raise ValueError(f"cases must be there once, got two of the same name in {source}")
    unlabelled = sum((case / IMAGE).is_file() for case in found if case not in labels)
    about = {
        "name": "KiTS kidney tumours",
        "licence": LICENCE,
        "labels": {"0": "background", "1": "kidney", "2": "tumour"},
    }
    return Release(cases, {1: ORGAN, 2: TUMOUR, CYST: ORGAN}, about, unlabelled)

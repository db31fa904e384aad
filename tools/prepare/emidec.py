"""EMIDEC, late-enhancement MRI of the heart, to files and a datalist (``prepare emidec``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.files import claimed
from tools.prepare.archive import write_datalist
from tools.prepare.emidec_cases import CaseFiles, find_cases, write_case
from tools.transforms.wall import HEART_CLASSES

__all__ = ["TEST_CASES", "prepare_emidec", "section_of"]

# the ten cases on which published results of lesion synthesis were measured
TEST_CASES = frozenset(
    ("P005", "P008", "P039", "P057", "P061", "P071", "P072", "P077", "P078", "P082")
)
VALIDATION_SHARE = 0.2
_SALT = "emidec-split-v1:"


def prepare_emidec(source: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the cases of EMIDEC as NIfTI with a true voxel size, and a datalist by patient.

    Slices stay whole. ``heart_mm`` of an entry is the middle (RAS) of the box round cavity and
    myocardium, ``heart_extent_mm`` the in-plane sides of that box, so that a window of the model's
    size can be cut round it. Label values: 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow.

    A case is done when ``cases/NAME.json`` lies there; it is then not touched again, unless its
    file in the source has another name. A case that cannot be prepared is named in the result and
    tried again by the next run.

    Args:
        source: folder of the download, or a .zip archive, or a folder with archives: pairs
            ``Images/Case_X.nii.gz`` and ``Contours/Case_X.nii.gz`` at any depth.
        out: folder for ``cases/*.nii.gz`` and ``datalist.json`` with the sections training,
            validation and test (pathological, see :func:`section_of`) and normal.

    Returns:
        Cases by section; ``unlabelled``: cases of the challenge's test set, which has no contours;
        ``broken``: a sentence for each case that could not be prepared.

    Raises:
        FileNotFoundError: if ``source`` does not exist or holds no case.
        ValueError: if a member of an archive would leave its folder.

    Example:
        ``python -m tools prepare emidec --source emidec-dataset-1.0.1.zip --out work/emidec``
    """
    cases = find_cases(source)
    folder = Path(out) / "cases"
    # the challenge's own test set: numbered without a letter, and published without contours
    unlabelled = {name for name, case in cases.items() if name.isdigit() and not case.label}
    entries: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    bar = tqdm([case for name, case in cases.items() if name not in unlabelled], desc="cases")
    with claimed(out, ("cases", "datalist.json")):
        for case in bar:
            try:
                entries.append(_done(case, folder) or write_case(case, folder))
            except (ValueError, OSError) as error:
                broken[case.name] = str(error)
            except Exception as error:  # one odd case of a hundred must not end the run
                broken[case.name] = f"{type(error).__name__}: {error}"
            bar.set_postfix(broken=len(broken), refresh=False)
        counts = _write_sections(Path(out) / "datalist.json", entries)
    return {**counts, "unlabelled": len(unlabelled), "broken": broken}


def section_of(patient: str, pathological: bool = True) -> str:
    """Return the section of a patient, which his name alone decides.

    ``test`` is the list of ten cases that published results use. Of the other pathological cases,
    those are for validation whose sha1 of ``"emidec-split-v1:" + name``, read as a number from 0
    to 1, lies below 0.2. Among the cases that we could look at (47 of them) these are, with
    no-reflow, P035 P043 P055 P063 P081 (5 of 27) and, without, P007 P090 P094 P098 P099 (5 of 20),
    so both kinds are validated in about their proportion.

    Args:
        patient: such as P001.
        pathological: whether there is an infarct; healthy hearts are in the section normal.

    Example:
        >>> [section_of(name) for name in ("P001", "P035", "P082")], section_of("N012", False)
        (['training', 'validation', 'test'], 'normal')
    """
    if not pathological:
        return "normal"
    if patient in TEST_CASES:
        return "test"
    digest = hashlib.sha1(f"{_SALT}{patient}".encode(), usedforsecurity=False).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return "validation" if share < VALIDATION_SHARE else "training"


def _done(case: CaseFiles, folder: Path) -> dict[str, Any] | None:
    """Return the record of a case that an earlier run has completed, or None."""
    path = folder / f"{case.name}.json"
    if not path.is_file() or not case.image:
        return None
    entry: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    whole = all((folder.parent / entry[kind]).is_file() for kind in ("image", "label"))
    return entry if whole and entry["source"] == case.image[0].name else None


def _write_sections(path: Path, entries: Iterable[dict[str, Any]]) -> dict[str, int]:
    sections: dict[str, list[dict]] = {s: [] for s in ("training", "validation", "test", "normal")}
    for entry in entries:
        sections[section_of(entry["patient"], entry["pathological"])].append(entry)
    description = {
        "name": "EMIDEC late-enhancement MRI",
        "description": (
            "short-axis stacks of the heart after contrast, whole slices; split by patient. Cases "
            "of 8 bits are copies resized by others: their voxel size is nominal"
        ),
        "licence": "EMIDEC: CC BY-NC-SA 4.0, Lalande et al., Data 2020, doi:10.3390/data5040089",
        "modality": {"0": "MR"},
        "labels": {"0": "background"} | {str(value): name for value, name in HEART_CLASSES.items()},
    }
    write_datalist(path, sections, description)
    return {name: len(found) for name, found in sections.items()}

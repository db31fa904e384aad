"""Who the patient is, taken out of a DICOM dataset: the basic profile of PS3.15, annex E."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

import dicomanonymizer
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from tools.synthesis.dicom.header import code_item, derived_uid

__all__ = ["deidentify", "pseudonym"]

BASIC_PROFILE = Code("113100", "DCM", "Basic Application Confidentiality Profile")  # CID 7050
METHOD = "Basic Application Level Confidentiality Profile, PS3.15 2026c"
DICOM_ROOT = "1.2.840.10008."  # UIDs of the standard itself tell of nobody
DATES = ("DA", "TM", "DT")
TEXTS = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT")
NO_DATE = "00010101"  # what the library writes for a date; Python and viewers stumble over it


def pseudonym(*words: str) -> str:
    """Return twelve letters and digits that the same words always give; they tell nothing of them.

    Args:
        words: a UID among them, as the few digits of a patient's number could be found by trying.

    Example:
        >>> pseudonym("1.2.3", "Doe")
        '862E719E9294'
    """
    return hashlib.sha256("|".join(("pseudonym", *words)).encode()).hexdigest()[:12].upper()


def deidentify(dataset: Dataset) -> None:
    """Replace all that the basic profile replaces, in sequences too; the pixels stay.

    UIDs become others that depend on the old ones alone, so that all files that are done so, in
    any run, still refer to each other. The patient gets a pseudonym for the study. Other text that
    holds the name or a number of the patient goes too, though the profile would keep it.

    Args:
        dataset: changed in place.

    Raises:
        ValueError: if an element cannot be replaced.
    """
    study, number = (str(dataset.get(k, "")) for k in ("StudyInstanceUID", "PatientID"))
    words = _words(dataset)
    dataset.remove_private_tags()
    for part in _parts(dataset):
        _keep_references(part)
    try:
        for part in _parts(dataset):
            # only what is there: the table has hundreds of rules
            tags = {(element.tag.group, element.tag.element) for element in part}
            present = {k: rule for k, rule in _rules().items() if len(k) > 2 or k in tags}
            dicomanonymizer.anonymize_dataset(part, base_rules_gen=present.copy)
            _clean(part, words)
    except RuntimeError as error:  # the library met an element of a kind that it has no rule for
        raise ValueError(f"deidentify must know every kind of element, got: {error}") from error
    dataset.preamble = b"\0" * 128
    dataset.PatientID = pseudonym("patient", study, number)
    dataset.PatientName = f"Pseudonym^{dataset.PatientID}"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    dataset.DeidentificationMethodCodeSequence = [code_item(BASIC_PROFILE)]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _words(dataset: Dataset) -> set[str]:
    """Return name and numbers of the patient, in lower case; short ones are parts of any text."""
    text = [str(dataset.get(k, "") or "") for k in ("PatientName", "PatientID", "AccessionNumber")]
    found = {word.lower() for each in text for word in re.split(r"[\W_]+", each)}
    return {word for word in found | {each.lower() for each in text} if len(word) > 2}


def _clean(part: Dataset, words: set[str]) -> None:
    """Empty what the library writes for dates, and remove text with one of the words in it."""
    for element in list(part):
        if element.VR in DATES and str(element.value).startswith(NO_DATE):
            element.value = ""
        elif element.VR in TEXTS and any(word in str(element.value).lower() for word in words):
            del part[element.tag]


def _parts(dataset: Dataset) -> Iterator[Dataset]:
    """Yield a dataset, then what of its sequences is left, level by level."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _parts(item)


def _keep_references(part: Dataset) -> None:
    """Tell the library what each UID becomes, in place of the random ones that it would draw."""
    known = dicomanonymizer.simpledicomanonymizer.dictionary
    for element in part:
        if element.VR == "UI" and element.value:
            uids = [element.value] if isinstance(element.value, str) else element.value
            for uid in map(str, uids):
                own = not uid.startswith(DICOM_ROOT)
                known[uid] = derived_uid("deidentified", uid) if own else uid


@lru_cache(maxsize=1)
def _rules() -> dict[tuple[int, ...], Callable[..., None]]:
    return dicomanonymizer.initialize_actions("dicomfields_2026c")

"""Images and labels of an exported dataset: linked, copied, or written so that ITK opens them."""

from __future__ import annotations

import gzip
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK
from tqdm import tqdm

from tools.export.dataset import ExportCase, ExportSet
from tools.scans.reader import open_image, require_finite
from tools.scans.scan import Scan

__all__ = ["ENDING", "RECORD_NAME", "class_map", "place_cases", "place_image", "place_label"]

logger = logging.getLogger(__name__)

ENDING = ".nii.gz"
RECORD_NAME = "export.json"
SAME_MM = 1e-3


def place_cases(
    folder: Path, dataset: ExportSet, copy: bool, channel: str = ""
) -> tuple[list[dict[str, str]], set[int], list[str]]:
    """Put all cases under ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` of a folder.

    Names of images end in the channel. The paths of each case in the folder are returned, the label
    values of training cases, and a sentence for each label that had to be resampled.

    Raises:
        ValueError: if a file is none, or the labels of all real or all synthetic cases to train on
            are empty.
    """
    paths: list[dict[str, str]] = []
    found: dict[bool, set[int]] = {case.synthetic: set() for case in dataset.cases if case.trained}
    notes: list[str] = []
    for case in tqdm(dataset.cases, desc="exporting", unit="case"):
        part = "Ts" if case.testing else "Tr"
        entry = {"image": f"images{part}/{case.name}{channel}{ENDING}"}
        if case.label is not None:
            entry["label"] = f"labels{part}/{case.name}{ENDING}"
        for path in entry.values():
            (folder / path).parent.mkdir(exist_ok=True)
        place_image(case.image, folder / entry["image"], copy)
        if case.label is not None:
            scan = Scan(folder / entry["image"], argument="image")
            values = place_label(case, scan, folder / entry["label"], copy)
            if case.trained:
                found[case.synthetic] |= values
            notes += [f"{case.name}: {note}" for note in scan.notes]
        paths.append(entry)
    for synthetic, values in found.items():
        if not any(values):
            count = sum(case.trained and case.synthetic is synthetic for case in dataset.cases)
            raise ValueError(
                f"labels of {'synthetic' if synthetic else 'real'} cases must mark "
                f"{', '.join(dataset.classes)} in one at least, got {count} empty ones"
            )
    return paths, set().union(*found.values()), notes


def place_image(source: Path, target: Path, copy: bool = False) -> None:
    """Link to a NIfTI file that ITK opens, or copy it where links cannot be made.

    A ``.nii`` is always copied, and compressed. What ITK cannot open (NIfTI-2, a fourth axis, a
    sheared affine that nothing else goes with), and other formats, are written anew.

    Raises:
        ValueError: if it is no scan, or its values are not finite.
    """
    scan = Scan(source, argument="image")
    require_finite(scan.values_of(scan.stored), "image", source)
    if _itk_place(source) is None:
        scan.write(target, scan.stored, synthetic=False)
    else:
        _place_file(source, target, copy)


def place_label(case: ExportCase, scan: Scan, target: Path, copy: bool = False) -> set[int]:
    """Put the label of a case where a dataset wants it; return the values written.

    A file that has the values of the dataset already, on the grid of the image, is placed as
    :func:`place_image` does. Lesions of the scan that a synthetic case was made from are still to
    be seen in it, so its label gets them where it has no value of its own.

    Args:
        case: with a label, on any grid.
        scan: its image as it was placed; notes of what was resampled are left there.
        target: file to write.
        copy: never link.

    Raises:
        ValueError: if a label is none, lies outside of the image, or a value has no name.
    """
    assert case.label is not None
    stored = class_map(case, scan)
    if _holds(case.label, stored) and _same_place(case.label, scan):
        _place_file(case.label, target, copy)
    else:
        scan.write_label(target, stored, synthetic=False)
    return {int(value) for value in np.unique(stored)}


def class_map(case: ExportCase, scan: Scan) -> np.ndarray:
    """Return the label of a case with the values of the dataset, see :func:`place_label`."""
    assert case.label is not None
    given = scan.load_labels(case.label, "label")
    stored = _mapped(given, case.values, case.label)
    if case.source_label is not None:
        own = scan.load_labels(case.source_label, "label")
        stored = np.where(stored > 0, stored, _mapped(own, case.source_values, case.source_label))
    return stored


def _place_file(source: Path, target: Path, copy: bool) -> None:
    if source.suffix.lower() != ".gz":
        with source.open("rb") as read, gzip.GzipFile(target, "wb", mtime=0) as written:
            shutil.copyfileobj(read, written)
        return
    if not copy:
        try:
            target.symlink_to(source.resolve())
            return
        except OSError:  # as on Windows without the right to make links
            logger.debug("%s is copied: it cannot be linked to", source)
    shutil.copyfile(source, target)


def _itk_place(path: Path) -> np.ndarray | None:
    """Return origin, spacing and axes of a 3-D NIfTI file for ITK; None where it opens no such."""
    axes = len(open_image(path).shape)  # ITK passes over a fourth, others do not
    if axes != 3 or not path.name.lower().endswith((".nii", ENDING)):
        return None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # on shears, which are looked for here
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return np.array([*reader.GetOrigin(), *reader.GetSpacing(), *reader.GetDirection()])


def _same_place(label: Path, scan: Scan) -> bool:
    """Return whether a label file lies where the placed image does, for ITK and for nibabel."""
    assert scan.path is not None
    place, wanted = _itk_place(label), _itk_place(scan.path)
    return (
        place is not None
        and wanted is not None
        and np.allclose(place, wanted, rtol=0, atol=SAME_MM)
        and np.allclose(Scan(label).affine, scan.affine, rtol=0, atol=SAME_MM)
    )


def _holds(label: Path, stored: np.ndarray) -> bool:
    """Return whether a file holds these whole numbers, as such and without any scaling."""
    own = Scan(label)
    plain = own.stored.dtype.kind in "iu" and own.values_of(own.stored) is own.stored
    return plain and np.array_equal(own.stored, stored)


def _mapped(labels: np.ndarray, values: Mapping[int, int], path: Path) -> np.ndarray:
    """Return a label map with other values, uint8."""
    present = np.unique(labels)
    strange = [int(value) for value in present if value not in values]
    if strange:
        raise ValueError(
            f"label must hold the values {sorted(values)}, got {strange[:5]} in {path}"
        )
    result = np.zeros(labels.shape, np.uint8)
    for value in present:
        result[labels == value] = values[int(value)]
    return result

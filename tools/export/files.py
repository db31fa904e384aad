"""Images and labels of an exported dataset: linked, copied, or with other label values."""

from __future__ import annotations

import gzip
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from tqdm import tqdm

from tools.export.dataset import ExportCase, ExportSet

__all__ = ["ENDING", "RECORD_NAME", "place_cases", "place_image", "place_label"]

logger = logging.getLogger(__name__)

ENDING = ".nii.gz"
RECORD_NAME = "export.json"
TOLERANCE_MM = 1e-3


def place_cases(
    folder: Path, dataset: ExportSet, copy: bool, channel: str = ""
) -> tuple[list[dict[str, str]], set[int]]:
    """Put all cases under ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` of a folder.

    Names of images end in the channel. The paths of each case in the folder are returned, and the
    label values of training cases.
    """
    paths: list[dict[str, str]] = []
    found: set[int] = set()
    for case in tqdm(dataset.cases, desc="exporting", unit="case"):
        part = "Ts" if case.testing else "Tr"
        entry = {"image": f"images{part}/{case.name}{channel}{ENDING}"}
        if case.label is not None:
            entry["label"] = f"labels{part}/{case.name}{ENDING}"
        for path in entry.values():
            (folder / path).parent.mkdir(exist_ok=True)
        place_image(case.image, folder / entry["image"], copy)
        if case.label is not None:
            values = place_label(case, folder / entry["label"], copy)
            found |= set() if case.testing else values
        paths.append(entry)
    return paths, found


def place_image(source: Path, target: Path, copy: bool = False) -> None:
    """Link to a NIfTI file, or copy it where links cannot be made.

    A ``.nii`` is always copied, and compressed.
    """
    if source.suffix != ".gz":
        with source.open("rb") as read, gzip.GzipFile(target, "wb", mtime=0) as written:
            shutil.copyfileobj(read, written)
        return
    if not copy:
        try:
            target.symlink_to(source.resolve())
            return
        except (OSError, NotImplementedError):  # a file system, or a user, without links
            logger.debug("%s is copied: it cannot be linked to", source)
    shutil.copyfile(source, target)


def place_label(case: ExportCase, target: Path, copy: bool = False) -> set[int]:
    """Put the label of a case where a dataset wants it; return the values written.

    A file that has the values of the dataset already is placed as :func:`place_image` does. Lesions
    of the scan that a synthetic case was made from are still to be seen in it, so its label gets
    them where it has no value of its own.

    Raises:
        ValueError: if image and label are not on one grid with three axes, or a value has no name.
    """
    assert case.label is not None
    image, file = _load(case.image), _load(case.label)
    stored = _mapped(file, image, case.values, case.label)
    if case.source_label is not None:
        own = _mapped(_load(case.source_label), image, case.source_values, case.source_label)
        stored = np.where(stored > 0, stored, own)
    plain = file.get_data_dtype().kind in "iu" and not file.header.get_slope_inter()[1]
    if plain and np.array_equal(stored, np.asanyarray(file.dataobj)):
        place_image(case.label, target, copy)
    else:
        # the header of the image, so that every program sees both on one grid
        result = nib.Nifti1Image(stored, image.affine, image.header)
        result.set_data_dtype(np.uint8)
        nib.save(result, target)
    return {int(value) for value in np.unique(stored)}


def _load(path: Path) -> nib.Nifti1Image:
    try:
        result = nib.Nifti1Image.load(path)
    except ImageFileError as error:
        raise ValueError(f"files must be NIfTI images, got {path}") from error
    if len(result.shape) != 3:
        raise ValueError(f"files must have 3 dimensions, got shape {result.shape} in {path}")
    return result


def _mapped(
    file: nib.Nifti1Image, image: nib.Nifti1Image, values: Mapping[int, int], path: Path
) -> np.ndarray:
    """Return a label on the grid of an image with other values, uint8."""
    if file.shape != image.shape:
        raise ValueError(
            f"label must have the image's shape {image.shape}, got {file.shape} in {path}"
        )
    if not np.allclose(file.affine, image.affine, atol=TOLERANCE_MM):
        raise ValueError(
            f"label must have the image's affine, got {file.affine.tolist()} in {path}"
        )
    data = np.asanyarray(file.dataobj)
    present = np.unique(data)
    strange = [float(value) for value in present if value not in values]
    if strange:
        raise ValueError(
            f"label must hold the values {sorted(values)}, got {strange[:5]} in {path}"
        )
    result = np.zeros(data.shape, np.uint8)
    for value in present:
        result[data == value] = values[int(value)]
    return result

"""A dataset for detection: boxes for MONAI's detection module, label maps for nnDetection."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from tools.export.cases import read_cases
from tools.export.dataset import ExportCase, ExportChoice, ExportSet, summarize
from tools.export.files import ENDING, RECORD_NAME, class_map, place_image
from tools.export.nnunet import make_splits
from tools.files import new_folder, write_json
from tools.scans.scan import Scan
from tools.windows import bounds_mm

__all__ = ["BOX_MODES", "FORMS", "export_detection", "find_objects", "world_box"]

FORMS = ("monai", "nndetection")
BOX_MODES = ("cccwhd", "xyzxyz")
COORDINATES = ("RAS", "LPS")
OWNS: tuple[str, ...] = ("dataset*.json", RECORD_NAME, "splits_final.pkl", f"images??/*{ENDING}")
OWNS += (f"labels??/*{ENDING}", "labels??/*.json")


class Objects(NamedTuple):
    """The lesions of a case: a map of their numbers 1, 2, ..., and the class of each from 0."""

    numbers: np.ndarray
    classes: list[int]


def export_detection(
    synthetic: str | Path,
    real: str | Path | None,
    out: str | Path,
    form: str = "monai",
    box_mode: str = "cccwhd",
    coordinates: str = "RAS",
    choice: ExportChoice | None = None,
    copy: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write images and the lesions in them, one by one, for programs that detect.

    ``monai``: ``dataset_fold0.json`` ... with ``box`` (mm) and ``label`` (class from 0) of each
    image under ``training`` and ``validation``, as the tutorial of MONAI's detection module reads
    them. ``nndetection``: label maps of lesion numbers under ``labelsTr``, a JSON file beside each
    with the class of every number, ``dataset.json`` and ``splits_final.pkl``.

    Lesions of synthetic cases are those of ``instances.nii.gz`` (``synthesize --instances``);
    where there is none, and in real cases, what hangs together, corners included. Who is trained
    on and validated where is decided as for every export, see
    :func:`tools.export.cases.read_cases`.

    Arguments are those of the command. What was written is returned, and lies in ``export.json``.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an argument is unknown, or the datasets do not fit together.
    """
    words = {"form": FORMS, "box_mode": BOX_MODES, "coordinates": COORDINATES}
    for (name, known), value in zip(words.items(), (form, box_mode, coordinates), strict=True):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    dataset = read_cases(synthetic, real, choice)
    folder = Path(out).resolve()
    with new_folder(folder, OWNS, replace=overwrite) as partial:
        channel = "_0000" if form == "nndetection" else ""
        found = _place_images(partial, dataset, channel, copy)
        classes = {kind + 1 for objects, _ in found.values() for kind in objects.classes}
        facts = summarize(dataset, classes) | {"out": str(folder), "form": form}
        facts["lesions"] = sum(len(objects.classes) for objects, _ in found.values())
        facts["not_in_fold"] = {c.name: c.blocked for c in dataset.cases if c.blocked is not None}
        if form == "monai":
            facts |= {"box_mode": box_mode, "coordinates": coordinates, "unit": "mm"}
            _write_boxes(partial, dataset, found, box_mode, coordinates)
        else:
            _write_instances(partial, dataset, found)
        write_json(partial / RECORD_NAME, facts)
    return facts


def _place_images(
    folder: Path, dataset: ExportSet, channel: str, copy: bool
) -> dict[str, tuple[Objects, Scan]]:
    """Put the images of all cases into a folder; return the lesions of those with a label."""
    found = {}
    for case in tqdm(dataset.cases, desc="exporting", unit="case"):
        path = folder / _image(case, channel)
        path.parent.mkdir(exist_ok=True)
        place_image(case.image, path, copy)
        if case.label is not None:
            scan = Scan(path, argument="image")
            numbers = None
            if case.instances is not None:
                numbers = scan.load_labels(case.instances, "instances")
            found[case.name] = find_objects(class_map(case, scan), numbers), scan
    return found


def _image(case: ExportCase, channel: str) -> str:
    return f"images{'Ts' if case.testing else 'Tr'}/{case.name}{channel}{ENDING}"


def find_objects(labels: np.ndarray, instances: np.ndarray | None = None) -> Objects:
    """Return the lesions of a label map.

    Args:
        labels: class of each voxel from 1, 0 is background.
        instances: number of the lesion of each voxel, whatever its class; voxels of a class that
            have none are parts of lesions that hang together. None: there are no numbers.

    Returns:
        Numbers without gaps. The class of a lesion of several is that of most of its voxels.

    Example:
        >>> found = find_objects(np.array([1, 1, 0, 2, 0, 1]), np.array([4, 7, 0, 0, 0, 0]))
        >>> found.numbers.tolist(), found.classes
        ([1, 2, 0, 4, 0, 3], [0, 0, 0, 1])
    """
    numbers, classes = np.zeros(labels.shape, np.uint16), list[int]()
    own = np.zeros_like(labels) if instances is None else np.where(labels > 0, instances, 0)
    rest = np.where(own > 0, 0, labels)
    maps = [own] if own.any() else []
    for value in np.unique(rest[rest > 0]):
        maps.append(ndimage.label(rest == value, np.ones((3,) * labels.ndim))[0])
    for found in maps:
        for value, box in enumerate(ndimage.find_objects(found.astype(int)), start=1):
            if box is not None:
                mask = found[box] == value
                numbers[box][mask] = len(classes) + 1
                classes.append(int(np.bincount(labels[box][mask]).argmax()) - 1)
    return Objects(numbers, classes)


def world_box(
    box: tuple[slice, ...], affine: np.ndarray, mode: str = "cccwhd", coordinates: str = "RAS"
) -> list[float]:
    """Return a box of voxels in mm, from the outer faces of its first and last voxels.

    Args:
        box: along each axis.
        affine: voxel to RAS mm; of turned axes the box is the one round the turned one.
        mode: ``cccwhd``, middle and sides, or ``xyzxyz``, lowest and highest corner.
        coordinates: RAS, or LPS as DICOM and ITK have it.

    Example:
        >>> world_box((slice(0, 2),) * 3, np.diag([1.0, 1.0, 2.0, 1.0]))
        [0.5, 0.5, 1.0, 2.0, 2.0, 4.0]
        >>> world_box((slice(0, 2),) * 3, np.diag([1.0, 1.0, 2.0, 1.0]), "xyzxyz", "LPS")
        [-1.5, -1.5, -1.0, 0.5, 0.5, 3.0]
    """
    low, high = bounds_mm(box, affine)
    if coordinates == "LPS":
        turn = np.array([-1.0, -1.0, 1.0])
        low, high = np.sort([low * turn, high * turn], axis=0)
    ends = [(low + high) / 2, high - low] if mode == "cccwhd" else [low, high]
    return [round(float(value), 4) for value in np.concatenate(ends)]


def _write_boxes(
    folder: Path,
    dataset: ExportSet,
    found: Mapping[str, tuple[Objects, Scan]],
    box_mode: str,
    coordinates: str,
) -> None:
    """Write a datalist of boxes per fold."""
    entries = {}
    for case in dataset.cases:
        entry: dict[str, Any] = {"image": _image(case, ""), "synthetic": case.synthetic}
        if case.name in found:
            objects, scan = found[case.name]
            boxes = ndimage.find_objects(objects.numbers.astype(int))
            entry["box"] = [world_box(box, scan.affine, box_mode, coordinates) for box in boxes]
            entry["label"] = objects.classes
        entries[case.name] = entry
    testing = [entries[case.name] for case in dataset.cases if case.testing]
    for number, fold in enumerate(make_splits(dataset)):
        lists = {"training": fold["train"], "validation": fold["val"]}
        content = {name: [entries[each] for each in names] for name, names in lists.items()}
        classes = {str(value): name for value, name in enumerate(dataset.classes)}
        facts = {"labels": classes, "box_mode": box_mode, "coordinates": coordinates}
        write_json(folder / f"dataset_fold{number}.json", facts | content | {"testing": testing})


def _write_instances(
    folder: Path, dataset: ExportSet, found: Mapping[str, tuple[Objects, Scan]]
) -> None:
    """Write label maps of lesion numbers, their classes, the description and the splits."""
    for case in dataset.cases:
        if case.name in found:
            objects, scan = found[case.name]
            place = folder / f"labels{'Ts' if case.testing else 'Tr'}"
            place.mkdir(exist_ok=True)
            path = place / f"{case.name}{ENDING}"
            scan.write_label(path, objects.numbers, case.synthetic, np.uint16)
            kinds = {str(number): kind for number, kind in enumerate(objects.classes, 1)}
            write_json(place / f"{case.name}.json", {"instances": kinds})
    content = {
        "task": folder.name,
        "dim": 3,
        "target_class": None,
        "test_labels": any(case.testing and case.name in found for case in dataset.cases),
        "labels": {str(value): name for value, name in enumerate(dataset.classes)},
        "modalities": {"0": dataset.modality},
    }
    write_json(folder / "dataset.json", content)
    (folder / "splits_final.pkl").write_bytes(pickle.dumps(make_splits(dataset), protocol=4))

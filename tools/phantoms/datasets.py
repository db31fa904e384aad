"""Phantoms on disk: chests, datasets of nodules, and a healthy scan of each organ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.files import write_json
from tools.phantoms.abdomen_ct import ORGANS, abdomen_ct, draw_tumours
from tools.phantoms.chest_ct import NODULE_TEXTURES, Nodule, chest_ct, draw_nodules
from tools.phantoms.datalists import (
    PHANTOM_VERSION,
    cached_phantom,
    read_section,
    write_case,
    write_datalist,
    write_scan,
)
from tools.phantoms.heart_datasets import write_heart_phantom
from tools.transforms.ratings import rating_class

__all__ = [
    "PHANTOM_VERSION",
    "STUDY_ABDOMENS",
    "healthy_datalist",
    "lesion_datalist",
    "phantom_scan",
    "rated_datalist",
    "tumour_datalist",
    "tumour_roi_datalist",
    "write_abdomen_phantom",
    "write_chest_phantom",
    "write_healthy_rois",
    "write_lesion_rois",
    "write_tumour_dataset",
    "write_tumour_rois",
]

ROI_SIZE = 32
HEALTHY_ROI_SIZE = 72  # room for a lesion and its surroundings
CUBES_OF_A_BODY = 4
# Abdomens per section; those of the section normal have no tumour.
ABDOMENS = {"training": 8, "validation": 3, "test": 2, "normal": 3}
STUDY_ABDOMENS = {"training": 12, "test": 12, "normal": 8}  # of the study liver_small
ABDOMEN_GRID = ((132, 100, 90), 2.6)
TUMOUR_ROI_SIZE = 48
TUMOUR_ROIS = {"training": 16, "validation": 8}


def write_chest_phantom(
    out_dir: str | Path,
    seed: int = 0,
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
) -> dict[str, str]:
    """Write a healthy chest CT phantom, see :func:`chest_ct`, with its lung mask.

    Returns:
        Paths by name: ``image`` (int16 HU), ``lung`` (uint8) and ``record`` (JSON).
    """
    phantom = chest_ct(shape, spacing_mm, seed)
    return write_scan(
        Path(out_dir),
        "phantom_chest",
        {"image": phantom.image, "lung": phantom.lung_mask},
        phantom.affine,
        seed=seed,
        shape=list(shape),
        spacing_mm=[float(v) for v in np.linalg.norm(phantom.affine[:3, :3], axis=0)],
        lesions=[],
    )


def write_abdomen_phantom(
    out_dir: str | Path, organ: str = "liver", seed: int = 0, spacing_mm: float = 2.0
) -> dict[str, str]:
    """Write a healthy abdominal CT phantom, see :func:`abdomen_ct`, with the mask of an organ.

    Returns:
        Paths by name: ``image`` (int16 HU), ``organ_mask`` (uint8) and ``record`` (JSON).
    """
    width, depth, height = (round(mm / spacing_mm) for mm in (352, 264, 240))
    phantom = abdomen_ct((width, depth, height), spacing_mm, seed)
    volumes = {"image": phantom.image, "organ_mask": _mask_of(phantom.organs, organ)}
    facts = {"seed": seed, "organ": organ, "spacing_mm": spacing_mm}
    return write_scan(Path(out_dir), "phantom_abdomen", volumes, phantom.affine, **facts)


def _mask_of(organs: Any, organ: str) -> Any:
    if organ not in ORGANS:
        raise ValueError(f"organ must be one of {', '.join(ORGANS)}, got {organ!r}")
    return (organs == ORGANS[organ]).astype(np.uint8)


def write_tumour_dataset(
    out_dir: str | Path,
    organ: str = "liver",
    seed: int = 0,
    sections: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write abdomens with one to three tumours of an organ, label maps and a datalist, returned.

    The label is 1 in the organ, 2 in tumours. Each abdomen is a patient of its own. Of each section
    so many are made, None is training 8, validation 3, test 2, and normal 3, which have no tumour.

    Raises:
        ValueError: if a section has no abdomen, or the phantom no such organ.
    """
    sections = dict(ABDOMENS if sections is None else sections)
    if not sections or min(sections.values()) < 1:
        raise ValueError(f"sections must have at least one abdomen each, got {sections}")
    folder, written = Path(out_dir), {section: [] for section in sections}  # type: ignore[var-annotated]
    plan = [section for section, count in sections.items() for _ in range(count)]
    for index, section in enumerate(tqdm(plan, desc="phantom abdomens", unit="abdomen")):
        body, name = 1000 * seed + index, f"phantom_{index:03d}"
        drawn = [] if section == "normal" else draw_tumours(body, organ, 1 + index % 3, (7, 22))
        phantom = abdomen_ct(*ABDOMEN_GRID, body, drawn)
        label = _mask_of(phantom.organs, organ)
        label[(label > 0) & (phantom.lesion_mask > 0)] = 2
        volumes, facts = {"image": phantom.image, "label": label}, {"seed": body, "patient": name}
        entry = write_case(folder, f"cases/{name}", volumes, phantom.affine, **facts)
        written[section].append(entry)
    labels = {"0": "background", "1": organ, "2": "tumour"}
    name = f"phantom tumours of the {organ}"
    return write_datalist(folder, name, written, modality={"0": "CT"}, labels=labels)


def write_tumour_rois(out_dir: str | Path, seed: int = 0) -> dict[str, Any]:
    """Write cubes of 48 mm round phantom tumours of liver, pancreas and kidney, with a datalist.

    Organs take turns; each cube is of a body of its own. The content of ``datalist.json`` is
    returned.
    """
    folder, written = Path(out_dir), {section: [] for section in TUMOUR_ROIS}  # type: ignore[var-annotated]
    plan = [section for section, count in TUMOUR_ROIS.items() for _ in range(count)]
    for index, section in enumerate(tqdm(plan, desc="phantom tumours", unit="tumour")):
        body, organ = 1000 * seed + index, ("liver", "pancreas", "kidney")[index % 3]
        (tumour,) = draw_tumours(body, organ, 1, (8, 20))
        grid = ((TUMOUR_ROI_SIZE,) * 3, 1.0)
        window = abdomen_ct(*grid, body, [tumour], tumour.site_mm)
        volumes: dict[str, np.ndarray] = {"image": window.image, "label": window.lesion_mask}
        name, patient = f"rois/phantom_{index:03d}", f"phantom_{body}"
        entry = write_case(folder, name, volumes, window.affine, organ=organ, patient=patient)
        written[section].append(entry)
    return write_datalist(folder, "phantom abdominal tumours", written)


def write_lesion_rois(out_dir: str | Path, count: int = 24, seed: int = 0) -> dict[str, Any]:
    """Write a small training set: cubes of 32 mm round phantom nodules, with labels and a datalist.

    Two thirds of the cubes are the section "training", the rest "validation"; no body is in both,
    and textures take turns in each. The content of ``datalist.json`` is returned.

    Raises:
        ValueError: if ``count``, of the cubes, is less than 3.
    """
    if count < 3:
        raise ValueError(f"count must be >= 3, got {count}")
    folder = Path(out_dir)
    sections: dict[str, Any] = {}
    body, number = 1000 * seed, 0
    for section, cubes in {"training": count - count // 3, "validation": count // 3}.items():
        sections[section] = []
        for left in range(cubes, 0, -CUBES_OF_A_BODY):
            for nodule in draw_nodules(body, min(left, CUBES_OF_A_BODY)):
                name = f"rois/phantom_{number:03d}"
                nodule = nodule._replace(texture=NODULE_TEXTURES[number % len(NODULE_TEXTURES)])
                sections[section].append(_write_cube(folder, name, body, nodule))
                number += 1
            body += 1
    return write_datalist(folder, "phantom lung nodules", sections)


def _write_cube(folder: Path, name: str, body: int, nodule: Nodule) -> dict[str, Any]:
    window = chest_ct((ROI_SIZE,) * 3, 1.0, body, nodule.site_mm, [nodule])
    return write_case(
        folder,
        name,
        {"image": window.image, "label": window.lesion_mask},
        window.affine,
        texture=nodule.texture,
        diameter_mm=nodule.diameter_mm,
        shape_source="ellipsoid",
        patient=f"phantom_{body}",
    )


def write_healthy_rois(out_dir: str | Path, count: int = 6, seed: int = 0) -> dict[str, Any]:
    """Write cubes of 72 mm of healthy phantom lungs with lung masks, each of a body of its own.

    The bodies are not those of :func:`write_lesion_rois` of the same seed. They are the section
    "normal" of ``datalist.json``, whose content is returned.
    """
    folder, entries = Path(out_dir), []
    for number in range(count):
        body = 1000 * seed + 500 + number
        (inside,) = draw_nodules(body, 1)
        window = chest_ct((HEALTHY_ROI_SIZE,) * 3, 1.0, body, inside.site_mm)
        volumes: dict[str, np.ndarray] = {"image": window.image, "organ_mask": window.lung_mask}
        name, patient = f"rois/phantom_normal_{number:03d}", f"phantom_{body}"
        entries.append(write_case(folder, name, volumes, window.affine, patient=patient))
    return write_datalist(folder, "healthy phantom lungs", {"normal": entries})


def healthy_datalist(
    dataset_dir: str | Path | None, section: str = "normal"
) -> list[dict[str, Any]]:
    """Return a section of scans without lesions of a dataset, of phantom lungs if none is named.

    See :func:`lesion_datalist`. Entries may have the mask of an organ, as ``organ_mask``.
    """
    return read_section(
        dataset_dir, section, f"phantom-healthy-{PHANTOM_VERSION}", write_healthy_rois
    )


def lesion_datalist(
    dataset_dir: str | Path | None,
    section: str = "training",
    cache_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset's datalist, of the embedded phantom if no dataset is named.

    See :func:`tools.phantoms.datalists.read_section`; the phantom is made on first use and kept in
    ``cache_dir``, None for ``~/.cache/synthetic-lesions``.
    """
    name = f"phantom-{PHANTOM_VERSION}"
    return read_section(dataset_dir, section, name, write_lesion_rois, cache_dir)


def rated_datalist(
    dataset_dir: str | Path | None,
    section: str,
    rating: str,
    classes: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    """Return the entries of a section whose rating has a class, under the rating's own name.

    See :func:`lesion_datalist`; of the phantom's ratings there is ``texture``. Ratings may stand in
    the entry, as ``prepare scans`` writes them, or in its ``ratings``.

    Args:
        dataset_dir: see above.
        section: of the datalist.
        rating: its name, such as texture or malignancy.
        classes: see :func:`tools.transforms.ratings.rating_class`.

    Raises:
        ValueError: if no entry has a class.
    """
    found = []
    for entry in lesion_datalist(dataset_dir, section):
        value = entry.get(rating, (entry.get("ratings") or {}).get(rating))
        if rating_class(value, classes) is not None:
            found.append({**entry, rating: value})
    if not found:
        raise ValueError(
            f"dataset_dir must hold lesions with a rating of {rating} in section {section}, got "
            f"none in {dataset_dir or 'the embedded phantom'}"
        )
    return found


def tumour_datalist(
    dataset_dir: str | Path | None, section: str = "training", organ: str = "liver"
) -> list[dict[str, Any]]:
    """Return one section of a dataset of abdomens, of the phantom if none is named.

    See :func:`lesion_datalist`. The phantom has training, validation, test and normal (no tumour).
    """
    write = partial(write_tumour_dataset, organ=organ)
    return read_section(dataset_dir, section, f"phantom-{organ}-{PHANTOM_VERSION}", write)


def tumour_roi_datalist(
    dataset_dir: str | Path | None, section: str = "training"
) -> list[dict[str, Any]]:
    """Return one section of a dataset of windows round tumours, of the phantom if none is named.

    See :func:`lesion_datalist`.
    """
    name = f"phantom-tumours-{PHANTOM_VERSION}"
    return read_section(dataset_dir, section, name, write_tumour_rois)


def phantom_scan(organ: str) -> Path:
    """Return a folder with a healthy phantom scan and the mask of an organ, made on first use.

    Raises:
        ValueError: if there is no phantom of the organ.
    """
    writers: dict[str, Callable[[Path], object]]
    writers = {"lung": write_chest_phantom, "heart": write_heart_phantom}
    writers |= {name: partial(write_abdomen_phantom, organ=name) for name in ORGANS}
    if organ not in writers:
        raise ValueError(f"scan must be given, there is no phantom of the {organ}, got none")

    def write(folder: Path) -> None:
        writers[organ](folder)
        write_json(folder / "datalist.json", {"training": []})

    return cached_phantom(f"phantom-{PHANTOM_VERSION}-scan-{organ}", write)

"""A small phantom dataset of hearts on disk, and the datalist that the configs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.phantoms.datalists import (
    PHANTOM_VERSION,
    read_section,
    write_case,
    write_datalist,
    write_scan,
)
from tools.phantoms.heart_mr import HeartPhantom, heart_mr
from tools.transforms.wall import HEART_CLASSES, measure_heart

__all__ = ["heart_datalist", "write_heart_dataset", "write_heart_phantom"]

# Hearts per section; those of the section normal have no infarct.
_SECTIONS = {"training": 12, "validation": 4, "test": 2, "normal": 4}
_SPACING_MM = (1.4, 1.4, 10.0)
# Stacks of 7 to 10 slices, as patients have them, wide enough for the heart and what touches it.
_SIDE, _SLICES = 112, (7, 11)


def write_heart_phantom(
    out_dir: str | Path,
    seed: int = 0,
    shape: tuple[int, int, int] = (160, 160, 10),
    spacing_mm: tuple[float, float, float] = _SPACING_MM,
) -> dict[str, str]:
    """Write a short-axis stack of a healthy phantom heart, see :func:`heart_mr`, with its label.

    Returns:
        Paths by name: ``image`` (int16), ``label`` (uint8: 1 cavity, 2 myocardium) and ``record``
        (JSON).
    """
    phantom = heart_mr(shape, spacing_mm, seed, infarct=False)
    facts = _facts(phantom, seed) | {"patient": "phantom_heart", "shape": list(shape)}
    return write_scan(Path(out_dir), "phantom_heart", _volumes(phantom), phantom.affine, **facts)


def write_heart_dataset(
    out_dir: str | Path, seed: int = 0, sections: dict[str, int] | None = None
) -> dict[str, Any]:
    """Write short-axis stacks of phantom hearts with labels and a datalist, whose content returns.

    Each heart is a patient of its own. Of each section so many are made, None is training 12,
    validation 4, test 2, and normal 4, which have no infarct; in the others two of three have a
    core without flow.

    Raises:
        ValueError: if a section has no heart.
    """
    sections = dict(_SECTIONS if sections is None else sections)
    if not sections or min(sections.values()) < 1:
        raise ValueError(f"sections must have at least one heart each, got {sections}")
    folder = Path(out_dir)
    labels = {"0": "background"} | {str(v): n for v, n in HEART_CLASSES.items()}
    written: dict[str, Any] = {section: [] for section in sections}
    plan = [(section, i) for section, count in sections.items() for i in range(count)]
    for index, (section, place) in enumerate(tqdm(plan, desc="phantom hearts", unit="heart")):
        number = int(np.random.default_rng([seed, 12, index]).integers(2**31))
        shape = (_SIDE, _SIDE, int(np.random.default_rng(number).integers(*_SLICES)))
        phantom = heart_mr(shape, _SPACING_MM, number, section != "normal", place % 3 != 2)
        facts = _facts(phantom, number) | {"patient": f"phantom_{index:03d}"}
        name = f"cases/phantom_{index:03d}"
        entry = write_case(folder, name, _volumes(phantom), phantom.affine, **facts)
        written[section].append(entry)
    return write_datalist(folder, "phantom hearts", written, modality={"0": "MR"}, labels=labels)


def _volumes(phantom: HeartPhantom) -> dict[str, Any]:
    return {"image": phantom.image, "label": phantom.label}


def _facts(phantom: HeartPhantom, seed: int) -> dict[str, Any]:
    measured = measure_heart(phantom.label, phantom.affine)
    return measured | {"seed": seed, "infarct": phantom.infarct}


def heart_datalist(
    dataset_dir: str | Path | None,
    section: str = "training",
    cache_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset of hearts, of the embedded phantom if none is named.

    See :func:`tools.phantoms.datasets.lesion_datalist`. The phantom has the sections "training",
    "validation", "test" and "normal" (no infarct); ``heart_mm`` of an entry is the middle (RAS) of
    the box round cavity and myocardium.
    """
    name = f"phantom-heart-{PHANTOM_VERSION}"
    return read_section(dataset_dir, section, name, write_heart_dataset, cache_dir)

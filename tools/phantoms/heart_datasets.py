"""A small phantom dataset of hearts on disk, and the datalist that the configs read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.phantoms.datalists import NOTICE, cached_phantom, read_section, save_json, save_volume
from tools.phantoms.heart_mr import HeartPhantom, heart_mr
from tools.transforms.wall import HEART_CLASSES, measure_heart

__all__ = [
    "HEART_PHANTOM_VERSION",
    "heart_datalist",
    "write_heart_dataset",
    "write_heart_phantom",
]

# Goes into the name of the cache: raise it whenever a seed gives other voxels than before.
HEART_PHANTOM_VERSION = "2"
# Hearts per section; those of the section normal have no infarct.
_SECTIONS = {"training": 12, "validation": 4, "test": 2, "normal": 4}
_SPACING_MM = (1.4, 1.4, 10.0)
# Stacks of 7 to 10 slices, as patients have them, wide enough for the heart and what touches it.
_SIDE, _SLICES = 112, (7, 11)


def write_heart_phantom(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    shape: tuple[int, int, int] = (160, 160, 10),
    spacing_mm: tuple[float, float, float] = _SPACING_MM,
    infarct: bool = False,
    no_reflow: bool = False,
) -> dict[str, str]:
    """Write a short-axis stack of a phantom heart with its label, healthy unless asked otherwise.

    Args:
        out_dir: folder, made if it does not exist.
        seed: of anatomy, infarct and noise.
        shape: voxels per axis.
        spacing_mm: voxel size.
        infarct: whether there is one.
        no_reflow: whether it has a core without flow.

    Returns:
        Paths by name: ``image`` (int16), ``label`` (uint8: 1 cavity, 2 myocardium, 3 infarct,
        4 no-reflow) and ``record`` (JSON).
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    phantom = heart_mr(shape, spacing_mm, seed, infarct, no_reflow)
    entry = _write(phantom, folder, "phantom_heart", seed)
    record = {"name": "phantom_heart", "notice": NOTICE, "version": HEART_PHANTOM_VERSION}
    save_json(folder / "phantom_heart.json", record | entry | {"shape": list(shape)})
    paths = {kind: str(folder / entry[kind]) for kind in ("image", "label")}
    return paths | {"record": str(folder / "phantom_heart.json")}


def write_heart_dataset(
    out_dir: str | os.PathLike[str], seed: int = 0, sections: dict[str, int] | None = None
) -> dict[str, Any]:
    """Write short-axis stacks of phantom hearts with labels and a datalist.

    Each heart is a patient of its own. In the sections with infarct, two of three have a core
    without flow.

    Args:
        out_dir: folder, made if it does not exist.
        seed: of all hearts.
        sections: hearts per section; None is training 12, validation 4, test 2, and normal 4,
            which have no infarct.

    Returns:
        The content of ``datalist.json`` (paths relative to ``out_dir``).

    Raises:
        ValueError: if a section has no heart.
    """
    sections = dict(_SECTIONS if sections is None else sections)
    if not sections or min(sections.values()) < 1:
        raise ValueError(f"sections must have at least one heart each, got {sections}")
    folder = Path(out_dir)
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    datalist: dict[str, Any] = {"name": "phantom hearts", "description": NOTICE, "phantom": True}
    datalist |= {"version": HEART_PHANTOM_VERSION, "modality": {"0": "MR"}}
    datalist["labels"] = {"0": "background"} | {str(v): n for v, n in HEART_CLASSES.items()}
    datalist |= {section: [] for section in sections}
    plan = [(section, i) for section, count in sections.items() for i in range(count)]
    for index, (section, place) in enumerate(tqdm(plan, desc="phantom hearts", unit="heart")):
        number = int(np.random.default_rng([seed, 12, index]).integers(2**31))
        slices = int(np.random.default_rng(number).integers(*_SLICES))
        phantom = heart_mr(
            (_SIDE, _SIDE, slices), _SPACING_MM, number, section != "normal", place % 3 != 2
        )
        datalist[section].append(_write(phantom, folder, f"cases/phantom_{index:03d}", number))
    save_json(folder / "datalist.json", datalist)
    return datalist


def _write(phantom: HeartPhantom, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Write image and label of a heart and return its entry of the datalist."""
    entry: dict[str, Any] = {}
    for kind, array in (("image", phantom.image), ("label", phantom.label)):
        entry[kind] = f"{name}_{kind}.nii.gz"
        save_volume(folder / entry[kind], array, phantom.affine)
    entry |= {"patient": Path(name).name, "phantom": True, "seed": seed}
    return entry | measure_heart(phantom.label, phantom.affine) | {"infarct": phantom.infarct}


def heart_datalist(
    dataset_dir: str | os.PathLike[str] | None,
    section: str = "training",
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset of hearts, of the embedded phantom if none is named.

    Args:
        dataset_dir: folder with ``datalist.json`` (Decathlon form); None or "" stands for the
            embedded phantom data, which is made on first use and announced in the log.
        section: "training", "validation", "test" or "normal" (no infarct).
        cache_dir: where the phantom is kept; None is ``~/.cache/synthetic-lesions``.

    Returns:
        Dictionaries with absolute paths under ``image`` and ``label``, other keys as in the file;
        ``heart_mm`` is the middle (RAS) of the box round cavity and myocardium.

    Raises:
        FileNotFoundError: if ``dataset_dir`` or its datalist does not exist; nothing replaces it.
        ValueError: if the section is missing or empty.
    """
    name = f"phantom-heart-{HEART_PHANTOM_VERSION}"
    return read_section(
        dataset_dir, section, lambda: cached_phantom(name, write_heart_dataset, cache_dir)
    )

"""Histograms that the user brings: JSON files, and lesions to be like."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.histograms import intensity_histogram
from tools.synthesis.scan import Scan

__all__ = ["LIKE", "lesion_preset", "like_paths", "read_textures"]

Presets = dict[str, dict[str, Any]]
LIKE = "like:IMAGE.nii.gz:MASK.nii.gz"
# a path may hold colons, so the image ends where its ending does
_LIKE_PATHS = re.compile(r"like:(.+?\.nii(?:\.gz)?):(.+)")


def read_textures(path: str | Path, bins: int, window_hu: Sequence[float] | None = None) -> Presets:
    """Return the histograms of a JSON file by name, each with its weight.

    Args:
        path: a list of numbers; ``{"histogram": [...]}``; or presets, ``{name: {"histogram": [...],
            "weight": w}}``, bare or under ``presets`` as in a bundle's ``histograms.json``. A
            histogram without a name is called as the file; a missing weight is 1.
        bins: length that a histogram must have.
        window_hu: the model's window; a file that states another one is refused.

    Returns:
        ``{name: {"histogram": numbers that sum to 1, "weight": w}}``, with ``"tissue"`` (two
        levels) where an entry states it, and then with the ``"gain"`` of the file if there is one,
        see :func:`tools.histograms.adapt_histogram`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds nothing of the kind; the message has name, rule and value.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.json"
        ...     _ = path.write_text('{"pale": {"histogram": [3, 1], "weight": 2}}')
        ...     read_textures(path, bins=2)
        {'pale': {'histogram': [0.75, 0.25], 'weight': 2.0}}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"texture must be an existing JSON file, got {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"texture file must be JSON, got {path} ({error})") from error
    if isinstance(content, list):
        content = {"histogram": content}
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"texture file must hold a histogram or named histograms, got {content} in {path}"
        )
    _check_window(path, content.get("window_hu"), window_hu)
    entries = {path.name: content} if "histogram" in content else content.get("presets", content)
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"presets of texture file {path} must be named histograms, got {entries}")
    presets = {name: _read_entry(path, name, entry, bins) for name, entry in entries.items()}
    _read_tissue(path, content, entries, presets)
    if sum(preset["weight"] for preset in presets.values()) <= 0:
        raise ValueError(f"weights of texture file {path} must not all be 0, got {list(presets)}")
    return presets


def lesion_preset(
    text: str, bins: int, window_hu: Sequence[float] | None
) -> tuple[str, dict[str, Any]]:
    """Return name and histogram of a real lesion: ``like:IMAGE.nii.gz:MASK.nii.gz``.

    The histogram is that of the voxels as they lie in the file; the model works at its own voxel
    size, where the rim of a small lesion is a little more blurred.

    Args:
        text: paths of a scan (HU) and of a mask on its grid, above 0 inside the lesion.
        bins: number of bins.
        window_hu: the model's window; values beyond count in the outermost bins.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the text, a file, the grids or the mask break their rule.
    """
    if window_hu is None:
        raise ValueError(f"texture {LIKE} needs the model's window, got none")
    image, mask = like_paths(text, LIKE)
    try:
        scan = Scan(image)
        values = np.asarray(scan.image[scan.load_mask(mask, "mask")], np.float64)
    except ValueError as error:
        raise ValueError(f"texture {text!r} must be a lesion and its mask: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError(
            f"texture {text!r} must have finite values inside the mask, got NaN or inf"
        )
    low, high = window_hu
    row = torch.from_numpy(values)[None]
    histogram = intensity_histogram(row, torch.ones_like(row), bins, (low, high))[0].double()
    return f"like:{Path(image).name}", {"histogram": histogram.tolist(), "weight": 1.0}


def like_paths(text: str, form: str = LIKE) -> tuple[str, str]:
    """Return the two files of a texture that is to be like a real lesion.

    Args:
        text: ``like:`` and two paths with a colon between, the first ending in .nii or .nii.gz.
        form: what messages say it must be, the second file's role included.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the text is of another form.
    """
    found = _LIKE_PATHS.fullmatch(text)
    if found is None:
        raise ValueError(f"texture of a lesion must be {form}, got {text!r}")
    second = form.rsplit(":", 1)[1].split(".")[0].lower()
    for role, path in zip(("image", second), found.groups(), strict=True):
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"texture needs an existing file as {role} of {form}, got {path}"
            )
    return found[1], found[2]


def _read_tissue(
    path: Path, content: Mapping[str, Any], entries: Mapping[str, Any], presets: Presets
) -> None:
    """Add to the presets what the file says of the tissue round them."""
    gain = content.get("gain")
    if gain is not None and not (isinstance(gain, int | float) and 0 <= gain <= 1):
        raise ValueError(f"gain of texture file {path} must be in 0..1, got {gain!r}")
    for name, entry in entries.items():
        if "tissue" not in entry:
            continue
        tissue = _numbers(entry["tissue"])
        if tissue is None or tissue.shape != (2,):
            raise ValueError(
                f"tissue of {name!r} in texture file {path} must be the levels of myocardium and "
                f"blood, got {entry['tissue']}"
            )
        presets[name]["tissue"] = tissue.tolist()
        presets[name] |= {} if gain is None else {"gain": float(gain)}


def _check_window(path: Path, stated: Any, window_hu: Sequence[float] | None) -> None:
    if stated is None or window_hu is None:
        return
    numbers = _numbers(stated)
    if numbers is None or numbers.tolist() != [float(v) for v in window_hu]:
        raise ValueError(
            f"window_hu of texture file {path} must be the model's {list(window_hu)}, got {stated}"
        )


def _read_entry(path: Path, name: str, entry: Any, bins: int) -> dict[str, Any]:
    """Return one histogram that sums to 1, with its weight."""
    if not isinstance(entry, Mapping) or "histogram" not in entry:
        raise ValueError(f"{name!r} of texture file {path} must have a histogram, got {entry}")
    values = _numbers(entry["histogram"])
    if values is None or values.shape != (bins,) or values.min() < 0 or values.sum() <= 0:
        raise ValueError(
            f"histogram of {name!r} in texture file {path} must be {bins} non-negative finite "
            f"numbers, not all 0, got {entry['histogram']}"
        )
    weight = _numbers(entry.get("weight", 1.0))
    if weight is None or weight.shape != () or weight < 0:
        raise ValueError(
            f"weight of {name!r} in texture file {path} must be a number of at least 0, "
            f"got {entry['weight']}"
        )
    return {"histogram": (values / values.sum()).tolist(), "weight": float(weight)}


def _numbers(value: Any) -> np.ndarray | None:
    """Return finite numbers as an array, or None for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        return None
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(float)

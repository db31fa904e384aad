"""Catalogues of textures: histograms of training lesions by subtype, and files that users bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from tools.files import read_json, read_object
from tools.histograms import finite, normalize_blocks
from tools.sentences import short

__all__ = [
    "SUBTYPES_FILE",
    "Subtype",
    "SubtypeLibrary",
    "lesion_rim",
    "read_subtypes",
    "read_textures",
    "rim_share",
]

SUBTYPES_FILE = "subtypes.json"
Presets = dict[str, dict[str, Any]]
NEAR = 0.25  # spread of the sizes taken for near, in natural logarithms of the diameter
RIM_MM = 1.0  # how deep scanners blur the surroundings into a lesion


def lesion_rim(lesion_mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the voxels of a lesion within 1 mm of its border, or one voxel where that is more.

    They hold what scanners blur of the surroundings into it. An empty mask has none.

    Args:
        lesion_mask: True inside, ``(i, j, k)``; what lies beyond the array is outside.
        affine: voxel index to RAS mm.

    Example:
        >>> int(lesion_rim(np.ones((4, 4, 4), bool), np.diag([1, 1, 2.5, 1])).sum())
        56
    """
    spacing = voxel_sizes(affine)
    inside = np.pad(np.asarray(lesion_mask, bool), 1)
    depth = ndimage.distance_transform_edt(inside, spacing / np.maximum(spacing, RIM_MM))
    return (inside & (depth <= RIM_MM + 1e-6))[1:-1, 1:-1, 1:-1]


def rim_share(lesion_mask: np.ndarray, affine: np.ndarray) -> float:
    """Return the share of a lesion that is rim, see :func:`lesion_rim`; of an empty mask 0."""
    return float(lesion_rim(lesion_mask, affine).sum() / max(np.count_nonzero(lesion_mask), 1))


@dataclass(frozen=True)
class Subtype:
    """Training lesions of one subtype.

    Args:
        number: of the subtype in the model's condition.
        frequency: share of the training lesions.
        diameters_mm: of the n lesions of the library, spheres of their volume.
        histograms: of the same lesions, ``(n, bins)``, rows sum to 1.
        medoid: the histogram nearest to all others, ``(bins,)``.
        rims: histograms of their rims (:func:`lesion_rim`), ``(n, bins)``; None: not known.
        rim_shares: share of their voxels that is rim, below 1, ``(n,)``.
        solid_bin: of lesions with a solid core in a halo the bin that solid begins with; None:
            they have none.
    """

    number: int
    frequency: float
    diameters_mm: np.ndarray
    histograms: np.ndarray
    medoid: list[float]
    rims: np.ndarray | None = None
    rim_shares: np.ndarray | None = None
    solid_bin: int | None = None

    def chances(self, diameter_mm: float | None) -> np.ndarray:
        """Return the chance of each lesion to be drawn for a lesion of some size, ``(n,)``."""
        weights = np.ones(len(self.diameters_mm))
        if diameter_mm is not None:
            far = np.log(self.diameters_mm / diameter_mm) ** 2
            # from the nearest on, so that a size that training never saw has a neighbour too
            weights = np.exp(-(far - far.min()) / (2 * NEAR**2))
        return np.asarray(weights / weights.sum())

    def draw(
        self, diameter_mm: float | None, rng: np.random.Generator, rim_share: float | None = None
    ) -> list[float]:
        """Return the histogram of one lesion, those near in size being the likely ones.

        Size and histogram belong together: a small lesion is all rim. The chance of a lesion falls
        as a Gaussian of the logarithm of the two diameters' ratio. Its core and its rim are mixed
        in the shares that the lesion to make has, so that no voxel of the core has to take what
        the rim of a lesion of another shape held. Where the library is in order of brightness, the
        same state of ``rng`` gives a lesion of the same rank in every subtype.

        Args:
            diameter_mm: of the lesion to make; None: any size.
            rng: source of chance.
            rim_share: share of its voxels that is rim; None: as the lesion drawn has it.
        """
        weights = self.chances(diameter_mm)
        chosen = rng.choice(len(weights), p=weights)
        row = self.histograms[chosen]
        if self.rims is not None and self.rim_shares is not None and rim_share is not None:
            rim, own = self.rims[chosen], self.rim_shares[chosen]
            core = np.clip(row - own * rim, 0, None)  # rounded in the file
            row = rim_share * rim + (1 - rim_share) * core / core.sum()
        return row.tolist()


class SubtypeLibrary(dict[str, Subtype]):
    """Subtypes by name, in the order of their numbers.

    Attributes:
        outline: of the lesions that it was made of, in words; None: not stated.
    """

    outline: str | None = None

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        """Medoid and frequency of each subtype in the form of texture presets."""
        return {
            name: {"histogram": subtype.medoid, "weight": subtype.frequency}
            for name, subtype in self.items()
        }


def read_subtypes(path: str | Path) -> SubtypeLibrary:
    """Return the library of a ``subtypes.json``, checked.

    Args:
        path: JSON with ``bins`` and ``subtypes: {name: {"number", "frequency", "diameters_mm",
            "histograms", "medoid"}}``, as the command ``subtypes`` writes it, with ``rims`` and
            ``rim_shares`` or without, ``solid_from_hu`` where there is a core.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is missing or a value breaks its rule.
    """
    path = Path(path)
    content = read_object(path, "subtypes")
    bins, entries = content.get("bins"), content.get("subtypes")
    if not isinstance(bins, int) or not isinstance(entries, dict):
        raise ValueError(
            f"subtypes file {path} must have bins, a whole number, and subtypes, an object, got "
            f"{short(bins)} and {short(entries)}"
        )
    library = SubtypeLibrary({k: _read_subtype(k, v, bins, path) for k, v in entries.items()})
    outline = content.get("outline")
    library.outline = None if outline is None else str(outline)
    if not library or sum(subtype.frequency for subtype in library.values()) <= 0:
        raise ValueError(f"subtypes file {path} must hold a subtype with a frequency above 0")
    if len({subtype.number for subtype in library.values()}) < len(library):
        raise ValueError(f"numbers of subtypes file {path} must differ, got {list(library)}")
    return library


def _read_subtype(name: str, entry: Any, bins: int, path: Path) -> Subtype:
    entry = entry if isinstance(entry, dict) else {}
    keys = ("histograms", "medoid", "diameters_mm", "frequency", "number")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"{name!r} in subtypes file {path} must have every key, got no {missing}")
    kept = entry["histograms"] if isinstance(entry["histograms"], list) else []
    rows, diameters = finite([*kept, entry["medoid"]]), finite(entry["diameters_mm"])
    flat = rows is None or rows.ndim != 2 or rows.shape[1] != bins
    if rows is None or flat or rows.min() < 0 or (rows.sum(1) <= 0).any():
        raise ValueError(
            f"histograms of {name!r} in {path} must be rows of {bins} non-negative numbers, not "
            f"all 0, got {short(kept)}"
        )
    wrong = diameters is None or diameters.shape != (len(rows) - 1,)
    if diameters is None or wrong or len(rows) < 2 or not (diameters > 0).all():
        raise ValueError(
            f"diameters_mm of {name!r} in {path} must be one number above 0 for each of "
            f"{len(rows) - 1} histograms, got {short(entry['diameters_mm'])}"
        )
    frequency, number = finite(entry["frequency"]), entry["number"]
    share = frequency is not None and frequency.shape == () and frequency >= 0
    if frequency is None or not share or not isinstance(number, int) or not 0 <= number < 2**31:
        raise ValueError(
            f"frequency and number of {name!r} in {path} must be at least 0, got "
            f"{short(entry['frequency'])} and {short(number)}"
        )
    rows = np.array([normalize_blocks(row) for row in rows])
    rims, shares = _read_rims(name, entry, rows[:-1].shape, path)
    solid = entry.get("solid_bin")
    if solid is not None and not (isinstance(solid, int) and 0 < solid < bins):
        raise ValueError(
            f"solid_bin of {name!r} in {path} must be a bin from 1 to {bins - 1}, got "
            f"{short(solid)}"
        )
    return Subtype(
        number, float(frequency), diameters, rows[:-1], rows[-1].tolist(), rims, shares, solid
    )


def _read_rims(
    name: str, entry: Mapping[str, Any], shape: tuple[int, ...], path: Path
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return histograms and shares of the rims; None in files that say nothing of them."""
    if "rims" not in entry and "rim_shares" not in entry:
        return None, None
    rims, shares = finite(entry.get("rims")), finite(entry.get("rim_shares"))
    right = rims is not None and rims.shape == shape and rims.min() >= 0 and rims.sum(1).all()
    if rims is None or not right or shares is None or shares.shape != shape[:1]:
        raise ValueError(
            f"rims and rim_shares of {name!r} in {path} must be a histogram and a number for each "
            f"of {shape[0]} lesions, got {short(entry.get('rims'))}"
        )
    if not ((shares >= 0) & (shares < 1)).all():
        raise ValueError(
            f"rim_shares of {name!r} in {path} must be from 0 to below 1, got "
            f"{short(shares.tolist())}"
        )
    return np.array([normalize_blocks(row) for row in rims]), shares


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
    content = read_json(path, "texture")
    if isinstance(content, list):
        content = {"histogram": content}
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"texture file must hold a histogram or named histograms, got {short(content)} in "
            f"{path}"
        )
    _check_window(path, content.get("window_hu"), window_hu)
    entries = {path.name: content} if "histogram" in content else content.get("presets", content)
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f"presets of texture file {path} must be named histograms, got {short(entries)}"
        )
    presets = {name: _read_entry(path, name, entry, bins) for name, entry in entries.items()}
    _read_tissue(path, content, entries, presets)
    if sum(preset["weight"] for preset in presets.values()) <= 0:
        raise ValueError(f"weights of texture file {path} must not all be 0, got {list(presets)}")
    return presets


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
        tissue = finite(entry["tissue"])
        if tissue is None or tissue.shape != (2,):
            raise ValueError(
                f"tissue of {name!r} in texture file {path} must be the levels of myocardium and "
                f"blood, got {short(entry['tissue'])}"
            )
        presets[name]["tissue"] = tissue.tolist()
        presets[name] |= {} if gain is None else {"gain": float(gain)}


def _check_window(path: Path, stated: Any, window_hu: Sequence[float] | None) -> None:
    if stated is None or window_hu is None:
        return
    numbers = finite(stated)
    if numbers is None or numbers.tolist() != [float(v) for v in window_hu]:
        raise ValueError(
            f"window_hu of texture file {path} must be the model's {list(window_hu)}, got "
            f"{short(stated)}"
        )


def _read_entry(path: Path, name: str, entry: Any, bins: int) -> dict[str, Any]:
    """Return one histogram that sums to 1, with its weight."""
    if not isinstance(entry, Mapping) or "histogram" not in entry:
        raise ValueError(
            f"{name!r} of texture file {path} must have a histogram, got {short(entry)}"
        )
    values = finite(entry["histogram"])
    if values is None or values.shape != (bins,) or values.min() < 0 or values.sum() <= 0:
        raise ValueError(
            f"histogram of {name!r} in texture file {path} must be {bins} non-negative finite "
            f"numbers, not all 0, got {short(entry['histogram'])}"
        )
    weight = finite(entry.get("weight", 1.0))
    if weight is None or weight.shape != () or weight < 0:
        raise ValueError(
            f"weight of {name!r} in texture file {path} must be a number of at least 0, "
            f"got {short(entry['weight'])}"
        )
    return {"histogram": (values / values.sum()).tolist(), "weight": float(weight)}

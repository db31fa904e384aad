"""Two folders of lesions, real and synthetic, measured against each other (``tools evaluate``).

All measures are of crops round lesions. Beside each stands the band in which two halves of the
real lesions, no patient in both, lie apart: what is within it cannot be told from real by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tools.files import different_names, listed_path, read_entries, read_object
from tools.metrics.border import BorderFeatures, border_features, border_profile
from tools.metrics.fidelity import (
    distances_of_halves,
    frechet_distance,
    kernel_distance,
    mean_discrepancy,
    precision_recall,
    sliced_wasserstein,
    standardized,
)
from tools.metrics.radiomics import RADIOMICS_VERSION, isotropic, radiomic_features
from tools.scans.crops import MARGIN_MM, Crop, lesion_crops
from tools.scans.reader import bare_name
from tools.scans.scan import Scan
from tools.studies.two_sample import forest_auc
from tools.synthesis.cases import find_cases
from tools.synthesis.records import RECORD_FILE, read_record

__all__ = ["Measured", "each_crop", "judge", "measure", "pairs", "read_crops", "without_nan"]

PICTURE = 32  # pixels of 1 mm of the pictures that are compared
SPLITS = 20
PLANES = ("sagittal", "coronal", "axial")  # normal to the axes of a scan in RAS
SIZES_MM = (0, 6, 10, 20, 30, 1e3)


class Measured(NamedTuple):
    """What was measured of a set of lesions."""

    crops: list[Crop]
    features: dict[str, np.ndarray]  # by group: inside, border, shape; (N, F)
    names: dict[str, list[str]]
    profiles: np.ndarray  # (N, 12), see border_profile
    pictures: dict[str, np.ndarray]  # by plane, (N, 32, 32), scaled to [-1, 1]


def read_crops(
    source: str | Path,
    values: Sequence[int] = (),
    section: str | None = None,
    limit: int | None = None,
) -> list[Crop]:
    """Return the lesions of a folder or datalist of images with label maps.

    Args:
        source: a datalist, a folder with ``datalist.json``, or with ``X_image`` and ``X_label``.
        values: of the label maps that are lesions; none: those that ``lesions.json`` beside the
            label tells of, else all above 0. Each connected part is a lesion.
        section: list of the datalist to take; None: all.
        limit: that many lesions at most, of as many cases as that takes.

    Raises:
        FileNotFoundError: if there is nothing of the kind.
        ValueError: if there are fewer than two lesions.
    """
    found = list(islice(each_crop(source, values, section), limit))
    if len(found) < 2:
        raise ValueError(f"folders must hold at least 2 lesions, got {len(found)} in {source}")
    return found


def each_crop(
    source: str | Path,
    values: Sequence[int] = (),
    section: str | None = None,
    margin_mm: float = MARGIN_MM,
) -> Iterator[Crop]:
    """Yield lesions as :func:`read_crops` returns them, one after the other, with a margin."""
    for name, patient, image, label in tqdm(list(pairs(Path(source), section)), desc="reading"):
        wanted = list(values) or _recorded_values(label)
        scan = Scan(image)
        labels = scan.load_labels(label, "label")
        inside = np.isin(labels, wanted) if wanted else labels > 0
        yield from lesion_crops(scan, inside, name, patient, margin_mm)


def pairs(source: Path, section: str | None) -> Iterator[tuple[str, str, Path, Path]]:
    """Yield name, patient, image and label map of each case of a folder or datalist."""
    listed = source / "datalist.json" if source.is_dir() else source
    if listed.suffix != ".json" or not listed.is_file():
        for case in find_cases(source):
            if case.lesion_mask is not None:
                yield case.name, case.name, case.path, Path(str(case.lesion_mask))
        return
    content = read_object(listed, "real or synthetic")
    entries = [
        entry
        for key in content
        if section in (None, key) and isinstance(content[key], list)
        for entry in read_entries(listed, "real or synthetic", key)
        if isinstance(entry.get("label"), str)
    ]
    files = [
        [listed_path(entry.get(key), key, listed.parent, listed) for key in ("image", "label")]
        for entry in entries
    ]
    names = different_names(_stem(image) for image, _ in files)
    for name, entry, (image, label) in zip(names, entries, files, strict=True):
        yield name, str(entry.get("patient", name)), image, label


def _stem(image: Path) -> str:
    bare = bare_name(image.name)
    return image.parent.name if bare == "image" else bare.removesuffix("_image")


def _recorded_values(label: Path) -> list[int]:
    record = label.with_name(RECORD_FILE)
    return sorted({x.label for x in read_record(record).lesions}) if record.is_file() else []


def measure(crops: Sequence[Crop], window: Sequence[float], units: bool = True) -> Measured:
    """Measure a set of lesions.

    Args:
        crops: the lesions.
        window: intensities that become -1 and 1 in the pictures.
        units: whether intensities have units (HU): grey levels are 25 wide; else 32 in the window.
    """
    groups: dict[str, list[list[float]]] = {"inside": [], "border": [], "shape": []}
    names: dict[str, list[str]] = {"border": list(BorderFeatures.names)}
    profiles, pictures = [], []
    for crop in tqdm(crops, desc="measuring"):
        found = radiomic_features(crop.image, crop.mask, crop.spacing_mm, None if units else window)
        names["shape"] = [name for name in found if name.startswith("shape_")]
        names["inside"] = [name for name in found if not name.startswith("shape_")]
        border = border_features(crop.image, crop.mask, crop.spacing_mm)
        for group, values in (("inside", found), ("shape", found), ("border", border)):
            groups[group].append([values[name] for name in names[group]])
        profiles.append(border_profile(crop.image, crop.mask, crop.spacing_mm))
        pictures.append(_pictures(crop, window))
    planes = {name: np.array([each[k] for each in pictures]) for k, name in enumerate(PLANES)}
    features = {group: np.array(rows) for group, rows in groups.items()}
    return Measured(list(crops), features, names, np.array(profiles), planes)


def _pictures(crop: Crop, window: Sequence[float]) -> list[np.ndarray]:
    """Return the three planes through the middle of a lesion, 32 mm wide, in [-1, 1]."""
    values, inside = isotropic(crop.image, crop.mask, crop.spacing_mm)
    low, high = window
    scaled = ((values - low) / (high - low) * 2 - 1).clip(-1, 1)
    middle = np.argwhere(inside).mean(0).round().astype(int) if inside.any() else [0, 0, 0]
    wide = np.pad(scaled, PICTURE // 2, mode="edge")
    cube = wide[tuple(slice(m, m + PICTURE) for m in middle)]
    return [cube.take(PICTURE // 2, axis) for axis in range(3)]


def judge(real: Measured, synthetic: Measured, seed: int = 0) -> dict[str, Any]:
    """Return all that two sets of lesions differ in, JSON values only.

    ``distances``: name to ``value`` (median of the distances of random halves of one set to halves
    of the other), ``low`` and ``high`` (5 and 95 % of them), and ``real`` with the same of real
    halves. ``told_apart``: areas under the curve of random forests by group of features, with
    intervals, and of real halves. ``border``, ``inside``, ``shape``: medians and quartiles of each
    feature. ``profile``: medians by ring and by size. ``counts``.

    Args:
        real: measured.
        synthetic: measured on the same window.
        seed: of halves, directions, forests.
    """
    patients = [[crop.patient for crop in each.crops] for each in (real, synthetic)]
    result: dict[str, Any] = {
        "radiomics_version": RADIOMICS_VERSION,
        "seed": seed,
        "counts": {
            name: {"lesions": len(each.crops), "patients": len(set(names))}
            for name, each, names in zip(
                ("real", "synthetic"), (real, synthetic), patients, strict=True
            )
        },
    }
    sets = _feature_sets(real, synthetic)
    result["distances"] = dict(_distances(real, synthetic, sets, patients, seed))
    result["told_apart"] = {
        name: _told_apart(rows, patients, seed) for name, rows in tqdm(sets.items(), desc="forests")
    }
    for group, names in real.names.items():
        result[group] = {
            name: {
                "real": _quartiles(real.features[group][:, k]),
                "synthetic": _quartiles(synthetic.features[group][:, k]),
            }
            for k, name in enumerate(names)
        }
    result["profile"] = _profiles(real, synthetic)
    return result


def _feature_sets(real: Measured, synthetic: Measured) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return comparable features of both sets: by group, and all of them."""
    found = {}
    for group in real.features:
        one, other = standardized(real.features[group], synthetic.features[group])
        found[group] = (one, other)
    found["all"] = tuple(np.concatenate([pair[k] for pair in found.values()], 1) for k in (0, 1))  # type: ignore[assignment]
    return found


def _distances(
    real: Measured,
    synthetic: Measured,
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    patients: Sequence[Sequence[str]],
    seed: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    def swd(one: np.ndarray, other: np.ndarray) -> float:
        return sliced_wasserstein(one, other, seed=seed)

    listed: list[tuple[str, Any, Any, Callable[..., float]]] = []
    for group, (one, other) in sets.items():
        listed.append((f"frechet_radiomics_{group}", one, other, frechet_distance))
    one, other = sets["inside"]
    listed.append(("kid_inside", one, other, kernel_distance))
    listed.append(("mmd_inside", one, other, mean_discrepancy))
    for plane in PLANES:
        listed.append((f"swd_{plane}", real.pictures[plane], synthetic.pictures[plane], swd))
    listed.append(("precision", *sets["all"], lambda a, b: precision_recall(a, b)[0]))
    listed.append(("recall", *sets["all"], lambda a, b: precision_recall(a, b)[1]))
    for name, one, other, distance in tqdm(listed, desc="distances"):
        band = distances_of_halves(one, patients[0], distance, SPLITS, seed)
        apart = _of_halves(one, other, patients, distance, seed)
        yield name, {**_band(apart), "real": _band(band)}


def _of_halves(
    real: np.ndarray,
    synthetic: np.ndarray,
    patients: Sequence[Sequence[str]],
    distance: Callable[..., float],
    seed: int,
) -> np.ndarray:
    """Return distances of random halves of two sets: of as many lesions as those of the band."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(SPLITS):
        halves = []
        for rows, names in ((real, patients[0]), (synthetic, patients[1])):
            known = np.unique(names)
            chosen = rng.permutation(known)[: max(1, len(known) // 2)]
            kept = np.flatnonzero(np.isin(names, chosen))
            halves.append(rows[kept[: max(2, len(real) // 2)]])
        found.append(distance(*halves))
    return np.array(found)


def _told_apart(
    rows: tuple[np.ndarray, np.ndarray], patients: Sequence[Sequence[str]], seed: int
) -> dict[str, Any]:
    real, synthetic = rows
    found = forest_auc(real, synthetic, patients[0], patients[1], seed)._asdict()
    names = np.unique(patients[0])
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    first = np.isin(patients[0], chosen)
    groups = np.array(patients[0])
    halves = forest_auc(real[first], real[~first], list(groups[first]), list(groups[~first]), seed)
    return {**found, "real": halves._asdict()}


def _profiles(real: Measured, synthetic: Measured) -> dict[str, Any]:
    """Return the median profile by size: real, synthetic, and how many lesions each is of."""
    found = {}
    for low, high in pairwise(SIZES_MM):
        row = {}
        for name, each in (("real", real), ("synthetic", synthetic)):
            sizes = np.array([crop.diameter_mm for crop in each.crops])
            kept = each.profiles[(sizes >= low) & (sizes < high)]
            if len(kept):
                middle = [None if np.isnan(c).all() else float(np.nanmedian(c)) for c in kept.T]
                row[name] = {"median": middle, "lesions": len(kept)}
        if row:
            found[f"{low:g}-{high:g} mm" if high < 1e3 else f"{low:g} mm and more"] = row
    return found


def without_nan(found: Any) -> Any:
    """Return results with None for what could not be measured, as JSON has no NaN."""
    if isinstance(found, Mapping):
        return {key: without_nan(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [without_nan(value) for value in found]
    return None if isinstance(found, float) and not np.isfinite(found) else found


def _band(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [5, 50, 95]).tolist()
    return {"value": middle, "low": low, "high": high}


def _quartiles(values: np.ndarray) -> dict[str, float] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, middle, high = np.percentile(known, [25, 50, 75]).tolist()
    return {"median": middle, "q1": low, "q3": high, "n": len(known)}

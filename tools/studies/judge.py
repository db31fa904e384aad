"""Two folders of lesions, real and synthetic, measured against each other (``tools evaluate``).

All measures are of crops round lesions. Beside each stands the band in which two halves of the
real lesions, no patient in both, lie apart: what is within it cannot be told from real by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine
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
from tools.metrics.radiomics import RADIOMICS_VERSION, centred_cube, radiomic_features
from tools.metrics.spectrum import BANDS, spectrum_ratio
from tools.scans.crops import MARGIN_MM, Crop, lesion_crops
from tools.scans.reader import bare_name
from tools.scans.scan import Scan
from tools.studies.statistics import quartiles
from tools.studies.two_sample import Auc, forest_auc
from tools.synthesis.cases import ORGAN_KEYS, find_cases
from tools.synthesis.records import RECORD_FILE, LesionRecord, ScanRecord, read_record
from tools.transforms.conditions import SUBTYPES, lesion_subtype

__all__ = [
    "Listed",
    "Measured",
    "apart",
    "each_crop",
    "feature_sets",
    "judge",
    "listed",
    "measure",
    "pairs",
    "read_crops",
    "require_enough",
    "set_distances",
    "told_apart",
]

Distance = Callable[..., float]  # of two sets

PICTURE = 32  # pixels of 1 mm of the pictures that are compared
SPLITS = 20
LEAST_PATIENTS = 4  # for halves by patient
LEAST = 4  # lesions
PLANES = ("sagittal", "coronal", "axial")  # normal to the axes of a scan in RAS
SIZES_MM = (0, 6, 10, 20, 30, 1e3)


class Measured(NamedTuple):
    """What was measured of a set of lesions."""

    crops: list[Crop]
    features: dict[str, np.ndarray]  # by group: inside, border, shape; (N, F)
    names: dict[str, list[str]]
    profiles: np.ndarray  # (N, 12), see border_profile
    pictures: dict[str, np.ndarray]  # by plane, (N, 32, 32), scaled to [-1, 1]
    spectra: np.ndarray  # (N, 3), see spectrum_ratio

    @property
    def patients(self) -> list[str]:
        """Whose lesion each is."""
        return [crop.patient for crop in self.crops]

    @property
    def diameters_mm(self) -> list[float]:
        """Of the spheres with the lesions' volumes."""
        return [crop.diameter_mm for crop in self.crops]

    @property
    def subtypes(self) -> list[str]:
        """Subtype of each, empty where it is not known."""
        return [crop.subtype for crop in self.crops]


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
            label tells of, else all above 0. Each connected part is a lesion; where there is such a
            record, those that were in the scan before are left out.
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


def require_enough(lesions: Sequence[Any], source: str | Path) -> None:
    """Refuse real lesions that are too few for two halves."""
    if len(lesions) < LEAST:
        raise ValueError(
            f"real must hold at least {LEAST} lesions, two for each half, got {len(lesions)} in "
            f"{source}"
        )


def apart(crops: Sequence[Crop]) -> tuple[list[Crop], str]:
    """Return lesions by patient, or each as a patient of its own where there are fewer than four.

    Halves of one patient's lesions share scanner, phase and organ: what differs between patients is
    not in their band. The word returned beside says what halves are drawn of.
    """
    if len({crop.patient for crop in crops}) >= LEAST_PATIENTS:
        return list(crops), "patient"
    return [crop._replace(patient=f"{crop.patient} {crop.name}") for crop in crops], "lesion"


def each_crop(
    source: str | Path,
    values: Sequence[int] = (),
    section: str | None = None,
    margin_mm: float = MARGIN_MM,
    change: Callable[[Scan], Scan] | None = None,
) -> Iterator[Crop]:
    """Yield lesions as :func:`read_crops` returns them, one after the other, with a margin.

    ``change``: what crops are of, made of each scan; None: the scan itself.
    """
    for each in tqdm(list(listed(Path(source), section)), desc="reading"):
        record = each.record()
        lesions = [] if record is None else record.lesions
        wanted = list(values) or sorted({x.label for x in lesions})
        scan = Scan(each.image, argument="image")
        labels = scan.load_labels(each.label, "label")
        inside = np.isin(labels, wanted) if wanted else labels > 0
        seen = scan if change is None else change(scan)
        for crop in lesion_crops(seen, inside, each.name, each.patient, margin_mm):
            if lesions and not any(_is_part_of(crop, lesion) for lesion in lesions):
                continue  # a real one of the same label, which was there before
            yield crop._replace(subtype=each.subtype or _asked_subtype(crop, lesions))


class Listed(NamedTuple):
    """A case of a folder or datalist."""

    name: str
    patient: str
    image: Path
    label: Path
    subtype: str = ""
    organ_mask: Path | None = None

    def record(self) -> ScanRecord | None:
        """Return what is written of its lesions, if they are synthetic ones of ours."""
        path = self.label.with_name(RECORD_FILE)
        return read_record(path) if path.is_file() else None


def listed(source: Path, section: str | None = None) -> Iterator[Listed]:
    """Yield the cases of a folder or datalist that have a label map."""
    file = source / "datalist.json" if source.is_dir() else source
    if file.suffix != ".json" or not file.is_file():
        for case in find_cases(source, argument="real or synthetic"):
            if case.lesion_mask is not None:
                organ = None if case.organ_mask is None else Path(str(case.organ_mask))
                label = Path(str(case.lesion_mask))
                yield Listed(case.name, case.name, case.path, label, organ_mask=organ)
        return
    content = read_object(file, "real or synthetic")
    entries = [
        entry
        for key in content
        if section in (None, key) and isinstance(content[key], list)
        for entry in read_entries(file, "real or synthetic", key)
        if isinstance(entry.get("label"), str)
    ]
    files = [
        [listed_path(entry.get(key), key, file.parent, file) for key in ("image", "label")]
        for entry in entries
    ]
    names = different_names(_stem(image) for image, _ in files)
    for name, entry, (image, label) in zip(names, entries, files, strict=True):
        masks = [entry[key] for key in ORGAN_KEYS if isinstance(entry.get(key), str)]
        organ = listed_path(masks[0], "organ_mask", file.parent, file) if masks else None
        patient = str(entry.get("patient", name))
        yield Listed(name, patient, image, label, _rated_subtype(entry), organ)


def pairs(source: Path, section: str | None) -> Iterator[tuple[str, str, Path, Path]]:
    """Yield name, patient, image and label map of each case of a folder or datalist."""
    for each in listed(source, section):
        yield each.name, each.patient, each.image, each.label


def _rated_subtype(entry: Mapping[str, Any]) -> str:
    """Return the subtype that a datalist tells of, as a rating of the texture or by name."""
    ratings = entry.get("ratings")
    rated = ratings.get("texture") if isinstance(ratings, Mapping) else None
    try:
        number = lesion_subtype(entry.get("texture", rated))
    except (ValueError, TypeError):  # the key has another meaning there
        return ""
    return "" if number < 0 else SUBTYPES[number]


def _is_part_of(crop: Crop, lesion: LesionRecord) -> bool:
    """Return whether something of a crop's lesion lies as near to a site as its lesion reaches."""
    places = apply_affine(crop.affine, np.argwhere(crop.mask))
    reach = lesion.diameter_mm / 2 + max(crop.spacing_mm)
    return float(np.linalg.norm(places - lesion.site_mm, axis=1).min()) <= reach


def _asked_subtype(crop: Crop, lesions: Sequence[LesionRecord]) -> str:
    """Return the texture that the nearest lesion of the record was asked for, if a subtype is."""
    if not lesions:
        return ""
    near = min(lesions, key=lambda x: float(np.linalg.norm(np.subtract(x.site_mm, crop.centre_mm))))
    return near.texture if near.texture in SUBTYPES else ""


def _stem(image: Path) -> str:
    bare = bare_name(image.name)
    return image.parent.name if bare == "image" else bare.removesuffix("_image")


def measure(crops: Sequence[Crop], window: Sequence[float], units: bool = True) -> Measured:
    """Measure a set of lesions.

    Args:
        crops: the lesions.
        window: intensities that become -1 and 1 in the pictures.
        units: whether intensities have units (HU): grey levels are 25 wide; else 32 in the window.
    """
    groups: dict[str, list[list[float]]] = {"inside": [], "border": [], "shape": []}
    names: dict[str, list[str]] = {"border": list(BorderFeatures.names)}
    profiles, pictures, spectra = [], [], []
    for crop in tqdm(crops, desc="measuring"):
        found = radiomic_features(crop.image, crop.mask, crop.spacing_mm, None if units else window)
        names["shape"] = [name for name in found if name.startswith("shape_")]
        names["inside"] = [name for name in found if not name.startswith("shape_")]
        border = border_features(crop.image, crop.mask, crop.spacing_mm)
        for group, values in (("inside", found), ("shape", found), ("border", border)):
            groups[group].append([values[name] for name in names[group]])
        profiles.append(border_profile(crop.image, crop.mask, crop.spacing_mm))
        pictures.append(_pictures(crop, window))
        spectra.append(spectrum_ratio(crop.image, crop.mask, crop.spacing_mm))
    planes = {name: np.array([each[k] for each in pictures]) for k, name in enumerate(PLANES)}
    features = {group: np.array(rows) for group, rows in groups.items()}
    return Measured(list(crops), features, names, np.array(profiles), planes, np.array(spectra))


def _pictures(crop: Crop, window: Sequence[float]) -> list[np.ndarray]:
    """Return the three planes through the middle of a lesion, 32 mm wide, in [-1, 1]."""
    values, _ = centred_cube(crop.image, crop.mask, crop.spacing_mm, PICTURE)
    low, high = window
    cube = ((values - low) / (high - low) * 2 - 1).clip(-1, 1)
    return [cube.take(PICTURE // 2, axis) for axis in range(3)]


def judge(
    real: Measured,
    synthetic: Measured,
    seed: int = 0,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that two sets of lesions differ in, JSON values only.

    ``distances``: name to ``value`` (median of the distances of random halves of one set to halves
    of the other), ``low`` and ``high`` (5 and 95 % of them), and ``real`` with the same of real
    halves. ``told_apart``: areas under the curve of random forests by group of features, with
    intervals, and of real halves. ``border``, ``inside``, ``shape``: medians and quartiles of each
    feature. ``profile``: medians by ring, by size and by subtype. ``noise_spectrum``, ``counts``.

    Args:
        real: measured.
        synthetic: measured on the same window.
        seed: of halves, directions, forests.
        earlier: what this returned for other synthetic lesions with the same real ones and seed:
            what is of real lesions alone is taken from there.
    """
    both, known = (real, synthetic), earlier or {}
    patients = [each.patients for each in both]
    sets = feature_sets(*both)
    pictures = {plane: tuple(each.pictures[plane] for each in both) for plane in PLANES}
    return {
        "radiomics_version": RADIOMICS_VERSION,
        "seed": seed,
        "counts": {
            name: {"lesions": len(each.crops), "patients": len(set(each.patients))}
            for name, each in zip(("real", "synthetic"), both, strict=True)
        },
        "distances": {
            name: set_distances(
                (sets | pictures)[of][0],
                (sets | pictures)[of][1],
                patients,
                distance,
                seed,
                _real(known, "distances", name),
            )
            for name, of, distance in tqdm(list(_distances([*sets], seed)), desc="distances")
        },
        "told_apart": {
            name: told_apart(
                forest_auc, rows[0], rows[1], patients, seed, _real(known, "told_apart", name)
            )
            for name, rows in tqdm(sets.items(), desc="forests")
        },
        **_medians(real, synthetic, seed, known),
        "profile": _profiles(real, synthetic),
    }


def _medians(
    real: Measured, synthetic: Measured, seed: int, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return median and quartiles of each feature of both, by group, and of the noise spectrum."""
    bands = [f"{low:g}-{high:g}" for low, high in pairwise(BANDS)]
    result: dict[str, Any] = {}
    for group, names in {**real.names, "noise_spectrum": bands}.items():
        columns = (
            (each.features | {"noise_spectrum": each.spectra})[group].T
            for each in (real, synthetic)
        )
        result[group] = {
            name: {
                "real": _real(known, group, name) or quartiles(one, real.patients, seed),
                "synthetic": quartiles(other, synthetic.patients, seed),
            }
            for name, one, other in zip(names, *columns, strict=True)
        }
    return result


def _real(known: Mapping[str, Any], part: str, name: str) -> Any:
    """Return what an earlier result says of the real lesions alone; None without one."""
    return known[part][name]["real"] if known else None


def feature_sets(real: Measured, *others: Measured) -> dict[str, list[np.ndarray]]:
    """Return features on the scale of the real ones: by group, and all of them."""
    found = {
        group: standardized(rows, *(each.features[group] for each in others))
        for group, rows in real.features.items()
    }
    found["all"] = [np.concatenate(rows, 1) for rows in zip(*found.values(), strict=True)]
    return found


def _distances(groups: Sequence[str], seed: int) -> Iterator[tuple[str, str, Distance]]:
    """Yield the name of each distance, what it is of, and the distance."""
    for group in groups:
        yield f"frechet_radiomics_{group}", group, frechet_distance
    yield "kid_inside", "inside", kernel_distance
    yield "mmd_inside", "inside", mean_discrepancy
    for plane in PLANES:
        yield f"swd_{plane}", plane, partial(sliced_wasserstein, seed=seed)
    yield "precision", "all", lambda a, b: precision_recall(a, b)[0]
    yield "recall", "all", lambda a, b: precision_recall(a, b)[1]


def set_distances(
    real: np.ndarray,
    synthetic: np.ndarray,
    patients: Sequence[Sequence[str]],
    distance: Distance,
    seed: int,
    band: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the distance of halves of two sets, and that of real halves, with their spread.

    ``band`` is the latter where it is known.
    """
    if band is None:
        band = _band(distances_of_halves(real, patients[0], distance, SPLITS, seed))
    return {**_band(_of_halves(real, synthetic, patients, distance, seed)), "real": band}


def _of_halves(
    real: np.ndarray,
    synthetic: np.ndarray,
    patients: Sequence[Sequence[str]],
    distance: Distance,
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


def told_apart(
    test: Callable[..., Auc],
    real: Any,
    synthetic: Any,
    patients: Sequence[Sequence[str]],
    seed: int,
    band: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the area under the curve of a two-sample test, and that of two real halves.

    ``band`` is the latter where it is known.
    """
    if band is None:
        names = np.unique(patients[0])
        chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
        first = np.isin(patients[0], chosen)
        groups = np.array(patients[0])
        halves = test(real[first], real[~first], list(groups[first]), list(groups[~first]), seed)
        band = halves._asdict()
    found = test(real, synthetic, patients[0], patients[1], seed)
    return {**found._asdict(), "real": band}


def _profiles(real: Measured, synthetic: Measured) -> dict[str, Any]:
    """Return the median profile by size and by subtype, and how many lesions each is of."""
    kinds: dict[str, Callable[[Measured], np.ndarray]] = {}
    for low, high in pairwise(SIZES_MM):
        label = f"{low:g}-{high:g} mm" if high < 1e3 else f"{low:g} mm and more"
        kinds[label] = partial(_of_size, low=low, high=high)
    for name in SUBTYPES:
        kinds[name.replace("_", "-")] = partial(_of_subtype, name=name)
    found = {}
    for label, chosen in kinds.items():
        row = {}
        for name, each in (("real", real), ("synthetic", synthetic)):
            kept = each.profiles[chosen(each)]
            if len(kept):
                middle = [None if np.isnan(c).all() else float(np.nanmedian(c)) for c in kept.T]
                row[name] = {"median": middle, "lesions": len(kept)}
        if row:
            found[label] = row
    return found


def _of_size(each: Measured, low: float, high: float) -> np.ndarray:
    sizes = np.array(each.diameters_mm)
    return (sizes >= low) & (sizes < high)


def _of_subtype(each: Measured, name: str) -> np.ndarray:
    return np.array(each.subtypes) == name


def _band(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [5, 50, 95]).tolist()
    return {"value": middle, "low": low, "high": high}

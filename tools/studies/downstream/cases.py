"""Real cases of a study of use, and sites without lesion.

``normal`` of a preset says where healthy tissue comes from: ``healed``, the surroundings of the
training lesions with the lesions taken out (:func:`tools.transforms.healing.heal`), and
``scans``, whole scans with a mask of their lesions, ``windows`` from each; null: the section
``normal`` of the datalist.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import nibabel as nib
import numpy as np
from tqdm import tqdm

from tools.files import listed_path, new_file, new_folder, read_entries
from tools.organs.organ import Organ
from tools.organs.sources import make_organ_source
from tools.prepare.lesions import Rule, healthy_windows
from tools.prepare.scans import bundle_rule, prepare_scans, require_prepared, volume
from tools.scans.reader import open_image
from tools.scans.scan import Scan
from tools.transforms.healing import heal

__all__ = [
    "Case",
    "Site",
    "case_loaders",
    "case_name",
    "datalist_of",
    "healthy_sites",
    "prepared",
    "read_cases",
]

MARGIN_MM = 2.5  # of the rim that is healed with a lesion

logger = logging.getLogger(__name__)


class Case(NamedTuple):
    """One real case in memory.

    Attributes:
        name: of the case; unique.
        patient: whose it is.
        image: in the scan's units.
        label: label map of that shape.
        affine: voxel to RAS mm.
        known: True where the scan reaches; the rest of a window continues it.
        facts: what else its datalist says of it, ratings among it; of a pool, what that says.
    """

    name: str
    patient: str
    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    known: np.ndarray
    facts: Mapping[str, Any] = {}

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size."""
        return tuple(float(x) for x in nib.affines.voxel_sizes(self.affine))


Site = Callable[[], Case]  # without lesion


def datalist_of(real: Path) -> Path:
    """Return the datalist that is given, or that of a folder."""
    return real / "datalist.json" if real.is_dir() else real


def prepared(
    real: Path, out: Path, preset: Mapping[str, Any], validation_fraction: float = 0.2
) -> Path:
    """Return the folder of a datalist whose images are as the network wants them.

    Args:
        real: datalist, or folder with one.
        out: where windows are written, if the preset wants some.
        preset: of the study.
        validation_fraction: of the patients of a list without a section ``validation``.

    Raises:
        ValueError: if a scan cannot be prepared, or a list of another name is given to a preset
            that prepares nothing: what is not written anew is read as ``datalist.json``.
    """
    listed = datalist_of(real)
    if preset["prepare"] is None:
        if listed.name != "datalist.json":
            raise ValueError(f"real must be named datalist.json with this preset, got {real}")
        return listed.parent
    keys = dict(preset["prepare"])
    rule = bundle_rule(keys.pop("bundle"), **keys)
    if not (out / "datalist.json").is_file():
        made = prepare_scans(listed, out, rule, validation_fraction=validation_fraction)
        if made["broken"]:
            (out / "datalist.json").unlink()  # tried again by the next run
        require_prepared(made)
        logger.info("prepared: %s", made)
    return out


def case_name(entry: Mapping[str, Any]) -> str:
    """Return the name of an entry, that of its image where it has none."""
    image = Path(entry["image"]).name.partition("_image")[0].partition(".")[0]
    return str(entry.get("name") or image)


def read_cases(folder: Path, section: str, names: Container[str] | None = None) -> list[Case]:
    """Return the cases of a section of a datalist, those of some names or all.

    Raises:
        ValueError: if there is none, or one has no patient.
    """
    found = case_loaders(folder, section)
    chosen = [load for name, load in found.items() if names is None or name in names]
    return [load() for load in tqdm(chosen, f"reading {section}", leave=False)]


def case_loaders(
    folder: Path, section: str, healthy: bool = False
) -> dict[str, Callable[[], Case]]:
    """Return what reads each case of a section, by name; healthy ones need no label.

    Raises:
        ValueError: if there is none, or one has no patient.
    """
    path = folder / "datalist.json"
    entries = read_entries(path, "real", section)
    if not entries:
        raise ValueError(f"real must list cases in section {section}, got none in {path}")
    for entry in entries:
        if not entry.get("patient"):
            raise ValueError(f"entries of real must name their patient, got {entry} in {path}")
    return {case_name(entry): partial(_read, folder, path, entry, healthy) for entry in entries}


def _read(folder: Path, path: Path, entry: Mapping[str, Any], healthy: bool) -> Case:
    image = open_image(listed_path(entry.get("image"), "image", folder, path))
    labels = np.zeros(image.shape, np.uint8)
    if not healthy or entry.get("label"):
        label = open_image(listed_path(entry.get("label"), "label", folder, path))
        labels = np.asarray(label.dataobj).astype(np.uint8)
    known = np.ones(image.shape, bool)
    if "known" in entry:
        known[:] = False
        known[tuple(slice(*ends) for ends in entry["known"])] = True
    return Case(
        case_name(entry),
        str(entry["patient"]),
        np.asarray(image.dataobj),
        labels,
        np.asarray(image.affine, float),
        known,
        {**(entry.get("ratings") or {}), **entry},
    )


def healthy_sites(
    preset: Mapping[str, Any],
    organ: Organ,
    training: Sequence[Callable[[], Case]],
    folder: Path,
    base: Path,
    cache: Path,
) -> list[Site]:
    """Return sites without lesion, made when they are asked for; what takes time is kept.

    Args:
        preset: of the study.
        organ: whose lesions they are.
        training: what reads the cases with lesions.
        folder: of the prepared datalist.
        base: that paths of the preset start from.
        cache: folder for what is made.
    """
    rule, sites = preset["normal"], list[Site]()
    if rule is None:
        return list(case_loaders(folder, preset["sections"]["normal"], healthy=True).values())
    if rule.get("healed"):
        sites += [partial(_healed, load, organ, cache) for load in training]
    for scan in rule.get("scans", []):
        size = training[0]().image.shape
        windows = _windows(scan, rule["windows"], organ, size, base, cache)
        sites += [partial(_given, case) for case in windows]
    return sites


def _given(case: Case) -> Case:
    return case


def _read_site(path: Path, name: str, patient: str) -> Case:
    image = open_image(path)
    values = np.asarray(image.dataobj)
    empty = np.zeros(values.shape, np.uint8)
    return Case(name, patient, values, empty, np.asarray(image.affine, float), empty == 0)


def _write_site(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    with new_file(path) as partly:
        nib.save(volume(np.rint(values).astype(np.int16), affine), partly)


def _healed(load: Callable[[], Case], organ: Organ, cache: Path) -> Case:
    """Return a case without its lesion."""
    case = load()
    path = cache / f"{case.name}.nii.gz"
    if not path.is_file():
        lesion = np.isin(case.label, organ.values)
        chance = np.random.default_rng(crc32(case.name.encode()))
        values = heal(case.image, lesion, case.spacing_mm, chance, MARGIN_MM)
        _write_site(path, values, case.affine)
    return _read_site(path, case.name, case.patient)


def _windows(
    scan: Mapping[str, str],
    count: int,
    organ: Organ,
    size: Sequence[int],
    base: Path,
    cache: Path,
) -> Iterator[Case]:
    """Yield windows of a scan that touch no lesion of its mask."""
    name = scan["name"]
    own = cache / f"{name}_windows"
    if not own.is_dir():
        whole = Scan(base / scan["image"], in_hu=organ.modality == "CT")
        marks = whole.load_mask(base / scan["lesions"], "lesions", empty=True)
        inside = np.asarray(make_organ_source(organ, "recipe")(whole))
        rule = Rule("windows", size=list(size), normal=count, lowest=-1024)
        found = healthy_windows(whole.image, whole.affine, inside, marks, rule, [0])
        with new_folder(own, ("*.nii.gz",)) as partly:
            for number, (values, _, grid) in enumerate(found):
                _write_site(partly / f"{name}_window{number:03d}.nii.gz", values, grid.affine)
    for path in sorted(own.glob("*.nii.gz")):
        yield _read_site(path, path.name.removesuffix(".nii.gz"), scan["patient"])

"""What differs between organs, as a table; and an organ found in a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.files import read_object
from tools.kinds import record_of
from tools.sentences import short
from tools.transforms.spheres import enclosing_sphere

__all__ = ["LesionClass", "Organ", "OrganMap", "load_organ", "organ_file"]

KINDS = ("equal_volume_sphere", "enclosing_sphere")
CHARTS = ("box", "wall")
# of a table, and of what lies in it; keys that begin with _ are for people
KEYS = {
    "": {"name", "modality", "chart", "parts", "cavity", "wall", "classes", "usual_count"}
    | {"most_lesions", "diameter", "placements", "found_by", "recipe", "regions", "levels_hu"}
    | {"host_reactions", "enhanced_from_hu"},
    "diameter": {"kind", "meaning", "range_mm"},
    "regions": {"option", "structures", "first_values"},
}


@dataclass(frozen=True)
class LesionClass:
    """One class of lesion: its name, its value in label maps, the class in which it lies."""

    name: str
    value: int
    inside: str | None = None


@dataclass(frozen=True)
class Organ:
    """The table of an organ.

    Shapes are drawn in its ``chart``: ``box`` (mm) or ``wall`` (angle, depth, slice; slices are the
    axis with the largest voxels). The ``parts`` are values by name in its label map, which the
    label written carries too; ``cavity`` and ``wall`` are values in it; in a box every part is
    room for lesions. ``structures`` are names of the regions in segmentation programs, in the order
    of their numbers.

    Raises:
        ValueError: if chart or kind of diameter are unknown.
    """

    name: str
    modality: str
    chart: str
    classes: tuple[LesionClass, ...]  # outermost first
    parts: Mapping[str, int] = field(default_factory=dict)
    cavity: tuple[int, ...] = ()
    wall: tuple[int, ...] = ()
    usual_count: int = 1  # lesions per scan where no number is asked for
    most_lesions: int | None = None
    diameter_kind: str = KINDS[0]  # what ``diameter_mm`` means
    diameter_range_mm: tuple[float, float] = (2.0, 60.0)
    placements: tuple[str, ...] = ()
    found_by: tuple[str, ...] = ()  # empty: a label map must be given
    levels_hu: tuple[float, float] | None = None  # that the median of the organ has in a CT
    enhanced_from_hu: float | None = None  # that median with contrast medium; lower is without
    host_reactions: Mapping[str, Any] = field(default_factory=dict)  # numbers of each, by name
    recipe: str | None = None  # dotted name of a function ``(image, affine) -> mask``
    region_option: str | None = None  # name of the option that chooses regions
    structures: Mapping[str, str] = field(default_factory=dict)
    first_values: tuple[int, ...] = ()  # of the first region in label maps of regions

    def __post_init__(self) -> None:
        for key, known in (("chart", CHARTS), ("diameter_kind", KINDS)):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {list(known)}, got {getattr(self, key)!r}")

    @property
    def values(self) -> tuple[int, ...]:
        """Label value of each lesion class."""
        return tuple(each.value for each in self.classes)

    @property
    def room(self) -> tuple[int, ...]:
        """Values of the label map in which lesions may lie."""
        return self.wall or tuple(self.parts.values())

    @property
    def described_parts(self) -> str:
        """The parts and their values, for messages."""
        return ", ".join(f"{value} {name}" for name, value in self.parts.items())

    def measure_mm(self, mask: np.ndarray, affine: np.ndarray) -> float:
        """Return the diameter of a lesion as the table defines it."""
        if self.diameter_kind == "enclosing_sphere":
            return 2 * enclosing_sphere(mask, affine).radius_mm
        volume = float(mask.sum()) * abs(float(np.linalg.det(affine[:3, :3])))
        return float((6 * volume / np.pi) ** (1 / 3))

    def check_regions(self, given: str | Sequence[str] | None) -> tuple[str, ...] | None:
        """Return the regions asked for, each once; None, also of "any": anywhere.

        Raises:
            ValueError: if one is unknown, or the organ has no regions.
        """
        if given is None or given == "any":
            return None
        words = given.split(",") if isinstance(given, str) else given
        names = tuple(dict.fromkeys(str(word).strip() for word in words))
        if names == ("any",):
            return None
        option = self.region_option or "region"
        if not names or [name for name in names if name not in self.structures]:
            raise ValueError(
                f"{option} must be any, or one or several of {list(self.structures)}, "
                f"got {list(words)}"
            )
        return names

    def number_regions(self, labels: np.ndarray, values: Mapping[str, int]) -> np.ndarray:
        """Return regions as numbers from 1, 0 elsewhere, of a program's label map."""
        result = np.zeros(labels.shape, np.uint8)
        for number, structure in enumerate(self.structures.values(), 1):
            if structure in values:
                result[labels == values[structure]] = number
        return result

    def read_regions(self, labels: np.ndarray) -> np.ndarray:
        """Return regions as numbers from 1, from a label map of nothing but regions.

        Its whole numbers are those of the regions in their order from one of ``first_values`` on.

        Raises:
            ValueError: if the values fit none of the ways to number them, or two of them; or if
                there are only 1 and 2, as in masks of paired organs.
        """
        count = len(self.structures)
        present = np.unique(labels[labels != 0])
        fitting = [
            first
            for first in self.first_values
            if len(present) and np.isin(present - first, range(count)).all()
        ]
        if len(present) and present.max() <= 2:
            fitting = []  # more likely a mask of the organ, or one value for each side
        if len(fitting) != 1:
            ways = " or ".join(f"{first} to {first + count - 1}" for first in self.first_values)
            raise ValueError(
                f"organ_mask must be a label map of {self.region_option}s where one is asked for "
                f"({ways}: {', '.join(self.structures)}), got values {present[:8].tolist()}"
            )
        return np.where(labels == 0, 0, labels - fitting[0] + 1).astype(np.uint8)

    def choose_regions(self, regions: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return where some regions are, of a map of their numbers.

        Raises:
            ValueError: if none of them is there.
        """
        numbers = {name: number for number, name in enumerate(self.structures, 1)}
        chosen = np.isin(regions, [numbers[name] for name in names])
        if not chosen.any():
            there = [name for name, number in numbers.items() if (regions == number).any()]
            raise ValueError(
                f"{self.region_option} must be one that the scan shows ({there}), got {list(names)}"
            )
        return chosen


@dataclass(frozen=True)
class OrganMap:
    """The organ of one scan, on its grid; its ``record`` is for ``lesions.json``."""

    inside: np.ndarray | None  # where lesions may lie; None: anywhere, the user's mask decides
    record: Mapping[str, Any]
    labels: np.ndarray | None = None  # of an organ with parts
    region: np.ndarray | None = None  # part of ``inside`` that was asked for; None: all of it

    @property
    def within(self) -> np.ndarray | None:
        """What lesions are cut to."""
        return self.inside if self.region is None else self.region


def organ_file(name_or_path: str | Path) -> Path:
    """Return the file of an organ's table, see :func:`load_organ`.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = Path(__file__).with_name(f"{name_or_path}.json")
    if not path.is_file():
        known = sorted(file.stem for file in Path(__file__).parent.glob("*.json"))
        raise FileNotFoundError(f"organ must be one of {known} or a JSON file, got {name_or_path}")
    return path


def load_organ(name_or_path: str | Path) -> Organ:
    """Return the table of an organ: the name of one that comes with the package, or a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a key is missing or unknown.

    Example:
        >>> load_organ("heart").values
        (3, 4)
    """
    path = organ_file(name_or_path)
    table = read_object(path, "organ")
    try:
        parts = {name: table.get(name, {}) for name in ("diameter", "regions")}
        for name, part in {"": table, **parts}.items():
            if not isinstance(part, dict):
                raise ValueError(f"{name} must be an object, got {short(part)}")
            unknown = [key for key in part if key not in KEYS[name] and not key.startswith("_")]
            if unknown:
                raise ValueError(f"unknown {', '.join(unknown)}")
        return _organ(table, parts["diameter"], parts["regions"])
    except ValueError as error:
        raise ValueError(f"organ {path.name} must have all keys and no other: {error}") from error


def _organ(table: Mapping[str, Any], diameter: Mapping, regions: Mapping) -> Organ:
    own = {key: value for key, value in table.items() if key not in KEYS}
    renamed = {"diameter_kind": (diameter, "kind"), "diameter_range_mm": (diameter, "range_mm")}
    renamed |= {"region_option": (regions, "option"), "structures": (regions, "structures")}
    renamed |= {"first_values": (regions, "first_values")}
    missing = [key for key in ("kind", "range_mm") if key not in diameter]
    if missing:
        raise ValueError(f"diameter lacks {' and '.join(missing)}")
    own |= {name: part[key] for name, (part, key) in renamed.items() if key in part}
    classes = own.get("classes")
    if not isinstance(classes, list) or not all(isinstance(each, dict) for each in classes):
        raise ValueError(f"classes must be objects, got {short(classes)}")
    unknown = {key for each in classes for key in each} - {"name", "value", "inside"}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    own["classes"] = [record_of(LesionClass, each) for each in classes]
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
    return record_of(Organ, plain)

"""Sources of organ masks: an installed segmentation program, a bundle, or a built-in recipe."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch

from tools.organs.organ import Organ, OrganMap
from tools.organs.segmentation_bundle import (
    BUNDLE_NAME,
    BUNDLE_VARIABLE,
    BundleOrgan,
    find_organ_bundle,
    not_empty,
)
from tools.synthesis.scan import Scan

__all__ = [
    "GivenOrgan",
    "OrganSource",
    "RecipeOrgan",
    "TotalSegmentatorOrgan",
    "find_organ",
    "make_organ_source",
]


class OrganSource(Protocol):
    """Anything that finds the organ of a scan; ``record`` is what ``lesions.json`` says of it."""

    record: dict[str, Any]

    def __call__(self, scan: Scan) -> np.ndarray:
        """Return the organ as booleans on the scan's grid, at least one voxel, or a ValueError."""
        ...

    def regions(self, scan: Scan) -> np.ndarray:
        """Return the regions as numbers from 1 in the order of the organ's table, 0 elsewhere.

        A source that knows none raises a ValueError.
        """
        ...


class RecipeOrgan:
    """An organ by thresholds and morphology, without weights: the recipe of its table."""

    def __init__(self, organ: Organ) -> None:
        module, _, name = str(organ.recipe).rpartition(".")
        self.organ = organ
        self._recipe = getattr(importlib.import_module(module), name)
        self.record: dict[str, Any] = {"source": "recipe", "name": name}

    def __call__(self, scan: Scan) -> np.ndarray:
        """Return the organ; a ValueError if the scan does not show it."""
        return self._recipe(scan.image, scan.affine)

    def regions(self, scan: Scan) -> np.ndarray:
        """Refuse: thresholds do not find the borders of regions."""
        option = self.organ.region_option
        raise ValueError(
            f"{option} needs a source that knows {option}s (organ_source totalsegmentator or "
            f"bundle, or a label map of {option}s as organ_mask), got organ_source recipe"
        )


class GivenOrgan:
    """Of organs that nothing here finds: a label map must come with each scan."""

    def __init__(self, organ: Organ) -> None:
        self.organ = organ
        self.record: dict[str, Any] = {"source": "file"}

    def __call__(self, scan: Scan) -> np.ndarray:
        """Refuse."""
        raise ValueError(
            f"organ_mask must be a label map of the {self.organ.name} "
            f"({self.organ.described_parts}), got none for {scan.name or 'the scan'}"
        )

    regions = __call__


class TotalSegmentatorOrgan:
    """The regions of an organ by TotalSegmentator, classes of its task "total"; needs its package.

    A CPU takes the 3 mm models.

    References:
        Wasserthal et al., TotalSegmentator, Radiology AI 2023. https://arxiv.org/abs/2208.05868
    """

    def __init__(self, organ: Organ, device: str | torch.device = "cpu") -> None:
        if not _is_installed():
            raise ValueError(
                "organ_source totalsegmentator must have its package (pip install "
                "TotalSegmentator), got an environment without it"
            )
        self.organ, self.device = organ, torch.device(device)
        self.classes = list(organ.structures.values())
        self.fast = self.device.type == "cpu"
        self.record: dict[str, Any] = {
            "source": "totalsegmentator",
            "name": "TotalSegmentator",
            "version": _version("TotalSegmentator"),
            "fast": self.fast,
            "classes": self.classes,
        }

    def __call__(self, scan: Scan) -> np.ndarray:
        """Return the union of the classes.

        Raises:
            ValueError: if the program fails (weights that cannot be loaded, too little memory), or
                finds nothing.
        """
        result = self._segment(scan)
        return not_empty(scan.on_grid(result, "mask of TotalSegmentator"), self.record)

    def regions(self, scan: Scan) -> np.ndarray:
        """Return the regions as numbers from 1, 0 elsewhere."""
        labels = scan.labels_on_grid(self._segment(scan), "mask of TotalSegmentator")
        names = importlib.import_module("totalsegmentator.map_to_binary").class_map["total"]
        values = {name: int(value) for value, name in names.items() if name in self.classes}
        return not_empty(self.organ.number_regions(labels, values), self.record)

    def _segment(self, scan: Scan) -> nib.Nifti1Image:
        segment = importlib.import_module("totalsegmentator.python_api").totalsegmentator
        device = "cpu" if self.fast else f"gpu:{self.device.index}" if self.device.index else "gpu"
        image = nib.Nifti1Image(np.asarray(scan.image, np.float32), scan.affine)
        try:
            return segment(
                image,
                None,
                ml=True,
                task="total",
                roi_subset=self.classes,
                fast=self.fast,
                device=device,
                quiet=True,
            )
        except (Exception, SystemExit) as error:  # it leaves by sys.exit where a download fails
            raise ValueError(
                f"organ_source totalsegmentator must run, got {type(error).__name__}: {error}; "
                "organ_source recipe needs no weights"
            ) from error


def make_organ_source(
    organ: Organ,
    name: str = "auto",
    bundle: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> OrganSource:
    """Return the source of organ masks that a name stands for.

    ``auto`` is the bundle if one is named; else TotalSegmentator if its package is installed; else
    the bundle if it lies where :func:`find_organ_bundle` looks; else the recipe. Only those of the
    organ's table count (``found_by``). A folder of a bundle goes with ``auto`` and ``bundle`` only.

    Raises:
        FileNotFoundError: if there is no bundle where one is wanted.
        ValueError: if the name is unknown, or what it needs is missing.

    Example:
        >>> from tools.organs import load_organ
        >>> make_organ_source(load_organ("lung"), "recipe").record["source"]
        'recipe'
    """
    if not organ.found_by:
        return GivenOrgan(organ)
    words = ["auto", *organ.found_by]
    if name not in words:
        raise ValueError(f"organ_source must be one of {words}, got {name!r}")
    known = organ.found_by if name == "auto" else (name,)
    if bundle is not None and "bundle" not in known:
        raise ValueError(f"organ_bundle goes with organ_source bundle or auto, got {name}")
    if name == "totalsegmentator" or (
        "totalsegmentator" in known and bundle is None and _is_installed()
    ):
        return TotalSegmentatorOrgan(organ, device)
    folder = find_organ_bundle(bundle) if "bundle" in known else None
    if folder is not None:
        return BundleOrgan(organ, folder, device)
    if "recipe" in known:
        return RecipeOrgan(organ)
    if name == "bundle":
        raise FileNotFoundError(
            f"organ_source bundle must find {BUNDLE_NAME}, got none; name its folder with "
            f"organ_bundle or {BUNDLE_VARIABLE}"
        )
    raise ValueError(
        f"organ_source must be installed, one of {list(known)}, or organ_mask be given, got none"
    )


def find_organ(
    organ: Organ,
    source: OrganSource,
    scan: Scan,
    given: Path | nib.Nifti1Image | None,
    region: Sequence[str] | None = None,
    needed: bool = True,
) -> OrganMap:
    """Return the organ of a scan: from the map that came with it, else by the source.

    Lesions may lie in the regions that are named, or in all of it; where the user's own mask
    decides it is not ``needed``, and nothing is looked for.

    Raises:
        ValueError: if it is not found, or a part of it is missing.
    """
    name = given.name if isinstance(given, Path) else "in memory"
    record = {"source": "file", "name": name} if given is not None else dict(source.record)
    if organ.parts:
        if given is None:
            source(scan)
        return _with_parts(organ, scan.load_labels(given, "organ_mask"), record)  # type: ignore[arg-type]
    if region is not None:
        if given is None:
            regions = source.regions(scan)
        else:
            regions = organ.read_regions(scan.load_labels(given, "organ_mask"))
        chosen = organ.choose_regions(regions, region)
        key = organ.region_option or "region"
        return OrganMap(regions > 0, {**record, key: list(region)}, region=chosen)
    if given is not None:
        return OrganMap(scan.load_mask(given, "organ_mask"), record)
    if not needed:
        return OrganMap(None, {"source": "none", "name": "the mask file decides"})
    return OrganMap(source(scan), record)


def _with_parts(organ: Organ, labels: np.ndarray, record: dict[str, Any]) -> OrganMap:
    for part, value in organ.parts.items():
        if not (labels == value).any():
            raise ValueError(
                f"organ_mask must mark the {part} as {value}, got none in {record['name']}"
            )
    names = {str(value): part for part, value in organ.parts.items()}
    return OrganMap(np.isin(labels, organ.wall), {**record, "labels": names}, labels)


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("totalsegmentator.python_api") is not None
    except (ImportError, ValueError):
        return False


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""

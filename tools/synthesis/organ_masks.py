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

from tools.synthesis.lobes import LUNG_CLASSES, numbered_lobes
from tools.synthesis.lung_mask import lung_mask
from tools.synthesis.organ_bundle import (
    BUNDLE_NAME,
    BUNDLE_VARIABLE,
    BundleOrgan,
    find_organ_bundle,
    not_empty,
)
from tools.synthesis.scan import Scan

__all__ = [
    "OrganSource",
    "RecipeOrgan",
    "TotalSegmentatorOrgan",
    "make_organ_source",
]

SOURCES = ("auto", "totalsegmentator", "bundle", "recipe")


class OrganSource(Protocol):
    """Anything that finds the organ of a scan.

    Attributes:
        record: what ``lesions.json`` says about it, JSON values only.
    """

    record: dict[str, Any]

    def __call__(self, scan: Scan) -> np.ndarray:
        """Return the organ as booleans on the scan's grid, at least one voxel."""
        ...

    def lobes(self, scan: Scan) -> np.ndarray:
        """Return the lobes as numbers of :data:`tools.synthesis.lobes.LOBES`, 0 elsewhere.

        Raises:
            ValueError: if the source knows none.
        """
        ...


class RecipeOrgan:
    """The lungs by thresholds and morphology, see :func:`lung_mask`."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"source": "recipe", "name": "lung_mask"}

    def __call__(self, scan: Scan) -> np.ndarray:
        """Return the lungs.

        Raises:
            ValueError: if the scan shows no lung.
        """
        return lung_mask(scan.image, scan.affine)

    def lobes(self, scan: Scan) -> np.ndarray:
        """Refuse: thresholds do not find fissures.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "lobe needs a source that knows lobes (organ_source totalsegmentator or bundle, or a "
            "label map of lobes as organ_mask), got organ_source recipe"
        )


class TotalSegmentatorOrgan:
    """The lobes of the lungs by TotalSegmentator; its package must be installed.

    References:
        Wasserthal et al., TotalSegmentator, Radiology AI 2023. https://arxiv.org/abs/2208.05868

    Args:
        device: of the run; a CPU takes the 3 mm models.
        classes: class names of its task "total".

    Raises:
        ValueError: if the package is not installed.
    """

    def __init__(
        self, device: str | torch.device = "cpu", classes: Sequence[str] = LUNG_CLASSES
    ) -> None:
        if not _is_installed():
            raise ValueError(
                "organ_source totalsegmentator must have its package (pip install "
                "TotalSegmentator), got an environment without it"
            )
        self.device, self.classes = torch.device(device), list(classes)
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

    def lobes(self, scan: Scan) -> np.ndarray:
        """Return the lobes as numbers of :data:`tools.synthesis.lobes.LOBES`, 0 elsewhere.

        Raises:
            ValueError: as when it is called.
        """
        labels = scan.labels_on_grid(self._segment(scan), "mask of TotalSegmentator")
        names = importlib.import_module("totalsegmentator.map_to_binary").class_map["total"]
        values = {name: int(value) for value, name in names.items() if name in LUNG_CLASSES}
        return not_empty(numbered_lobes(labels, values), self.record)

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
    name: str = "auto", bundle: str | Path | None = None, device: str | torch.device = "cpu"
) -> OrganSource:
    """Return the source of organ masks that a name stands for.

    ``auto`` is the bundle if one is named; else TotalSegmentator if its package is installed; else
    the bundle if it lies where :func:`find_organ_bundle` looks; else the recipe.

    Args:
        name: auto, totalsegmentator, bundle or recipe.
        bundle: folder of the bundle; only with ``auto`` and ``bundle``.
        device: of the run.

    Raises:
        FileNotFoundError: if there is no bundle where one is wanted.
        ValueError: if the name is unknown, or what it needs is missing.

    Example:
        >>> make_organ_source("recipe").record["source"]
        'recipe'
    """
    if name not in SOURCES:
        raise ValueError(f"organ_source must be one of {list(SOURCES)}, got {name!r}")
    if bundle is not None and name not in ("auto", "bundle"):
        raise ValueError(f"organ_bundle goes with organ_source bundle or auto, got {name}")
    if name == "totalsegmentator" or (name == "auto" and bundle is None and _is_installed()):
        return TotalSegmentatorOrgan(device)
    if name == "recipe":
        return RecipeOrgan()
    folder = find_organ_bundle(bundle)
    if folder is not None:
        return BundleOrgan(folder, device)
    if name == "bundle":
        raise FileNotFoundError(
            f"organ_source bundle must find {BUNDLE_NAME}, got none; name its folder with "
            f"organ_bundle or {BUNDLE_VARIABLE}"
        )
    return RecipeOrgan()


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

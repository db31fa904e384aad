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

from tools.synthesis.lung_mask import lung_mask
from tools.synthesis.organ_bundle import (
    BUNDLE_NAME,
    BUNDLE_VARIABLE,
    LUNG_CLASSES,
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
        segment = importlib.import_module("totalsegmentator.python_api").totalsegmentator
        device = "cpu" if self.fast else f"gpu:{self.device.index}" if self.device.index else "gpu"
        image = nib.Nifti1Image(np.asarray(scan.image, np.float32), scan.affine)
        try:
            result = segment(
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
        return not_empty(scan.on_grid(result, "mask of TotalSegmentator"), self.record)


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

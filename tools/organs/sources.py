"""Sources of organ masks: an installed segmentation program, a bundle, or a built-in recipe."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tools.bundle import bundle_folders
from tools.files import read_object
from tools.organs.organ import Organ, OrganMap
from tools.scans.changed import PackedMask
from tools.scans.scan import Scan

__all__ = [
    "BUNDLE_VARIABLE",
    "BundleOrgan",
    "GivenOrgan",
    "OrganSource",
    "RecipeOrgan",
    "TotalSegmentatorOrgan",
    "find_organ",
    "find_organ_bundle",
    "make_organ_source",
]

BUNDLE_NAME = "wholeBody_ct_segmentation"
BUNDLE_VARIABLE = "ORGAN_BUNDLE"


class OrganSource(Protocol):
    """Anything that finds the organ of a scan; ``record`` is what ``lesions.json`` says of it."""

    record: dict[str, Any]

    def __call__(self, scan: Scan) -> Any:
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

    def __call__(self, scan: Scan) -> PackedMask:
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
    """Where nothing here finds the organ: a label map must come with each scan."""

    def __init__(self, organ: Organ) -> None:
        self.organ = organ
        self.record: dict[str, Any] = {"source": "file"}

    def __call__(self, scan: Scan) -> np.ndarray:
        """Refuse."""
        known = ", ".join(self.organ.found_by)
        other = f", or organ_source be installed, one of {known}" if known else ""
        parts = f" ({self.organ.described_parts})" if self.organ.parts else ""
        raise ValueError(
            f"organ_mask must be a label map of the {self.organ.name}{parts}{other}, "
            f"got none for {scan.name or 'the scan'}"
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


class BundleOrgan:
    """The regions of an organ by a MONAI segmentation bundle, run by its own ``inference.json``.

    The bundle must save one label map per scan as ``wholeBody_ct_segmentation`` and
    ``pancreas_ct_dints_segmentation`` of the model zoo do; the values of the regions are looked up
    in ``channel_def`` of its metadata. A CPU takes the 3 mm weights if the bundle has them.

    Raises:
        ValueError: if the bundle lacks config, weights or all of the structures.
    """

    def __init__(
        self, organ: Organ, folder: str | Path, device: str | torch.device = "cpu"
    ) -> None:
        self.organ, self.folder, self.device = organ, Path(folder), torch.device(device)
        metadata, self.values = _read_classes(self.folder, list(organ.structures.values()))
        if not any(self.folder.glob("models/*.*")):
            raise ValueError(f"organ_bundle must have weights in models/, got none in {folder}")
        fine, coarse = (self.folder / "models" / n for n in ("model.pt", "model_lowres.pt"))
        self.fine = fine.is_file() and not (coarse.is_file() and self.device.type == "cpu")
        self.record: dict[str, Any] = {
            "source": "bundle",
            "name": self.folder.resolve().name,
            "version": str(metadata.get("version", "")),
            "fast": not self.fine,
            "classes": list(self.values),
        }

    def __call__(self, scan: Scan) -> np.ndarray:
        """Return the union of the regions."""
        return self.regions(scan) > 0

    def regions(self, scan: Scan) -> np.ndarray:
        """Return the regions as numbers from 1, 0 elsewhere.

        Raises:
            ValueError: if the bundle fails or finds nothing.
        """
        numbered = self.organ.number_regions(self._label_map(scan), self.values)
        return not_empty(numbered, self.record)

    def _label_map(self, scan: Scan) -> np.ndarray:
        """Return the values that the bundle saves, on the scan's grid."""
        with tempfile.TemporaryDirectory(prefix="organ_") as work:
            source = Path(work, "imagesTs", "scan.nii.gz")
            source.parent.mkdir()
            nib.save(nib.Nifti1Image(np.asarray(scan.image, np.float32), scan.affine), source)
            try:
                self._run(Path(work), source)
            except Exception as error:  # a config can fail in any way
                raise ValueError(
                    f"organ_bundle must run, got {type(error).__name__}: {error}"
                ) from error
            found = sorted(Path(work, "labels").rglob("*.nii*"))
            if len(found) != 1:
                raise ValueError(f"organ_bundle must save one label map, got {len(found)}")
            return scan.load_labels(found[0], "mask of organ_bundle")

    def _run(self, work: Path, source: Path) -> None:
        """Run the bundle's inference with input, output and device of ours."""
        config = _inference(self.folder)
        assert config is not None  # such are found only
        found = sorted(self.folder.glob("models/search_code*"))
        wanted: dict[str, Any] = {
            "bundle_root": str(self.folder.resolve()),
            "dataset_dir": str(work),
            "datalist": [str(source)],
            "output_dir": str(work / "labels"),
            "device": self.device,
            "displayable_configs#highres": self.fine,
            "dataloader#num_workers": 0,  # one scan; and no process outlives an error
            "inferer#device": self.device,
            "dints_space#device": self.device,
            "arch_ckpt_path": str(found[-1]) if found else "",
            "arch_ckpt": "$torch.load(@arch_ckpt_path, map_location=@device, weights_only=True)",
        }
        parser = ConfigParser()
        parser.read_config(config)
        known = {key: value for key, value in wanted.items() if key in parser}
        run_id = "run" if "run" in parser else "evaluating"
        path = list(sys.path)
        try:
            # its logging.conf must not replace the logging of this program
            workflow = ConfigWorkflow(
                str(config), run_id=run_id, workflow_type="infer", logging_file=False, **known
            )
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        finally:
            sys.path[:] = path  # run() puts the bundle in front of installed packages


def find_organ_bundle(folder: str | Path | None = None) -> Path | None:
    """Return the folder of the segmentation bundle, or None.

    Looks at ``folder``; without it, at the one named by the environment variable ``ORGAN_BUNDLE``;
    without that, beside the other bundles and where ``monai.bundle download`` puts bundles.

    Raises:
        FileNotFoundError: if a folder is named and holds no bundle.
    """
    named = folder or os.environ.get(BUNDLE_VARIABLE)
    if named:
        if not _is_bundle(Path(named)):
            raise FileNotFoundError(
                f"organ_bundle must hold configs/inference.json and metadata.json, got {named}"
            )
        return Path(named)
    known = (*bundle_folders(), Path(torch.hub.get_dir()) / "bundle")
    return next((path / BUNDLE_NAME for path in known if _is_bundle(path / BUNDLE_NAME)), None)


def _is_bundle(folder: Path) -> bool:
    return _inference(folder) is not None and (folder / "configs" / "metadata.json").is_file()


def _inference(folder: Path) -> Path | None:
    """Return the config that runs a bundle, in either form; None if there is none."""
    forms = (folder / "configs" / f"inference.{form}" for form in ("json", "yaml"))
    return next((path for path in forms if path.is_file()), None)


def _read_classes(folder: Path, classes: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the metadata of a bundle and the label values of the classes it has."""
    metadata = read_object(folder / "configs" / "metadata.json", "organ_bundle")
    outputs = metadata.get("network_data_format", {}).get("outputs", {})
    channels = outputs.get("pred", {}).get("channel_def", {})
    values = {name: int(value) for value, name in channels.items() if name in classes}
    if not values:
        raise ValueError(
            f"organ_bundle must have the organ in channel_def, got {len(channels)} other classes"
        )
    return metadata, values


def not_empty(mask: np.ndarray, record: dict[str, Any]) -> np.ndarray:
    """Return the mask that a source with this record found; a ValueError if nothing is marked."""
    if not mask.any():
        raise ValueError(f"scan must show the organ, got none from {record['name']}")
    return mask


def make_organ_source(
    organ: Organ,
    name: str = "auto",
    bundle: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> OrganSource:
    """Return the source of organ masks that a name stands for.

    ``auto`` is the bundle if one is named; else TotalSegmentator if its package is installed; else
    the bundle if it lies where :func:`find_organ_bundle` looks; else the recipe; else a label map
    must come with each scan. Only those of the organ's table count (``found_by``). A folder of a
    bundle goes with ``auto`` and ``bundle`` only.

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
    return GivenOrgan(organ)


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
    decides it is not ``needed``, and nothing is looked for. A mask that a source finds is the one
    part of an organ with parts; regions are of a label map of nothing but regions.

    Raises:
        ValueError: if it is not found, or a part of it is missing.
    """
    name = given.name if isinstance(given, Path) else "in memory"
    record = {"source": "file", "name": name} if given is not None else dict(source.record)
    if organ.parts and (given is not None or needed) and region is None:
        if given is not None:
            return _with_parts(organ, scan.load_labels(given, "organ_mask"), record)
        return _found_part(organ, np.asarray(source(scan)), record)
    if region is not None:
        if given is None:
            regions = source.regions(scan)
        else:
            regions = organ.read_regions(scan.load_labels(given, "organ_mask"))
        chosen = organ.choose_regions(regions, region)
        record |= {organ.region_option or "region": list(region)}
        if organ.parts:
            return replace(_found_part(organ, regions > 0, record), region=chosen)
        return OrganMap(regions > 0, record, region=chosen)
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
    return OrganMap(np.isin(labels, organ.room), {**record, "labels": names}, labels)


def _found_part(organ: Organ, inside: np.ndarray, record: dict[str, Any]) -> OrganMap:
    """Return the label map of an organ of one part that a source found."""
    (value,) = organ.parts.values()
    return _with_parts(organ, inside.astype(np.uint8) * np.uint8(value), record)


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

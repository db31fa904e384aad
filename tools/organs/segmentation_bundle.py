"""A segmentation bundle as source of organ masks: found, run by its own config, read back."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tools.bundle import bundle_folders
from tools.organs.organ import Organ
from tools.synthesis.scan import Scan

__all__ = ["BUNDLE_VARIABLE", "BundleOrgan", "find_organ_bundle", "not_empty"]

BUNDLE_NAME = "wholeBody_ct_segmentation"
BUNDLE_VARIABLE = "ORGAN_BUNDLE"


class BundleOrgan:
    """The regions of an organ by a MONAI segmentation bundle, run by its own ``inference.json``.

    The bundle must save one label map per scan as ``wholeBody_ct_segmentation`` of the model zoo
    does; the values of the regions are looked up in ``channel_def`` of its metadata. A CPU takes
    the 3 mm weights if the bundle has them.

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
            label = nib.Nifti1Image.load(found[0])
            values = np.asarray(label.dataobj).reshape(label.shape[:3])  # some keep the channel
            organ = nib.Nifti1Image(np.rint(values).astype(np.int16), label.affine)
            return scan.labels_on_grid(organ, "mask of organ_bundle")

    def _run(self, work: Path, source: Path) -> None:
        """Run the bundle's inference with input, output and device of ours."""
        config = self.folder / "configs" / "inference.json"
        wanted: dict[str, Any] = {
            "bundle_root": str(self.folder.resolve()),
            "dataset_dir": str(work),
            "datalist": [str(source)],
            "output_dir": str(work / "labels"),
            "device": self.device,
            "displayable_configs#highres": self.fine,
            "dataloader#num_workers": 0,  # one scan; and no process outlives an error
            "inferer#device": self.device,
        }
        parser = ConfigParser()
        parser.read_config(config)
        known = {key: value for key, value in wanted.items() if key in parser}
        path = list(sys.path)
        try:
            # its logging.conf must not replace the logging of this program
            workflow = ConfigWorkflow(
                str(config), workflow_type="infer", logging_file=False, **known
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
    files = ("inference.json", "metadata.json")
    return all((folder / "configs" / name).is_file() for name in files)


def _read_classes(folder: Path, classes: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the metadata of a bundle and the label values of the classes it has."""
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
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

"""Sources of organ masks: chosen as documented, run as their own interfaces ask, recorded."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tools.synthesis.lobes import LUNG_CLASSES
from tools.synthesis.organ_bundle import BUNDLE_VARIABLE, BundleOrgan
from tools.synthesis.organ_masks import TotalSegmentatorOrgan, make_organ_source

from tools.synthesis import organ_bundle, organ_masks
from tools.synthesis.scan import Scan

AFFINE = np.array([[-1, 0, 0, 9], [0, 0, 2, -4], [0, 1, 0, 3], [0, 0, 0, 1.0]])


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the package nor a bundle of this machine takes part."""
    monkeypatch.setattr(organ_masks, "_is_installed", lambda: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)


@pytest.fixture
def scan() -> Scan:
    """Values 0, 1, 2, ... hundreds along the first axis: what the fakes take for organs."""
    values = np.zeros((12, 10, 8), np.int16) + 100 * np.arange(12, dtype=np.int16)[:, None, None]
    return Scan(nib.Nifti1Image(values, AFFINE))


def install_fake(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[dict[str, Any]]:
    """Put a package in place whose function notes how it was called."""
    calls = []

    def totalsegmentator(input: Any, output: Any = None, **options: Any) -> Any:
        calls.append({"input": input, "output": output, **options})
        return result(input)

    package = types.ModuleType("totalsegmentator")
    package.__path__ = []
    api = types.ModuleType("totalsegmentator.python_api")
    api.totalsegmentator = totalsegmentator
    monkeypatch.setitem(sys.modules, "totalsegmentator", package)
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    monkeypatch.setattr(organ_masks, "_is_installed", lambda: True)
    return calls


def test_totalsegmentator_is_asked_for_the_lobes(
    monkeypatch: pytest.MonkeyPatch, scan: Scan
) -> None:
    def lobes(image: nib.Nifti1Image) -> nib.Nifti1Image:
        values = np.asarray(image.dataobj)
        labels = np.where(values >= 900, 13, np.where(values >= 700, 11, 0)).astype(np.uint8)
        return nib.as_closest_canonical(nib.Nifti1Image(labels, image.affine))

    calls = install_fake(monkeypatch, lobes)
    organ = make_organ_source("auto", device="cpu")
    mask = organ(scan)
    assert np.array_equal(mask, scan.image >= 700)
    (call,) = calls
    assert call["roi_subset"] == list(LUNG_CLASSES)
    assert (call["ml"], call["task"], call["fast"], call["device"]) == (True, "total", True, "cpu")
    assert call["output"] is None
    assert organ.record["source"] == "totalsegmentator"
    for device, name in (("cuda", "gpu"), ("cuda:0", "gpu"), ("cuda:1", "gpu:1")):
        TotalSegmentatorOrgan(device)(scan)
        assert (calls[-1]["device"], calls[-1]["fast"]) == (name, False)


def test_totalsegmentator_tells_lobes_apart(monkeypatch: pytest.MonkeyPatch, scan: Scan) -> None:
    def lobes(image: nib.Nifti1Image) -> nib.Nifti1Image:
        values = np.asarray(image.dataobj)
        labels = np.where(values >= 900, 52, np.where(values >= 700, 50, 0)).astype(np.uint8)
        return nib.as_closest_canonical(nib.Nifti1Image(labels, image.affine))

    install_fake(monkeypatch, lobes)
    names = types.ModuleType("totalsegmentator.map_to_binary")
    # the values are those of its own table, whatever the version
    names.class_map = {"total": {5: "liver", 50: LUNG_CLASSES[0], 52: LUNG_CLASSES[4]}}
    monkeypatch.setitem(sys.modules, "totalsegmentator.map_to_binary", names)
    found = make_organ_source("totalsegmentator").lobes(scan)
    assert np.array_equal(found, np.where(scan.image >= 900, 5, np.where(scan.image >= 700, 1, 0)))


def test_totalsegmentator_that_fails_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, scan: Scan
) -> None:
    def no_weights(_: Any) -> None:
        raise SystemExit("cannot download")

    install_fake(monkeypatch, no_weights)
    with pytest.raises(ValueError, match="must run, got SystemExit: cannot download; organ_source"):
        make_organ_source("totalsegmentator")(scan)
    install_fake(monkeypatch, lambda image: nib.Nifti1Image(np.zeros(image.shape), image.affine))
    with pytest.raises(ValueError, match="must show lung, got none from TotalSegmentator"):
        make_organ_source("totalsegmentator")(scan)


# files and keys are those of the zoo's bundle; the network is a threshold
ZOO_CONFIG = {
    "displayable_configs": {"highres": True},
    "imports": ["$import glob", "$import torch", "$import pathlib"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "sampledata",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network": {"_target_": "torch.nn.Threshold", "threshold": 699.0, "value": 0.0},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        ],
    },
    "dataset": {
        "_target_": "Dataset",
        "data": "$[{'image': i} for i in @datalist]",
        "transform": "@preprocessing",
    },
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "num_workers": 1},
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "Lambdad",
                "keys": "pred",
                "func": "$lambda x: (x > 0) * 13 + (x > 900) * 1",
            },
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "image",
                "nearest_interp": True,
                "to_tensor": True,
            },
            {
                "_target_": "SaveImaged",
                "keys": "pred",
                "output_dir": "@output_dir",
                "output_postfix": "trans",
                "separate_folder": True,
            },
        ],
    },
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
    },
    "initialize": ["$pathlib.Path(@bundle_root, 'seen').write_text(str(@device))"],
    "run": ["$@evaluator.run()"],
}


def write_bundle(folder: Path, classes: dict[str, str] | None = None) -> Path:
    """A bundle that looks like the zoo's."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "models" / "model.pt").touch()
    classes = classes or {"0": "background", "13": LUNG_CLASSES[0], "14": LUNG_CLASSES[1]}
    outputs = {"pred": {"channel_def": {"11": "adrenal_gland_right", **classes}}}
    metadata = {"version": "0.2.5", "network_data_format": {"inputs": {}, "outputs": outputs}}
    (folder / "configs" / "inference.json").write_text(json.dumps(ZOO_CONFIG))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_bundle_runs_on_the_scan_and_leaves_nothing(tmp_path: Path, scan: Scan) -> None:
    folder = write_bundle(tmp_path / "zoo" / "wholeBody_ct_segmentation")
    path = list(sys.path)
    organ = BundleOrgan(folder)
    assert np.array_equal(organ(scan), scan.image >= 700)
    assert organ.record == {
        "source": "bundle",
        "name": "wholeBody_ct_segmentation",
        "version": "0.2.5",
        "fast": False,
        "classes": list(LUNG_CLASSES[:2]),
    }
    assert (folder / "seen").read_text() == "cpu"
    assert sorted(item.name for item in folder.iterdir()) == ["configs", "models", "seen"]
    assert sys.path == path


def test_bundle_tells_lobes_apart(tmp_path: Path, scan: Scan) -> None:
    # the config saves 14 above 900 and 13 from 700 on
    classes = {"13": LUNG_CLASSES[3], "14": LUNG_CLASSES[1]}
    organ = BundleOrgan(write_bundle(tmp_path / "zoo", classes))
    expected = np.where(scan.image > 900, 2, np.where(scan.image >= 700, 4, 0))
    assert np.array_equal(organ.lobes(scan), expected)
    assert np.array_equal(organ(scan), expected > 0)


def test_bundle_takes_the_coarse_weights_on_a_cpu(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "zoo")
    assert BundleOrgan(folder).fine
    (folder / "models" / "model_lowres.pt").touch()
    assert not BundleOrgan(folder).fine
    assert BundleOrgan(folder, "cuda:0").fine
    (folder / "models" / "model.pt").unlink()
    assert not BundleOrgan(folder, "cuda:0").fine


def test_unfit_bundle_gets_one_sentence(tmp_path: Path, scan: Scan) -> None:
    other = write_bundle(tmp_path / "other", {"13": "spleen"})
    with pytest.raises(ValueError, match="must have lung lobes in channel_def"):
        BundleOrgan(other)
    empty = write_bundle(tmp_path / "empty")
    (empty / "models" / "model.pt").unlink()
    with pytest.raises(ValueError, match="organ_bundle must have weights"):
        BundleOrgan(empty)
    broken = write_bundle(tmp_path / "broken")
    config = json.loads((broken / "configs" / "inference.json").read_text())
    config["initialize"] = ["$1 / 0"]
    (broken / "configs" / "inference.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="organ_bundle must run, got"):
        BundleOrgan(broken)(scan)


def test_auto_takes_the_first_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source(*arguments: Any) -> str:
        return make_organ_source(*arguments).record["source"]

    assert source("auto") == "recipe"
    write_bundle(tmp_path / "hub" / "bundle" / organ_bundle.BUNDLE_NAME)
    assert source("auto") == "bundle"
    install_fake(monkeypatch, lambda image: image)
    assert source("auto") == "totalsegmentator"
    assert source("bundle") == "bundle"
    assert source("recipe") == "recipe"
    mine = write_bundle(tmp_path / "mine")
    assert make_organ_source("auto", mine).record["name"] == "mine"  # what is named comes first
    monkeypatch.setenv(BUNDLE_VARIABLE, str(mine))
    assert make_organ_source("bundle").record["name"] == "mine"


def test_missing_source_gets_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"organ_source must be one of \['auto', .* got 'liver'"):
        make_organ_source("liver")
    with pytest.raises(ValueError, match="totalsegmentator must have its package"):
        make_organ_source("totalsegmentator")
    with pytest.raises(FileNotFoundError, match="organ_source bundle must find wholeBody"):
        make_organ_source("bundle")
    with pytest.raises(FileNotFoundError, match="organ_bundle must hold configs/inference"):
        make_organ_source("auto", tmp_path / "nothing")
    with pytest.raises(ValueError, match="organ_bundle goes with organ_source bundle or auto"):
        make_organ_source("recipe", tmp_path)
    monkeypatch.setenv(BUNDLE_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"got .*gone"):
        make_organ_source("auto")

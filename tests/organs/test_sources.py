"""Sources of organ masks: chosen as documented, run as their own interfaces ask, recorded."""

import json
import sys
import types
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tools.organs import OrganMap, load_organ
from tools.organs.sources import (
    BUNDLE_NAME,
    BUNDLE_VARIABLE,
    BundleOrgan,
    TotalSegmentatorOrgan,
    find_organ,
    make_organ_source,
)
from tools.scans.scan import Scan

LUNG, HEART = load_organ("lung"), load_organ("heart")
LOBES = list(LUNG.structures.values())
AFFINE = np.array([[-1, 0, 0, 9], [0, 0, 2, -4], [0, 1, 0, 3], [0, 0, 0, 1.0]])


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the package nor a bundle of this machine takes part."""
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)


@pytest.fixture
def scan() -> Scan:
    """Values 0, 1, 2, ... hundreds along the first axis: what the fakes take for organs."""
    values = np.zeros((12, 10, 8), np.int16) + 100 * np.arange(12, dtype=np.int16)[:, None, None]
    return Scan(nib.Nifti1Image(values, AFFINE))


def install_fake(
    monkeypatch: pytest.MonkeyPatch, result: Any, values: dict[int, str] | None = None
) -> list[dict[str, Any]]:
    """Put a package in place whose function notes how it was called."""
    calls = []

    def totalsegmentator(input: Any, output: Any = None, **options: Any) -> Any:
        calls.append({"input": input, "output": output, **options})
        return result(input)

    for name, content in (
        ("totalsegmentator", {"__path__": []}),
        ("totalsegmentator.python_api", {"totalsegmentator": totalsegmentator}),
        ("totalsegmentator.map_to_binary", {"class_map": {"total": values}}),
    ):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_totalsegmentator_is_asked_for_the_lobes(
    monkeypatch: pytest.MonkeyPatch, scan: Scan
) -> None:
    def lobes(image: nib.Nifti1Image) -> nib.Nifti1Image:
        shown = np.asarray(image.dataobj)
        labels = np.where(shown >= 900, 52, np.where(shown >= 700, 50, 0)).astype(np.uint8)
        return nib.as_closest_canonical(nib.Nifti1Image(labels, image.affine))

    # the values are those of its own table, whatever the version
    calls = install_fake(monkeypatch, lobes, {5: "liver", 50: LOBES[0], 52: LOBES[4]})
    organ = make_organ_source(LUNG, device="cpu")
    assert np.array_equal(organ(scan), scan.image >= 700)
    (call,) = calls
    assert call["roi_subset"] == LOBES
    assert (call["ml"], call["task"], call["fast"], call["device"]) == (True, "total", True, "cpu")
    assert call["output"] is None
    assert organ.record["source"] == "totalsegmentator"
    expected = np.where(scan.image >= 900, 5, np.where(scan.image >= 700, 1, 0))
    assert np.array_equal(organ.regions(scan), expected)
    for device, name in (("cuda", "gpu"), ("cuda:0", "gpu"), ("cuda:1", "gpu:1")):
        TotalSegmentatorOrgan(LUNG, device)(scan)
        assert (calls[-1]["device"], calls[-1]["fast"]) == (name, False)


def test_totalsegmentator_that_fails_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, scan: Scan
) -> None:
    def no_weights(_: Any) -> None:
        raise SystemExit("cannot download")

    install_fake(monkeypatch, no_weights)
    with pytest.raises(ValueError, match="must run, got SystemExit: cannot download; organ_source"):
        make_organ_source(LUNG, "totalsegmentator")(scan)
    install_fake(monkeypatch, lambda image: nib.Nifti1Image(np.zeros(image.shape), image.affine))
    with pytest.raises(ValueError, match="must show the organ, got none from TotalSegmentator"):
        make_organ_source(LUNG, "totalsegmentator")(scan)


def part(target: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": target, **arguments}


# files and keys are those of the zoo's bundle; the network is a threshold
PRED = {"keys": "pred"}
LOADING = [
    part("LoadImaged", keys="image"),
    part("EnsureChannelFirstd", keys="image"),
    part("Orientationd", keys="image", axcodes="RAS"),
]
SAVING = [
    part("Lambdad", **PRED, func="$lambda x: (x > 0) * 13 + (x > 900) * 1"),
    part("Invertd", **PRED, transform="@preprocessing", orig_keys="image", nearest_interp=True),
    part("SaveImaged", **PRED, output_dir="@output_dir", output_postfix="trans"),
]
ZOO_CONFIG = {
    "displayable_configs": {"highres": True},
    "imports": ["$import glob", "$import torch", "$import pathlib"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "sampledata",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network": part("torch.nn.Threshold", threshold=699.0, value=0.0),
    "preprocessing": part("Compose", transforms=LOADING),
    "dataset": part(
        "Dataset", data="$[{'image': i} for i in @datalist]", transform="@preprocessing"
    ),
    "dataloader": part("DataLoader", dataset="@dataset", num_workers=1),
    "inferer": part("SimpleInferer"),
    "postprocessing": part("Compose", transforms=SAVING),
    "evaluator": part(
        "SupervisedEvaluator",
        val_data_loader="@dataloader",
        **{key: f"@{key}" for key in ("device", "network", "inferer", "postprocessing")},
    ),
    "initialize": ["$pathlib.Path(@bundle_root, 'seen').write_text(str(@device))"],
    "run": ["$@evaluator.run()"],
}


def write_bundle(folder: Path, classes: dict[str, str] | None = None) -> Path:
    """A bundle that looks like the zoo's."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "models" / "model.pt").touch()
    classes = classes or {"0": "background", "13": LOBES[0], "14": LOBES[1]}
    outputs = {"pred": {"channel_def": {"11": "adrenal_gland_right", **classes}}}
    metadata = {"version": "0.2.5", "network_data_format": {"inputs": {}, "outputs": outputs}}
    (folder / "configs" / "inference.json").write_text(json.dumps(ZOO_CONFIG))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_bundle_runs_on_the_scan_tells_regions_apart_and_leaves_nothing(
    tmp_path: Path, scan: Scan
) -> None:
    # the config saves 14 above 900 and 13 from 700 on
    folder = write_bundle(tmp_path / BUNDLE_NAME, {"13": LOBES[3], "14": LOBES[1]})
    path = list(sys.path)
    organ = BundleOrgan(LUNG, folder)
    expected = np.where(scan.image > 900, 2, np.where(scan.image >= 700, 4, 0))
    assert np.array_equal(organ.regions(scan), expected)
    assert np.array_equal(organ(scan), expected > 0)
    assert organ.record == {
        "source": "bundle",
        "name": "wholeBody_ct_segmentation",
        "version": "0.2.5",
        "fast": False,
        "classes": [LOBES[3], LOBES[1]],
    }
    assert (folder / "seen").read_text() == "cpu"
    assert sorted(item.name for item in folder.iterdir()) == ["configs", "models", "seen"]
    assert sys.path == path


def test_bundle_takes_the_coarse_weights_on_a_cpu(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "zoo")
    assert BundleOrgan(LUNG, folder).fine
    (folder / "models" / "model_lowres.pt").touch()
    assert not BundleOrgan(LUNG, folder).fine
    assert BundleOrgan(LUNG, folder, "cuda:0").fine
    (folder / "models" / "model.pt").unlink()
    assert not BundleOrgan(LUNG, folder, "cuda:0").fine


def test_unfit_bundle_gets_one_sentence(tmp_path: Path, scan: Scan) -> None:
    other = write_bundle(tmp_path / "other", {"13": "spleen"})
    with pytest.raises(ValueError, match="must have the organ in channel_def"):
        BundleOrgan(LUNG, other)
    empty = write_bundle(tmp_path / "empty")
    (empty / "models" / "model.pt").unlink()
    with pytest.raises(ValueError, match="organ_bundle must have weights"):
        BundleOrgan(LUNG, empty)
    broken = write_bundle(tmp_path / "broken")
    config = json.loads((broken / "configs" / "inference.json").read_text())
    config["initialize"] = ["$1 / 0"]
    (broken / "configs" / "inference.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="organ_bundle must run, got"):
        BundleOrgan(LUNG, broken)(scan)


def test_auto_takes_the_first_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source(*arguments: Any) -> str:
        return make_organ_source(LUNG, *arguments).record["source"]

    assert source("auto") == "recipe"
    write_bundle(tmp_path / "hub" / "bundle" / BUNDLE_NAME)
    assert source("auto") == "bundle"
    install_fake(monkeypatch, lambda image: image)
    assert source("auto") == "totalsegmentator"
    assert source("bundle") == "bundle"
    assert source("recipe") == "recipe"
    mine = write_bundle(tmp_path / "mine")  # what is named comes first
    assert make_organ_source(LUNG, "auto", mine).record["name"] == "mine"
    monkeypatch.setenv(BUNDLE_VARIABLE, str(mine))
    assert make_organ_source(LUNG, "bundle").record["name"] == "mine"


def test_missing_source_gets_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, arguments, message in (
        (ValueError, ("liver",), r"organ_source must be one of \['auto', .* got 'liver'"),
        (ValueError, ("totalsegmentator",), "totalsegmentator must have its package"),
        (FileNotFoundError, ("bundle",), "organ_source bundle must find wholeBody"),
        (FileNotFoundError, ("auto", tmp_path / "no"), "organ_bundle must hold configs/inference"),
        (ValueError, ("recipe", tmp_path), "organ_bundle goes with organ_source bundle or auto"),
    ):
        with pytest.raises(kind, match=message):
            make_organ_source(LUNG, *arguments)
    monkeypatch.setenv(BUNDLE_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"got .*gone"):
        make_organ_source(LUNG, "auto")


def test_only_the_sources_of_its_table_find_an_organ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_program = replace(LUNG, found_by=("totalsegmentator",), recipe=None)
    with pytest.raises(ValueError, match=r"must be one of \['auto', 'totalsegmentator'\], got 're"):
        make_organ_source(by_program, "recipe")
    with pytest.raises(ValueError, match="organ_bundle goes with organ_source bundle"):
        make_organ_source(by_program, "auto", write_bundle(tmp_path / "mine"))
    with pytest.raises(ValueError, match="a label map of the lung, or organ_source be installed"):
        make_organ_source(by_program)(Scan(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4))))
    install_fake(monkeypatch, lambda image: image)
    assert make_organ_source(by_program).record["source"] == "totalsegmentator"
    assert make_organ_source(replace(LUNG, found_by=("recipe",))).record["source"] == "recipe"


class Counting:
    """A source that says how often it was asked."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask, self.calls = mask, 0
        self.record = {"source": "recipe", "name": "counting"}

    def __call__(self, scan: Scan) -> np.ndarray:
        return self.regions(scan) > 0

    def regions(self, scan: Scan) -> np.ndarray:
        self.calls += 1
        return self.mask


def write_map(path: Path, label: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(label.astype(np.uint8), AFFINE), path)
    return path


def test_an_organ_comes_from_its_file_its_source_or_is_not_needed(
    tmp_path: Path, scan: Scan
) -> None:
    lobes = np.arange(scan.image.size, dtype=np.uint16).reshape(scan.image.shape) % 6
    given, source = write_map(tmp_path / "mine.nii.gz", lobes), Counting(np.roll(lobes, 1))
    from_file = {"source": "file", "name": "mine.nii.gz"}
    found = find_organ(LUNG, source, scan, given)
    assert np.array_equal(found.within, lobes > 0)
    assert found.record == from_file
    found = find_organ(LUNG, source, scan, given, ["left_lower"])
    assert np.array_equal(found.inside, lobes > 0)
    assert np.array_equal(found.within, lobes == 2)
    assert found.record == from_file | {"lobe": ["left_lower"]}
    in_memory = nib.Nifti1Image(lobes, AFFINE)
    assert find_organ(LUNG, source, scan, in_memory).record["name"] == "in memory"
    assert find_organ(LUNG, source, scan, None, needed=False) == OrganMap(
        None, {"source": "none", "name": "the mask file decides"}
    )
    assert source.calls == 0
    found = find_organ(LUNG, source, scan, None)
    assert np.array_equal(found.within, source.mask > 0)
    assert found.record == source.record
    found = find_organ(LUNG, source, scan, None, ["left_upper", "right_lower"])
    assert np.array_equal(found.within, np.isin(source.mask, (1, 5)))
    assert found.record == source.record | {"lobe": ["left_upper", "right_lower"]}


def test_an_organ_with_parts_is_its_label_map(tmp_path: Path, scan: Scan) -> None:
    source = make_organ_source(HEART)
    with pytest.raises(ValueError, match=r"must be a label map of the heart \(1 cavity, 2 myo"):
        find_organ(HEART, source, scan, None)
    label = np.arange(scan.image.size, dtype=np.uint16).reshape(scan.image.shape) % 5
    found = find_organ(HEART, source, scan, write_map(tmp_path / "heart.nii.gz", label))
    assert np.array_equal(found.labels, label)
    assert np.array_equal(found.within, label > 1)
    parts = {"1": "cavity", "2": "myocardium"}
    assert found.record == {"source": "file", "name": "heart.nii.gz", "labels": parts}
    for value, name in ((1, "cavity"), (2, "myocardium")):
        path = write_map(tmp_path / "part.nii.gz", np.where(label == value, 0, label))
        with pytest.raises(ValueError, match=f"organ_mask must mark the {name} as {value}, got"):
            find_organ(HEART, source, scan, path)

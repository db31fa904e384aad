"""What the bundle of hearts does beyond the rules for all: two lesion classes, four variants."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from tests.bundles.runs import (
    FEW_STEPS,
    SHORT,
    TINY,
    random_weights,
    raw_values,
    run_configs,
    run_example,
    written,
)
from tools.cli import main
from tools.networks.factorised_unet import FactorisedUNet
from tools.networks.lesion_unet import LesionUNet
from tools.phantoms.heart_datasets import heart_datalist

BUNDLE = "bundles/lefusion_emidec"
ARGUMENTS: dict[str, Any] = {"in_channels": 4, "out_channels": 2, "condition_size": 32}
QUICK = {"displayable_configs#num_inference_steps": 2, "amp_dtype": None}
SMALL = {"network_def#channels": TINY}


def run_hearts(run_id: str, names: str, output_dir: Path, **options: Any) -> None:
    run_configs("lefusion_emidec", run_id, names, output_dir, **options)


def tiny_weights(folder: Path) -> str:
    random_weights(LesionUNet(channels=TINY, **ARGUMENTS), folder / "weights.pt")
    return str(folder / "weights.pt")


def check_lesions_only(entries: list[dict[str, Any]], folder: Path) -> None:
    """Compare results with their scans: 2 mm off infarct and no-reflow all is as it was."""
    for entry in entries:
        before, label, after = written(entry, folder)
        assert after.dtype == before.dtype == np.int16
        inside = np.isin(label, (3, 4))
        spacing = nib.load(entry["image"]).header.get_zooms()[:3]
        far = ndimage.distance_transform_edt(~inside, sampling=spacing) >= 2
        assert np.array_equal(after[far], before[far])
        assert (after[inside] != before[inside]).mean() > 0.9
        assert after[inside].min() >= before.min()
        assert after[inside].max() <= before.max()
    assert len(list(folder.glob("*.nii.gz"))) == len(entries)


def test_what_is_drawn_is_scaled_and_masked_as_trained() -> None:
    """Names that training and use share mean the same, also those that no rule for all knows."""
    train, inference = (
        json.loads(Path(BUNDLE, "configs", f"{name}.json").read_text(encoding="utf-8"))
        for name in ("train", "inference")
    )
    own = {"output_dir", "initialize", "run", "network"}  # a training may start from weights
    shared = [key for key in inference if key in train and key not in own]
    assert {"organ", "percentiles", "empty_value", "classes", "combine"} <= set(shared)
    assert {key: inference[key] for key in shared} == {key: train[key] for key in shared}
    window = inference["slice_window"]
    given = {key: window[key] for key in ("organ", "size", "spacing_mm")}
    assert given == {"organ": "@organ", "size": "@window_size", "spacing_mm": "@window_spacing_mm"}


def test_inference_draws_in_the_lesions_only_and_follows_the_preset(tmp_path: Path) -> None:
    path = tiny_weights(tmp_path)
    entries = heart_datalist("", "validation")
    for preset in ("faint", "bright"):
        chosen = SMALL | {"ckpt_path": path, "displayable_configs#texture": preset}
        run_hearts("inference", "inference", tmp_path / preset, **QUICK, **chosen)
        check_lesions_only(entries, tmp_path / preset)
    for entry in entries:  # the histogram reaches the network
        faint, bright = (written(entry, tmp_path / preset)[2] for preset in ("faint", "bright"))
        assert not np.array_equal(faint, bright)


@pytest.mark.parametrize(
    ("overlay", "networks", "control"),
    [
        ("", "down", True),
        ("joint", "down", False),
        ("single", "networks.1.", False),
        ("single_histogram", "networks.1.", True),
    ],
    ids=["-J-H", "-J", "-S", "-H"],
)
def test_variants_train_and_draw(
    overlay: str, networks: str, control: bool, tmp_path: Path
) -> None:
    few = SMALL | SHORT | FEW_STEPS | {"val_every_nth_case": 4}
    run_hearts("training", f"train {overlay}", tmp_path, **few)
    best = tmp_path / "models" / "model.pt"
    trained = torch.load(best, weights_only=True)
    assert any(key.startswith(networks) for key in trained)
    assert any("histogram" in key for key in trained) == control
    one = SMALL | {"ckpt_path": str(best), "dataset#data": "$@files[:1]"}
    run_hearts("inference", f"inference {overlay}", tmp_path / "out", **QUICK, **one)
    check_lesions_only(heart_datalist("", "validation")[:1], tmp_path / "out")


def test_evaluation_reports_each_class(tmp_path: Path) -> None:
    # with the estimate matched to the request, what is measured must be what was asked for
    options = SMALL | {"ckpt_path": tiny_weights(tmp_path), "num_inference_steps": 2}
    matching = {"validate#inferer#histogram_strength": 1.0}
    run_hearts("evaluating", "train evaluate", tmp_path, **options, **matching)
    entries = heart_datalist("", "validation")
    matched = raw_values(tmp_path, "histogram_jsd")
    assert (matched < 0.02).sum() == len(entries)
    assert (raw_values(tmp_path, "histogram_jsd_infarct") < 0.02).sum() == len(entries)
    absent = [not (np.asarray(nib.load(e["label"]).dataobj) == 4).any() for e in entries]
    assert 0 < sum(absent) < len(entries)
    no_reflow = raw_values(tmp_path, "histogram_jsd_no_reflow")
    assert np.isnan(no_reflow).tolist() == absent
    assert np.nanmax(no_reflow) < 0.1  # of few voxels, whose values cannot hold every fraction
    run_hearts("evaluating", "train evaluate", tmp_path / "free", **options)
    assert raw_values(tmp_path / "free", "histogram_jsd").min() > matched.max()


def test_published_weights_are_converted_and_draw(tmp_path: Path) -> None:
    small: dict[str, Any] = {"base_channels": 8, "channel_multipliers": [1, 2]}
    network = FactorisedUNet(in_channels=2, out_channels=2, condition_size=32, **small)
    random_weights(network, tmp_path / "weights.pt")
    state = {f"denoise_fn.{key}": value for key, value in network.state_dict().items()}
    released = {"step": 1, "model": {"betas": torch.zeros(300), **state}, "ema": {}, "scaler": {}}
    torch.save(released, tmp_path / "emidec.pt")
    target = str(tmp_path / "published.pt")
    assert main(["convert", "lefusion", str(tmp_path / "emidec.pt"), target]) == 0
    options = {f"network_def#{key}": value for key, value in small.items()} | {"ckpt_path": target}
    options |= QUICK | {"displayable_configs#jump_n_sample": 1, "dataset#data": "$@files[:1]"}
    run_hearts("inference", "inference published", tmp_path / "out", **options)
    check_lesions_only(heart_datalist("", "validation")[:1], tmp_path / "out")


def test_published_network_has_the_published_size() -> None:
    parser = ConfigParser()
    parser.read_config([f"{BUNDLE}/configs/{name}.json" for name in ("inference", "published")])
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == 44_895_314


def test_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = shutil.ignore_patterns("output", "eval", "models")
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / BUNDLE, ignore=ignored))
    (bundle / "models").mkdir()
    network = LesionUNet(channels=[32, 64, 128], **ARGUMENTS)
    random_weights(network, bundle / "models" / "model.pt")
    monkeypatch.chdir(tmp_path)
    names = run_example("lefusion_emidec", **{"displayable_configs#num_inference_steps": 2})
    heart, masks, synthetic = (names[key] for key in ("heart", "masks", "synthetic"))
    inside = masks.amax(1, keepdim=True).expand_as(synthetic) > 0
    # a rim of 2 mm is one voxel of 1.5 mm within the slice
    near = torch.nn.functional.max_pool3d(inside.float(), (3, 3, 1), 1, (1, 1, 0)) > 0
    assert torch.equal(synthetic[~near], heart.expand_as(synthetic)[~near])
    assert bool((synthetic[inside] != heart.expand_as(synthetic)[inside]).all())

"""A bundle is measured from its files alone, and the results are written whole."""

import json
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch

from tools.evaluation.bundle import evaluate_bundle
from tools.evaluation.control import SamplingOptions
from tools.evaluation.loading import load_bundle
from tools.networks.lesion_unet import LesionUNet

NETWORK = {"_target_": "tools.networks.lesion_unet.LesionUNet", "channels": [8, 16]}
SAMPLER = {
    "_target_": "tools.inferers.LesionInpaintInferer",
    "scheduler": "@scheduler",
    "sampler": "ddim",
    "background": "clean",
    "mask_input": True,
    "condition": [1.0] + [0.0] * 15,
}
CONFIG = {
    "bundle_root": ".",
    "window_hu": [-1000, 400],
    "network_def": NETWORK,
    "scheduler": {"_target_": "tools.schedules.cosine_scheduler", "num_train_timesteps": 4},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    window = {"_target_": "tools.inferers.LesionWindowInferer", "inferer": SAMPLER}
    presets = {
        name: {"histogram": np.eye(16)[place].tolist()}
        for name, place in (("dense", 14), ("faint", 4), ("between", 9))
    }
    files = {
        "inference.json": CONFIG | {"inferer": window},
        "train.json": CONFIG | {"validate": {"inferer": SAMPLER}},
        "repaint.json": {"validate#inferer#background": "noised"},
        "histograms.json": {"bins": 16, "presets": presets},
    }
    for name, content in files.items():
        (configs / name).write_text(json.dumps(content))
    models = tmp_path / "bundle" / "models"
    models.mkdir()
    torch.manual_seed(0)
    torch.save({"model": LesionUNet(channels=[8, 16]).state_dict()}, models / "model.pt")
    return tmp_path / "bundle"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    entries = []
    for i in range(6):
        label = np.zeros((26, 26, 26), np.uint8)
        label[8:16, 9:17, 10:18] = 1
        image = rng.normal(-600 + 60 * i, 80, label.shape).round().astype(np.int16)
        for key, values in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{i}_{key}.nii.gz")
        entries.append({"image": f"{i}_image.nii.gz", "label": f"{i}_label.nii.gz", "patient": i})
    (folder / "datalist.json").write_text(json.dumps({"validation": entries}))
    return folder


def test_sampler_is_the_configured_one_without_its_preset(bundle: Path) -> None:
    tested = load_bundle(bundle)
    inferer = tested.make_inferer(SamplingOptions(steps=2, guidance_scale=1.5))
    assert (inferer.sampler, inferer.background, inferer.mask_input) == ("ddim", "clean", True)
    assert inferer.condition is None
    assert inferer.guidance_scale == 1.5
    assert len(inferer.transitions) == 2
    # sorted by mean intensity, whatever the order in the file
    assert list(tested.presets) == ["faint", "between", "dense"]
    assert tested.make_inferer(SamplingOptions(steps=3)).guidance_scale == 1


def test_baseline_is_sampled_as_its_overlay_says(bundle: Path) -> None:
    tested = load_bundle(bundle, files=("train.json", "repaint.json"))
    assert tested.make_inferer(SamplingOptions(steps=2)).background == "noised"


def test_missing_weights_are_named(bundle: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights must lead to an existing file.*absent"):
        load_bundle(bundle, bundle / "absent.pt")


def test_results_are_written(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = evaluate_bundle(
        bundle=str(bundle),
        dataset_dir=str(dataset),
        out=str(out),
        steps=2,
        limit=3,
        histogram_strength=1.0,
        repaint_weights=str(bundle / "models" / "model.pt"),
        device="cpu",
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "results.json",
        "results.md",
        "results.png",
    ]
    assert json.loads((out / "results.json").read_text()) == results
    assert [row["patient"] for row in results["control"]["lesions"]] == ["0", "2", "4"]
    assert results["control"]["summary"]["own"]["median"] < 1e-3
    assert results["order"]["ordered_fraction"] == 1
    assert results["repaint"]["own"]["median"] < 1e-3
    page = (out / "results.md").read_text()
    assert "faint < between < dense in 100.0% of 3 triples" in page
    assert "Largest change outside the masks: 0 (must be 0)" in page
    assert matplotlib.image.imread(out / "results.png").shape[0] > 400

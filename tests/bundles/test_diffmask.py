"""What the bundle of lesion shapes does beyond the rules for all: masks within sphere and organ."""

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import run
from nibabel.affines import apply_affine

from tools.networks.lesion_unet import LesionUNet
from tools.phantoms.datasets import lesion_datalist
from tools.phantoms.heart_datasets import heart_datalist

BUNDLE = "bundles/diffmask"
TINY = [8, 16, 16]
CARDIAC = {"in_channels": 3, "out_channels": 2}


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def run_configs(run_id: str, names: str, output_dir: Path, **options: Any) -> None:
    """Do what ``python -m monai.bundle run`` does, without a new interpreter each time."""
    files = [f"{BUNDLE}/configs/{name}.json" for name in names.split()]
    widths = {} if "published" in names else {"network_def#channels": TINY}
    options = widths | {"output_dir": str(output_dir)} | options
    run(run_id=run_id, config_file=files, logging_file=False, **options)


def weights(folder: Path, velocity: float, **arguments: int) -> str:
    """Weights of a tiny network whose output is the same number everywhere.

    With 0 the noise itself decides on the shape; with -1 the whole region becomes lesion.
    """
    network = LesionUNet(channels=TINY, **arguments)  # type: ignore[arg-type]
    last = network.output[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, velocity)
    torch.save(network.state_dict(), folder / "weights.pt")
    return str(folder / "weights.pt")


def written_masks(entries: list[dict], folder: Path, key: str = "image") -> list[np.ndarray]:
    """The label map of each entry, which lies on the grid of its scan and is like no other."""
    masks = []
    for entry in entries:
        scan = nib.load(entry[key])
        name = Path(entry[key]).name.removesuffix(".nii.gz")
        mask = nib.load(folder / f"{name}_lesion.nii.gz")
        assert mask.shape == scan.shape
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
        masks.append(np.asarray(mask.dataobj))
    assert len(list(folder.glob("*.nii.gz"))) == len(entries)
    assert len({mask.tobytes() for mask in masks}) == len(entries)
    return masks


def test_inference_writes_one_mask_per_scan_within_its_sphere(tmp_path: Path) -> None:
    sizes = {"displayable_configs#diameter_mm": 16.0, "displayable_configs#num_inference_steps": 2}
    path = weights(tmp_path, 0.0)
    run_configs("inference", "inference", tmp_path / "out", ckpt_path=path, **sizes)
    entries = lesion_datalist("", "validation")
    for entry, mask in zip(entries, written_masks(entries, tmp_path / "out"), strict=True):
        affine = nib.load(entry["image"]).affine
        middle = apply_affine(affine, np.array(mask.shape) // 2)
        points = apply_affine(affine, np.argwhere(mask))
        assert set(np.unique(mask)) == {0, 1}
        assert np.linalg.norm(points - middle, axis=1).max() <= 7.5 + 1e-3  # half a voxel less


def test_cardiac_overlays_train_and_draw_in_the_myocardium(tmp_path: Path) -> None:
    few = {"train#trainer#epoch_length": 2, "max_epochs": 1, "batch_size": 2, "val_interval": 1}
    few |= {"validate#inferer#num_inference_steps": 2, "val_every_nth_case": 2}
    run_configs("training", "train cardiac", tmp_path, **few)
    trained = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert trained["output.2.weight"].shape[0] == 2  # a channel for infarct, one for no-reflow
    run_configs(
        "inference",
        "inference cardiac_inference",
        tmp_path / "out",
        ckpt_path=weights(tmp_path, 0.0, **CARDIAC),
        **{"displayable_configs#num_inference_steps": 2},
    )
    entries = heart_datalist("", "normal")
    masks = written_masks(entries, tmp_path / "out", "label")
    for entry, labels in zip(entries, masks, strict=True):
        heart = np.asarray(nib.load(entry["label"]).dataobj)
        assert set(np.unique(labels)) == {0, 3, 4}
        assert set(np.unique(heart[labels > 0])) == {2}


def raw_values(folder: Path, name: str) -> np.ndarray:
    return np.genfromtxt(folder / f"{name}_raw.csv", delimiter=",", skip_header=1)[:, 1]


def shape_distance(folder: Path) -> float:
    rows = dict(line.split(",") for line in (folder / "metrics.csv").read_text().splitlines())
    return float(rows["shape_distance"].removeprefix("tensor(").removesuffix(")"))


def test_evaluation_finds_the_sphere_that_fills_the_region(tmp_path: Path) -> None:
    options = {"num_inference_steps": 2, "val_every_nth_case": 2}
    options |= {"ckpt_path": weights(tmp_path, -1.0)}
    run_configs("evaluating", "train evaluate", tmp_path, **options)
    assert raw_values(tmp_path, "inside").tolist() == [1, 1, 1, 1]
    # all voxels in the sphere hold those of the real lesion
    assert np.abs(raw_values(tmp_path, "diameter_error_mm")).max() < 0.5
    assert raw_values(tmp_path, "centre_error_mm").max() < 0.5
    assert 0 < shape_distance(tmp_path) < 10


def test_cardiac_evaluation_stays_in_the_wall(tmp_path: Path) -> None:
    options = {"validate#inferer#num_inference_steps": 2, "val_every_nth_case": 2}
    options |= {"ckpt_path": weights(tmp_path, -1.0, **CARDIAC)}
    run_configs("evaluating", "train cardiac cardiac_evaluate", tmp_path, **options)
    assert raw_values(tmp_path, "inside").tolist() == [1, 1]
    assert 0 < shape_distance(tmp_path) < 10


def test_published_overlay_trains_one_iteration(tmp_path: Path) -> None:
    small = {"network_def#base_channels": 8, "network_def#channel_multipliers": [1, 2]}
    small |= {"window_size": [16, 16, 8], "batch_size": 2, "train#trainer#epoch_length": 1}
    small |= {"val_every_nth_case": 100, "validate#inferer#num_inference_steps": 2}
    run_configs("training", "train published", tmp_path, max_epochs=1, val_interval=2, **small)


def test_example_of_the_readme_draws_inside_its_sphere() -> None:
    text = Path(BUNDLE, "docs", "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    closing = ",\n)\nworkflow.initialize()"
    assert example.count(closing) == 1
    quick = ',\n    **{"displayable_configs#num_inference_steps": 2}' + closing
    names: dict = {}
    exec(example.replace(closing, quick), names)
    region, lesion_mask = names["region"], names["lesion_mask"]
    assert lesion_mask.shape == region.shape
    assert not (lesion_mask & (region == 0)).any()

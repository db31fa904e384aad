"""What the bundle of lesion shapes does beyond the rules for all: masks within sphere and organ."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine

from tests.bundles.runs import FEW_STEPS, SHORT, TINY, raw_values, run_configs, run_example
from tools.networks.lesion_unet import LesionUNet
from tools.phantoms.datasets import lesion_datalist
from tools.phantoms.heart_datasets import heart_datalist

SMALL = {"network_def#channels": TINY}
QUICK = {"displayable_configs#num_inference_steps": 2}
CARDIAC = {"in_channels": 3, "out_channels": 2}


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
    given = SMALL | QUICK | {"displayable_configs#diameter_mm": 16.0}
    given |= {"ckpt_path": weights(tmp_path, 0.0)}
    run_configs("diffmask", "inference", "inference", tmp_path / "out", **given)
    entries = lesion_datalist("", "validation")
    for entry, mask in zip(entries, written_masks(entries, tmp_path / "out"), strict=True):
        affine = nib.load(entry["image"]).affine
        middle = apply_affine(affine, np.array(mask.shape) // 2)
        points = apply_affine(affine, np.argwhere(mask))
        assert set(np.unique(mask)) == {0, 1}
        assert np.linalg.norm(points - middle, axis=1).max() <= 7.5 + 1e-3  # half a voxel less


def test_cardiac_overlays_train_and_draw_in_the_myocardium(tmp_path: Path) -> None:
    few = SMALL | SHORT | FEW_STEPS | {"val_every_nth_case": 2}
    run_configs("diffmask", "training", "train cardiac", tmp_path, **few)
    trained = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert trained["output.2.weight"].shape[0] == 2  # a channel for infarct, one for no-reflow
    given = SMALL | QUICK | {"ckpt_path": weights(tmp_path, 0.0, **CARDIAC)}
    run_configs("diffmask", "inference", "inference cardiac_inference", tmp_path / "out", **given)
    entries = heart_datalist("", "normal")
    masks = written_masks(entries, tmp_path / "out", "label")
    for entry, labels in zip(entries, masks, strict=True):
        heart = np.asarray(nib.load(entry["label"]).dataobj)
        assert set(np.unique(labels)) == {0, 3, 4}
        assert set(np.unique(heart[labels > 0])) == {2}


@pytest.mark.parametrize(
    ("configs", "arguments", "cases"),
    [("train evaluate", {}, 4), ("train cardiac cardiac_evaluate", CARDIAC, 2)],
    ids=["sphere", "wall"],
)
def test_evaluation_finds_what_fills_the_region(
    configs: str, arguments: dict[str, int], cases: int, tmp_path: Path
) -> None:
    options = SMALL | FEW_STEPS | {"val_every_nth_case": 2}
    options |= {"ckpt_path": weights(tmp_path, -1.0, **arguments)}
    run_configs("diffmask", "evaluating", configs, tmp_path, **options)
    assert raw_values(tmp_path, "inside").tolist() == [1] * cases
    rows = dict(line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    assert 0 < float(rows["shape_distance"].removeprefix("tensor(").removesuffix(")")) < 10
    if not arguments:  # all voxels in the sphere hold those of the real lesion
        assert np.abs(raw_values(tmp_path, "diameter_error_mm")).max() < 0.5
        assert raw_values(tmp_path, "centre_error_mm").max() < 0.5


def test_example_of_the_readme_draws_inside_its_sphere() -> None:
    names = run_example("diffmask", **QUICK)
    region, lesion_mask = names["region"], names["lesion_mask"]
    assert lesion_mask.shape == region.shape
    assert not (lesion_mask & (region == 0)).any()

"""One call from Python: arrays or tensors in, the same out, by the path of the command."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from scipy import ndimage

from tests.synthesis.jobs import heart_scan
from tools import synthesize
from tools.cli import main
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.records import read_record

FAST: dict[str, Any] = {"steps": 2, "attempts": 1, "device": "cpu"}
SMALL: dict[str, Any] = {"shape": "ellipsoid", "diameter_mm": 8, "count": 1, "texture": "solid"}
AFFINE = np.diag([-1.0, -1.0, 1.5, 1.0])


@pytest.fixture(scope="module")
def chest() -> tuple[np.ndarray, np.ndarray]:
    """Lung-like noise, and where lesions may lie."""
    values = np.random.default_rng(0).normal(-850, 30, (44, 44, 36)).astype(np.int16)
    organ = np.zeros(values.shape, bool)
    organ[4:-4, 4:-4, 4:-4] = True
    return values, organ


FORMS = {
    "numpy": lambda array: array,
    "numpy with a channel": lambda array: array[None],
    "torch": lambda array: torch.from_numpy(array)[None].float(),
    "MetaTensor": lambda array: MetaTensor(torch.from_numpy(array)[None], affine=AFFINE),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_goes_in_comes_out(chest: tuple[np.ndarray, np.ndarray], form: str) -> None:
    image, organ = FORMS[form](chest[0]), chest[1]
    affine = None if form == "MetaTensor" else AFFINE
    made, label, record = synthesize(image, affine, organ=organ, **SMALL, **FAST)
    assert type(made) is type(label) is type(image)
    assert made.shape == label.shape == image.shape
    assert made.dtype == image.dtype
    assert label.dtype in (np.uint8, torch.uint8)
    changed, inside = np.asarray(made != image), np.asarray(label > 0)
    assert changed.any()
    away = ndimage.distance_transform_edt(
        ~inside.reshape(chest[0].shape), sampling=voxel_sizes(AFFINE)
    )
    assert not changed.reshape(away.shape)[away >= 2].any()  # the margin of the bundle
    assert not np.asarray(chest[0] != FORMS["numpy"](chest[0])).any()  # the input stays
    assert record["synthetic"]
    assert record["bundle"]["name"] == "lefusion_lidc"
    assert json.loads(json.dumps(record["lesions"]))[0]["texture"] == "solid"


def test_the_seed_decides(chest: tuple[np.ndarray, np.ndarray]) -> None:
    image, organ = chest
    first, same, other = (
        synthesize(image, AFFINE, organ=organ, seed=seed, **SMALL, **FAST)[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_mask_is_the_lesion(chest: tuple[np.ndarray, np.ndarray]) -> None:
    mask = np.zeros(chest[0].shape, bool)
    mask[18:26, 20:27, 14:19] = True
    _, label, record = synthesize(chest[0], AFFINE, mask, texture="ground_glass", **FAST)
    assert np.array_equal(label > 0, mask)
    assert record["lesions"][0]["diameter_requested_mm"] is None


def test_hearts_take_the_same_call() -> None:
    scan, organ = heart_scan()
    made, label, record = synthesize(
        scan.stored, scan.affine, organ=np.asarray(organ.dataobj), bundle="lefusion_emidec", **FAST
    )
    assert (made != scan.stored)[label > 2].any()
    away = ndimage.distance_transform_edt(label <= 2, sampling=voxel_sizes(scan.affine)) >= 2
    assert not (made != scan.stored)[away].any()
    assert record["lesions"][0]["diameter_kind"] == "enclosing_sphere"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"affine": None}, "affine must be given where the image is no MetaTensor"),
        ({"organ": np.ones((3, 3, 3))}, "organ must have the image's shape"),
        ({"no_reflow_share": 0.2}, "no_reflow_share does not go with bundle lefusion_lidc"),
        ({"texture": "granite"}, "texture must be one of"),
    ],
)
def test_bad_calls_are_one_sentence(
    chest: tuple[np.ndarray, np.ndarray], options: dict, sentence: str
) -> None:
    given = {"affine": AFFINE, "organ": chest[1], **SMALL, **FAST} | options
    with pytest.raises(ValueError, match=sentence):
        synthesize(chest[0], **given)
    with pytest.raises(ValueError, match="image must have shape"):
        synthesize(np.zeros((2, 4, 4, 4)), AFFINE)


def test_an_option_is_a_key_of_the_bundle() -> None:
    options = {"window_size": [32, 32, 32], "spacing_mm": 0.8, "shape": "ellipsoid"}
    job = open_synthesizer("lefusion_lidc", "cpu", options=options).get("synthesizer")
    assert (job.texturer.view.smallest, job.texturer.view.spacing_mm) == (32, 0.8)


@pytest.mark.parametrize("form", ["checkpoint", "state dict"])
def test_weights_of_ones_own_training(
    chest: tuple[np.ndarray, np.ndarray], tmp_path: Path, form: str
) -> None:
    shipped = torch.load("bundles/lefusion_lidc/models/model.pt", weights_only=True)
    other = {k: v + 0.01 if v.is_floating_point() else v for k, v in shipped.items()}
    content = {"network": shipped, "ema": other, "trainer": {"epoch": 1}}
    torch.save(content if form == "checkpoint" else other, tmp_path / "mine.pt")
    image, organ = chest
    for name, values in (("image", image), ("organ", organ.astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / f"{name}.nii.gz")
    words = ["synthesize", "--scan", str(tmp_path / "image.nii.gz"), "--steps", "2", "--count", "1"]
    words += ["--organ_mask", str(tmp_path / "organ.nii.gz"), "--shape", "ellipsoid"]
    words += ["--diameter_mm", "8", "--device", "cpu", "--texture", "solid", "--attempts", "1"]
    for out, more in (("own", []), ("mine", ["--weights", str(tmp_path / "mine.pt")])):
        assert main([*words, "--out", str(tmp_path / out), *more]) == 0
    records = [read_record(tmp_path / out / "image" / "lesions.json") for out in ("own", "mine")]
    assert records[0].bundle.weights_sha256 != records[1].bundle.weights_sha256
    histograms = [record.lesions[0].histogram_achieved for record in records]
    assert histograms[0] != histograms[1]

"""difftumor: published weights fit, organs are tables, and beyond the margin nothing changes."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.bundles.runs import FEW_LATENT_STEPS, SHORT, TRAININGS, run_configs
from tests.convert.test_difftumor import (
    CODES,
    UNET,
    lightning,
    released_autoencoder,
    released_denoiser,
    save,
)
from tools import synthesize
from tools.bundle import Bundle
from tools.cli import main
from tools.convert.difftumor import convert
from tools.phantoms.abdomen_ct import ORGANS, AbdomenPhantom, abdomen_ct
from tools.phantoms.datasets import write_tumour_dataset
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.lesion import WindowJob
from tools.synthesis.view import CropView


@pytest.fixture(scope="module")
def phantom() -> AbdomenPhantom:
    return abdomen_ct(seed=3)


@pytest.mark.parametrize("organ", ["liver", "pancreas", "kidney"])
def test_each_organ_gets_a_tumour_and_nothing_changes_beyond_the_margin(
    organ: str, phantom: AbdomenPhantom
) -> None:
    inside = phantom.organs == ORGANS[organ]
    image, label, record = synthesize(
        phantom.image, phantom.affine, organ=inside.astype(np.uint8), organ_name=organ,
        bundle="difftumor", device="cpu", count=1, seed=1,
    )  # fmt: skip
    tumour = label == 2
    assert tumour.any()
    assert inside[tumour].all()
    far = ndimage.distance_transform_edt(~tumour, sampling=2.0) >= 8
    assert np.array_equal(image[far], phantom.image[far])
    assert not np.array_equal(image[tumour], phantom.image[tumour])
    (lesion,) = record["lesions"]
    assert lesion["class"] == "tumour"
    assert 0 <= lesion["sampler"]["blend_sigma_mm"] <= 1
    assert lesion["sampler"]["num_inference_steps"] == 4


@pytest.mark.parametrize("value", [1, 2])
def test_tumours_keep_away_from_those_that_are_marked(
    value: int, phantom: AbdomenPhantom, tmp_path: Path
) -> None:
    """A mask of 0 and 1, or a label map in which 2 is a tumour."""
    liver = phantom.organs == ORGANS["liver"]
    middle = int(np.argwhere(liver)[:, 0].mean())
    marked = liver & (np.arange(liver.shape[0]) > middle)[:, None, None]
    maps = {"scan": phantom.image, "organ": liver, "marked": value * marked}
    paths = {name: tmp_path / f"{name}.nii.gz" for name in maps}
    for name, values in maps.items():
        nib.save(nib.Nifti1Image(values.astype(np.int16), phantom.affine), paths[name])
    words = ["synthesize", "--bundle", "difftumor", "--method", "hand_crafted", "--count", "3"]
    words += ["--scan", str(paths["scan"]), "--organ_mask", str(paths["organ"]), "--device", "cpu"]
    words += ["--lesion_mask", str(paths["marked"]), "--out", str(tmp_path / "out"), "--seed", "2"]
    assert main(words) == 0
    tumour = np.asarray(nib.load(tmp_path / "out" / "scan" / "label.nii.gz").dataobj) == 2
    assert tumour.any()
    assert not (tumour & marked).any()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two livers with tumours and a healthy one, labelled as the Decathlon does."""
    folder = tmp_path_factory.mktemp("livers")
    content = write_tumour_dataset(folder, sections={"training": 2, "normal": 1})
    content["training"] += content["normal"]
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("method", ["hand_crafted", "copy_paste", "carvemix", "lesionmix"])
def test_methods_without_a_network_change_the_tumour_alone(
    method: str, phantom: AbdomenPhantom, library: Path
) -> None:
    organ = (phantom.organs == ORGANS["liver"]).astype(np.uint8)
    options = {} if method == "hand_crafted" else {"library": str(library)}
    image, label, record = synthesize(
        phantom.image, phantom.affine, organ=organ, bundle="difftumor", method=method, device="cpu",
        count=1, seed=1, **options,
    )  # fmt: skip
    changed = image != phantom.image
    assert changed.any()
    assert not changed[label != 2].any()
    copied = record["lesions"][0]["sampler"].get("lesions", 3)
    assert copied == 3  # tumours, not the livers round them


@pytest.mark.parametrize("shape", ["library", "diffmask"])
def test_other_shapes_go_with_it(shape: str, phantom: AbdomenPhantom, library: Path) -> None:
    organ = (phantom.organs == ORGANS["liver"]).astype(np.uint8)
    name = f"library:{library}" if shape == "library" else shape
    _, label, record = synthesize(
        phantom.image, phantom.affine, organ=organ, bundle="difftumor", device="cpu", count=1,
        seed=2, shape=name, diameter_mm=[10, 12],
    )  # fmt: skip
    assert (label == 2).any()
    assert 9 < record["lesions"][0]["diameter_mm"] < 13


def test_large_tumours_train_one_step(tmp_path: Path) -> None:
    few = TRAININGS["difftumor/configs/train.json"] | SHORT | {"train#trainer#epoch_length": 1}
    few |= {"batch_size": 1, "window_size": [48, 48, 48], "save_interval": 1}
    few |= FEW_LATENT_STEPS | {"val_every_nth_case": 8}
    few |= {"train#dataset#data": "$@train#files[:2]"}
    run_configs("difftumor", "training", "train large", tmp_path, **few)
    assert torch.load(tmp_path / "models" / "model.pt", weights_only=True)


def test_sizes_of_classes_do_not_go_with_a_diameter() -> None:
    wrong = "diameter_mm must be left out with shape ellipsoid:tiny,small"
    with pytest.raises(ValueError, match=wrong):
        open_synthesizer("difftumor", "cpu", options={"diameter_mm": 12.0})
    open_synthesizer("difftumor", "cpu", options={"diameter_mm": 12.0, "shape": "ellipsoid"})


def test_a_texture_is_refused_where_nothing_can_be_told_it() -> None:
    job = open_synthesizer("difftumor", "cpu", options={"texture": "mixed"}).get("synthesizer")
    assert job.textures.names == ["none"]
    window = np.zeros((48, 48, 48), np.float32)
    mask = np.zeros((1, 48, 48, 48))
    mask[0, 20:26, 20:26, 20:26] = 1
    with pytest.raises(ValueError, match="texture must be none for a network that takes no hist"):
        job.texturer.sample([WindowJob(window, mask, [1 / 16] * 16, 0, None)])


def test_published_weights_fit_and_draw(tmp_path: Path) -> None:
    autoencoder = save(tmp_path / "a.ckpt", lightning(released_autoencoder()))
    convert(autoencoder, tmp_path / "autoencoder.pt")
    content, _ = released_denoiser(4)
    convert(save(tmp_path / "liver_early.pt", content), tmp_path / "model.pt", autoencoder)
    changes: dict[str, Any] = {f"network_def#{name}": value for name, value in UNET.items()}
    changes |= {"autoencoder_def#num_embeddings": CODES}
    changes |= {"autoencoder_path": str(tmp_path / "autoencoder.pt")}
    opened = Bundle(
        "difftumor", "cpu", ["published.json"], tmp_path / "model.pt", ("texturer",), changes
    )
    opened.parser["displayable_configs#texture"] = "none"
    texturer = opened.get("texturer")
    written = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    loaded = texturer.network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in written.items())
    mask = np.zeros((1, 32, 32, 32))
    mask[0, 12:19, 12:19, 12:19] = 1
    window = np.full((32, 32, 32), 60.0, np.float32)
    (drawn,) = texturer.sample([WindowJob(window, mask, None, 0, None)])
    assert np.isfinite(drawn).all()
    assert (drawn != window).any()


@pytest.mark.parametrize("sigma", [(2, 1), -1.0, (0, 1, 2)])
def test_blending_is_one_number_or_two(sigma: object) -> None:
    with pytest.raises(ValueError, match="blend_sigma_mm must be one number or two of at least 0"):
        CropView((-175, 250), (-175, 250), blend_sigma_mm=sigma)  # type: ignore[arg-type]

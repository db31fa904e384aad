"""A small bundle with a real autoencoder and sampler: read, sampled, put into a scan."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from tests.synthesis.latent_stub import row
from tools.cli import main
from tools.synthesis.generator import LesionGenerator, WindowJob
from tools.synthesis.latent_settings import LatentSettings
from tools.synthesis.records import read_record, sha256_file

MAISI = "monai.apps.generation.maisi.networks"
CONFIG: dict[str, Any] = {
    "bundle_root": ".",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "autoencoder_path": "$@bundle_root + '/models/autoencoder.pt'",
    "device": "cpu",
    "intensity_range": [-1000, 1000],
    "window_hu": [-1000, 400],
    "latent_window": {"step": 16, "context": 8, "smallest": 32, "margin_mm": 3.0},
    "displayable_configs": {"texture": "solid", "num_inference_steps": 4},
    "autoencoder_def": {
        "_target_": f"{MAISI}.autoencoderkl_maisi.AutoencoderKlMaisi",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 4,
        "num_channels": [8, 8, 8],
        "num_res_blocks": [1, 1, 1],
        "norm_num_groups": 4,
        "attention_levels": [False] * 3,
        "num_splits": 1,
        "norm_float16": False,
        "save_mem": False,
    },
    "network_def": {
        "_target_": "tools.networks.subtype_unet.SubtypeUNet",
        "token_size": 16,
        "network": {
            "_target_": f"{MAISI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
            "spatial_dims": 3,
            "in_channels": 5,
            "out_channels": 4,
            "num_res_blocks": 1,
            "num_channels": [8, 16],
            "attention_levels": [False, True],
            "norm_num_groups": 4,
            "num_head_channels": [0, 8],
            "with_conditioning": True,
            "cross_attention_dim": 16,
            "num_class_embeds": 4,
        },
    },
    "network": "$@network_def.to(@device)",
    "inferer": {
        "_target_": "tools.inferers.LesionWindowInferer",
        "inferer": {
            "_target_": "tools.inferers.LatentInpaintInferer",
            "fewest_steps": 1,
            "autoencoder": {
                "_target_": "tools.networks.frozen_autoencoder.frozen_autoencoder",
                "network": "@autoencoder_def",
                "path": "@autoencoder_path",
            },
            "sampler": {
                "_target_": "tools.inferers.LesionInpaintInferer",
                "scheduler": {"_target_": "tools.schedules.scaled_linear_scheduler"},
                "num_inference_steps": "@displayable_configs#num_inference_steps",
                "sampler": "ddim",
                "background": "clean",
                "mask_input": True,
                "one_by_one": True,
            },
        },
    },
}


def randomised(definition: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of a network whose conditions matter: MAISI starts them at 0."""
    network = ConfigParser({"network": definition}).get_parsed_content("network")
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.08 * torch.randn(value.shape, generator=generator)
        for name, value in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny_latent"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    torch.save(randomised(CONFIG["network_def"]), folder / "models" / "model.pt")
    torch.save(randomised(CONFIG["autoencoder_def"]), folder / "models" / "autoencoder.pt")
    entry = {"frequency": 0.5, "diameters_mm": [9.0], "histograms": [row(20)], "medoid": row(20)}
    subtypes = {"solid": {"number": 0, **entry}, "ground_glass": {"number": 2, **entry}}
    for name, content in {
        "inference": CONFIG,
        "subtypes": {"bins": 40, "subtypes": subtypes},
        "metadata": {"version": "0.0.1"},
    }.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def generator(bundle: Path) -> LesionGenerator:
    return LesionGenerator(str(bundle), "cpu", {"num_inference_steps": 2})


def job(seed: int = 0, subtype: int = 0, histogram: list[float] | None = None) -> WindowJob:
    image = np.random.default_rng(3).normal(-850, 40, (32, 32, 32)).astype(np.float32)
    image[:4] = 1500
    mask = np.zeros(image.shape, bool)
    mask[12:20, 13:19, 14:20] = True
    return WindowJob(image, mask, histogram, seed, (-1000.0, 400.0), subtype)


def test_what_a_bundle_says_is_read(generator: LesionGenerator, bundle: Path) -> None:
    assert generator.latent is not None
    assert (generator.latent.step, generator.latent.context) == (16, 8)
    assert generator.latent.size(9.0) == 32
    assert generator.window == (-1000.0, 400.0)
    assert list(generator.presets) == ["solid", "ground_glass"]
    assert generator.settings["num_inference_steps"] == 2
    models = {
        name: sha256_file(bundle / "models" / f"{name}.pt") for name in ("model", "autoencoder")
    }
    assert generator.settings["autoencoder_sha256"] == models["autoencoder"][:12]
    assert generator.record.weights_sha256 == models["model"]
    assert models["model"] != models["autoencoder"]


def test_the_whole_difference_comes_back_in_hu(generator: LesionGenerator) -> None:
    (result,) = generator.sample([job()])
    given = job()
    change = result - np.clip(given.image, -1000, 1000)
    # the pipeline fades it out in mm on the scan's grid, so here it must not be faded yet
    near = ndimage.distance_transform_edt(~given.lesion_mask)
    assert np.abs(change[near == 4]).mean() > 1
    assert (np.abs(change[given.lesion_mask]) > 1).mean() > 0.9
    assert result.min() >= -1000
    assert result.max() <= 1000


def test_a_sample_is_the_same_in_any_batch(generator: LesionGenerator) -> None:
    jobs = [job(seed, subtype) for seed, subtype in ((1, 0), (2, 2), (3, -1))]
    for one, result in zip(jobs, generator.sample(jobs), strict=True):
        assert np.array_equal(generator.sample([one])[0], result)


def test_subtype_and_histogram_reach_the_network(generator: LesionGenerator) -> None:
    solid, glass, none, asked = generator.sample(
        [job(), job(subtype=2), job(subtype=-1), job(histogram=row(30))]
    )
    for other in (glass, none, asked):
        assert np.abs(other - solid).max() > 0.1


def test_from_the_command_line_to_files(bundle: Path, tmp_path: Path) -> None:
    shape = (48, 44, 40)
    values = np.random.default_rng(0).normal(-850, 30, shape).astype(np.int16)
    lobes = np.full(shape, 3, np.uint8)
    lobes[:, :, 20:] = 5
    for name, data in (("scan", values), ("lobes", lobes)):
        nib.save(nib.Nifti1Image(data, np.diag([1, 1, 1.2, 1])), tmp_path / f"{name}.nii.gz")
    words = [
        "--scan",
        str(tmp_path / "scan.nii.gz"),
        "--organ_mask",
        str(tmp_path / "lobes.nii.gz"),
    ]
    words += ["--bundle", str(bundle), "--out", str(tmp_path / "out"), "--texture", "ground_glass"]
    words += ["--count", "1", "--diameter_mm", "8", "--shape", "ellipsoid", "--steps", "2"]
    words += ["--attempts", "1", "--device", "cpu", "--lobe", "right_upper", "--placement"]
    words += ["interior", "--erosion_mm", "5"]
    assert main(["synthesize", *words]) == 0
    folder = tmp_path / "out" / "scan"
    image, label = (
        np.asarray(nib.load(folder / f"{n}.nii.gz").dataobj) for n in ("image", "label")
    )
    away = ndimage.distance_transform_edt(label == 0, sampling=(1, 1, 1.2))
    changed = image != values
    assert changed[label == 1].mean() > 0.9
    assert not changed[away >= 3].any()
    assert (lobes[label == 1] == 3).all()
    record = read_record(folder / "lesions.json")
    (lesion,) = record.lesions
    assert lesion.texture == "ground_glass"
    assert lesion.sampler["margin_mm"] == 3.0
    assert record.bundle.name == "tiny_latent"
    assert record.organ_mask["lobe"] == ["right_upper"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--lobe", "upper"], "lobe must be any, or one or several of"),
        (["--lobe", "3"], "lobe must be any, or one or several of"),
        (["--erosion_mm", "-2"], "erosion_mm must be above 0 and at most 100, got -2"),
        (["--erosion_mm", "deep"], "erosion_mm must be a number, got 'deep'"),
        (["--texture", "granite"], "texture must be one of ['solid', 'ground_glass', 'mixed'"),
        (["--lobe", "right_upper"], "lobe needs a source that knows lobes"),
    ],
)
def test_bad_input_is_one_sentence(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    sentence: str,
) -> None:
    values = np.full((20, 20, 20), -850, np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    words = ["--scan", str(tmp_path / "scan.nii.gz"), "--out", str(tmp_path / "out")]
    words += ["--bundle", str(bundle), "--shape", "ellipsoid", "--organ_source", "recipe"]
    assert main(["synthesize", *words, *option]) == 1
    assert sentence in capsys.readouterr().err


def test_windows_with_unknown_keys_are_refused() -> None:
    parser = ConfigParser({"latent_window": {"steps": 8}, "intensity_range": [-1000, 1000]})
    with pytest.raises(ValueError, match=r"latent_window must have keys of .* got \['steps'\]"):
        LatentSettings.from_config(parser)
    assert LatentSettings.from_config(ConfigParser({})) is None

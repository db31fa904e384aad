"""``evaluate --stage autoencoder`` on a tiny bundle and patches made here."""

import json
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from tools.cli import main
from tools.evaluation.autoencoder import load_autoencoder, reconstruct

NETWORK = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "num_channels": [4, 4],
    "num_res_blocks": [1, 1],
    "norm_num_groups": 2,
    "attention_levels": [False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "norm_float16": False,
    "num_splits": 1,
    "save_mem": False,
}
TARGET = "monai.apps.generation.maisi.networks.autoencoderkl_maisi.AutoencoderKlMaisi"
CPU = torch.device("cpu")


def state(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return AutoencoderKlMaisi(**NETWORK).state_dict()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    config = {
        "bundle_root": ".",
        "intensity_range": [-1000, 1000],
        "autoencoder_def": {"_target_": TARGET, **NETWORK},
    }
    overlay = {
        "autoencoder_path": "$@bundle_root + '/models/other.pt'",
        "autoencoder_def": config["autoencoder_def"] | {"num_channels": [4, 8]},
    }
    files = {"train_autoencoder.json": config, "inference.json": {}, "other.json": overlay}
    for name, content in files.items():
        (folder / "configs" / name).write_text(json.dumps(content))
    torch.save(state(0), folder / "models" / "autoencoder.pt")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    for i in range(7):
        image = rng.normal(-700, 100, (12, 13, 14)).round().astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[5:8, 5:8, 5:8] = i % 2
        entry = {"name": f"p{i}", "patient": f"P{i}"}
        for key, values in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{i}_{key}.nii.gz")
            entry[key] = f"{i}_{key}.nii.gz"
        entry |= {"diameter_mm": 3.7} if i % 2 else {}
        entry |= {"phantom": True} if i == 6 else {}
        sections["validation" if i < 4 else "training"].append(entry)
    (folder / "datalist.json").write_text(json.dumps(sections))
    return folder


def test_results_are_written_by_section_kind_and_region(
    bundle: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(bundle), "--stage", "autoencoder", "--dataset_dir", str(dataset)]
    assert main(["evaluate", *words, "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["patches"]) == 7
    summary = results["summary"]
    assert summary["training"].keys() == {"all", "nodule", "phantom", "scan"}
    validation = summary["validation"]
    assert [validation[kind]["patch"]["n"] for kind in ("all", "nodule", "scan")] == [4, 2, 2]
    assert validation["all"]["lesion"]["n"] == 2  # empty masks have no lesion
    assert "lesion" not in validation["scan"]
    rows = [row for row in results["patches"] if row["section"] == "validation"]
    psnr = np.mean([row["patch"]["psnr"] for row in rows])
    assert validation["all"]["patch"]["psnr"]["mean"] == pytest.approx(psnr, abs=1e-3)
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| validation | nodule | lesion | 2 |" in page
    assert page in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "out" / "results.png").ndim == 3


def test_limit_spreads_over_each_section(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    words = ["--bundle", str(bundle), "--stage", "autoencoder", "--dataset_dir", str(dataset)]
    assert main(["evaluate", *words, "--out", str(tmp_path / "out"), "--limit", "2"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in results["patches"]] == ["p4", "p6", "p0", "p3"]


def test_figures_are_those_of_the_weights_named(bundle: Path, tmp_path: Path) -> None:
    image = torch.rand(1, 1, 12, 12, 12)
    ours = reconstruct(load_autoencoder(bundle, None, None, CPU), image)
    expected = AutoencoderKlMaisi(**NETWORK).eval()
    expected.load_state_dict(state(0))
    with torch.no_grad():
        assert torch.equal(ours, expected.reconstruct(image))
    # a checkpoint of the training: averaged weights first
    path = tmp_path / "checkpoint.pt"
    torch.save({"network": state(1), "ema": state(0), "trainer": {"epoch": 3}}, path)
    assert torch.equal(reconstruct(load_autoencoder(bundle, str(path), None, CPU), image), ours)
    torch.save({"model": state(1)}, path)
    other = reconstruct(load_autoencoder(bundle, str(path), None, CPU), image)
    assert not torch.equal(other, ours)


def test_sizes_that_the_latents_do_not_divide_come_back_whole(bundle: Path) -> None:
    tested = load_autoencoder(bundle, None, None, CPU)
    assert tested.factor == 2
    assert reconstruct(tested, torch.rand(1, 1, 13, 12, 15)).shape == (1, 1, 13, 12, 15)


def test_overlay_brings_its_own_network_and_weights(bundle: Path) -> None:
    network = AutoencoderKlMaisi(**NETWORK | {"num_channels": [4, 8]})
    torch.save({"model": network.state_dict()}, bundle / "models" / "other.pt")
    tested = load_autoencoder(bundle, None, "other.json", CPU)
    assert tested.weights.name == "other.pt"
    assert tested.network.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--weights", "absent.pt"], "weights must lead to an existing file, got absent.pt"),
        (["--overlay", "absent.json"], "overlay must be a config of the bundle, got absent.json"),
        (["--dataset_dir", "absent"], "dataset_dir must be an existing folder, got absent"),
        (["--stage", "unet"], "stage must be autoencoder or left out, got 'unet'"),
    ],
)
def test_bad_input_is_one_sentence(
    bundle: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    given = {"--bundle": str(bundle), "--stage": "autoencoder", "--dataset_dir": str(dataset)}
    given |= dict([options])
    words = [word for pair in given.items() for word in pair]
    assert main(["evaluate", *words, "--out", str(tmp_path / "out")]) == 1
    assert f"error: {sentence}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bundle_without_autoencoder_is_named(bundle: Path) -> None:
    path = bundle / "configs" / "train_autoencoder.json"
    path.write_text(json.dumps({"bundle_root": "."}))
    with pytest.raises(ValueError, match=r"must have autoencoder_def in train_autoencoder\.json"):
        load_autoencoder(bundle, None, None, CPU)

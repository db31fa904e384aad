"""Errors of a reconstruction by region: values derived by hand, and MONAI's own metrics."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from tools.cli import main
from tools.studies.reconstruction import Autoencoder, compare_regions, summarize_regions


def halves() -> Tensor:
    """Lung (-900 HU) on one side, tissue (100 HU) on the other."""
    image = torch.full((1, 1, 16, 16, 16), 0.05)
    image[:, :, 8:] = 0.55
    return image


def box() -> Tensor:
    mask = torch.zeros(1, 1, 16, 16, 16)
    mask[..., 8:10, 8:10, 8:10] = 1
    return mask


def test_whole_patch_agrees_with_monai() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 20, 16, 18, generator=generator)
    other = (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    got = compare_regions(image, other, None)["patch"]
    assert got["psnr"] == pytest.approx(PSNRMetric(max_val=1)(other, image).item(), abs=1e-3)
    assert got["ssim"] == pytest.approx(SSIMMetric(3)(other, image).item(), abs=1e-4)
    error = 2000 * (other - image)
    assert got["mae_hu"] == pytest.approx(error.abs().mean().item(), rel=1e-4)
    assert got["bias_hu"] == pytest.approx(error.mean().item(), rel=1e-3)


def test_each_region_sees_its_own_voxels_only() -> None:
    image = halves()
    other = image.clone()
    other[:, :, :8] += 0.01  # 20 HU too bright in lung
    other[box() > 0] -= 0.05  # 100 HU too dark in the lesion
    got = compare_regions(image, other, box())
    assert got["lung"]["mae_hu"] == pytest.approx(20, abs=1e-2)
    assert got["lung"]["psnr"] == pytest.approx(40, abs=1e-2)
    assert got["lesion"]["bias_hu"] == pytest.approx(-100, abs=1e-2)
    assert got["lesion"]["psnr"] == pytest.approx(-20 * math.log10(0.05), abs=1e-2)
    assert got["patch"]["mae_hu"] == pytest.approx((20 * 2048 + 100 * 8) / 4096, abs=1e-2)
    assert got["lesion"]["ssim"] < got["patch"]["ssim"] < 1


def test_perfect_reconstruction_has_the_largest_finite_psnr() -> None:
    got = compare_regions(halves(), halves(), box())
    best = {"psnr": 100.0, "mae_hu": 0.0, "bias_hu": 0.0, "ssim": 1.0}
    assert got == dict.fromkeys(("patch", "lung", "lesion"), best)


def test_values_beyond_the_range_are_clipped_and_the_range_is_an_argument() -> None:
    image = torch.ones(1, 1, 12, 12, 12)
    assert compare_regions(image, image + 3, None)["patch"]["mae_hu"] == 0
    got = compare_regions(image, image - 0.5, None, intensity_range=(0, 100))
    assert got["patch"]["bias_hu"] == pytest.approx(-50)


def test_regions_without_voxels_are_left_out() -> None:
    tissue = torch.full((1, 1, 12, 12, 12), 0.6)
    assert compare_regions(tissue, tissue, torch.zeros_like(tissue)).keys() == {"patch"}
    corner = torch.zeros_like(tissue)
    corner[..., 0, 0, 0] = 1  # the map of SSIM does not reach there
    assert "ssim" not in compare_regions(tissue, tissue, corner)["lesion"]


def test_small_or_unequal_patches_are_refused() -> None:
    small = torch.zeros(1, 1, 12, 12, 10)
    with pytest.raises(ValueError, match="at least 11 voxels along each axis, got"):
        compare_regions(small, small, None)
    with pytest.raises(ValueError, match="reconstruction must have the shape of image"):
        compare_regions(torch.zeros(1, 1, 12, 12, 12), torch.zeros(1, 1, 12, 12, 16), None)


def test_summary_counts_regions_by_themselves() -> None:
    rows = [
        {"patch": {"psnr": 30.0, "ssim": 0.5}, "lesion": {"psnr": 20.0}},
        {"patch": {"psnr": 34.0, "ssim": 0.7}, "section": "validation"},
    ]
    patch = {"n": 2, "psnr": {"mean": 32.0, "sd": 2.0}, "ssim": {"mean": 0.6, "sd": 0.1}}
    lesion = {"n": 1, "psnr": {"mean": 20.0, "sd": 0.0}}
    assert summarize_regions(rows) == {"patch": patch, "lesion": lesion}


def network(definition: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return ConfigParser({"network": definition}).get_parsed_content("network").state_dict()


@pytest.fixture
def definition(repository: Path) -> dict[str, Any]:
    """A tiny autoencoder."""
    path = repository / "bundles" / "hr_ldm" / "configs" / "inference.json"
    found = json.loads(path.read_text())["autoencoder_def"]
    return found | {"num_channels": [4, 4, 4], "num_res_blocks": [1, 1, 1], "amp_dtype": None}


@pytest.fixture
def bundle(repository: Path, tmp_path: Path, definition: dict[str, Any]) -> Path:
    """The configs of a bundle with a tiny autoencoder, and one with more channels."""
    folder = tmp_path / "bundle"
    shutil.copytree(repository / "bundles" / "hr_ldm" / "configs", folder / "configs")
    (folder / "models").mkdir()
    path = folder / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"autoencoder_def": definition}))
    wider = definition | {"num_channels": [4, 4, 8]}
    overlay = {"autoencoder_path": "$@bundle_root + '/models/o.pt'", "autoencoder_def": wider}
    (folder / "configs" / "other.json").write_text(json.dumps(overlay))
    torch.save(network(definition), folder / "models" / "autoencoder.pt")
    torch.save({"model": network(wider)}, folder / "models" / "o.pt")
    return folder


def patches(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    folder.mkdir()
    for i in range(7):
        image = rng.normal(-700, 100, (12, 13, 14)).round().astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[5:8, 5:8, 5:8] = i % 2
        entry: dict[str, Any] = {"name": f"p{i}", "patient": f"P{i}"}
        for key, values in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{i}_{key}.nii.gz")
            entry[key] = f"{i}_{key}.nii.gz"
        entry |= {"diameter_mm": 3.7} if i % 2 else {}
        entry |= {"phantom": True} if i == 6 else {}
        sections["validation" if i < 4 else "training"].append(entry)
    (folder / "datalist.json").write_text(json.dumps(sections))
    return folder


def test_results_are_written_by_section_kind_and_region(bundle: Path, tmp_path: Path) -> None:
    words = ["--bundle", bundle, "--stage", "autoencoder", "--dataset_dir", patches(tmp_path / "d")]
    given = [str(word) for word in ("evaluate", *words, "--out", tmp_path / "out")]
    assert main(given) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["cases"]) == 7
    found = results["methods"]["reconstruction"]["reconstruction"]
    kinds = ("all", "nodule", "scan")
    assert [found[f"validation, {kind}"]["patch"]["n"] for kind in kinds] == [4, 2, 2]
    assert "training, phantom" in found
    assert found["validation, all"]["lesion"]["n"] == 2  # empty masks have no lesion
    assert "lesion" not in found["validation, scan"]
    rows = [row for row in results["cases"] if row["section"] == "validation"]
    psnr = np.mean([row["reconstruction"]["reconstruction"]["patch"]["psnr"] for row in rows])
    assert found["validation, all"]["patch"]["psnr"]["mean"] == pytest.approx(psnr, abs=1e-3)
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| reconstruction | validation, nodule | lesion | 2 |" in page
    assert matplotlib.image.imread(tmp_path / "out" / "results.png").ndim == 3
    # a limit spreads over each section
    given = [str(word) for word in ("evaluate", *words, "--out", tmp_path / "two", "--limit", 2)]
    assert main(given) == 0
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert [row["name"] for row in results["cases"]] == ["p4", "p6", "p0", "p3"]


def test_figures_are_those_of_the_weights_named(
    bundle: Path, definition: dict[str, Any], tmp_path: Path
) -> None:
    image = torch.rand(1, 1, 13, 12, 15)  # the latents do not divide it
    ours = Autoencoder(str(bundle))
    assert ours.reconstruct(image).shape == image.shape
    path = tmp_path / "checkpoint.pt"
    for change in (0.0, 0.1):
        state = {key: value + change for key, value in network(definition).items()}
        torch.save({"network": {}, "ema": state}, path)
        other = Autoencoder(str(bundle), weights=str(path)).reconstruct(image)
        assert torch.equal(other, ours.reconstruct(image)) == (change == 0)
    # an overlay brings its own network and weights
    wider = Autoencoder(str(bundle), overlays=["other.json"])
    assert wider.facts["parameters"] > ours.facts["parameters"]

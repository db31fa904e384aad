"""Errors of a reconstruction by region: values derived by hand, and MONAI's own metrics."""

import math

import pytest
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from tools.evaluation.reconstruction import compare, summarize_regions


def halves() -> Tensor:
    """Lung (-900 HU) on one side, tissue (100 HU) on the other."""
    image = torch.full((1, 1, 16, 16, 16), 0.05)
    image[:, :, 8:] = 0.55
    return image


def box(shape: tuple[int, ...] = (1, 1, 16, 16, 16)) -> Tensor:
    mask = torch.zeros(shape)
    mask[..., 8:10, 8:10, 8:10] = 1
    return mask


def test_whole_patch_agrees_with_monai() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 20, 16, 18, generator=generator)
    other = (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    got = compare(image, other, None)["patch"]
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
    got = compare(image, other, box())
    assert got["lung"]["mae_hu"] == pytest.approx(20, abs=1e-2)
    assert got["lung"]["psnr"] == pytest.approx(40, abs=1e-2)
    assert got["lesion"]["bias_hu"] == pytest.approx(-100, abs=1e-2)
    assert got["lesion"]["psnr"] == pytest.approx(-20 * math.log10(0.05), abs=1e-2)
    assert got["patch"]["mae_hu"] == pytest.approx((20 * 2048 + 100 * 8) / 4096, abs=1e-2)
    assert got["lesion"]["ssim"] < got["patch"]["ssim"] < 1


def test_perfect_reconstruction_has_the_largest_finite_psnr() -> None:
    got = compare(halves(), halves(), box())
    for region in ("patch", "lung", "lesion"):
        assert got[region] == {"psnr": 100.0, "mae_hu": 0.0, "bias_hu": 0.0, "ssim": 1.0}


def test_values_beyond_the_range_are_clipped_and_the_range_is_an_argument() -> None:
    image = torch.ones(1, 1, 12, 12, 12)
    assert compare(image, image + 3, None)["patch"]["mae_hu"] == 0
    got = compare(image, image - 0.5, None, intensity_range=(0, 100))
    assert got["patch"]["bias_hu"] == pytest.approx(-50)


def test_regions_without_voxels_are_left_out() -> None:
    tissue = torch.full((1, 1, 12, 12, 12), 0.6)
    assert compare(tissue, tissue, torch.zeros_like(tissue)).keys() == {"patch"}
    corner = torch.zeros_like(tissue)
    corner[..., 0, 0, 0] = 1  # the map of SSIM does not reach there
    assert "ssim" not in compare(tissue, tissue, corner)["lesion"]


def test_small_or_unequal_patches_are_refused() -> None:
    small = torch.zeros(1, 1, 12, 12, 10)
    with pytest.raises(ValueError, match="at least 11 voxels along each axis, got"):
        compare(small, small, None)
    with pytest.raises(ValueError, match="reconstruction must have the shape of image"):
        compare(torch.zeros(1, 1, 12, 12, 12), torch.zeros(1, 1, 12, 12, 16), None)


def test_summary_counts_regions_by_themselves() -> None:
    rows = [
        {"patch": {"psnr": 30.0, "ssim": 0.5}, "lesion": {"psnr": 20.0}},
        {"patch": {"psnr": 34.0, "ssim": 0.7}, "section": "validation"},
    ]
    summary = summarize_regions(rows)
    assert summary["patch"] == {
        "n": 2,
        "psnr": {"mean": 32.0, "sd": 2.0},
        "ssim": {"mean": 0.6, "sd": 0.1},
    }
    assert summary["lesion"] == {"n": 1, "psnr": {"mean": 20.0, "sd": 0.0}}
    assert "lung" not in summary

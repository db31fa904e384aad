"""Variants of a crop are fixed by their number, and encoded latents belong to them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose
from torch import Tensor, nn

from tools.networks.frozen_autoencoder import frozen_autoencoder
from tools.transforms.latents import (
    EncodeLatentsd,
    VariantCropd,
    VariantIntensityd,
    latent_mask,
    repeat_cases,
)


class Averages(nn.Module):
    """Encode by averaging blocks of 4 voxels; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls = 0

    def encode_stage_2_inputs(self, image: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.avg_pool3d(image, 4) * self.scale


@pytest.fixture
def case() -> dict:
    image = torch.rand(1, 20, 24, 28, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, 20, 24, 28)
    label[0, 3:8, 10:13, 20:28] = 1
    return {"image": image, "label": label, "name": "nodule 7"}


def test_the_same_number_gives_the_same_crop(case: dict) -> None:
    crop = VariantCropd(["image", "label"], size=16, shift=3)
    first, again = (crop({**case, "variant": 5}) for _ in range(2))
    assert torch.equal(first["image"], again["image"])
    others = [crop({**case, "variant": number})["image"] for number in range(6)]
    assert all(not torch.equal(others[0], other) for other in others[1:])
    renamed = crop({**case, "name": "nodule 8", "variant": 5})
    assert not torch.equal(first["image"], renamed["image"])


@pytest.mark.parametrize("variant", range(8))
def test_image_and_mask_stay_together_and_the_lesion_whole(case: dict, variant: int) -> None:
    case["image"] = torch.where(case["label"] > 0, 2.0, case["image"])
    cube = VariantCropd(["image", "label"], size=16, shift=3)({**case, "variant": variant})
    assert cube["image"].shape == cube["label"].shape == (1, 16, 16, 16)
    assert cube["label"].sum() == case["label"].sum()
    assert (cube["image"][cube["label"] > 0] == 2).all()


def test_beyond_the_border_the_image_is_mirrored_and_the_mask_empty(case: dict) -> None:
    cube = VariantCropd(["image", "label"], size=48)(case)  # wider than the scan, more than once
    assert cube["image"].isfinite().all()
    assert cube["image"].min() >= 0
    assert cube["label"].sum() == case["label"].sum()
    # the middle of the lesion, (5, 11, 24), became (24, 24, 24)
    assert torch.equal(cube["image"][0, 19:39, 13:37, 0:28], case["image"][0])
    assert torch.equal(cube["image"][0, 18, 13:37, 0:28], case["image"][0, 0])


def test_latents_are_the_mean_and_cached_once(case: dict) -> None:
    autoencoder = Averages()
    transforms = Compose(
        [
            VariantCropd(["image", "label"], size=16, shift=3),
            EncodeLatentsd("image", autoencoder, scale_factor=2.0),
        ]
    )
    dataset = CacheDataset(repeat_cases([case], 3), transforms, num_workers=0, progress=False)
    assert autoencoder.calls == 3
    sample = dataset[1]
    assert autoencoder.calls == 3
    assert "image" not in sample
    expected = VariantCropd(["image", "label"], size=16, shift=3)({**case, "variant": 1})
    pooled = nn.functional.avg_pool3d(expected["image"][None], 4)[0] * 2
    assert torch.allclose(sample["latents"], pooled)
    assert not sample["latents"].requires_grad


def test_rare_subtypes_come_in_more_variants() -> None:
    files = [{"texture": 5.0}, {"texture": "part_solid"}, {"texture": 1.0}, {}]
    cases = repeat_cases(files, [1, 2, 3])
    assert [case["variant"] for case in cases] == [0, 0, 1, 0, 1, 2, 0]
    for number in (0, [1, 2]):
        with pytest.raises(ValueError, match=rf"one number or 3, got {re.escape(str(number))}"):
            repeat_cases(files, number)


def test_bad_shifts_are_named() -> None:
    with pytest.raises(ValueError, match="shift must be at least 0, got -1"):
        VariantCropd("image", shift=-1)


def test_masks_of_latents_keep_small_lesions() -> None:
    mask = torch.zeros(1, 2, 8, 8, 8)
    mask[0, 0, 3:5, 3:5, 3:5] = 1
    mask[0, 1, 0, 0, 0] = 7
    coarse, fine = latent_mask(mask), latent_mask(mask, "voxels")
    assert coarse[0, 0].sum() == 8  # touches all eight latents
    assert coarse[0, 1].sum() == 1
    assert fine.shape == (1, 128, 2, 2, 2)
    assert torch.equal(fine.unflatten(1, (2, 64)).amax(2), coarse)
    assert fine.sum() == 9
    with pytest.raises(ValueError, match="mask_detail must be one of"):
        latent_mask(mask, "mean")


def test_weights_of_the_autoencoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "autoencoder.pt"
    with pytest.raises(FileNotFoundError, match="autoencoder_path must be an existing file"):
        frozen_autoencoder(nn.Conv3d(1, 1, 1), path)
    trained = nn.Conv3d(1, 1, 1)
    for content in (trained.state_dict(), {"model": trained.state_dict()}):
        torch.save(content, path)
        loaded = frozen_autoencoder(nn.Conv3d(1, 1, 1), path)
        assert torch.equal(loaded.weight, trained.weight)
        assert not loaded.weight.requires_grad
    assert not caplog.records
    frozen_autoencoder(nn.Conv3d(1, 1, 1), None)
    assert "random weights" in caplog.text


def test_every_fourth_voxel_misses_no_lesion_altogether() -> None:
    mask = torch.zeros(2, 1, 8, 8, 8)
    mask[0, 0, 4:7, 4:7, 1:4] = 1  # no voxel of the lattice (0, 4)
    mask[1, 0, 2:6, 3:7, 3:7] = 1  # the voxel (4, 4, 4), and six more latents
    found = latent_mask(mask, "nearest")
    assert torch.equal(found[0], latent_mask(mask, "max")[0])
    assert found[1].sum() == 1
    assert found[1, 0, 1, 1, 1] == 1


def test_intensities_of_a_variant_follow_from_its_number(case: dict) -> None:
    image = 2 * case["image"] - 1
    change = VariantIntensityd("image", scale=0.2, shift=0.1)
    plain, first, again, other = (
        change({**case, "image": image, "variant": n})["image"] for n in (0, 3, 3, 4)
    )
    assert torch.equal(plain, image)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    inner = first.abs() < 1
    slope, offset = np.polyfit(image[inner].numpy(), first[inner].numpy(), 1)
    assert 0.8 <= slope <= 1.2
    assert -0.1 <= offset <= 0.1
    with pytest.raises(ValueError, match=r"scale must be from 0 to below 1, got 1\.5"):
        VariantIntensityd("image", scale=1.5)

"""The rim round a lesion: whose it is, how wide, and what stands around it."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tools.transforms.conditions import LesionHistogramd, RandHistogramTransferd
from tools.transforms.rim import (
    RIM,
    HealedSurroundingsd,
    HealedTissued,
    RandLesionRimd,
    with_rim,
)


def nodule(level: float = 0.4, halo: float = -0.4) -> dict[str, torch.Tensor]:
    """A nodule of 6 voxels with a halo of one voxel, in noise."""
    image = torch.rand(1, 20, 20, 20, generator=torch.Generator().manual_seed(0)) * 0.1 - 0.85
    mask = torch.zeros_like(image)
    image[:, 6:14, 6:14, 6:14] = halo
    image[:, 7:13, 7:13, 7:13] = level
    mask[:, 7:13, 7:13, 7:13] = 1
    return {"image": image, "label": mask}


def test_a_rim_is_measured_in_mm_and_belongs_to_the_nearest_class() -> None:
    masks = torch.zeros(2, 1, 9, 5)
    masks[0, 0, 1, 2] = masks[1, 0, 7, 2] = 1
    drawn = with_rim(masks, 2.5, (9.0, 1.0, 2.0))
    assert drawn[0, 0, :, 2].tolist() == [RIM, 1, RIM, RIM, 0, 0, 0, 0, 0]
    assert drawn[1, 0, :, 2].tolist() == [0, 0, 0, 0, 0, RIM, RIM, 1, RIM]
    assert drawn[0, 0, 1].tolist() == [0, RIM, 1, RIM, 0]  # 4 mm are beyond it
    assert torch.equal(with_rim(masks, 0.0), masks)
    assert not with_rim(torch.zeros_like(masks), 3.0).any()


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_surroundings_are_healed_beyond_the_rim_and_nothing_else_changes(prob: float) -> None:
    sample = HealedSurroundingsd("image")(nodule())
    found = RandLesionRimd("image", margins_mm=[1.5], prob=prob)(sample)
    drawn = found["label"] > 0
    assert torch.equal(found["label"] == 1, sample["label"] == 1)
    assert torch.equal(found["image"][drawn], sample["image"][drawn])
    # the corners of the halo lie beyond the rim of 1.5 mm
    halo = (sample["image"] == -0.4) & ~drawn
    assert halo.any()
    assert bool((found["image"][halo] < -0.7).all()) == (prob == 1)


def test_a_healed_image_tells_nothing_of_the_lesion() -> None:
    """A marker at the lesion's place: what is shown outside the rim does not depend on it."""
    shown = []
    for level in (0.4, -0.2):
        sample = HealedSurroundingsd("image")(nodule(level, halo=level / 2 - 0.3))
        found = RandLesionRimd("image", margins_mm=[1.0], prob=1.0)(sample)
        shown.append(torch.where(found["label"] > 0, 0.0, found["image"]))
    assert torch.equal(*shown)


def test_no_rim_lies_beyond_what_was_scanned() -> None:
    sample = {**nodule(), "known": [[0, 20], [0, 20], [7, 13]]}
    drawn = RandLesionRimd("image", margins_mm=[3.0])(sample)["label"]
    assert not (drawn[..., :7] > 0).any()
    assert (drawn[:, 5, 10, 7:13] == RIM).all()


def test_the_rim_counts_in_no_histogram_and_follows_a_transfer() -> None:
    sample = RandLesionRimd("image", margins_mm=[1.1])(nodule())
    histogram = LesionHistogramd("image", bins=2)(sample)["histogram"]
    assert histogram.tolist() == [0, 1]
    transfer = RandHistogramTransferd("image", prob=1.0)
    transfer(RandLesionRimd("image", margins_mm=[1.1])(nodule(-0.2)))  # remembered
    changed = transfer(sample)["image"]
    rim = sample["label"] == RIM
    share = (-0.2 + 0.8) / (0.4 + 0.8)  # of the contrast, roughly
    wanted = -0.8 + share * (-0.4 + 0.8)
    assert changed[rim].mean() == pytest.approx(wanted, abs=0.05)
    assert torch.equal(changed[sample["label"] == 0], sample["image"][sample["label"] == 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_lesions_are_taken_out_of_a_scan_and_all_beyond_the_rim_keeps_its_bits(
    dtype: torch.dtype,
) -> None:
    affine = torch.diag(torch.tensor([0.5, 0.5, 2.0, 1.0]))
    values = torch.rand(1, 40, 40, 16, generator=torch.Generator().manual_seed(0)) * 40 - 860
    mask = torch.zeros_like(values)
    mask[:, 4:10, 4:10, 3:6] = mask[:, 26:34, 26:34, 9:12] = 1
    values[mask > 0] = 50
    image = MetaTensor(values.to(dtype), affine=affine)
    found = HealedTissued("image", margin_mm=2.0)({"image": image, "label": mask})["image"]
    rim = with_rim(mask, 2.0, (0.5, 0.5, 2.0)) > 0
    assert found.dtype == dtype
    assert torch.equal(torch.as_tensor(found)[~rim], torch.as_tensor(image)[~rim])
    inside = torch.as_tensor(found)[mask > 0].float()
    assert inside.max() < -750
    assert 5 < inside.std() < 25  # the noise of what lies around: 11.5
    kept = HealedTissued("image", margin_mm=None)({"image": image, "label": mask})["image"]
    assert torch.equal(torch.as_tensor(kept), torch.as_tensor(image))


def test_a_lesion_that_leaves_no_wall_is_healed_from_what_lies_around() -> None:
    label = np.zeros((1, 24, 24, 3), np.uint8)
    radius = np.hypot(*np.meshgrid(np.arange(24) - 12, np.arange(24) - 12))[None, ..., None]
    label[np.broadcast_to(radius < 8, label.shape)] = 3
    label[np.broadcast_to(radius < 5, label.shape)] = 1
    image = torch.where(torch.from_numpy(label) == 3, 900.0, 100.0)
    placed = MetaTensor(torch.from_numpy(label), affine=torch.diag(torch.tensor([1.5, 1.5, 8, 1])))
    heal = HealedTissued("image", margin_mm=0.0, classes=(3,), wall=(2, 3), cavity=(1,))
    assert torch.as_tensor(heal({"image": image, "label": placed})["image"]).max() < 150


def test_a_transfer_scales_the_rim_above_the_healed_image() -> None:
    """Where the lesion's contrast is halved, so is that of its rim, voxel by voxel."""
    sample = RandLesionRimd("image", margins_mm=[1.1], prob=0.0)(
        HealedSurroundingsd("image")(nodule())
    )
    half = nodule()
    around = sample["healed"]
    half["image"] = torch.where(half["label"] > 0, (half["image"] + around) / 2, half["image"])
    transfer = RandHistogramTransferd("image", prob=1.0)
    transfer(half)  # remembered
    changed = transfer(sample)["image"]
    rim = sample["label"] == RIM
    wanted = around[rim] + (sample["image"] - around)[rim] / 2
    torch.testing.assert_close(changed[rim], wanted, atol=0.02, rtol=0)

"""What a denoiser is told: histograms of classes, transferred, moved to a scan; subtypes."""

import json
import math
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from tools.histograms import adapt_histogram
from tools.transforms.conditions import (
    LesionHistogramd,
    RandHistogramTransferd,
    StackRequestsd,
    SubtypeConditiond,
    TissueHistogramd,
    derangement,
    join_condition,
    lesion_subtype,
    with_other_case,
)

FROM = (-0.2, 0.2)


def test_each_class_has_its_block_of_bins() -> None:
    image = torch.tensor([[[[-0.9, 0.9]]]])
    label = torch.tensor([[[[1, 0]]], [[[0, 0]]]])
    sample = LesionHistogramd("image", bins=2)({"image": image, "label": label})
    assert sample["histogram"].tolist() == [1, 0, 0, 0]


def test_classes_keep_histograms_of_their_own() -> None:
    transfer = RandHistogramTransferd("image", prob=1.0)
    transfer.set_random_state(0)
    mask = torch.zeros(2, 4, 4, 4)
    mask[0, :2] = mask[1, 2] = 1

    def scan(first: float, second: float) -> torch.Tensor:
        image = torch.zeros(1, 4, 4, 4)
        image[0, :2], image[0, 2] = first, second
        return image

    seen = transfer({"image": scan(-0.8, 0.6), "label": mask})["image"]
    assert torch.equal(seen, scan(-0.8, 0.6))
    changed = transfer({"image": scan(0.1, 0.1), "label": mask})["image"]
    assert changed[mask[:1] == 1].mean().item() == pytest.approx(-0.8, abs=0.04)
    assert changed[mask[1:] == 1].mean().item() == pytest.approx(0.6, abs=0.04)
    assert (changed[0, 3] == 0).all()
    # an absent class changes nothing and is not remembered
    alone = mask * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    third = transfer({"image": scan(0.3, 0.3), "label": alone})["image"]
    assert torch.equal(third[0, 2:], scan(0.3, 0.3)[0, 2:])
    assert {number: len(pool) for number, pool in transfer.pools.items()} == {0: 3, 1: 2}


@pytest.mark.parametrize(
    ("texture", "number"),
    [
        *((5, 0), (4.5, 0), (4.49, 1), (2.5, 1), (2.49, 2), (1, 2), (None, -1), (math.nan, -1)),
        *(("solid", 0), ("part_solid", 1), ("ground_glass", 2)),
    ],
)
def test_subtype_by_rating_or_name(texture: float | str | None, number: int) -> None:
    assert lesion_subtype(texture) == number


def test_limits_of_subtypes_are_arguments() -> None:
    assert lesion_subtype(4.2, solid_from=4) == 0
    assert lesion_subtype(2.2, part_solid_from=2) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fluffy",), "texture must be a rating or one of .* got 'fluffy'"),
        ((0.5,), "texture must be a rating from 1 to 5, got 0.5"),
        ((3, 2, 4), "part_solid_from and solid_from must be in order between 1 and 5, got 4 and 2"),
    ],
)
def test_bad_ratings_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lesion_subtype(*arguments)


def test_condition_of_a_lesion() -> None:
    # [-1000, 400] HU in 40 bins of 35 HU; -982.5 HU lies in the first, 382.5 in the last
    image = (torch.tensor([-982.5, 382.5, 900.0, -1000.0]).reshape(1, 1, 2, 2) + 1000) / 2000
    label = torch.tensor([1, 1, 1, 0]).reshape(1, 1, 2, 2)
    sample = SubtypeConditiond("image", bins=40)({"image": image, "label": label, "texture": 2.0})
    assert sample["condition"].shape == (41,)
    assert sample["condition"][0].item() == pytest.approx(1 / 3)
    assert sample["condition"][39].item() == pytest.approx(2 / 3)  # overflow is in the last
    assert sample["condition"][40] == 2
    assert torch.equal(sample["histogram"], sample["condition"][:40])


def test_an_empty_mask_asks_for_nothing() -> None:
    blank = torch.zeros(1, 2, 2, 2)
    sample = SubtypeConditiond("image", bins=40)({"image": blank, "label": blank})
    assert (sample["condition"] == -1).all()
    assert (sample["histogram"] == 0).all()


def test_conditions_asked_for_by_name() -> None:
    assert join_condition([0.5, 0.5], "solid", 2) == [0.5, 0.5, 0]
    assert join_condition([0.5, 0.5], "none", 2) == [0.5, 0.5, -1]
    assert join_condition(None, 1, 2) == [-1, -1, 1]
    with pytest.raises(ValueError, match="histogram must hold 40 numbers, got 16"):
        join_condition([0.0] * 16, None, 40)
    with pytest.raises(ValueError, match=r"subtype must be in -1\.\.2, got 3"):
        join_condition(None, 3, 40)


def heart(blood: float = 0.5, myocardium: float = -0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight columns of voxels: background, cavity, wall, infarct and no-reflow."""
    label = torch.tensor([0, 1, 1, 1, 2, 2, 3, 4]).expand(1, 4, 4, 8).clone()
    image = torch.zeros(1, 4, 4, 8)
    image[label == 1], image[label == 2] = blood, myocardium
    return image, label


@pytest.fixture
def presets_file(tmp_path: Path) -> Path:
    entry = {"histogram": [0, 0, 2, 0, 0, 4, 0, 0], "weight": 1, "tissue": list(FROM)}
    presets = {"pale": entry, "fixed": {"histogram": entry["histogram"]}}
    path = tmp_path / "presets.json"
    path.write_text(json.dumps({"bins": 4, "classes": 2, "presets": presets}))
    return path


def told(path: Path, image: torch.Tensor, label: torch.Tensor, name: str | None = "pale") -> list:
    sample = {"image": MetaTensor(image), "label": MetaTensor(label)}
    found = TissueHistogramd("image", path, name, bins=4)(sample)["histogram"]
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float32
    return found.tolist()


PLAIN = [0, 0, 1, 0, 0, 1, 0, 0]


def test_a_preset_is_moved_to_the_scan_and_absent_classes_are_zero(presets_file: Path) -> None:
    image, label = heart(blood=1.2, myocardium=-0.2)  # the gap of 0.4 becomes 1.4
    expected = adapt_histogram(PLAIN, FROM, (-0.2, 1.2))
    found = told(presets_file, image, label)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found != PLAIN
    alone = told(presets_file, image, label.clamp(max=3))
    assert alone == pytest.approx([*expected[:4], 0, 0, 0, 0], abs=1e-6)


def test_the_file_says_how_presets_are_moved(presets_file: Path) -> None:
    content = json.loads(presets_file.read_text())
    presets_file.write_text(json.dumps(content | {"gain": 0}))
    image, label = heart(blood=0.75, myocardium=0.25)  # the middle 0 becomes 0.5, one bin up
    assert told(presets_file, image, label) == pytest.approx([0, 0, 0, 1, 0, 0, 1, 0], abs=1e-6)


def test_without_tissue_the_preset_is_taken_as_it_is_and_none_is_no_control(
    presets_file: Path,
) -> None:
    image, label = heart()
    assert told(presets_file, image, torch.where(label > 2, label, 0)) == PLAIN
    assert told(presets_file, image, label, "fixed") == PLAIN
    assert told(presets_file, image, label, "none") == [-1] * 8
    assert told(presets_file, image, label, None) == [-1] * 8


def test_presets_that_are_not_there_are_named(presets_file: Path) -> None:
    with pytest.raises(ValueError, match=r"name must be one of \['fixed', 'pale'\] or none"):
        TissueHistogramd("image", presets_file, "grey", bins=4)
    with pytest.raises(ValueError, match="bins and classes must be those of the presets, 8"):
        TissueHistogramd("image", presets_file, "pale", bins=4, classes=(3, 4, 5))
    with pytest.raises(FileNotFoundError, match="must be an existing JSON file"):
        TissueHistogramd("image", presets_file.with_name("no.json"), "pale", bins=4)
    with pytest.raises(ValueError, match="preset must be one of"):
        StackRequestsd("own", presets_file, ["high"])


@pytest.mark.parametrize("count", [2, 3, 20])
def test_derangement_leaves_nothing_in_its_place(count: int) -> None:
    order = derangement(count, seed=3)
    assert sorted(order) == list(range(count))
    assert all(i != j for i, j in enumerate(order))
    assert order == derangement(count, seed=3)


def test_every_case_gets_the_files_of_another() -> None:
    files = [{"image": f"i{n}", "label": f"l{n}", "patient": n} for n in range(10)]
    cases = with_other_case(files, every_nth=2, seed=1)
    assert [case["patient"] for case in cases] == [0, 2, 4, 6, 8]
    for case in cases:
        assert case["other_image"] != case["image"]
        assert case["other_label"] == case["other_image"].replace("i", "l")
    assert {case["other_image"] for case in cases} == {case["image"] for case in cases}
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        with_other_case([{"image": "a", "label": "b"}])


def test_requests_are_histograms_then_no_control_then_presets(tmp_path: Path) -> None:
    path = tmp_path / "presets.json"
    presets = {"low": {"histogram": [3, 1]}, "high": {"histogram": [0, 1]}}
    path.write_text(json.dumps({"bins": 2, "presets": presets}))
    stack = StackRequestsd(["own", "other"], path, ["high", "low"])
    sample = stack({"own": torch.tensor([0.5, 0.5]), "other": torch.tensor([0.2, 0.8])})
    expected = torch.tensor([[0.5, 0.5], [0.2, 0.8], [-1, -1], [0, 1], [0.75, 0.25]])
    assert torch.equal(sample["requests"], expected)

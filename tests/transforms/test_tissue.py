"""Presets move with the tissue of the scan: hand-derived numbers, classes apart, nothing lost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tools.metrics.histogram import intensity_histogram
from tools.transforms.tissue import TissueHistogramd, adapt_histogram, tissue_levels

FROM = (-0.2, 0.2)


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


def test_levels_are_medians_that_a_few_voxels_do_not_move() -> None:
    image, label = heart()
    image[0, 0, 0] = 99
    assert tissue_levels(image, label) == pytest.approx((-0.3, 0.5))
    assert tissue_levels(image.numpy(), label.numpy(), wall=(3, 4)) == pytest.approx((0, 0.5))


def test_absent_tissue_and_other_grids_are_named() -> None:
    image, label = heart()
    with pytest.raises(ValueError, match=r"wall must be labels .* \[0, 1, 2, 3, 4\], got \[7\]"):
        tissue_levels(image, label, wall=[7])
    with pytest.raises(ValueError, match="cavity must be labels that the label map holds"):
        tissue_levels(image, label.clamp(min=2))
    with pytest.raises(ValueError, match="label must have the shape of image"):
        tissue_levels(image, label[:, :2])


def test_the_same_tissue_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    histogram = rng.dirichlet(np.ones(16), 2).ravel().tolist()
    assert adapt_histogram(histogram, FROM, FROM) == pytest.approx(histogram)


def test_an_adapted_histogram_is_that_of_the_mapped_voxels() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(-0.75, 0.75, (2, 200_000)) * [[1], [1 / 3]]
    to = (-0.6, 0.1)
    mapped = to[0] + (values - FROM[0]) * (to[1] - to[0]) / (FROM[1] - FROM[0])

    def blocks(numbers: np.ndarray) -> list[float]:
        row = torch.from_numpy(numbers)
        return intensity_histogram(row, torch.ones_like(row)).flatten().tolist()

    # uniform up to edges of the bins, as the function takes it
    assert adapt_histogram(blocks(values), FROM, to) == pytest.approx(blocks(mapped), abs=0.004)


def test_what_leaves_the_range_is_in_the_end_bins() -> None:
    far = adapt_histogram([0, 0, 0, 1.0, 1.0, 0, 0, 0], (-0.5, 0), (1.5, 2.0))
    assert far == [0, 0, 0, 1, 0, 0, 0, 1]
    assert adapt_histogram([0, 0, 0, 1.0], (0, 0.5), (-3, -2.5), classes=1) == [1, 0, 0, 0]


def test_zero_blocks_stay_zero_and_each_block_keeps_its_sum() -> None:
    moved = np.reshape(adapt_histogram([0, 0.3, 0.7, 0] + [0] * 4, FROM, (0.3, 0.9)), (2, -1))
    assert moved.sum(1) == pytest.approx([1, 0])
    rng = np.random.default_rng(0)
    for _ in range(100):  # rounding must not leave a bin below 0, where logarithms end
        blocks = rng.dirichlet(np.full(16, 0.3), 2).astype(np.float32).ravel().tolist()
        assert min(adapt_histogram(blocks, FROM, sorted(rng.uniform(-1, 1, 2)))) >= 0


def test_without_gain_the_width_stays_and_the_middle_moves() -> None:
    """Middle 0 goes to 0.5, one bin of four; the gap of the tissues grows tenfold."""
    moved = adapt_histogram([0, 1, 0, 0], (-0.05, 0.05), (0.0, 1.0), classes=1, gain=0)
    assert moved == pytest.approx([0, 0, 1, 0])
    # half the gain: a gap of four times gives twice the width, -0.25..0.25 becomes -0.5..0.5
    wider = adapt_histogram([0, 0, 0, 1, 1, 0, 0, 0], (-0.1, 0.1), (-0.4, 0.4), 1, gain=0.5)
    assert wider == pytest.approx([0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"classes": 3}, "histogram must be a row of 3 blocks of equal length"),
        ({"gain": 2}, "gain must be in 0..1, got 2"),
        ({"tissue_to": (0.1, 0.1)}, r"blood on the same side of myocardium .* got \[0.1, 0.1\]"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: dict, sentence: str) -> None:
    known = {"histogram": [0.5, 0.5, 1, 0], "tissue_from": FROM, "tissue_to": FROM}
    with pytest.raises(ValueError, match=sentence):
        adapt_histogram(**{**known, **arguments})


def test_a_preset_is_moved_to_the_scan_and_absent_classes_are_zero(presets_file: Path) -> None:
    image, label = heart(blood=1.2, myocardium=-0.2)  # the gap of 0.4 becomes 1.4
    sample = {"image": MetaTensor(image), "label": MetaTensor(label)}
    found = TissueHistogramd("image", presets_file, "pale")(sample)["histogram"]
    expected = adapt_histogram([0, 0, 1, 0, 0, 1, 0, 0], FROM, (-0.2, 1.2))
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.tolist() != [0, 0, 1, 0, 0, 1, 0, 0]
    sample["label"] = label.clamp(max=3)
    alone = TissueHistogramd("image", presets_file, "pale")(sample)["histogram"]
    assert alone.tolist() == pytest.approx([*expected[:4], 0, 0, 0, 0], abs=1e-6)


def test_the_file_says_how_presets_are_moved(presets_file: Path) -> None:
    content = json.loads(presets_file.read_text())
    presets_file.write_text(json.dumps(content | {"gain": 0}))
    image, label = heart(blood=0.75, myocardium=0.25)  # the middle 0 becomes 0.5, one bin up
    found = TissueHistogramd("image", presets_file, "pale")({"image": image, "label": label})
    assert found["histogram"].tolist() == pytest.approx([0, 0, 0, 1, 0, 0, 1, 0], abs=1e-6)


def test_without_tissue_the_preset_is_taken_as_it_is(presets_file: Path) -> None:
    image, label = heart()
    plain = [0, 0, 1, 0, 0, 1, 0, 0]
    bare = {"image": image, "label": torch.where(label > 2, label, 0)}
    assert TissueHistogramd("image", presets_file, "pale")(bare)["histogram"].tolist() == plain
    fixed = TissueHistogramd("image", presets_file, "fixed")
    assert fixed({"image": image, "label": label})["histogram"].tolist() == plain


def test_none_is_no_control_and_unknown_names_are_told(presets_file: Path) -> None:
    image, label = heart()
    for name in ("none", None):
        found = TissueHistogramd("image", presets_file, name)({"image": image, "label": label})
        assert found["histogram"].tolist() == [-1] * 8
    with pytest.raises(ValueError, match=r"name must be one of \['fixed', 'pale'\] or none"):
        TissueHistogramd("image", presets_file, "grey")
    with pytest.raises(ValueError, match=r"classes must divide the 8 numbers"):
        TissueHistogramd("image", presets_file, "pale", classes=(3, 4, 5))
    with pytest.raises(FileNotFoundError, match="must be an existing JSON file"):
        TissueHistogramd("image", presets_file.with_name("no.json"), "pale")

"""Control is measured rightly: on samplers and lesions whose divergences are known beforehand."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tools.evaluation.control import (
    SamplingOptions,
    background_difference,
    derangement,
    divergences,
    measure_control,
    measure_order,
    noise_floor,
    ordered_fraction,
    summarize,
    synthesize_lesions,
)
from tools.evaluation.lesions import ValidationLesion, mean_hu, scale_window, window_box
from tools.histograms import intensity_histogram
from tools.inferers import LesionInpaintInferer
from tools.schedules import cosine_scheduler


class SilentNetwork(nn.Module):
    """Predicts no noise, and pays no attention to the histogram."""

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x[:, :1])


def make_inferer(options: SamplingOptions) -> LesionInpaintInferer:
    return LesionInpaintInferer(
        cosine_scheduler(8),
        num_inference_steps=options.steps,
        sampler="ddim",
        background="clean",
        mask_input=True,
        histogram_strength=options.histogram_strength or 0.0,
    )


def make_lesion(number: int, size: int = 8) -> ValidationLesion:
    generator = torch.Generator().manual_seed(number)
    image = torch.randn((1, size, size, size), generator=generator) * 0.1 + 0.15 * (number - 2)
    mask = torch.zeros_like(image)
    mask[:, 1:6, 2:7, 1:5] = 1
    image = image.clamp(-1, 1)
    histogram = intensity_histogram(image, mask)[0]
    return ValidationLesion(f"case{number}", f"patient{number}", image, mask, histogram)


@pytest.fixture
def lesions() -> list[ValidationLesion]:
    return [make_lesion(i, size) for i, size in enumerate((8, 16, 8, 8, 16))]


def test_a_sampler_that_obeys_has_no_divergence(lesions: list[ValidationLesion]) -> None:
    options = SamplingOptions(steps=3, histogram_strength=1.0)
    result, _ = measure_control(SilentNetwork(), make_inferer, lesions, options)
    summary = result["summary"]
    # ranks meet each bin of n = 100 voxels to within one voxel
    assert summary["own"]["median"] < 1e-3
    assert summary["other"]["median"] < 1e-3
    # uncontrolled noise knows nothing of either
    assert min(summary[name]["median"] for name in ("none_own", "none_other")) > 0.05


def test_a_sampler_that_ignores_the_request_is_as_far_off_as_without(
    lesions: list[ValidationLesion],
) -> None:
    result, images = measure_control(
        SilentNetwork(), make_inferer, lesions, SamplingOptions(steps=3)
    )
    assert all(torch.equal(a, b) for a, b in zip(images["own"], images["none"], strict=True))
    for row in result["lesions"]:
        assert row["jsd"]["own"] == row["jsd"]["none_own"]
        assert row["jsd"]["other"] == row["jsd"]["none_other"]
        assert row["voxels"] == 100
        assert row["other"] != row["name"]
    assert result["background_difference"] == 0
    assert json.loads(json.dumps(result)) == result


def test_results_do_not_depend_on_the_batch(lesions: list[ValidationLesion]) -> None:
    requests = [lesion.histogram for lesion in lesions]
    made = [
        synthesize_lesions(
            SilentNetwork(),
            make_inferer,
            lesions,
            requests,
            SamplingOptions(steps=3, histogram_strength=0.5, batch_size=size, seed=7),
        )
        for size in (1, 3)
    ]
    for lesion, one, three in zip(lesions, *made, strict=True):
        assert one.shape == lesion.image.shape
        assert torch.equal(one, three)


def test_presets_in_single_bins_are_ordered_and_have_the_mean_of_their_bin(
    lesions: list[ValidationLesion],
) -> None:
    bins = {"low": 0, "middle": 8, "high": 15}
    presets = {name: np.eye(16)[place].tolist() for name, place in bins.items()}
    options = SamplingOptions(steps=2, histogram_strength=1.0)
    result, _ = measure_order(SilentNetwork(), make_inferer, lesions, presets, options)
    assert result["ordered_fraction"] == 1
    assert result["background_difference"] == 0
    for name, place in bins.items():
        centre = -1000 + 87.5 * (place + 0.5)
        assert result["requested_hu"][name] == pytest.approx(centre)
        # ranks spread evenly over the bin
        assert result["mean_hu"][name]["median"] == pytest.approx(centre, abs=0.01)
    backwards = dict(reversed(presets.items()))
    result, _ = measure_order(SilentNetwork(), make_inferer, lesions, backwards, options)
    assert result["ordered_fraction"] == 0


def test_equal_means_are_not_ordered() -> None:
    assert ordered_fraction([(-600, -200, 20), (-600, 30, 20), (1, 1, 2), (3, 4, 5)]) == 0.5


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [2, 3, 7])
def test_derangement_leaves_nothing_in_its_place(count: int, seed: int) -> None:
    order = derangement(count, seed)
    assert sorted(order) == list(range(count))
    assert all(i != place for i, place in enumerate(order))


def test_one_lesion_has_no_other() -> None:
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        derangement(1)


def test_divergence_of_the_real_image_from_its_own_histogram_is_zero(
    lesions: list[ValidationLesion],
) -> None:
    images, own = [lesion.image for lesion in lesions], [lesion.histogram for lesion in lesions]
    assert divergences(images, lesions, own) == pytest.approx([0] * 5, abs=1e-7)


def test_noise_floor_is_that_of_a_multinomial_draw() -> None:
    # JSD is chi-squared / 8n for large n: (k - 1) / 8n on average, k = 16 equal bins, n = 100
    lesions = [make_lesion(0)] * 300
    uniform = [torch.full((16,), 1 / 16)] * 300
    assert np.mean(noise_floor(lesions, uniform)) == pytest.approx(15 / 800, rel=0.1)
    certain = [torch.eye(16)[3]] * 300
    assert max(noise_floor(lesions, certain)) == 0


def test_background_difference_sees_outside_only() -> None:
    lesion = make_lesion(0)
    inside = torch.where(lesion.lesion_mask > 0, 1.0, lesion.image)
    assert background_difference([inside], [lesion]) == 0
    outside = lesion.image.clone()
    outside[0, 0, 0, 0] += 0.25
    assert background_difference([inside, outside], [lesion] * 2) == pytest.approx(0.25)


def test_summary_by_hand() -> None:
    expected = {"median": 3.0, "q1": 2.0, "q3": 4.0, "mean": 4.0, "n": 5}
    assert summarize([1, 2, 3, 4, 10]) == expected


def test_mean_hu_and_scale_are_inverse() -> None:
    hu = np.full((4, 4, 4), -300.0)
    image = torch.from_numpy(scale_window(hu, (-1000, 400)))
    assert float(image.unique()) == 0
    assert mean_hu(image, torch.ones(4, 4, 4), (-1000, 400)) == pytest.approx(-300)


def test_window_holds_lesion_and_margin() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[10:30, 15:18, 20] = True
    box = window_box(mask)  # 20 + 2 * 5 mm need 32 voxels
    assert [(part.start, part.stop) for part in box] == [(4, 36), (0, 32), (4, 36)]
    assert mask[box].sum() == mask.sum()


def test_lesion_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        window_box(np.zeros((24, 24, 24), bool))
    with pytest.raises(ValueError, match="must fit a cube of 24 voxels"):
        window_box(np.ones((26, 26, 26), bool))

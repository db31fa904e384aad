"""Mean intensity of lesions, derived by hand."""

import pytest
import torch

from tools.metrics import LesionMean, RisingMeans
from tools.metrics.lesion_mean import lesion_means

MASK = torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])


def test_means_are_taken_inside_the_mask() -> None:
    image = torch.tensor([[[9.0, 1.0, 2.0, 9.0], [0.0, -1.0, 1.0, 9.0]]])
    assert torch.equal(lesion_means(image, MASK), torch.tensor([[1.5, 0.0]]))


def test_empty_mask_has_no_mean_and_does_not_count() -> None:
    assert bool(lesion_means(MASK, torch.zeros_like(MASK)).isnan().all())
    metric = LesionMean((-1000, 400))
    metric(MASK, torch.zeros_like(MASK))
    metric(torch.full((1, 1, 4), -1.0), MASK)
    assert metric.aggregate().item() == -1000
    order = RisingMeans()
    order(torch.zeros(1, 2, 4), torch.zeros_like(MASK))
    order(torch.tensor([[[0.0] * 4, [1.0] * 4]]), MASK)
    assert order.aggregate().item() == 1


def test_median_over_cases_in_hu() -> None:
    metric = LesionMean((-1000, 400))
    for value in (-1.0, 0.0, 1.0):
        metric(torch.full((1, 1, 4), value), MASK)
    assert metric.aggregate().item() == -300


@pytest.mark.parametrize(
    ("means", "expected"), [((-0.5, 0.0, 0.5), 1), ((0.0, 0.0, 0.5), 0), ((0.5, 0.0, -0.5), 0)]
)
def test_rising_is_strict(means: tuple[float, ...], expected: int) -> None:
    metric = RisingMeans()
    metric(torch.tensor(means)[None, :, None].expand(1, 3, 4), MASK)
    assert metric.aggregate().item() == expected


@pytest.mark.parametrize("metric", [LesionMean((0, 1)), RisingMeans()])
def test_masks_are_needed(metric: LesionMean | RisingMeans) -> None:
    with pytest.raises(ValueError, match="y must hold the lesion masks, got None"):
        metric(torch.zeros(1, 1, 4))

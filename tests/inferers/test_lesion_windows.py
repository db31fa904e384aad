"""A window per lesion gives what the window alone would give, wherever it lies."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor, nn

from tools.inferers import LesionInpaintInferer, LesionRequestsInferer, LesionWindowInferer
from tools.schedules import cosine_scheduler
from tools.windows import blend_weight


def weight_of(mask: Tensor, margin_mm: float, spacing: tuple = (1.0, 1.0, 1.0)) -> Tensor:
    parts = [torch.from_numpy(blend_weight(m[0].numpy() > 0, margin_mm, spacing)) for m in mask]
    return torch.stack(parts)[:, None].float()


def network(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
    return x[:, :1] * 0.5


@pytest.fixture
def inferer() -> LesionWindowInferer:
    return LesionWindowInferer(LesionInpaintInferer(cosine_scheduler(4)), 2, (8, 8, 8), 8)


def volume(*centres: tuple[int, int, int]) -> Tensor:
    inputs = torch.rand(1, 2, 40, 32, 24) * 2 - 1
    inputs[:, 1] = 0
    for i, j, k in centres:
        inputs[0, 1, i : i + 2, j : j + 2, k : k + 2] = 1
    return inputs


def test_each_lesion_equals_its_own_window(inferer: LesionWindowInferer) -> None:
    inputs = volume((4, 20, 10), (30, 4, 10))
    output = inferer(inputs, network, seeds=[5])
    outside = inputs[:, 1:] == 0
    assert torch.equal(output[outside], inputs[:, :1][outside])
    window = inputs[:, :, 1:9, 17:25, 7:15]
    alone = inferer.inferer(window, network, seeds=[5])
    inside = window[:, 1:] == 1
    assert torch.equal(output[:, :, 1:9, 17:25, 7:15][inside], alone[inside])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
def test_a_near_lesion_does_not_paint_over_the_first(spacing: tuple) -> None:
    sampler = LesionInpaintInferer(cosine_scheduler(4))
    inferer = LesionWindowInferer(sampler, 5, (24, 24, 24), 8, spacing_mm=1.0)
    first = (slice(20, 26), slice(20, 26), slice(12, 18))
    near = (slice(29, 33), slice(20, 26), slice(12, 18))
    alone, inside = scan(spacing, first)
    both, _ = scan(spacing, first, near)
    results = [inferer(inputs, network, seeds=[0])[inside] for inputs in (alone, both)]
    assert torch.equal(*results)


def test_a_lesion_at_the_border_is_kept_inside_the_volume(inferer: LesionWindowInferer) -> None:
    inputs = volume((38, 30, 22))
    output = inferer(inputs, network)
    inside = inputs[:, 1:] == 1
    assert (output[inside] != inputs[:, :1][inside]).all()


def test_a_lesion_larger_than_the_volume_allows_is_refused(inferer: LesionWindowInferer) -> None:
    inputs = torch.zeros(1, 2, 40, 32, 20)
    inputs[:, 1] = 1
    with pytest.raises(ValueError, match="lesion must fit a window inside the volume"):
        inferer(inputs, network)


def scan(
    spacing: tuple[float, float, float], *lesions: tuple[slice, slice, slice]
) -> tuple[MetaTensor, Tensor]:
    """Inputs of one sample with voxels of that size, with a turned axis, and their mask."""
    inputs = torch.rand(1, 2, 56, 48, 30, generator=torch.Generator().manual_seed(1)) * 0.5
    inputs[:, 1] = 0
    for box in lesions:
        inputs[(0, 1, *box)] = 1
    affine = np.diag([-spacing[0], *spacing[1:], 1.0])
    return MetaTensor(inputs, affine=torch.from_numpy(affine)), inputs[:, 1:] == 1


TWO = [(slice(8, 20), slice(20, 32), slice(8, 15)), (slice(44, 56), slice(2, 9), slice(20, 25))]
resampling = pytest.mark.parametrize("spacing", [(0.7, 0.7, 1.25), (0.5, 0.5, 4.0), (1.5,) * 3])


@resampling
def test_other_voxels_are_resampled_under_the_windows_only(spacing: tuple) -> None:
    sizes = []

    def recording(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
        sizes.append(tuple(x.shape[2:]))
        return x[:, :1] * 0.5

    sampler = LesionInpaintInferer(cosine_scheduler(4), sampler="ddim", background="clean")
    inferer = LesionWindowInferer(sampler, smallest=(16, 16, 16), spacing_mm=1.0)
    inputs, inside = scan(spacing, *TWO)
    plain = inputs.as_subclass(Tensor)
    output = inferer(inputs, recording)
    assert torch.equal(output[~inside], plain[:, :1][~inside])
    assert (output[inside] != plain[:, :1][inside]).all()
    # lesions of 6 to 28 mm with 5 mm round them, in mm
    assert all(16 <= n <= 40 for size in sizes for n in size)
    again = inferer(inputs.clone(), recording, seeds=[0])
    assert torch.equal(again, output)
    assert not torch.equal(inferer(inputs, recording, seeds=[9]), output)


def test_drawn_values_lie_where_the_window_has_them() -> None:
    """A sampler that paints a ramp in mm: the scan must show the same ramp at its own voxels."""

    class Ramp:
        mask_channels, seed, margin_mm, fades = 1, 0, 0.0, False

        def __call__(self, windows: Tensor, *rest: object, **options: object) -> Tensor:
            ramp = torch.arange(windows.shape[2]).float()[:, None, None].expand(windows.shape[2:])
            return torch.where(windows[:, 1:] > 0, ramp, windows[:, :1])

    inputs, inside = scan((0.7, 0.7, 1.25), TWO[0])
    output = LesionWindowInferer(Ramp(), spacing_mm=1.0)(inputs, nn.Identity())[0, 0]
    # the first axis of the scan runs to the left, that of the window to the right
    core = output[9:19, 21:31, 9:14]
    steps = core.diff(dim=0)
    assert steps.mean() == pytest.approx(-0.7, abs=0.02)
    # the middle of the lesion is the middle of the window (24 voxels: 11.5)
    assert output[13:15, 26, 11].mean() == pytest.approx(11.5, abs=0.05)
    assert inside[0, 0, 8:20, 20:32, 8:15].all()


def test_a_latent_change_fades_once_on_the_grid_of_the_scan() -> None:
    """A sampler that adds 1: the scan gets the blend of its own voxels, kept to [0, 1]."""

    class Brighter:
        mask_channels, seed, margin_mm, fades = 1, 0, 3.0, True

        def __call__(self, windows: Tensor, *rest: object, **options: object) -> Tensor:
            return windows[:, :1] + weight_of(windows[:, 1:], self.margin_mm)

    spacing = (0.7, 0.7, 1.25)
    inputs, inside = scan(spacing, (slice(18, 30), slice(20, 30), slice(10, 16)))
    plain = inputs.as_subclass(Tensor)[:, :1]
    output = LesionWindowInferer(Brighter(), spacing_mm=1.0)(inputs, nn.Identity())
    weight = weight_of(inside, 3.0, spacing)
    assert weight.unique().numel() > 5
    torch.testing.assert_close(output, (plain + weight).clamp(0, 1), rtol=0, atol=1e-5)
    assert torch.equal(output[weight == 0], plain[weight == 0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
def test_a_rim_is_drawn_up_to_its_margin_on_the_grid_of_the_scan(spacing: tuple) -> None:
    inputs, inside = scan(spacing, (slice(18, 30), slice(20, 30), slice(10, 16)))
    plain = inputs.as_subclass(Tensor)[:, :1]
    sampler = LesionInpaintInferer(cosine_scheduler(4), margin_mm=2.0, spacing_mm=1.0)
    output = LesionWindowInferer(sampler, spacing_mm=1.0)(inputs, network)
    changed = output != plain
    far = ndimage.distance_transform_edt(inside[0, 0].numpy() == 0, sampling=spacing)
    assert changed[inside > 0].float().mean() > 0.99
    assert changed[0, 0].numpy()[(far > 0) & (far < 1.2)].mean() > 0.9
    assert not changed[0, 0].numpy()[far >= 2].any()


def test_voxels_of_the_models_size_are_taken_as_they_are(inferer: LesionWindowInferer) -> None:
    inputs = volume((4, 20, 10), (30, 4, 10))
    meta = MetaTensor(inputs, affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    aware = LesionWindowInferer(inferer.inferer, 2, (8, 8, 8), 8, spacing_mm=1.0)
    assert torch.equal(aware(meta, network, seeds=[3]), inferer(inputs, network, seeds=[3]))
    # a plain tensor does not know its spacing
    assert torch.equal(aware(inputs, network, seeds=[3]), inferer(inputs, network, seeds=[3]))


def test_a_lesion_smaller_than_the_models_voxels_is_drawn_too() -> None:
    one = (slice(20, 21), slice(20, 21), slice(10, 11))
    inputs, inside = scan((0.3, 0.3, 0.3), one)
    sampler = LesionInpaintInferer(cosine_scheduler(4))
    output = LesionWindowInferer(sampler, 2, (8, 8, 8), 8, spacing_mm=1.0)(inputs, network)
    changed = output != inputs.as_subclass(Tensor)[:, :1]
    assert torch.equal(changed, inside)


def test_a_batch_of_scans_equals_its_samples() -> None:
    inferer = LesionWindowInferer(
        LesionInpaintInferer(cosine_scheduler(4)), 2, (8, 8, 8), 8, spacing_mm=1.0
    )
    fine, thick = scan((0.7, 0.7, 1.25), TWO[0])[0], scan((0.8, 0.8, 2.0), TWO[1])[0]
    affines = torch.stack([fine.affine, thick.affine])
    both = MetaTensor(torch.cat([fine, thick]).as_subclass(Tensor), affine=affines)
    together = inferer(both, network, seeds=[1, 2])
    for i, one in enumerate((fine, thick)):
        assert torch.equal(together[i : i + 1], inferer(one, network, seeds=[1 + i]))


def test_spacing_must_be_positive(inferer: LesionWindowInferer) -> None:
    with pytest.raises(ValueError, match="spacing_mm must be above 0, got 0"):
        LesionWindowInferer(inferer.inferer, spacing_mm=0)


def by_request(x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
    return x[:, :1] * condition.mean(1).reshape(-1, 1, 1, 1, 1)


def test_each_channel_is_the_answer_to_its_request() -> None:
    sampler = LesionInpaintInferer(cosine_scheduler(4), seed=5)
    inputs = torch.zeros(2, 2, 8, 8, 8)
    inputs[:, 1, 2:5, 2:5, 2:5] = 1
    requests = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
    answers = LesionRequestsInferer(sampler)(inputs, by_request, requests)
    assert answers.shape == (2, 3, 8, 8, 8)
    for r in range(3):
        assert torch.equal(answers[:, r : r + 1], sampler(inputs, by_request, requests[:, r]))
    assert not torch.equal(answers[:, 0], answers[:, 1])
    assert bool((answers[(inputs[:, 1:] == 0).expand_as(answers)] == 0).all())


def test_requests_need_an_axis_of_their_own() -> None:
    inferer = LesionRequestsInferer(LesionInpaintInferer(cosine_scheduler(4)))
    with pytest.raises(ValueError, match=r"condition must be \(B, requests, bins\), got \(1, 16\)"):
        inferer(torch.zeros(1, 2, 8, 8, 8), by_request, torch.zeros(1, 16))

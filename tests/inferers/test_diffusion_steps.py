"""One step of the sampler by hand, and classes put together by their masks."""

import pytest
import torch

from tools.inferers.diffusion_steps import clean_image, combine_classes, denoise, mix


def test_clean_image_undoes_the_mixture_whatever_the_network_says() -> None:
    x_0, noise, alpha_bar = torch.rand(2, 1, 4, 4, 4), torch.randn(2, 1, 4, 4, 4), 0.36
    x_t = mix(x_0, noise, alpha_bar)
    assert torch.allclose(x_t, 0.6 * x_0 + 0.8 * noise, atol=1e-6)
    said = {"epsilon": noise, "sample": x_0, "v_prediction": 0.6 * noise - 0.8 * x_0}
    for kind, predicted in said.items():
        assert torch.allclose(clean_image(x_t, predicted, alpha_bar, kind), x_0, atol=1e-5)


def test_ddim_steps_along_the_same_noise_and_ends_at_the_clean_image() -> None:
    x_0, noise = torch.rand(1, 1, 4, 4, 4), torch.randn(1, 1, 4, 4, 4)
    x_t = mix(x_0, noise, 0.3)
    assert torch.allclose(denoise(x_t, x_0, 0.3, 0.6, None), mix(x_0, noise, 0.6), atol=1e-5)
    assert torch.allclose(denoise(x_t, x_0, 0.3, 1.0, None, last=True), x_0)
    # with eta = 1 the variance of the result is still that of its step
    fresh = torch.randn(1, 1, 40, 40, 40)
    old, zero = torch.randn(1, 1, 40, 40, 40), torch.zeros(1, 1, 40, 40, 40)
    found = denoise(mix(zero, old, 0.3), zero, 0.3, 0.6, fresh)
    assert found.var().item() == pytest.approx(0.4, rel=0.03)


def classes() -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples with an image of two channels; the second sample lacks the second class."""
    x = torch.randn(2, 2, 4, 4, 4)
    mask = torch.zeros(2, 2, 4, 4, 4)
    mask[0, 0, :2] = mask[0, 1, 2] = mask[1, 0, 1:3] = 1
    return x, mask


def test_each_class_comes_from_its_own_channel() -> None:
    x, mask = classes()
    result = combine_classes(x, mask)
    inside = mask.sum(1) > 0
    assert torch.equal(result[:, 0][inside], result[:, 1][inside])
    for number in range(2):
        chosen = mask[:, number] > 0
        for channel in range(2):
            assert torch.equal(result[:, channel][chosen], x[:, number][chosen])
    outside = ~inside[:, None].expand_as(x)
    assert torch.equal(result[outside], x[outside])
    assert torch.equal(combine_classes(x, torch.zeros_like(mask)), x)
    one = x[:, :1]
    assert torch.equal(combine_classes(one, mask[:, :1]), one)


def test_overlap_and_too_few_masks_are_named() -> None:
    x, mask = classes()
    mask[0, 1, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="classes must not overlap"):
        combine_classes(x, mask)
    with pytest.raises(ValueError, match="mask must have one channel per class"):
        combine_classes(x, mask[:, :1])

"""Histogram and subtype reach the prediction, and each may be absent."""

import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor

from tools.networks.subtype_unet import SubtypeUNet


def build(histogram_tokens: str = "per_bin", classes: int = 4) -> SubtypeUNet:
    torch.manual_seed(0)
    network = DiffusionModelUNetMaisi(
        3, 5, 4, 1, (8, 8, 16), (False, False, True), 8, num_head_channels=8,
        with_conditioning=True, cross_attention_dim=12, num_class_embeds=classes,
    )  # fmt: skip
    unet = SubtypeUNet(network, histogram_tokens=histogram_tokens, token_size=12)
    # at the start the output and every influence on it are exactly 0
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return unet.eval()


def condition(subtype: float = -1, bin_number: int | None = None) -> Tensor:
    row = torch.full((1, 41), -1.0) if bin_number is None else torch.zeros(1, 41)
    if bin_number is not None:
        row[0, bin_number] = 1
    row[0, -1] = subtype
    return row


X, STEP = torch.randn(1, 5, 8, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([30])


@pytest.mark.parametrize("tokens", ["one", "per_bin"])
def test_every_part_of_the_condition_counts(tokens: str) -> None:
    unet = build(tokens)
    with torch.no_grad():
        rows = [condition(subtype) for subtype in (-1, 0, 1, 2)]
        rows += [condition(-1, 3), condition(-1, 30), condition(1, 3)]
        outputs = [unet(X, STEP, row) for row in rows]
        for i, first in enumerate(outputs):
            assert first.shape == (1, 4, 8, 8, 8)
            for second in outputs[i + 1 :]:
                assert (first - second).abs().max() > 1e-4
        assert torch.equal(unet(X, STEP), outputs[0])  # None asks for nothing


@pytest.mark.parametrize("size", [(8, 8, 8), (12, 8, 16)])
def test_sizes_of_multiples_of_four(size: tuple[int, ...]) -> None:
    x = torch.zeros(2, 5, *size)
    assert build()(x, torch.tensor([0, 999]), condition(0).expand(2, -1)).shape == (2, 4, *size)


def test_a_batch_equals_its_samples() -> None:
    unet, x = build(), torch.cat([X, X * 0.5])
    rows = torch.cat([condition(0, 4), condition(-1)])
    steps = torch.tensor([5, 700])
    with torch.no_grad():
        together = unet(x, steps, rows)
        for i in range(2):
            alone = unet(x[i : i + 1], steps[i : i + 1], rows[i : i + 1])
            assert torch.allclose(alone, together[i : i + 1], atol=1e-4)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_class_embeds of network must be subtypes \\+ 1 = 4"):
        build(classes=3)
    with pytest.raises(ValueError, match="histogram_tokens must be"):
        build("many")
    with pytest.raises(ValueError, match="condition must hold 40 bins and the subtype, got 40"):
        build()(X, STEP, torch.zeros(1, 40))
    with pytest.raises(ValueError, match="subtype must be below 3"):
        build()(X, STEP, condition(3))

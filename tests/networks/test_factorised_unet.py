"""The published network: shapes, conditions, precision, gradients, chunks."""

import pytest
import torch
from torch import Tensor

from tools.networks import factorised_attention, factorised_blocks
from tools.networks.factorised_attention import RelativePositionBias, rotary_table
from tools.networks.factorised_unet import FactorisedUNet


def make_network(condition_size: int | None = 4, **arguments: int) -> FactorisedUNet:
    torch.manual_seed(0)
    network = FactorisedUNet(
        **{"in_channels": 2, "out_channels": 1, "base_channels": 8, **arguments},
        condition_size=condition_size,
    ).eval()
    for parameter in network.parameters():  # gains of 1 and offsets of 0 would hide mistakes
        if parameter.ndim == 1:
            parameter.data += 0.15 * torch.randn_like(parameter)
    return network


@pytest.fixture(scope="module")
def network() -> FactorisedUNet:
    return make_network()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 2, 16, 8, 5, generator=torch.Generator().manual_seed(1))


TIMESTEPS = torch.tensor([7, 200])
CONDITION = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.3, 0.0, 0.0]])


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("depth", [1, 3, 40])
def test_any_depth(network: FactorisedUNet, depth: int) -> None:
    with torch.no_grad():
        result = network(torch.randn(1, 2, 8, 16, depth), torch.tensor([0]))
    assert result.shape == (1, 1, 8, 16, depth)
    assert result.isfinite().all()


def test_wrong_arguments_are_named(network: FactorisedUNet, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"x must be \(B, 2, H, W, D\)"):
        network(x[:, :1], TIMESTEPS)
    for shape in ((12, 16), (16, 20)):
        with pytest.raises(ValueError, match=r"divisible by 8, got \(" + "{}, {}".format(*shape)):
            network(torch.zeros(1, 2, *shape, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"condition must have shape \(2, 4\), got \(2, 5\)"):
        network(x, TIMESTEPS, torch.ones(2, 5))
    with pytest.raises(ValueError, match="condition must be None"):
        make_network(condition_size=None)(x, TIMESTEPS, CONDITION)
    with pytest.raises(ValueError, match="base_channels must be divisible by 8, got 12"):
        make_network(base_channels=12)
    with pytest.raises(ValueError, match="attention_head_size must be even"):
        make_network(attention_head_size=5)


def test_negative_row_means_the_null_vector(network: FactorisedUNet, x: Tensor) -> None:
    mixed = CONDITION.clone()
    mixed[1] = -1
    with torch.no_grad():
        controlled, free = network(x, TIMESTEPS, CONDITION), network(x, TIMESTEPS)
        result = network(x, TIMESTEPS, mixed)
        explicit = network(x, TIMESTEPS, network.null_cond_emb.expand(2, -1).abs())
    assert torch.equal(result[0], controlled[0])
    assert torch.equal(result[1], free[1])
    assert relative(controlled, free) > 1e-3
    assert relative(explicit, free) > 1e-3  # the null vector is not non-negative: a real difference


def test_batch_equals_its_samples(network: FactorisedUNet, x: Tensor) -> None:
    with torch.no_grad():
        together = network(x, TIMESTEPS, CONDITION)
        single = [network(x[i : i + 1], TIMESTEPS[i : i + 1], CONDITION[i : i + 1]) for i in (0, 1)]
    assert relative(together, torch.cat(single)) < 1e-5


def test_chunks_and_gradient_mode_leave_the_output(
    network: FactorisedUNet, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = network(x, TIMESTEPS, CONDITION)
    before = x.clone()
    monkeypatch.setattr(factorised_attention, "CPU_TOKENS", 10)
    monkeypatch.setattr(factorised_blocks, "CHUNK_BYTES", 1)
    with torch.no_grad():
        chunked = network(x, TIMESTEPS, CONDITION)
    assert relative(chunked, recorded) < 1e-5
    assert torch.equal(x, before)


def test_every_parameter_gets_a_gradient(x: Tensor) -> None:
    network = make_network()
    mixed = CONDITION.clone()
    mixed[1] = -1
    network(x, TIMESTEPS, mixed).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_gradient_is_the_slope_of_the_output(x: Tensor) -> None:
    network = make_network().double()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    point = x.double().requires_grad_()
    network(point, TIMESTEPS, CONDITION.double()).square().sum().backward()
    step = 1e-4
    with torch.no_grad():
        values = [
            network(x + sign * step * direction, TIMESTEPS, CONDITION.double()).square().sum()
            for sign in (1, -1)
        ]
    slope = (values[0] - values[1]) / (2 * step)
    assert float((point.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-3)


def test_bfloat16_is_close_and_keeps_the_dtype_of_x(x: Tensor) -> None:
    network = make_network()
    with torch.no_grad():
        exact = network(x, TIMESTEPS, CONDITION)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = network(x, TIMESTEPS, CONDITION)
        half = network.bfloat16()(x, TIMESTEPS, CONDITION)
    assert mixed.dtype == half.dtype == torch.float32
    assert 0 < relative(mixed, exact) < 0.05
    assert 0 < relative(half, exact) < 0.05


def test_autocast_trains(x: Tensor) -> None:
    network = make_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(x, TIMESTEPS, CONDITION).square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert network.init_conv.weight.grad.any()


def test_slices_are_told_apart_and_order_matters(network: FactorisedUNet, x: Tensor) -> None:
    flat = x[..., :1].expand(-1, -1, -1, -1, 5)
    with torch.no_grad():
        same = network(flat, TIMESTEPS)
        turned = network(x.flip(-1), TIMESTEPS).flip(-1)
        result = network(x, TIMESTEPS)
    # equal slices stay equal: positions only weigh them, and all values are the same
    assert relative(same, same[..., :1].expand_as(same)) < 1e-5
    assert relative(turned, result) > 1e-3


def test_published_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        lung = FactorisedUNet(1, 1, 64, condition_size=16)
        heart = FactorisedUNet(2, 2, 72, condition_size=32)
        mask = FactorisedUNet(2, 1, 64, condition_size=None)
    counts = [sum(p.numel() for p in n.parameters()) for n in (lung, heart, mask)]
    assert counts == [35_834_897, 44_895_314, 35_711_041]


def test_distance_buckets() -> None:
    bias = RelativePositionBias(heads=1)
    bias.relative_attention_bias.weight.data = torch.arange(32.0)[:, None]
    table = bias(40)[0]
    # half of 32 buckets per sign; one each for distances to 7, then 8 + floor(8 log4(distance / 8))
    assert table[:9, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [table[d, 0].item() for d in (9, 10, 16, 31, 32, 39)] == [8, 9, 12, 15, 15, 15]
    assert table[0, 1:8].tolist() == [17, 18, 19, 20, 21, 22, 23]


def test_rotation_angles() -> None:
    table = rotary_table(3, 4, torch.device("cpu"))
    assert table.shape == (3, 1, 2)
    assert torch.allclose(table[2, 0].angle(), torch.tensor([2.0, 0.02]))


@pytest.mark.gpu
def test_gpu_agrees_with_processor(x: Tensor) -> None:
    network = make_network()
    with torch.no_grad():
        expected = network(x, TIMESTEPS, CONDITION)
        result = network.cuda()(x.cuda(), TIMESTEPS.cuda(), CONDITION.cuda()).cpu()
    assert relative(result, expected) < 1e-2  # TF32 convolutions

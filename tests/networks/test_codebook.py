"""Quantisation: values, gradients and moves of the codes, derived by hand and from MONAI's."""

import pytest
import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer
from torch import Tensor

from tools.networks import codebook as module
from tools.networks.codebook import Codebook


def started(
    codes: list[float], counts: list[float], restart_below: float = 0.0, **options: float
) -> Codebook:
    """A codebook of single numbers in the middle of its training."""
    codebook = Codebook(len(codes), 1, restart_below=restart_below, **options)
    codebook.embedding.weight.copy_(torch.tensor(codes)[:, None])
    codebook.ema_cluster_size.copy_(torch.tensor(counts))
    codebook.ema_w.copy_(codebook.embedding.weight * codebook.ema_cluster_size[:, None])
    return codebook


def vectors(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1, 1)


def numbers(codebook: Codebook) -> list[float]:
    return codebook.embedding.weight.flatten().tolist()


@pytest.mark.parametrize(
    ("epsilon", "moved"),
    [
        # N = (2 + 2, 2 + 1) / 2 and m = (0 + 4, 20 + 9) / 2
        (0.0, [2 / 2, 14.5 / 1.5]),
        # each N plus a half, all of them then scaled by 3.5 / 4.5
        (0.5, [2 / (2.5 * 3.5 / 4.5), 14.5 / (2 * 3.5 / 4.5)]),
    ],
)
def test_codes_follow_their_vectors(epsilon: float, moved: list[float]) -> None:
    codebook = started([0.0, 10.0], [2.0, 2.0], decay=0.5, epsilon=epsilon)
    codes, loss, indices = codebook(vectors(1, 3, 9))
    assert codes.flatten().tolist() == [0, 0, 10]  # as they were
    assert indices.flatten().tolist() == [0, 0, 1]
    assert loss.item() == pytest.approx(0.25 * (1 + 9 + 1) / 3)
    assert numbers(codebook) == pytest.approx(moved)
    assert codebook.ema_cluster_size.tolist() == [2, 1.5]
    assert codebook.ema_w.flatten().tolist() == [2, 14.5]


def test_gradient_goes_straight_through_and_commitment_pulls() -> None:
    codebook = started([0.0, 10.0], [2.0, 2.0]).eval()
    inputs = vectors(1, 3, 9).requires_grad_()
    codes, loss, _ = codebook(inputs)
    (through,) = torch.autograd.grad((codes * vectors(5, 6, 7)).sum(), inputs)
    assert through.flatten().tolist() == [5, 6, 7]
    (pull,) = torch.autograd.grad(loss, inputs)
    assert pull.flatten().tolist() == pytest.approx([2 * 0.25 * d / 3 for d in (1, 3, -1)])
    assert not any(parameter.requires_grad for parameter in codebook.parameters())


def test_codes_that_nothing_chooses_become_vectors_of_the_batch() -> None:
    counts = [2.0, 1.0, 1.02]
    codebook = started([0.0, 50.0, -60.0], counts, restart_below=1.0, epsilon=0.0)
    codebook(vectors(0, 1, 1))
    # 0.99 N is under 1 for the second alone
    moved, restarted, kept = numbers(codebook)
    assert moved == pytest.approx(0.01 * 2 / (0.99 * 2 + 0.03))
    assert restarted in (0, 1)
    assert kept == pytest.approx(-60)
    assert codebook.ema_cluster_size.tolist() == pytest.approx([2.01, 0.99, 1.0098])


def test_first_batch_of_a_training_gives_the_codes() -> None:
    torch.manual_seed(0)
    codebook = Codebook(3, 1, restart_below=0.0, epsilon=0.0)
    codes, loss, _ = codebook(vectors(3, -4, 8))
    assert sorted(numbers(codebook)) == pytest.approx([-4, 3, 8])
    assert codes.flatten().tolist() == [3, -4, 8]
    assert loss == 0
    assert codebook.ema_cluster_size.tolist() == pytest.approx([1, 1, 1])
    codebook(vectors(103, 96, 108))  # the second moves them by a hundredth only
    assert max(numbers(codebook)) < 20


def test_first_batch_of_few_vectors_is_repeated_with_a_little_noise() -> None:
    torch.manual_seed(0)
    codebook = Codebook(40, 2, restart_below=0.0, epsilon=0.0, decay=1.0)
    codebook(torch.tensor([[5.0, -5.0], [5.0, -5.0]]).view(1, 2, 2, 1, 1))
    weight = codebook.embedding.weight
    distance = (weight.abs() - 5).abs()
    assert 0 < distance.max() < 0.05
    assert len(weight.unique(dim=0)) == 40


@pytest.mark.parametrize("training", [True, False])
def test_use_teaches_nothing(training: bool) -> None:
    codebook = Codebook(4, 1).train(training)
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    x = vectors(1, 3, 9)
    codes = codebook.snap(x)
    if not training:
        assert torch.allclose(codebook(x)[0], codes)
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())
    nearest = (x.flatten()[:, None] - codebook.embedding.weight.flatten()).abs().argmin(1)
    assert torch.equal(codes.flatten(), codebook.embedding.weight.flatten()[nearest])


@pytest.mark.parametrize("distances", [2**24, 1])
def test_without_new_codes_it_is_that_of_monai(
    distances: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISTANCES", distances)
    torch.manual_seed(0)
    ours, theirs = Codebook(16, 4, restart_below=0.0), EMAQuantizer(3, 16, 4, 0.25, 0.99, 1e-7)
    ours.ema_cluster_size.fill_(2)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        inputs = torch.randn(2, 4, 5, 3, 2)
        for found, wanted in zip(ours(inputs), theirs(inputs), strict=True):
            torch.testing.assert_close(found, wanted)
    for name, wanted in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], wanted)


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="embedding_dim must be at least 1, got 0"):
        Codebook(4, 0)

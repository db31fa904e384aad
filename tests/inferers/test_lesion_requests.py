"""Several requests for one lesion: each as if it were the only one."""

import pytest
import torch
from torch import Tensor

from tools.inferers import LesionInpaintInferer, LesionRequestsInferer
from tools.schedules import cosine_scheduler


def network(x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
    return x[:, :1] * condition.mean(1).reshape(-1, 1, 1, 1, 1)


def test_each_channel_is_the_answer_to_its_request() -> None:
    sampler = LesionInpaintInferer(cosine_scheduler(4), seed=5)
    inputs = torch.zeros(2, 2, 8, 8, 8)
    inputs[:, 1, 2:5, 2:5, 2:5] = 1
    requests = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
    answers = LesionRequestsInferer(sampler)(inputs, network, requests)
    assert answers.shape == (2, 3, 8, 8, 8)
    for r in range(3):
        assert torch.equal(answers[:, r : r + 1], sampler(inputs, network, requests[:, r]))
    assert not torch.equal(answers[:, 0], answers[:, 1])
    assert bool((answers[(inputs[:, 1:] == 0).expand_as(answers)] == 0).all())


def test_same_request_gets_the_same_answer() -> None:
    inferer = LesionRequestsInferer(LesionInpaintInferer(cosine_scheduler(4)))
    inputs = torch.ones(1, 2, 8, 8, 8)
    answers = inferer(inputs, network, torch.full((1, 2, 16), 0.1))
    assert torch.equal(answers[:, 0], answers[:, 1])


def test_requests_need_an_axis_of_their_own() -> None:
    inferer = LesionRequestsInferer(LesionInpaintInferer(cosine_scheduler(4)))
    with pytest.raises(ValueError, match=r"condition must be \(B, requests, bins\), got \(1, 16\)"):
        inferer(torch.zeros(1, 2, 8, 8, 8), network, torch.zeros(1, 16))

"""The timetables are pure functions of numbers: compare them with orders written by hand."""

import json
from pathlib import Path

import pytest
import torch

from tools.schedules import cosine_scheduler, inference_timesteps, repaint_timesteps


def visited(transitions: list[tuple[int, int]]) -> list[int]:
    return [step for step, _ in transitions] + [transitions[-1][1]]


def test_paper_order_is_the_one_printed_in_the_paper() -> None:
    printed = [300, 299, 298, 299, 300, 299, 298, 297, 296, 297, 298, 297, 296, 295, 294, 295, 296]
    order = visited(repaint_timesteps(300, jump_length=2, jump_n_sample=2))
    # the paper counts the clean image as 0, the scheduler as -1
    assert [step + 1 for step in order[: len(printed)]] == printed
    assert order[-1] == -1


@pytest.mark.real
def test_released_order_equals_the_stored_lists(shared_dir: Path) -> None:
    stored = json.loads((shared_dir / "vectors" / "schedules.json").read_text())
    for key, order in stored.items():
        total, length, samples = map(int, key.split(","))
        assert visited(repaint_timesteps(total, length, samples, "released")) == order


@pytest.mark.parametrize("timetable", ["paper", "released"])
def test_one_sample_means_no_jumps(timetable: str) -> None:
    order = visited(repaint_timesteps(10, jump_length=3, jump_n_sample=1, timetable=timetable))
    assert order == list(range(9, -2, -1))


@pytest.mark.parametrize("timetable", ["paper", "released"])
def test_every_transition_moves_to_a_neighbour_of_the_chain(timetable: str) -> None:
    chain = [*inference_timesteps(300, 20), -1]
    for step, to in repaint_timesteps(300, 3, 2, timetable, num_inference_steps=20):
        assert abs(chain.index(step) - chain.index(to)) == 1


def test_network_calls_follow_the_closed_form() -> None:
    transitions = repaint_timesteps(300, 5, 5, "released")
    assert sum(to < step for step, to in transitions) == 300 + 4 * 5 * 59


def test_few_steps_start_at_pure_noise_and_end_at_the_clean_image() -> None:
    assert inference_timesteps(300, 25)[0] == 299
    assert inference_timesteps(300, 25)[-1] == 0
    assert inference_timesteps(300, 1) == [299]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jump_length": 0}, "jump_length must be at least 1, got 0"),
        ({"jump_n_sample": 0}, "jump_n_sample must be from 1 to 1000, got 0"),
        ({"timetable": "mine"}, "timetable must be"),
        ({"num_inference_steps": 11}, "num_inference_steps \\(steps\\) must be in 1..10, got 11"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repaint_timesteps(10, **arguments)


def test_cosine_schedule_has_the_published_constants() -> None:
    betas = cosine_scheduler(4).betas
    assert torch.allclose(betas, torch.tensor([0.15298784, 0.41695809, 0.70785871, 0.9999]))


@pytest.mark.parametrize("shift", [0.15, 0.3, 2.0])
def test_shift_multiplies_the_ratio_of_signal_to_noise(shift: float) -> None:
    plain, shifted = (cosine_scheduler(300, shift=s).alphas_cumprod.double() for s in (1.0, shift))
    ratios = [alpha_bar / (1 - alpha_bar) for alpha_bar in (plain, shifted)]
    # a clean image is the start in both, which takes a little from the first steps; the last beta
    # is clipped
    assert torch.allclose(ratios[1][:-1], ratios[0][:-1] * shift**2, rtol=0.01)
    assert bool(((shifted < plain) == (shift < 1))[:-1].all())
    betas = cosine_scheduler(300, shift=shift).betas
    assert betas.min() >= 0
    assert betas.max() <= 0.9999


def test_shift_of_one_is_the_published_schedule() -> None:
    steps = torch.arange(301, dtype=torch.float64) / 300
    alpha_bar = torch.cos((steps + 0.008) / 1.008 * torch.pi / 2) ** 2
    published = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0, 0.9999).float()
    assert torch.allclose(cosine_scheduler(300).betas, published, rtol=1e-6, atol=0)
    assert torch.equal(cosine_scheduler(300, shift=1.0).betas, cosine_scheduler(300).betas)
    with pytest.raises(ValueError, match="shift must be > 0, got 0"):
        cosine_scheduler(300, shift=0)

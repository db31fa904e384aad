"""Requests of an evaluation: another lesion's histogram, none, presets."""

import json
from pathlib import Path

import pytest
import torch

from tools.transforms.requests import StackRequestsd, derangement, with_other_case


@pytest.mark.parametrize("count", [2, 3, 20])
def test_derangement_leaves_nothing_in_its_place(count: int) -> None:
    order = derangement(count, seed=3)
    assert sorted(order) == list(range(count))
    assert all(i != j for i, j in enumerate(order))
    assert order == derangement(count, seed=3)


def test_every_case_gets_the_files_of_another() -> None:
    files = [{"image": f"i{n}", "label": f"l{n}", "patient": n} for n in range(10)]
    cases = with_other_case(files, every_nth=2, seed=1)
    assert [case["patient"] for case in cases] == [0, 2, 4, 6, 8]
    for case in cases:
        assert case["other_image"] != case["image"]
        assert case["other_label"] == case["other_image"].replace("i", "l")
    assert {case["other_image"] for case in cases} == {case["image"] for case in cases}


def test_one_case_has_no_other() -> None:
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        with_other_case([{"image": "a", "label": "b"}])


def test_requests_are_histograms_then_no_control_then_presets(tmp_path: Path) -> None:
    path = tmp_path / "presets.json"
    presets = {"low": {"histogram": [3, 1]}, "high": {"histogram": [0, 1]}}
    path.write_text(json.dumps({"bins": 2, "presets": presets}))
    stack = StackRequestsd(["own", "other"], path, ["high", "low"])
    sample = stack({"own": torch.tensor([0.5, 0.5]), "other": torch.tensor([0.2, 0.8])})
    expected = torch.tensor([[0.5, 0.5], [0.2, 0.8], [-1, -1], [0, 1], [0.75, 0.25]])
    assert torch.equal(sample["requests"], expected)


def test_unknown_preset_is_named(tmp_path: Path) -> None:
    path = tmp_path / "presets.json"
    path.write_text(json.dumps({"bins": 1, "presets": {"low": {"histogram": [1]}}}))
    with pytest.raises(ValueError, match="preset must be one of"):
        StackRequestsd("own", path, ["high"])

"""The rules for configs, on small configs with one fault each."""

import json

import pytest

from tools.release.config_rules import (
    LINE_LENGTH,
    config_faults,
    differences,
    house_json,
    with_shared_settings,
)


def faults(**entries: object) -> list[str]:
    """Findings on a config that stands alone; what it holds under ``run`` is read."""
    return config_faults({"inference.json": {"bundle_root": ".", **entries}}, "inference.json")


def test_expression_faults_are_found() -> None:
    assert faults(b=[0], run=["$@b#0.c", "$import os", "plain lambda text", "@bundle_root"]) == []
    for bad in ("$[x for x in @b]", "$lambda x: x", "$import tools", "$(", "$" + "a" * 80):
        assert len(faults(b=[], run=["@b", {"x": bad}])) == 1


def test_tools_before_the_path_is_set_is_found() -> None:
    (found,) = faults(**{"+imports": [{"_target_": "tools.losses.LesionNoiseLoss"}]})
    assert found.startswith("tools is not importable yet in imports and initialize")
    assert len(faults(initialize=["$tools.f()"])) == 2  # and an expression names it
    assert faults(network_def={"_target_": "tools.losses.LesionNoiseLoss"}) == []


def test_file_macro_is_found() -> None:
    (found,) = faults(run=["%training", "%train.json#a"], training=[], train={})
    assert found == "macro names a file, which depends on the working directory: %train.json#a"


def test_dead_keys_are_found() -> None:
    found = faults(used=1, dead=2, run="$@used", train={"x": 1})
    assert found == ["dead is read by nothing", "train#x is read by nothing"]


def test_overlay_may_change_what_another_file_has() -> None:
    base = {"bundle_root": ".", "width": 32, "run": "$@width"}
    for overlay, found in (
        ({"width": 64, "network_def#base": 64}, []),
        ({"breadth": 64}, ["breadth is read by nothing"]),
    ):
        assert config_faults({"wide.json": overlay, "inference.json": base}, "wide.json") == found


def test_dangling_reference_is_found() -> None:
    assert faults(run="$@b#0 + @bundle_root") == ["@b has no key"]


def test_training_must_run_by_both_names() -> None:
    train = {"bundle_root": ".", "training": ["@bundle_root"], "run": "%training"}
    assert config_faults({"train.json": train}, "train.json") == []
    train = {"bundle_root": ".", "train": [], "run": "%train"}
    assert len(config_faults({"train.json": train}, "train.json")) == 2


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"_target_": "NoSuchTransformd"}, "_target_ NoSuchTransformd does not exist"),
        ({"_target_": "torch.nn.NoSuchLayer"}, "_target_ torch.nn.NoSuchLayer does not exist"),
        ({"_target_": "tools.losses.LesionNoiseLoss", "p": 2}, "takes no argument p"),
        ({"_target_": "LoadImaged", "key": "image"}, None),  # takes any keyword
        ({"_target_": "Flipd", "axis": 1}, "Flipd takes no argument axis"),
        ({"_target_": "Flipd", "keys": "image", "_disabled_": True, "_desc_": "x"}, None),
        ({"_target_": "$torch.nn.Conv3d"}, None),
    ],
)
def test_targets_are_looked_up(component: dict, message: str | None) -> None:
    found = faults(run=[component])
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_shared_settings_are_copied_from_training_and_nothing_else() -> None:
    files = {
        "inference.json": {"bundle_root": ".", "a": 1, "window_hu": [-1000, 300], "b": 2},
        "published.json": {"window_hu": [0, 1]},
        "train.json": {"bundle_root": ".", "window_hu": [-1000, 400], "scheduler": {}},
    }
    assert differences(files) == ["window_hu differs between train.json and inference.json"]
    mended = with_shared_settings(files)
    assert differences(mended) == []
    assert list(mended["inference.json"]) == ["bundle_root", "a", "window_hu", "b"]
    assert mended["inference.json"] == files["inference.json"] | {"window_hu": [-1000, 400]}
    assert mended["published.json"] == files["published.json"]


def test_an_overlay_for_use_has_the_settings_of_the_one_for_training() -> None:
    files = {
        "heart.json": {"window_size": [64, 64], "batch_size": 4, "network_def": {"channels": [8]}},
        "heart_inference.json": {"window_size": [32, 32], "batch_size": 1},
        "inference.json": {"bundle_root": ".", "window_size": 24},
        "train.json": {"bundle_root": ".", "window_size": 24},
    }
    assert differences(files) == ["window_size differs between heart.json and heart_inference.json"]
    mended = with_shared_settings(files)
    assert differences(mended) == []
    assert mended == files | {"heart_inference.json": {"window_size": [64, 64], "batch_size": 1}}


def test_house_form_keeps_content_and_fills_lines() -> None:
    config = {"a": {"b": ["x" * 40, "y" * 40, {"c": []}]}, "d": "μ", "e": list(range(60))}
    text = house_json(config)
    assert json.loads(text) == config
    assert max(map(len, text.splitlines())) <= LINE_LENGTH
    assert '  "d": "μ",\n' in text
    assert house_json(json.loads(text)) == text


def test_an_earlier_stage_shares_the_network_it_trains_only() -> None:
    stage = {"bundle_root": ".", "window_size": 32, "coder_def": {"width": 8}}
    files = {
        "train.json": {"bundle_root": ".", "window_size": 48, "autoencoder_def": {"width": 8}},
        "train_autoencoder.json": stage | {"autoencoder_def": {"width": 4}},
    }
    assert differences(files) == [
        "autoencoder_def differs between train.json and train_autoencoder.json"
    ]
    mended = with_shared_settings(files)["train_autoencoder.json"]
    assert mended == stage | {"autoencoder_def": {"width": 8}}

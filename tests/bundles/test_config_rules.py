"""The configs of the bundles keep the rules; the rules themselves are in ``tools.release``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.release.check import read_configs
from tools.release.config_format import house_json
from tools.release.config_rules import Config, rule_faults, training_faults
from tools.release.config_targets import target_faults
from tools.release.sameness import differences

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = {path: read_configs(path) for path in sorted(ROOT.glob("bundles/*")) if path.is_dir()}
FILES = [
    pytest.param(bundle, configs, name, id=f"{bundle.name}/{name}")
    for bundle, configs in BUNDLES.items()
    for name in configs
]
each_file = pytest.mark.parametrize(("bundle", "configs", "name"), FILES)
each_bundle = pytest.mark.parametrize(
    "configs", [pytest.param(configs, id=bundle.name) for bundle, configs in BUNDLES.items()]
)


@each_file
def test_rules_are_kept(bundle: Path, configs: dict[str, Config], name: str) -> None:
    others = [config for other, config in configs.items() if other != name]
    assert rule_faults(configs[name], others) == []


@each_file
def test_targets_exist_and_take_their_arguments(
    bundle: Path, configs: dict[str, Config], name: str
) -> None:
    assert target_faults(configs[name]) == []


@each_file
def test_json_is_in_the_house_form(bundle: Path, configs: dict[str, Config], name: str) -> None:
    assert (bundle / "configs" / name).read_text(encoding="utf-8") == house_json(configs[name])


@each_bundle
def test_training_and_use_agree(configs: dict[str, Config]) -> None:
    assert differences(configs) == []


@each_bundle
def test_training_runs_by_both_names(configs: dict[str, Config]) -> None:
    assert training_faults(configs["train.json"]) == []


def parts(config: object) -> Iterator[dict]:
    """All objects of a config, at any depth."""
    if isinstance(config, dict):
        yield config
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from parts(value)


@each_bundle
def test_bins_of_histograms_are_one_key(configs: dict[str, Config]) -> None:
    makers = ("LesionHistogramd", "TissueHistogramd", "SubtypeConditiond", "join_condition")
    for config in configs.values():
        for part in parts(config):
            if str(part.get("_target_", "")).endswith(makers):
                assert part["bins"] == "@histogram_bins"

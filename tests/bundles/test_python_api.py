"""The bundle from Python, as its README shows it: ``ConfigWorkflow`` and ``monai.bundle.load``."""

import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, load

BUNDLE = "bundles/lefusion_lidc"


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.mark.parametrize("name", ["lefusion_lidc", "diffmask", "lefusion_emidec", "hr_ldm"])
def test_loaded_network_has_the_shipped_weights(name: str) -> None:
    model = load(name, bundle_dir="bundles", workflow_type="inference", device="cpu")
    shipped = torch.load(f"bundles/{name}/models/model.pt", weights_only=True)
    loaded = model.state_dict()
    # MONAI copies what fits and is silent on the rest
    assert loaded.keys() == shipped.keys()
    for key, value in shipped.items():
        assert torch.equal(loaded[key], value.to(loaded[key].dtype)), key


def test_example_of_the_readme_runs() -> None:
    text = Path(BUNDLE, "docs", "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    closing = ",\n)\nworkflow.initialize()"
    quick = ',\n    **{"displayable_configs#num_inference_steps": 2}' + closing
    assert example.count(closing) == 1
    names: dict = {}
    exec(example.replace(closing, quick), names)
    scan, lesion_mask, synthetic = (names[key] for key in ("scan", "lesion_mask", "synthetic"))
    assert torch.equal(synthetic[lesion_mask == 0], scan[lesion_mask == 0])
    assert bool((synthetic[lesion_mask == 1] != scan[lesion_mask == 1]).all())


def test_workflow_runs_as_the_command_does(tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=f"{BUNDLE}/configs/inference.json",
        workflow_type="inference",
        logging_file=False,
        output_dir=str(tmp_path),
        **{"displayable_configs#num_inference_steps": 2, "dataset#data": "$@files[:1]"},
    )
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.run()
    workflow.finalize()
    assert len(list(tmp_path.glob("*_synthetic.nii.gz"))) == 1

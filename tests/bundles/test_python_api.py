"""The bundle from Python, as its README shows it: ``ConfigWorkflow`` and ``monai.bundle.load``."""

import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, load
from torch.nn import functional

BUNDLE = "bundles/lefusion_lidc"
NAMES = ["lefusion_lidc", "diffmask", "lefusion_emidec", "hr_ldm"]
STEPS = {"displayable_configs#num_inference_steps": 2}
QUICK = {"hr_ldm": STEPS | {"inferer#inferer#fewest_steps": 2}}


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.mark.parametrize("name", NAMES)
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


def test_example_of_latents_runs() -> None:
    """Nothing changes beyond the margin round the lesion, in which the decoder blends."""
    text = Path("bundles/hr_ldm/docs/README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    closing = ",\n)\nworkflow.initialize()"
    assert example.count(closing) == 1
    names: dict = {}
    exec(example.replace(closing, f",\n    **{QUICK['hr_ldm']}" + closing), names)
    scan, lesion_mask, synthetic = (names[key] for key in ("scan", "lesion_mask", "synthetic"))
    near = functional.max_pool3d(lesion_mask, 7, 1, 3)
    assert torch.equal(synthetic[near == 0], scan[near == 0])
    assert bool((synthetic[lesion_mask == 1] != scan[lesion_mask == 1]).all())


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs_as_the_command_does(name: str, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=f"bundles/{name}/configs/inference.json",
        workflow_type="inference",
        logging_file=False,
        output_dir=str(tmp_path),
        **QUICK.get(name, STEPS),
        **{"dataset#data": "$@files[:1]"},
    )
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.run()
    workflow.finalize()
    postfix = "lesion" if name == "diffmask" else "synthetic"
    assert len(list(tmp_path.glob(f"*_{postfix}.nii.gz"))) == 1

"""The bundle from Python, as its README shows it: ``ConfigWorkflow`` and ``monai.bundle.load``."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, load
from torch.nn import functional

from tests.bundles.runs import NAMES, QUICK, RESULTS, run_example

MARGINS = [("lefusion_lidc", 2), ("hr_ldm", 2), ("difftumor", 3)]


@pytest.mark.parametrize("name", NAMES)
def test_loaded_network_has_the_shipped_weights(name: str) -> None:
    model = load(name, bundle_dir="bundles", workflow_type="inference", device="cpu")
    shipped = torch.load(f"bundles/{name}/models/model.pt", weights_only=True)
    loaded = model.state_dict()
    # MONAI copies what fits and is silent on the rest
    assert loaded.keys() == shipped.keys()
    for key, value in shipped.items():
        assert torch.equal(loaded[key], value.to(loaded[key].dtype)), key


# round a lesion lies a rim that is drawn, or in which the decoder blends
@pytest.mark.parametrize(("name", "margin"), MARGINS)
def test_example_of_the_readme_changes_the_lesion_only(name: str, margin: int) -> None:
    names = run_example(name, **QUICK[name])
    scan, lesion_mask, synthetic = (names[key] for key in ("scan", "lesion_mask", "synthetic"))
    near = functional.max_pool3d(lesion_mask.float(), 2 * margin + 1, 1, margin)
    assert torch.equal(synthetic[near == 0], scan[near == 0])
    assert bool((synthetic[lesion_mask == 1] != scan[lesion_mask == 1]).all())


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs_as_the_command_does(name: str, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=f"bundles/{name}/configs/inference.json",
        workflow_type="inference",
        logging_file=False,
        output_dir=str(tmp_path),
        **QUICK[name],
        **{"dataset#data": "$@files[:1]"},
    )
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.run()
    workflow.finalize()
    assert len(list(tmp_path.glob(RESULTS[name]))) == 1

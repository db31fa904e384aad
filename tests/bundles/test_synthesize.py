"""The main job as a workflow of the bundle: the same voxels from MONAI and from the command."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from tests.bundles.runs import SYNTHESIZING, words
from tests.synthesis.jobs import heart_scan
from tests.synthesis.test_run import write_scans
from tools.cli import main
from tools.phantoms.datasets import write_abdomen_phantom
from tools.synthesis.records import read_record

STEPS = "displayable_configs#num_inference_steps"
KINDS = {"lefusion_emidec": "heart"}
ABDOMEN = ("difftumor",)


def scans(folder: Path, bundle: str) -> dict[str, str]:
    if KINDS.get(bundle) == "heart":
        scan, organ = heart_scan()
        nib.save(scan.nifti, folder / "a_image.nii.gz")
        nib.save(organ, folder / "a_lung.nii.gz")
    elif bundle in ABDOMEN:
        paths = write_abdomen_phantom(folder)
        nib.save(nib.load(paths["image"]), folder / "a_image.nii.gz")
        nib.save(nib.load(paths["organ_mask"]), folder / "a_lung.nii.gz")
    else:
        write_scans(folder, ("a",))
    return {"scan": str(folder / "a_image.nii.gz"), "organ_mask": str(folder / "a_lung.nii.gz")}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", SYNTHESIZING)
def test_bundle_run_and_the_command_write_the_same(tmp_path: Path, bundle: str) -> None:
    given = scans(tmp_path, bundle)
    steps = {"hr_ldm": 50, "difftumor": 4}.get(bundle, 2)
    options: dict[str, Any] = {"seed": 3, "attempts": 1}
    if bundle not in KINDS:
        options |= {"count": 1, "diameter_mm": 7.0}
    if bundle != "diffmask":
        options |= {STEPS: steps}
    if bundle in ("lefusion_lidc", "hr_ldm", "difftumor"):
        options["shape"] = "ellipsoid"
    configs = [f"bundles/{bundle}/configs/{name}.json" for name in ("inference", "synthesize")]
    workflow = ConfigWorkflow(
        configs, workflow_type="infer", run_id="synthesizing", init_id=None, logging_file=False,
        bundle_root=f"bundles/{bundle}", output_dir=str(tmp_path / "monai"),
        device="$torch.device('cpu')", **given, **options,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    options |= given | {"bundle": bundle, "out": tmp_path / "command", "device": "cpu"}
    typed = words({key.replace(STEPS, "steps"): value for key, value in options.items()})
    assert main(["synthesize", *typed]) == 0
    for name in ("image", "label"):
        one, other = (
            np.asarray(nib.load(tmp_path / out / "a" / f"{name}.nii.gz").dataobj)
            for out in ("monai", "command")
        )
        assert np.array_equal(one, other)
    records = [read_record(tmp_path / out / "a" / "lesions.json") for out in ("monai", "command")]
    assert records[0].request == records[1].request
    assert len(records[0].lesions) >= 1
    assert (tmp_path / "monai" / "datalist.json").is_file()

"""Bundles as MONAI sees them: properties, shapes; inference and evaluation of lung nodules."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out
from scipy import ndimage

from tests.bundles.runs import NAMES, POSTFIX, QUICK, UNREAD, raw_values, run_configs, written
from tools.phantoms.datasets import lesion_datalist, tumour_roi_datalist
from tools.phantoms.heart_datasets import heart_datalist

each_bundle = pytest.mark.parametrize("bundle", NAMES)


@each_bundle
@pytest.mark.parametrize(
    ("kind", "configs"),
    [
        ("train", ["train.json"]),
        ("inference", ["inference.json"]),
        ("train", ["train.json", "evaluate.json"]),
    ],
)
def test_no_property_is_missing(kind: str, configs: list[str], bundle: str, tmp_path: Path) -> None:
    folder = f"bundles/{bundle}/configs"
    # all latents are encoded before a training of them
    few: dict[str, Any] = {}
    if kind == "train" and bundle in ("hr_ldm", "difftumor"):
        few = {"variants": 1, "val_every_nth_case": 8, "train#dataset#cache_num": 0}
    if kind == "train" and bundle == "hr_ldm":
        few |= UNREAD
    workflow = ConfigWorkflow(
        workflow_type=kind,
        config_file=[f"{folder}/{name}" for name in configs],
        meta_file=f"{folder}/metadata.json",
        logging_file=f"{folder}/logging.conf",
        output_dir=str(tmp_path),
        **few,
    )
    workflow.initialize()
    assert not workflow.check_properties()


@each_bundle
def test_network_takes_and_gives_what_the_metadata_says(bundle: str) -> None:
    path = Path(f"bundles/{bundle}/configs/metadata.json")
    inputs = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]["inputs"]
    verify_net_in_out(
        net_id="network_def",
        meta_file=f"bundles/{bundle}/configs/metadata.json",
        config_file=f"bundles/{bundle}/configs/inference.json",
        device="cpu",
        extra_forward_args={"timesteps": torch.tensor([1])} if "timesteps" in inputs else {},
    )


@pytest.mark.parametrize(
    ("bundle", "configs"),
    [*((name, "inference") for name in POSTFIX), ("diffmask", "inference cardiac_inference")],
)
def test_two_cases_of_one_file_name_give_two_results(
    bundle: str, configs: str, tmp_path: Path
) -> None:
    heart = bundle == "lefusion_emidec" or "cardiac" in configs
    section = "normal" if "cardiac" in configs else "validation"
    datalist = heart_datalist if heart else lesion_datalist
    (entry, *_) = (tumour_roi_datalist if bundle == "difftumor" else datalist)("", section)
    entries = []
    for patient in ("P 1", "P.2"):
        (tmp_path / patient).mkdir()
        entries.append(dict(entry))
        for key in ("image", "label"):
            entries[-1][key] = f"{patient}/{key}.nii.gz"
            shutil.copy(entry[key], tmp_path / patient / f"{key}.nii.gz")
    (tmp_path / "datalist.json").write_text(json.dumps({section: entries}))
    steps = QUICK[bundle] | {"dataset_dir": str(tmp_path)}
    run_configs(bundle, "inference", configs, tmp_path / "out", **steps)
    kind = f"_label_{POSTFIX[bundle]}" if "cardiac" in configs else f"_{POSTFIX[bundle]}"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"P 1{kind}.nii.gz", f"P.2{kind}.nii.gz"]


@pytest.mark.slow
def test_inference_writes_hounsfield_units_and_keeps_the_background(tmp_path: Path) -> None:
    steps = {"displayable_configs#num_inference_steps": 2}
    run_configs("lefusion_lidc", "inference", "inference", tmp_path, **steps)
    assert len(list(tmp_path.glob("*_synthetic.nii.gz"))) == 8
    for entry in lesion_datalist("", "validation"):
        before, label, output = written(entry, tmp_path)
        inside = label > 0
        far = ndimage.distance_transform_edt(~inside) >= 2  # voxels of 1 mm, the bundle's margin
        assert np.array_equal(output[far], before[far])
        assert (output[inside] != before[inside]).mean() > 0.9
        assert output[inside].min() >= -1000
        assert output[inside].max() <= 400


@pytest.mark.slow
def test_evaluation_overlay_reports_the_figures_of_the_main_table(tmp_path: Path) -> None:
    # with the estimate matched to the request, what is measured must be what was asked for
    few = {"num_inference_steps": 2, "histogram_strength": 1.0, "val_every_nth_case": 2}
    run_configs("lefusion_lidc", "evaluating", "train evaluate", tmp_path, **few)
    for name in ("jsd_own", "jsd_other"):
        values = raw_values(tmp_path, name)
        assert len(values) == 4
        # a lesion of few voxels cannot hold every fraction of a histogram
        assert values.max() < 0.02
        uncontrolled = raw_values(tmp_path, f"jsd_none_{name[4:]}")
        assert np.median(uncontrolled) > 5 * np.median(values)
    assert raw_values(tmp_path, "presets_in_order").tolist() == [1, 1, 1, 1]
    for name, expected in {"ground_glass": -667, "part_solid": -232, "solid": -112}.items():
        assert raw_values(tmp_path, f"mean_hu_{name}") == pytest.approx([expected] * 4, abs=40)

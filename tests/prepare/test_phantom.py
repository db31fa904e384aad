import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.phantoms.heart_datasets import write_heart_dataset
from tools.prepare import phantom
from tools.prepare.phantom import prepare_phantom


def test_chest_with_a_nodule(tmp_path: Path) -> None:
    paths = prepare_phantom(tmp_path, seed=1, nodules=1, spacing_mm=4.0)
    image, label = nib.load(paths["image"]), nib.load(paths["label"])
    assert image.shape == label.shape == (96, 80, 72)
    assert np.asarray(label.dataobj).any()
    lesions = json.loads(Path(paths["record"]).read_text())["lesions"]
    assert len(lesions) == 1


def test_rois_come_with_a_datalist(tmp_path: Path) -> None:
    paths = prepare_phantom(tmp_path, kind="lesion_rois", count=3)
    datalist = json.loads(Path(paths["datalist"]).read_text())
    assert (tmp_path / datalist["training"][0]["image"]).is_file()
    assert list(paths) == ["datalist"]


def test_hearts_come_with_a_datalist_and_a_healthy_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        phantom, "write_heart_dataset", partial(write_heart_dataset, sections={"training": 1})
    )
    paths = prepare_phantom(tmp_path, kind="heart", seed=2)
    assert set(paths) == {"heart_image", "heart_label", "heart_record", "heart_datalist"}
    assert nib.load(paths["heart_image"]).shape == (160, 160, 10)
    datalist = json.loads(Path(paths["heart_datalist"]).read_text())
    assert (tmp_path / datalist["training"][0]["label"]).is_file()


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'brain'"):
        prepare_phantom(tmp_path, kind="brain")
    with pytest.raises(ValueError, match="spacing_mm > 0"):
        prepare_phantom(tmp_path, spacing_mm=0)

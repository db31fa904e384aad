import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'brain'"):
        prepare_phantom(tmp_path, kind="brain")
    with pytest.raises(ValueError, match="spacing_mm > 0"):
        prepare_phantom(tmp_path, spacing_mm=0)

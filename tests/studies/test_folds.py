"""Folds of a loop: what they ask for may differ, and may be smaller than what can be drawn."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.studies.downstream.cases import case_loaders, prepared
from tools.studies.downstream.loop import _sizes
from tools.studies.downstream.page import _joined


def test_folds_may_have_asked_for_different_textures() -> None:
    fold = {"real": 4, "patients": 2, "seconds": 1.0, "losses": [1.0], "cases": [{}]}
    first = fold | {"synthetic": {"normal_solid": 4}}
    second = fold | {"synthetic": {"normal_solid": 2, "normal_ground_glass": 2}}
    for parts in ((first, second), (second, first)):
        joined = _joined(parts)
        assert joined["synthetic"] == {"normal_solid": 3, "normal_ground_glass": 1}
        assert len(joined["cases"]) == 2


def test_what_was_missed_may_be_smaller_than_what_can_be_drawn() -> None:
    parts = [
        {"weight": 2.0, "size_mm": [1.0, 6.0]},
        {"weight": 1.0, "size_mm": [30.0, 80.0]},
        {"weight": 1.0, "size_mm": [0.0, 2.0]},
    ]
    assert _sizes(parts, (2.0, 60.0)) == [[2.0, 2.0, 6.0], [1.0, 30.0, 60.0]]


def test_healthy_windows_need_no_label(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), -800, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    entry = {"image": "a.nii.gz", "patient": "p"}
    (tmp_path / "datalist.json").write_text(json.dumps({"normal": [entry]}))
    (load,) = case_loaders(tmp_path, "normal", healthy=True).values()
    case = load()
    assert case.label.shape == (4, 5, 6)
    assert not case.label.any()
    (load,) = case_loaders(tmp_path, "normal").values()
    with pytest.raises(ValueError, match="label of a datalist entry"):
        load()


def test_scans_that_could_not_be_prepared_are_tried_again(tmp_path: Path) -> None:
    grid = np.indices((24,) * 3) - 12
    ball = ((grid**2).sum(0) < 16).astype(np.uint8)
    for name, values in (("image", np.where(ball, 0, -850).astype(np.int16)), ("label", ball)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"a_{name}.nii.gz")
    entries = [
        {"image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz", "patient": name}
        for name in "ab"
    ]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries}))
    preset = {"prepare": {"bundle": "lefusion_lidc"}}
    for _ in range(2):
        with pytest.raises(ValueError, match="scans must all be prepared, got 1 that cannot be: b"):
            prepared(tmp_path, tmp_path / "out", preset, 0.0)
    for name in ("image", "label"):
        data = (tmp_path / f"a_{name}.nii.gz").read_bytes()
        (tmp_path / f"b_{name}.nii.gz").write_bytes(data)
    folder = prepared(tmp_path, tmp_path / "out", preset, 0.0)
    assert len(json.loads((folder / "datalist.json").read_text())["training"]) == 2

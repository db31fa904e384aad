"""Phantoms written where they can be opened."""

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.phantoms import datasets, heart_datasets


def test_every_kind_comes_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        heart_datasets,
        "write_heart_dataset",
        partial(heart_datasets.write_heart_dataset, sections={"training": 1}),
    )
    monkeypatch.setattr(datasets, "write_lesion_rois", partial(datasets.write_lesion_rois, count=3))
    monkeypatch.setattr(
        datasets,
        "write_chest_phantom",
        partial(datasets.write_chest_phantom, shape=(48, 40, 36), spacing_mm=8.0),
    )
    words = ["prepare", "phantom", "--kind", "all", "--out", str(tmp_path), "--json"]
    assert main(words) == 0
    paths = json.loads(capsys.readouterr().out)
    assert nib.load(paths["image"]).shape == nib.load(paths["lung"]).shape == (48, 40, 36)
    assert nib.load(paths["heart_image"]).shape == (160, 160, 10)
    for key, folder in (("datalist", tmp_path), ("heart_datalist", tmp_path / "heart")):
        listed = json.loads(Path(paths[key]).read_text())["training"]
        assert (folder / listed[0]["label"]).is_file()


def test_livers_are_those_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "ABDOMEN_GRID", ((44, 33, 30), 7.8))
    monkeypatch.setattr(datasets, "STUDY_ABDOMENS", {"training": 1, "test": 1, "normal": 1})
    words = ["prepare", "phantom", "--kind", "liver", "--out", str(tmp_path), "--json"]
    assert main(words) == 0
    listed = json.loads(Path(json.loads(capsys.readouterr().out)["datalist"]).read_text())
    values = {
        name: set(np.unique(nib.load(tmp_path / listed[name][0]["label"]).dataobj))
        for name in ("training", "test", "normal")
    }
    assert values == {"training": {0, 1, 2}, "test": {0, 1, 2}, "normal": {0, 1}}

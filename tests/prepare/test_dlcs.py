"""Duke Lung Cancer Screening out of a download tree that the tests write."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.prepare.pairs import array, content
from tools.cli import main
from tools.prepare.dlcs import box_mask
from tools.transforms.ratings import rating_class

AFFINE = np.array([[-0.8, 0, 0, 30], [0, 0.8, 0, -20], [0, 0, 1.25, -100], [0, 0, 0, 1]])
SHAPE = (60, 50, 40)
COLUMNS = "patient-id,nodule_id,ct_nifti_file,coordX,coordY,coordZ,w,h,d,Malignant_lbl"
# middles in LPS; the same in RAS: (10, 0, -75), (-5, -8, -80) and (0, 0, -75)
ROWS = [
    "p1,p1_01,DLCS_0001.nii.gz,-10,0,-75,8,8,10,0,train",
    "p1,p1_02,DLCS_0001.nii.gz,5,8,-80,6,6,5,1,train",
    "p2,p2_01,DLCS_0002.nii.gz,0,0,-75,8,8,8,1,val",
    "p3,p3_01,DLCS_0003.nii.gz,0,0,-75,8,8,8,1,test",
]


def release(root: Path, rows: list[str], split: bool = True, scans: int = 2) -> list[str]:
    """Write scans in folders of their own and the table; return words of the command."""
    for number in range(1, scans + 1):
        values = np.random.default_rng(number).integers(-900, 100, SHAPE).astype(np.int16)
        path = root / "DLCS24" / f"subset_0{number}" / f"DLCS_000{number}.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    table = root / "annotations.csv"
    lines = rows if split else [row.rpartition(",")[0] for row in rows]
    table.write_text("\n".join([COLUMNS + ",benchmark_split" * split, *lines]) + "\n")
    words = ["prepare", "dlcs", "--source", str(root / "DLCS24"), "--annotations", str(table)]
    return [*words, "--out", str(root / "out")]


def test_boxes_become_rated_windows_in_the_sections_of_the_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(release(tmp_path, ROWS)) == 0
    assert "not_there 1" in capsys.readouterr().out
    out = tmp_path / "out"
    found = content(out)
    assert [len(found[name]) for name in ("training", "validation")] == [2, 1]
    first, second = found["training"]
    assert (first["patient"], first["malignancy"], second["malignancy"]) == (
        "p1",
        "benign",
        "malignant",
    )
    assert first["centre_mm"] == pytest.approx([10, 0, -75], abs=0.3)
    assert second["centre_mm"] == pytest.approx([-5, -8, -80], abs=0.5)
    assert first["diameter_mm"] == pytest.approx((8 * 8 * 10) ** (1 / 3), rel=0.03)
    assert array(out, first, "label").any()
    classes = {"benign": [1, 2], "malignant": [4, 5]}
    assert [rating_class(each["malignancy"], classes) for each in (first, second)] == [0, 1]
    listed = json.loads((out / "scans.json").read_text())
    assert listed["training"][0]["image"].endswith("DLCS24/subset_01/DLCS_0001.nii.gz")


def test_without_a_split_patients_are_divided(tmp_path: Path) -> None:
    words = release(tmp_path, ROWS, split=False)
    assert main([*words, "--validation_fraction", "0"]) == 0
    assert len(content(tmp_path / "out")["training"]) == 3


@pytest.mark.parametrize(
    ("row", "more", "sentence"),
    [
        ("p1,a,DLCS_0001.nii.gz,x,0,-75,8,8,10,0,train", "", "numbers of mm in"),
        ("p1,a,DLCS_0001.nii.gz,0,0,-75,8,0,10,0,train", "", "sides above 0"),
        ("p1,a,DLCS_0001.nii.gz,0,0,-75,8,8,10,0,train", "xyz", "must be one of ['lps', 'ras']"),
        ("p1,a,DLCS_0001.nii.gz,-28,0,-75,8,8,10,0,train", "ras", "nodules must lie in the scan"),
        ("p1,a,other.nii.gz,0,0,-75,8,8,10,0,train", "", "source must hold scans of the table"),
    ],
)
def test_tables_that_cannot_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, more: str, sentence: str
) -> None:
    words = release(tmp_path, [row], scans=1)
    assert main([*words, *(["--coordinates", more] if more else [])]) == 1
    assert sentence in capsys.readouterr().err


def test_a_box_between_the_voxels_still_has_one() -> None:
    box, inside = box_mask((10, 10, 4), np.diag([1, 1, 5, 1]), (4.4, 4.4, 7.4), (0.3, 0.3, 0.3))
    assert inside.sum() == 1
    assert [part.start for part in box] == [4, 4, 1]
    assert box_mask((10, 10, 4), np.eye(4), (40, 4, 4), (3, 3, 3))[1].size == 0

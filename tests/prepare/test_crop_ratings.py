"""Ratings find their nodules by patient and height, and become keys of the windows' entries."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.prepare.test_crops import make_crop, write_archive
from tools.prepare.crop_ratings import NoduleRatings, match_heights
from tools.prepare.crops import prepare_crops

# of make_crop: 4 slices of 2.5 mm, the first at -30 mm
HEIGHT_MM = -30 + 1.5 * 2.5


def write_ratings(path: Path, rows: list[tuple[str, float, float]], **more: list[float]) -> Path:
    patients, heights, textures = zip(*rows, strict=True)
    columns = {"patient_id": patients, "z_mm": heights, "texture": textures, **more}
    np.savez(path, **{name: np.array(values) for name, values in columns.items()})
    return path


def test_the_pairing_is_the_best_of_all_not_the_first_that_fits() -> None:
    # 1.0 is nearest to 1.5 too, but 3.0 has no other
    assert match_heights([1.0, 3.0], [1.5, 0.0]) == {0: 1, 1: 0}


def test_what_is_out_of_reach_has_no_partner_and_takes_none() -> None:
    assert match_heights([0.0, 500.0], [1.0, 40.0], tolerance=2.5) == {0: 0}
    assert match_heights([0.0], []) == {}


def test_ratings_belong_to_the_patient(tmp_path: Path) -> None:
    path = write_ratings(tmp_path / "m.npz", [("a", 10.0, 5.0), ("b", 10.0, 1.0), ("a", 60.0, 3.0)])
    found = NoduleRatings(path).find(["b", "a", "a", "c"], [10.5, 59.0, 9.0, 10.0])
    assert [dict(row) for row in found] == [
        {"texture": 1.0},
        {"texture": 3.0},
        {"texture": 5.0},
        {},
    ]


def test_a_rating_of_nought_was_not_given(tmp_path: Path) -> None:
    rows = [("a", 0.0, 4.6666667), ("b", 0.0, 0.0)]
    path = write_ratings(tmp_path / "m.npz", rows, malignancy=[0.0, 2.0])
    found = NoduleRatings(path).find(["a", "b"], [0.0, 0.0])
    assert [dict(row) for row in found] == [{"texture": 4.667}, {"malignancy": 2.0}]


def test_windows_carry_the_ratings_and_the_unrated_are_counted(tmp_path: Path) -> None:
    crops = [make_crop("a_1", "train"), make_crop("b_1", "val"), make_crop("c_1", "train", 40.0)]
    archive = write_archive(tmp_path / "crops.npz", crops)
    (tmp_path / "masks").mkdir()
    # of patient b another nodule, far above
    rows = [("a", HEIGHT_MM + 1, 4.75), ("b", HEIGHT_MM + 50, 2.0), ("c", HEIGHT_MM, 3.0)]
    write_ratings(tmp_path / "masks" / "masks.npz", rows)
    counts = prepare_crops(archive, tmp_path / "out", ratings=tmp_path / "masks")
    assert counts == {"training": 1, "validation": 1, "left_out": 1, "unrated": 1}
    content = json.loads((tmp_path / "out" / "datalist.json").read_text())
    assert content["training"][0]["texture"] == 4.75
    assert "texture" not in content["validation"][0]


def test_bad_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ratings must be a masks archive or a folder"):
        NoduleRatings(tmp_path)
    np.savez(tmp_path / "other.npz", patient_id=np.array(["a"]))
    with pytest.raises(ValueError, match=r"ratings must be an archive with \['z_mm', 'texture'\]"):
        NoduleRatings(tmp_path)


@pytest.mark.real
def test_real_crops_and_ratings_are_of_the_same_nodules(shared_dir: Path) -> None:
    """Sizes played no part in the pairing, so they can tell whether it is right."""
    from tools.prepare.crops import _read_archive

    source = shared_dir / "data" / "lidc_masks"
    with np.load(source / "lidc_nodule_masks.npz") as archive:
        sizes, heights = archive["diameter_mm"], archive["z_mm"]
        patients = archive["patient_id"]
    crops = list(_read_archive(shared_dir / "data" / "lidc_voi" / "lidc_voi.npz"))
    ratios = []
    for patient in sorted({crop.patient for crop in crops})[:60]:
        mine = [crop for crop in crops if crop.patient == patient]
        listed = np.flatnonzero(patients == patient)
        middles = [(crop.affine @ [*np.argwhere(crop.mask).mean(0), 1])[2] for crop in mine]
        pairs = match_heights(middles, heights[listed])
        assert len(pairs) == len(mine)
        for i, k in pairs.items():
            volume = mine[i].mask.sum() * abs(np.linalg.det(mine[i].affine[:3, :3]))
            ratios.append(sizes[listed[k]] / (6 * volume / np.pi) ** (1 / 3))
    # these masks count the pixels of the outline, the others do not
    assert np.mean(np.abs(np.log(ratios)) < 0.35) > 0.97

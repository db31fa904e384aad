"""Every way a user brings scans leads to named cases, in an order of their own, none twice."""

import json
from pathlib import Path

import pytest

from tools.synthesis.cases import Case, find_cases, with_masks


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def dicom(*paths: Path) -> None:
    """Files that have the magic bytes, which is all that is looked at here."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * 128 + b"DICM")


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_file_and_series_folder_are_one_case(tmp_path: Path) -> None:
    touch(tmp_path / "chest_image.nii.gz")
    dicom(tmp_path / "series" / "1.dcm", tmp_path / "series" / "2")
    assert find_cases(tmp_path / "chest_image.nii.gz") == [
        Case("chest", tmp_path / "chest_image.nii.gz")
    ]
    assert find_cases(tmp_path / "series") == [Case("series", tmp_path / "series")]


def test_folder_mixes_files_and_series_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii.gz", tmp_path / "a.nii", tmp_path / ".hidden.nii.gz")
    touch(tmp_path / "readme.txt", tmp_path / "b" / "inner.nii.gz")
    dicom(tmp_path / "p2" / "study" / "s1" / "1", tmp_path / "p1" / "1", tmp_path / "p1" / "2")
    (tmp_path / "p2" / "again").symlink_to(tmp_path)  # a circle must end
    found = find_cases(tmp_path)
    assert names(found) == ["a", "b", "p1", "s1"]
    assert found[3].path == tmp_path / "p2" / "study" / "s1"


def test_masks_beside_an_image_are_no_scans(tmp_path: Path) -> None:
    touch(*(tmp_path / f"x_{kind}.nii.gz" for kind in ("image", "lung", "label", "vessel")))
    touch(tmp_path / "y_image.nii.gz", tmp_path / "y_organ_mask.nii.gz", tmp_path / "z_lung.nii")
    assert find_cases(tmp_path) == [
        Case(
            *("x", tmp_path / "x_image.nii.gz", tmp_path / "x_lung.nii.gz"),
            tmp_path / "x_label.nii.gz",
        ),
        Case("y", tmp_path / "y_image.nii.gz", tmp_path / "y_organ_mask.nii.gz"),
        Case("z_lung", tmp_path / "z_lung.nii"),
    ]


def test_same_names_in_different_folders_are_told_apart(tmp_path: Path) -> None:
    dicom(tmp_path / "p1" / "ct" / "1", tmp_path / "p2" / "ct" / "1", tmp_path / "p3" / "mr" / "1")
    assert names(find_cases(tmp_path)) == ["p1_ct", "p2_ct", "mr"]
    touch(tmp_path / "other" / "a.nii", tmp_path / "other" / "a.nii.gz")
    assert names(find_cases(tmp_path / "other")) == ["a", "a_2"]
    touch(tmp_path / "dots" / "...nii.gz", tmp_path / "dots" / ".nii.gz")
    path = write_datalist(
        tmp_path / "d.json", training=[{"image": f"dots/{n}"} for n in ("...nii.gz", ".nii.gz")]
    )
    assert names(find_cases(path)) == ["unnamed", "unnamed_2"]
    assert names(find_cases(tmp_path / "dots" / ".nii.gz")) == ["unnamed"]


def write_datalist(path: Path, **content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_datalist_gives_all_sections_once(tmp_path: Path) -> None:
    files = ("images/a.nii.gz", "images/b.nii.gz", "images/c.nii.gz", "m/a.nii.gz", "m/l.nii.gz")
    touch(*(tmp_path / name for name in files))
    dicom(tmp_path / "series" / "1")
    path = write_datalist(
        tmp_path / "datalist.json",
        name="x",
        authors=["A. Person"],
        labels={"0": "background"},
        training=[{"image": files[0], "lung": files[3], "label": files[4], "fold": 0}],
        validation=[{"image": f"./{files[0]}"}, {"image": files[1], "label": 1}],
        normal=[{"image": "series", "organ_mask": files[3], "label": ""}],
        test=[files[2]],
    )
    found = find_cases(path)
    assert names(found) == ["a", "b", "series", "c"]
    assert found[0].organ_mask == tmp_path / files[3]
    assert found[0].lesion_mask == tmp_path / files[4]
    assert found[1].lesion_mask is None  # a class, not a file
    assert (found[2].organ_mask, found[2].lesion_mask) == (tmp_path / files[3], None)


def test_datalist_of_folders_per_case_takes_their_names(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "one" / "image.nii.gz", tmp_path / "data" / "two" / "image.nii.gz")
    entries = [{"image": f"{name}/image.nii.gz"} for name in ("two", "one")]
    path = write_datalist(tmp_path / "list.json", training=entries)
    assert names(find_cases(path, dataset_dir=tmp_path / "data")) == ["two", "one"]
    alone = write_datalist(tmp_path / "list.json", training=entries[:1])
    # the name, and with it the chance of a case, does not depend on its company
    assert names(find_cases(alone, tmp_path / "data")) == ["two"]


def test_bad_sources_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scan must be an image file, a DICOM series"):
        find_cases(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got .*nothing\.json"):
        find_cases(tmp_path / "nothing.json")
    missing = write_datalist(tmp_path / "a.json", training=[{"image": "no.nii.gz"}])
    with pytest.raises(FileNotFoundError, match=r"image of a datalist entry must exist, got .*no"):
        find_cases(missing)
    for content, sentence in (
        ("[1]", "scan must hold a JSON object"),
        ("{", "scan must be JSON"),
        ('{"training": [3]}', "must list at least one image"),
        ('{"training": [{"image": ["a", "b"]}]}', "image of a datalist entry must be one path"),
    ):
        (tmp_path / "b.json").write_text(content)
        with pytest.raises(ValueError, match=sentence):
            find_cases(tmp_path / "b.json")
    touch(tmp_path / "mixed" / "a.nii.gz")
    dicom(tmp_path / "mixed" / "1.dcm")
    with pytest.raises(ValueError, match="side by side"):
        find_cases(tmp_path / "mixed")
    with pytest.raises(ValueError, match="dataset_dir goes with a datalist"):
        find_cases(tmp_path / "mixed", dataset_dir=tmp_path)


def test_named_masks_go_with_one_scan(tmp_path: Path) -> None:
    touch(tmp_path / "mask.nii.gz")
    cases = [Case("a", tmp_path / "a.nii"), Case("b", tmp_path / "b.nii")]
    assert with_masks(cases, None, None) == cases
    assert with_masks(cases[:1], tmp_path / "mask.nii.gz", None)[0].organ_mask is not None
    with pytest.raises(ValueError, match="lesion_mask goes with one scan"):
        with_masks(cases, None, tmp_path / "mask.nii.gz")
    with pytest.raises(FileNotFoundError, match="organ_mask must be an existing image file"):
        with_masks(cases[:1], tmp_path / "no.nii.gz", None)

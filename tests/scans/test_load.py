"""Results are named so that no two entries of a data set share one."""

from pathlib import Path

import pytest
from monai.data.folder_layout import FolderLayout

from tools.scans.load import OutputNames


def saved(files: list[str], key: str = "image") -> list[str]:
    """The names under which MONAI writes the results of a data set."""
    names = OutputNames([{key: path} for path in files])
    layout = FolderLayout("out", postfix="x", extension=".nii.gz")
    shown = [layout.filename(**names({"filename_or_obj": path}, None)) for path in files]
    return [Path(path).name.removesuffix("_x.nii.gz") for path in shown]


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["P1/image.nii.gz", "P2/image.nii.gz"], ["P1", "P2"]),
        (["a_image.nii.gz", "b/c.nii"], ["a_image", "c"]),  # as MONAI names them
        (["one/image.nii.gz"], ["image"]),
        (["my scan é.nii.gz", "1.2.840.nii.gz", "v1.0.nii"], ["my scan é", "1.2.840", "v1.0"]),
        (["P 1/é.x.nii.gz", "P.2/é.x.nii.gz"], ["P 1_é.x", "P.2_é.x"]),
        (["a.nii", "a.nii.gz", "a.nrrd"], ["a", "a_2", "a_3"]),
        (["P1/s.nii", "P2/s.nii", "P1_s.nii"], ["P1_s", "P2_s", "P1_s_2"]),
        (["site/P1/a.nii", "site/P2/a.nii"], ["P1_a", "P2_a"]),
        (["P1/a.nii", "P1/a.nii", "P1/b.nii"], ["a", "a_2", "b"]),  # one scan, two masks
    ],
)
def test_every_entry_has_a_name_of_its_own(key: str, files: list[str], expected: list[str]) -> None:
    assert saved(files, key) == expected


def test_names_are_the_same_in_a_second_run_and_others_keep_theirs() -> None:
    names = OutputNames([{"image": "a.nii", "label": "b.nii"}, {"image": "a.nii"}, {"label": 1}])
    meta = {"filename_or_obj": "a.nii"}
    assert [names(meta, None)["subject"] for _ in range(4)] == ["a.nii.gz", "a_2.nii.gz"] * 2
    assert names({"filename_or_obj": "c/other.nii"}, None)["subject"] == "c/other.nii"

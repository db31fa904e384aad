"""Files are linked or copied as they are, and rewritten only where their values change."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.export.tiny import AFFINE, SHAPE, box_label, save, scan_values
from tools.export.dataset import ExportCase
from tools.export.files import place_image, place_label


def case(folder: Path, label: np.ndarray, values: dict[int, int], **more: object) -> ExportCase:
    image = save(folder / "image.nii.gz", scan_values(0))
    return ExportCase("a", image, save(folder / "label.nii.gz", label), values, **more)


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_images_are_linked_or_copied(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", scan_values(0))
    place_image(source, tmp_path / "linked.nii.gz")
    place_image(source, tmp_path / "copied.nii.gz", copy=True)
    assert (tmp_path / "linked.nii.gz").resolve() == source.resolve()
    assert not (tmp_path / "copied.nii.gz").is_symlink()
    assert (tmp_path / "copied.nii.gz").read_bytes() == source.read_bytes()


def test_where_links_cannot_be_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    source = save(tmp_path / "a.nii.gz", scan_values(0))
    place_image(source, tmp_path / "b.nii.gz")
    assert (tmp_path / "b.nii.gz").read_bytes() == source.read_bytes()


def test_plain_nifti_is_compressed(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii", scan_values(0))
    place_image(source, tmp_path / "b.nii.gz")
    with gzip.open(tmp_path / "b.nii.gz") as stream:
        assert stream.read() == source.read_bytes()


def test_a_label_that_fits_is_linked(tmp_path: Path) -> None:
    given = case(tmp_path, box_label(1), {0: 0, 1: 1})
    assert place_label(given, tmp_path / "out.nii.gz") == {0, 1}
    assert (tmp_path / "out.nii.gz").is_symlink()


def test_values_change_by_the_table(tmp_path: Path) -> None:
    given = case(tmp_path, box_label(1, 7).astype(np.float32), {0: 0, 7: 2})
    assert place_label(given, tmp_path / "out.nii.gz") == {0, 2}
    written = nib.load(tmp_path / "out.nii.gz")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), box_label(1, 2))
    np.testing.assert_array_equal(written.affine, AFFINE)
    np.testing.assert_array_equal(read(given.label), box_label(1, 7))  # the user's file stays


def test_lesions_of_the_scan_itself_stay_labelled(tmp_path: Path) -> None:
    own = box_label(1, 3)
    own[9:11] = 3  # the synthetic lesion lies over part of it
    given = case(
        *(tmp_path, box_label(9), {0: 0, 1: 1}),
        source_label=save(tmp_path / "own.nii.gz", own),
        source_values={0: 0, 3: 2},
    )
    assert place_label(given, tmp_path / "out.nii.gz") == {0, 1, 2}
    written = read(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written == 1, box_label(9) > 0)
    np.testing.assert_array_equal(written == 2, (own > 0) & (box_label(9) == 0))


@pytest.mark.parametrize(
    ("label", "affine", "sentence"),
    [
        (box_label(1)[:-1], AFFINE, r"image's shape \(16, 16, 12\), got \(15, 16, 12\)"),
        (box_label(1), np.diag([1.0, 1.0, 2.5, 1.0]), "image's affine"),
        (box_label(1, 2), AFFINE, r"must hold the values \[0, 1\], got \[2.0\]"),
        (box_label(1).astype(np.float32) / 2, AFFINE, r"got \[0.5\]"),
        (np.zeros((*SHAPE, 2), np.uint8), AFFINE, "must have 3 dimensions"),
    ],
)
def test_labels_that_do_not_fit(
    tmp_path: Path, label: np.ndarray, affine: np.ndarray, sentence: str
) -> None:
    image = save(tmp_path / "image.nii.gz", scan_values(0))
    given = ExportCase("a", image, save(tmp_path / "label.nii.gz", label, affine), {0: 0, 1: 1})
    with pytest.raises(ValueError, match=sentence):
        place_label(given, tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()

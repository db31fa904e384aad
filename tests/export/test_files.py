"""Files are linked or copied as they are, and rewritten only where their values change."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from tests.export.tiny import AFFINE, SHAPE, box_label, save, scan_values
from tests.scans.test_scan import HEADERS
from tools.export.dataset import ExportCase
from tools.export.files import place_image, place_label
from tools.scans.scan import Scan


def case(folder: Path, label: np.ndarray, values: dict[int, int], **more: object) -> ExportCase:
    image = save(folder / "image.nii.gz", scan_values(0))
    return ExportCase("a", image, save(folder / "label.nii.gz", label), values, **more)


def put_label(given: ExportCase, target: Path) -> set[int]:
    return place_label(given, Scan(given.image), target)


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
    assert put_label(given, tmp_path / "out.nii.gz") == {0, 1}
    assert (tmp_path / "out.nii.gz").is_symlink()


def test_values_change_by_the_table(tmp_path: Path) -> None:
    given = case(tmp_path, box_label(1, 7).astype(np.float32), {0: 0, 7: 2})
    assert put_label(given, tmp_path / "out.nii.gz") == {0, 2}
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
    assert put_label(given, tmp_path / "out.nii.gz") == {0, 1, 2}
    written = read(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written == 1, box_label(9) > 0)
    np.testing.assert_array_equal(written == 2, (own > 0) & (box_label(9) == 0))


FAR = AFFINE + np.pad([[500.0]] * 3, ((0, 1), (3, 0)))
HALF = np.diag([0.5, 0.5, 1.0, 1.0])
HALF[:3, 3] = -0.25, -0.25, -0.5
BACK = np.diag([-1.0, 1, 2, 1])
BACK[0, 3] = SHAPE[0] - 1


@pytest.mark.parametrize(
    ("label", "affine"),
    [
        (np.where(box_label(1), 0.9999999998, 0), AFFINE),
        (np.where(box_label(1), 0.7, 0.2), AFFINE),
        (np.where(box_label(1), 1, np.nan), AFFINE),
        (box_label(1)[..., None], AFFINE),
        (box_label(1)[::-1].copy(), BACK),
        (box_label(1).repeat(2, 0).repeat(2, 1).repeat(2, 2), HALF),
    ],
)
def test_labels_come_onto_the_grid_of_the_image(
    tmp_path: Path, label: np.ndarray, affine: np.ndarray
) -> None:
    given = case(tmp_path, label, {0: 0, 1: 1})
    save(given.label, label, affine)
    scan = Scan(given.image)
    assert place_label(given, scan, tmp_path / "out.nii.gz") == {0, 1}
    assert np.array_equal(read(tmp_path / "out.nii.gz"), box_label(1))
    assert [note.split(" from")[0] for note in scan.notes] == (
        ["label was resampled"] if affine is HALF else []
    )


COLOURS = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("label", "affine", "sentence"),
    [
        (box_label(1), FAR, "label must lie in the scan"),
        (box_label(1)[:-1], None, "label must say where it lies"),
        (box_label(1, 2), AFFINE, r"must hold the values \[0, 1\], got \[2\]"),
        (box_label(1) * 2.5, AFFINE, r"label must hold whole numbers, .* got 2\.5"),
        (np.zeros((*SHAPE, 2), np.uint8), AFFINE, "label must have 3 dimensions"),
        (box_label(1).astype(np.complex64), AFFINE, "label must hold whole or real numbers"),
        (COLOURS, AFFINE, "label must hold whole or real numbers.* colours"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    tmp_path: Path, label: np.ndarray, affine: np.ndarray | None, sentence: str
) -> None:
    given = case(tmp_path, label, {0: 0, 1: 1})
    save(given.label, label, affine)
    with pytest.raises(ValueError, match=rf"{sentence}.*{given.label}"):
        put_label(given, tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (COLOURS, "colours"),
        (np.zeros(SHAPE, np.complex64), "complex64"),
        (np.zeros((*SHAPE, 3), np.int16), "3 dimensions"),
        (np.full(SHAPE, np.nan, np.float32), "NaN or infinity in 3072 of 3072 voxels"),
        (np.zeros((0,), np.int16), "empty file"),
    ],
)
def test_images_that_do_not_fit_are_named(
    tmp_path: Path, values: np.ndarray, sentence: str
) -> None:
    source = tmp_path / "image.nii.gz"
    source.write_bytes(b"") if not values.size else save(source, values)
    with pytest.raises(ValueError, match=rf"image must .*{sentence}.*") as caught:
        place_image(source, tmp_path / "out.nii.gz")
    assert str(source) in str(caught.value)
    assert not (tmp_path / "out.nii.gz").exists()


def itk_place(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    return np.array([*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection()])


KINDS = {
    "nii.gz": lambda values: nib.Nifti1Image(values, None),
    "nii": lambda values: nib.Nifti1Image(values, None),
    "2.nii.gz": lambda values: nib.Nifti2Image(values, None),
    "axis.nii.gz": lambda values: nib.Nifti1Image(values[..., None], None),
    "hdr": lambda values: nib.Nifti1Pair(values, None),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HEADERS)
def test_what_is_exported_opens_at_one_place(tmp_path: Path, name: str, kind: str) -> None:
    sform, qform, sform_code, qform_code = HEADERS[name]
    for file, values in (("image", scan_values(0)), ("label", box_label(1))):
        image = KINDS[kind](values)
        image.header.set_sform(sform, sform_code)
        image.header.set_qform(qform, qform_code)
        nib.save(image, tmp_path / f"{file}.{kind}")
    paths = [tmp_path / f"{file}.{kind}" for file in ("image", "label")]
    image, label = (tmp_path / f"{file}_out.nii.gz" for file in ("image", "label"))
    place_image(paths[0], image)
    place_label(ExportCase("a", *paths, {0: 0, 1: 1}), Scan(image), label)
    assert np.allclose(itk_place(image), itk_place(label), rtol=0, atol=1e-5)
    place = sform if sform is not None else qform
    for path, values in ((image, scan_values(0)), (label, box_label(1))):
        assert np.allclose(nib.load(path).affine, place, rtol=0, atol=1e-4)
        assert np.array_equal(read(path), values)
    assert b"SYNTHETIC" not in bytes(nib.load(image).header["descrip"])


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_other_formats_are_converted(tmp_path: Path, ending: str) -> None:
    for file, values in (("image", scan_values(0)), ("label", box_label(1))):
        image = SimpleITK.GetImageFromArray(values.T)
        image.SetSpacing((1.0, 1.0, 2.0))
        SimpleITK.WriteImage(image, str(tmp_path / f"{file}.{ending}"))
    paths = [tmp_path / f"{file}.{ending}" for file in ("image", "label")]
    place_image(paths[0], tmp_path / "i.nii.gz")
    scan = Scan(tmp_path / "i.nii.gz")
    place_label(ExportCase("a", *paths, {0: 0, 1: 1}), scan, tmp_path / "l.nii.gz")
    assert np.array_equal(scan.stored, scan_values(0))
    assert np.array_equal(read(tmp_path / "l.nii.gz"), box_label(1))
    assert np.allclose(itk_place(tmp_path / "i.nii.gz"), itk_place(tmp_path / "l.nii.gz"))
    assert scan.affine.diagonal().tolist() == [-1, -1, 2, 1]

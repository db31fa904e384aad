"""What opens and what is refused: a table of files, each with the sentence it gets."""

import contextlib
import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.scans.reader import open_image, read_values, require_finite, require_hu, scaling

VALUES = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4) - 9
AFFINE = np.array([[-0.8, 0, 0, 30], [0, 0.9, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


def nifti(path: Path, values: np.ndarray = VALUES, kind: type = nib.Nifti1Image) -> Path:
    nib.save(kind(values, AFFINE), path)
    return path


def big_endian(path: Path) -> Path:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(VALUES.astype(">i2"), AFFINE, header), path)
    return path


def scaled(path: Path) -> Path:
    image = nib.Nifti1Image(VALUES * 2 - 6, AFFINE)  # nibabel writes stored values as they are
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, path)
    return path


def itk(path: Path) -> Path:
    image = SimpleITK.GetImageFromArray(VALUES.T)
    flip = np.diag([-1, -1, 1, 1]) @ AFFINE
    image.SetOrigin(flip[:3, 3].tolist())
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetDirection((flip[:3, :3] / [0.8, 0.9, 2.5]).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "a.nii": nifti,
    "a.nii.gz": nifti,
    "two.nii.gz": lambda path: nifti(path, kind=nib.Nifti2Image),
    "pair.hdr": lambda path: nifti(path, kind=nib.Nifti1Pair),
    "pair.img": lambda path: nifti(path, kind=nib.Nifti1Pair),
    "big.nii.gz": big_endian,
    "scaled.nii.gz": scaled,
    "double.nii": lambda path: nifti(path, VALUES.astype(np.float64)),
    "fourth.nii.gz": lambda path: nifti(path, VALUES[..., None]),
    "a.nrrd": itk,
    "a.mha": itk,
    "a.mhd": itk,
    "a.nhdr": itk,
    "UPPER.NII.GZ": lambda path: nifti(path.with_name("a.nii.gz")).rename(path),
    "UPPER.NII": lambda path: nifti(path.with_suffix(".nii")).rename(path),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_opens(tmp_path: Path, name: str) -> None:
    path = KINDS[name](tmp_path / name)
    image = open_image(path)
    values = read_values(image, path)
    wanted = (0.5, 3.0) if name == "scaled.nii.gz" else (1.0, 0.0)
    assert scaling(image) == wanted
    assert values.shape == VALUES.shape
    assert np.allclose(values * wanted[0] + wanted[1], VALUES)
    assert np.allclose(image.affine, AFFINE, atol=1e-6)


def test_analyze_says_nothing_of_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.AnalyzeImage(VALUES, np.diag([-2.0, 2, 2, 1]))
    nib.save(image, tmp_path / "a.img")
    assert np.array_equal(read_values(open_image(tmp_path / "a.hdr")), VALUES)
    assert "does not say which side is left" in caplog.text


def raw(edit: Callable[[bytearray], object], name: str = "a.nii") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = nifti(folder / name)
        content = bytearray(path.read_bytes())
        edit(content)
        path.write_bytes(content)
        return path

    return make


def put(offset: int, kind: str, *numbers: float) -> Callable[[bytearray], object]:
    def edit(content: bytearray) -> None:
        part = np.array(numbers, kind).tobytes()
        content[offset : offset + len(part)] = part

    return edit


def colours(folder: Path) -> Path:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nifti(folder / "a.nii.gz", np.zeros((2, 3, 4), kind))


def damaged(place: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        noise = np.random.default_rng(0).integers(-999, 999, (40, 40, 40)).astype(np.int16)
        path = nifti(folder / "a.nii.gz", noise)
        content = bytearray(path.read_bytes())
        at = min(int(place * len(content)), len(content) - 8)
        content[at : at + 6] = bytes(255 - byte for byte in content[at : at + 6])
        path.write_bytes(content)
        return path

    return make


def bomb(folder: Path) -> Path:
    path = nifti(folder / "a.nii.gz")
    with gzip.open(path, "ab") as stream:
        for _ in range(70):
            stream.write(bytes(1 << 20))
    return path


def link(folder: Path) -> Path:
    os.symlink(folder / "elsewhere.nii.gz", folder / "a.nii.gz")
    return folder / "a.nii.gz"


def named(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "no.nii", "scan must be an existing image file"),
    "dangling link": (link, "scan must be an existing image, got a link to none"),
    "empty": (named("a.nii.gz", b""), "scan must be an image, got the empty file"),
    "text": (named("a.nii", b"hello"), "scan must be an image that can be read"),
    "text, compressed": (named("a.nii.gz", b"hello"), "scan must be an image that can be read"),
    "compressed, named as if not": (
        lambda folder: nifti(folder / "a.nii.gz").rename(folder / "a.nii"),
        r"scan must be an image that can be read, .*\(it is compressed: its name must end with .gz",
    ),
    "not compressed, named as if": (
        lambda folder: nifti(folder / "a.nii").rename(folder / "a.nii.gz"),
        "scan must be an image that can be read, .* is not a gzip file",
    ),
    "header of voxels that are gone": (
        lambda folder: _without_voxels(itk(folder / "a.mhd")),
        r"that can be read, got \S+ \((?!.*(Exception|0x))",
    ),
    "picture": (named("a.png", b"hello"), "scan must be NIfTI .* NRRD or MetaImage, got .*a.png"),
    "broken nrrd": (named("a.nrrd", b"NRRD0004\n"), "scan must be an image that can be read"),
    "colours": (colours, "scan must hold whole or real numbers of at most 64 bits, got colours"),
    "complex": (
        lambda folder: nifti(folder / "a.nii", VALUES.astype(np.complex64)),
        "at most 64 bits, got complex64",
    ),
    "2-D": (
        lambda folder: nifti(folder / "a.nii", VALUES[0]),
        r"scan must have 3 dimensions, got shape \(3, 4\)",
    ),
    "4-D": (
        lambda folder: nifti(folder / "a.nii", np.stack([VALUES] * 5, -1)),
        r"scan must have 3 dimensions, got shape \(2, 3, 4, 5\)",
    ),
    "cut header": (raw(lambda c: c.__delitem__(slice(200, None))), "that can be read"),
    "cut voxels": (raw(lambda c: c.__delitem__(slice(-5, None))), "as its header says"),
    "terabytes": (raw(put(42, "<i2", 30000, 30000, 30000)), "as its header says, at most 16 GiB"),
    "negative size": (raw(put(42, "<i2", -5)), "scan must"),
    "metres": (
        lambda folder: _with_spacing(folder, 0.0008),
        r"voxels of 0.01 to 100 mm, got 0.0008.*are they millimetres",
    ),
    "kilometres": (lambda folder: _with_spacing(folder, 2000), "voxels of 0.01 to 100 mm"),
    "flat": (lambda folder: _with_affine(folder, 0.0), "scan must have an invertible affine"),
    "NaN in affine": (
        lambda folder: _with_affine(folder, np.nan),
        "scan must have a finite affine",
    ),
    "checksum": (damaged(1.0), "scan must be whole, .* cut short or damaged"),
    "checksum, upper case": (
        lambda folder: damaged(1.0)(folder).rename(folder / "A.NII.GZ"),
        "scan must be whole, .* cut short or damaged",
    ),
    "damaged": (damaged(0.5), "scan must be whole, .* cut short or damaged"),
    "bomb": (bomb, "scan must be whole, .* goes on behind its voxels"),
}


def _without_voxels(header: Path) -> Path:
    for path in header.parent.iterdir():
        if path != header:
            path.unlink()
    return header


def _with_spacing(folder: Path, spacing: float) -> Path:
    nib.save(nib.Nifti1Image(VALUES, np.diag([spacing] * 3 + [1])), folder / "a.nii")
    return folder / "a.nii"


def _with_affine(folder: Path, last: float) -> Path:
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.header["srow_z"] = [0, 0, last, 1]
    image._affine = None
    path = nifti(folder / "a.nii")
    content = bytearray(path.read_bytes())
    put(312, "<f4", 0, 0, last, 1)(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_gets_one_sentence(tmp_path: Path, case: str) -> None:
    make, sentence = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        read_values(open_image(path), path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4
    )
)
def test_any_header_is_read_or_refused(
    changes: list[tuple[int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = nifti(tmp_path_factory.getbasetemp() / "fuzzed.nii")
    content = bytearray(path.read_bytes())
    for offset, part in changes:
        content[offset : offset + len(part)] = part
    path.write_bytes(content[: len(content)])
    said = ""
    try:
        assert read_values(open_image(path), path).ndim == 3
    except ValueError as error:
        said = str(error)
    assert not said or re.match("scan must ", said)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.0, np.nan, np.inf], "image must hold finite values, got NaN or infinity in 2 of 3"),
        ([0.0, 1.0], "image must be in HU, .* got values from 0 to 1"),
        ([0, 24, 2500], "image must be in HU, .* got values from 0 to 2500"),
        ([-2000, 24, 2500], None),
        ([-1000.0, -1000.0], None),
    ],
)
def test_values_that_cannot_be_hu(values: list[float], sentence: str | None) -> None:
    refused = pytest.raises(ValueError, match=sentence)
    with refused if sentence else contextlib.nullcontext():
        require_fit(np.array(values).reshape(-1, 1, 1))


def require_fit(values: np.ndarray) -> None:
    require_finite(values, "image")
    require_hu(values, "image")

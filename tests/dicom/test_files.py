"""Folders as archives write them: what is a scan, what is passed over with a line, what refused."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from tests.dicom_series import write_dicom_series
from tools.dicom.files import is_dicom
from tools.dicom.series import read_series
from tools.synthesis.cases import find_cases

STORED = np.arange(4 * 3 * 5).reshape(4, 3, 5)  # slices, rows, columns
PLACES = [(-10.0, 20.0, float(z)) for z in range(4)]
MAC = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + b"\0" * 400


def scan(folder: Path, uid: str = "1.2.3", count: int = 4, **options: object) -> Path:
    write_dicom_series(folder, STORED[:count], positions=PLACES[:count], series_uid=uid, **options)
    return folder


def another(path: Path, storage: str, **values: object) -> None:
    """Write an object that is no slice beside the slices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = storage
    item.file_meta.MediaStorageSOPInstanceUID = "1.2.3.999"
    if storage != MediaStorageDirectoryStorage:
        item.SOPClassUID, item.SOPInstanceUID, item.SeriesInstanceUID = storage, "1.2.3.999", "1.7"
    for name, value in values.items():
        setattr(item, name, value)
    pydicom.dcmwrite(path, item, enforce_file_format=True)


def localizer(path: Path, uid: str) -> None:
    """Write a scout of the same study as a slice, across the others."""
    orientation = [0, 1, 0, 0, 0, -1]

    def edit(_: int, header: Dataset) -> None:
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.888"

    write_dicom_series(
        path.parent,
        STORED[:1],
        positions=PLACES[:1],
        orientation=orientation,
        series_uid=uid,
        names=[path.name],
        edit=edit,
    )


def sidecar(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


PLACED = {"ImagePositionPatient": [0, 0, 9], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
PLACED |= {"PixelSpacing": [1, 1], "Rows": 3, "Columns": 5}
BESIDE = {
    "dose report": (
        lambda f: another(f / "dose", XRayRadiationDoseSRStorage),
        r"dose \(X-Ray Radiation Dose SR Storage\)",
    ),
    "screenshot": (
        lambda f: another(f / "s.dcm", SecondaryCaptureImageStorage, Rows=3, Columns=5),
        r"s\.dcm \(Secondary Capture",
    ),
    "report in the series": (
        lambda f: another(f / "sr", XRayRadiationDoseSRStorage, SeriesInstanceUID="1.2.3"),
        r"sr \(X-Ray",
    ),
    "segmentation": (
        lambda f: another(f / "seg.dcm", SegmentationStorage, SeriesInstanceUID="1.8", **PLACED),
        r"seg\.dcm \(Segmentation Storage\)",
    ),
    "scout": (lambda f: localizer(f / "scout.dcm", "1.5"), r"scout\.dcm \(localizer\)"),
    "scout in the series": (lambda f: localizer(f / "scout", "1.2.3"), r"scout \(localizer\)"),
    "lone slice": (
        lambda f: write_dicom_series(
            f, STORED[:1], positions=PLACES[:1], series_uid="1.9", names=["bolus.dcm"]
        ),
        r"bolus\.dcm \(slice of another series\)",
    ),
    "directory": (lambda f: another(f / "DICOMDIR", MediaStorageDirectoryStorage), None),
    "directory in lower case": (
        lambda f: another(f / "dicomdir", MediaStorageDirectoryStorage),
        None,
    ),
    "renamed directory": (
        lambda f: another(f / "dir.dcm", MediaStorageDirectoryStorage),
        r"dir\.dcm \(Media Storage Directory Storage\)",
    ),
    "file of a Mac": (sidecar("._000.dcm", MAC), r"\._000\.dcm \(left by macOS\)"),
    "thumbnails": (sidecar("Thumbs.db", b"\xd0\xcf\x11\xe0" * 200), "Thumbs.db"),
    "text": (sidecar("readme.txt", b"\x08\x00 is how it starts" * 20), None),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_is_no_slice_is_passed_over_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    write, line = BESIDE[kind]
    alone = read_series(scan(tmp_path / "alone"))
    write(scan(tmp_path / "study"))
    with caplog.at_level(logging.WARNING):
        found = read_series(tmp_path / "study")
    np.testing.assert_array_equal(found.image, alone.image)
    assert found.sop_uids == alone.sop_uids
    assert [case.path for case in find_cases(tmp_path / "study")] == [tmp_path / "study"]
    if line is None:
        assert not caplog.records
    else:
        assert re.search(rf"({tmp_path / 'study'}).*{line}", caplog.messages[0])
        assert "passed over" in caplog.messages[0]


def test_a_study_of_folders_gives_its_scans(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("ct", "mr"):
        scan(tmp_path / "study" / name, uid=f"1.{ord(name[0])}")
    another(tmp_path / "study" / "report" / "1", XRayRadiationDoseSRStorage)
    another(tmp_path / "study" / "0", XRayRadiationDoseSRStorage)
    localizer(tmp_path / "study" / "scout" / "1", "1.5")
    another(tmp_path / "DICOMDIR", MediaStorageDirectoryStorage)
    with caplog.at_level(logging.WARNING):
        assert [case.name for case in find_cases(tmp_path)] == ["ct", "mr"]
    assert sorted(m.split(": ")[1] for m in caplog.messages) == [
        "0 (X-Ray Radiation Dose SR Storage)",
        "1 (X-Ray Radiation Dose SR Storage)",
        "1 (localizer)",
    ]


def test_a_series_in_two_folders_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        scan(tmp_path / name)
    assert len(find_cases(tmp_path)) == 2
    assert f"{tmp_path / 'b'} holds the series of {tmp_path / 'a'} too" in caplog.text


def test_series_uid_is_looked_for_everywhere_below(tmp_path: Path) -> None:
    scan(tmp_path / "s" / "a", uid="1.5")
    scan(tmp_path / "s" / "b" / "c", uid="1.6")
    scan(tmp_path / "s" / "b" / "c", uid="1.7", names=list("wxyz"))
    for uid, place in (("1.5", "a"), ("1.6", "b/c"), ("1.7", "b/c")):
        (case,) = find_cases(tmp_path / "s", series_uid=uid)
        assert (case.path, case.series_uid) == (tmp_path / "s" / place, uid)
        assert read_series(case.path, uid).series_uid == uid
    with pytest.raises(ValueError, match=r"series_uid must be in .* got 1\.8, found 1\.5, 1\.6"):
        find_cases(tmp_path / "s", series_uid="1.8")
    (tmp_path / "list.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="series_uid goes with a folder as scan, got"):
        find_cases(tmp_path / "list.json", series_uid="1.5")
    with pytest.raises(ValueError, match="scan must be the folder of a DICOM series, got a file"):
        find_cases(tmp_path / "s" / "a" / "000.dcm")


@pytest.mark.parametrize("implicit", [True, False])
def test_slices_without_preamble_and_meta_header(tmp_path: Path, implicit: bool) -> None:
    series = read_series(scan(tmp_path / "with"))
    scan(tmp_path / "without")
    for path in (tmp_path / "without").iterdir():
        item = pydicom.dcmread(path)
        plain = Dataset()
        plain.update(dict(item.items()))
        pydicom.dcmwrite(path, plain, implicit_vr=implicit, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
        assert is_dicom(path)
    found = read_series(tmp_path / "without")
    np.testing.assert_array_equal(found.image, series.image)
    np.testing.assert_array_equal(found.affine, series.affine)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def vanish(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.dcm")


def no_class(path: Path) -> None:
    item = pydicom.dcmread(path)
    del item.SOPClassUID
    item.save_as(path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.write_bytes(b""), r"must be readable DICOM, got .*003\.dcm"),
        (cut, r"must be readable DICOM, got .*003\.dcm"),
        (vanish, r"must be readable DICOM, got .*003\.dcm"),
        (no_class, r"unknown storage without SOPClassUID: .*003\.dcm"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"pixels must be readable.*003\."),
    ],
    ids=["empty", "cut short", "link to nowhere", "no class", "pixels cut short"],
)
def test_a_last_slice_that_is_lost_is_said(
    tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(scan(tmp_path) / "003.dcm")
    with pytest.raises(ValueError, match=sentence):
        read_series(tmp_path)


def test_a_folder_without_a_scan_says_what_it_holds(tmp_path: Path) -> None:
    another(tmp_path / "1", XRayRadiationDoseSRStorage)
    with pytest.raises(ValueError, match="found X-Ray Radiation Dose SR Storage in"):
        read_series(tmp_path)


def test_a_lone_series_of_localizers_is_read(tmp_path: Path) -> None:
    def edit(_: int, header: Dataset) -> None:
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    assert read_series(scan(tmp_path, edit=edit)).image.shape == (5, 3, 4)

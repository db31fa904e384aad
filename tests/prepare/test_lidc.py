"""A small download whose consensus masks are known by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from tests.dicom_series import write_dicom_series
from tests.prepare.lidc_download import (
    SHAPE,
    XML,
    box,
    chain_round,
    message,
    nodule,
    outlined,
    roi,
    write_scan,
)
from tests.prepare.pairs import array, content, load, tree
from tools.cli import main
from tools.dicom.series import DicomSeries, read_series
from tools.prepare import lidc
from tools.prepare.lidc import (
    RATINGS,
    Outline,
    Reading,
    cluster_readings,
    enclosed,
    parse_read_message,
    prepare_lidc,
    reading_mask,
)
from tools.prepare.scans import bundle_rule, prepare_scans
from tools.prepare.sections import validation_patient

RULE = bundle_rule("lefusion_lidc", size=(24, 24, 16), normal=2)
FIRST = box((20, 30), (20, 30), (14, 20))
FIRST_CORE = box((20, 24), (20, 30), (14, 20))  # what all four readers hold
LONE = box((40, 46), (40, 46), (30, 34))
COLUMNS, ROWS = np.ogrid[: SHAPE[0], : SHAPE[1]]
DISC = np.repeat(((COLUMNS - 33.5) ** 2 + (ROWS - 31.5) ** 2 < 6**2)[..., None], SHAPE[2], axis=2)
DISC[..., :20] = DISC[..., 26:] = False


def write_download(root: Path) -> Path:
    """Three patients: four readers, three readers and slices in descending order, none."""
    folder, uids = write_scan(root, "LIDC-A", FIRST | LONE)
    lone = nodule("lone", outlined(LONE, uids), 1)
    sessions = [
        nodule("1", outlined(FIRST, uids), 5) + lone,
        nodule("a", outlined(FIRST, uids), 4) + lone,
        nodule("x", outlined(FIRST_CORE, uids), 4),
        nodule("IL", outlined(FIRST_CORE, uids), 2),
    ]
    (folder / "069.xml").write_text(message(sessions))
    folder, uids = write_scan(root, "LIDC-B", DISC, descending=True)
    sessions = [nodule("n", outlined(DISC, uids), rating) for rating in (1, 2, 3)]
    (folder / "070.xml").write_text(message(sessions))
    folder, uids = write_scan(root, "LIDC-C", box((50, 53), (12, 15), (4, 7)))
    point = nodule("small", roi(uids[5], np.array([[51, 13]])), None)
    other = f"<nonNodule><imageSOP_UID>{uids[9]}</imageSOP_UID></nonNodule>"
    (root / "elsewhere.xml").write_text(message([point + other, ""], "1.9.67"))
    radiograph = root / "LIDC-C" / "chest"
    radiograph.mkdir()
    (radiograph / "071.xml").write_text(f'<IdriReadMessage xmlns="{XML}"/>')
    return root


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_download(tmp_path_factory.mktemp("download"))


@pytest.fixture(scope="module")
def prepared(download: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("prepared")
    return out, prepare_lidc(download, out, RULE, workers=1, validation_fraction=0.5)


def entries(out: Path) -> dict[str, dict[str, Any]]:
    listed = content(out)
    return {entry["patient"]: entry for entry in listed["training"] + listed["validation"]}


def voxels_in_scan(out: Path, entry: dict[str, Any], series: DicomSeries) -> np.ndarray:
    """The label's voxels as a mask of the scan."""
    label = load(out, entry, "label")
    points = apply_affine(label.affine, np.argwhere(np.asarray(label.dataobj)))
    index = apply_affine(np.linalg.inv(series.affine), points)
    np.testing.assert_allclose(index, index.round(), atol=1e-4)
    mask = np.zeros(series.image.shape, bool)
    mask[tuple(index.round().astype(int).T)] = True
    return mask


def test_consensus_masks_are_those_drawn(download: Path, prepared: tuple[Path, dict]) -> None:
    out, summary = prepared
    assert summary["training"] + summary["validation"] == 2
    assert summary["broken"] == {}
    assert summary["left_out"] == {"too few readers": 1}
    for patient, expected in (("LIDC-A", FIRST), ("LIDC-B", DISC)):
        entry = entries(out)[patient]
        series = read_series(download / patient / "study" / "series")
        np.testing.assert_array_equal(voxels_in_scan(out, entry, series), expected)
        image, label = load(out, entry, "image"), load(out, entry, "label")
        assert image.shape == label.shape == (24, 24, 16)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        values, inside = np.asarray(image.dataobj), np.asarray(label.dataobj) > 0
        assert set(np.unique(values[inside])) == {30}  # windows lie on the voxels of these scans
        assert entry["volume_mm3"] == expected.sum()
    assert entries(out)["LIDC-A"]["readers"] == 4


def test_agreement_and_min_readers(download: Path, tmp_path: Path) -> None:
    rule = RULE._replace(normal=0)
    summary = prepare_lidc(download, tmp_path, rule, 2, 0.75, 1, validation_fraction=0.0)
    assert summary["training"] == 3
    series = read_series(download / "LIDC-A" / "study" / "series")
    found = [e for e in content(tmp_path)["training"] if e["patient"] == "LIDC-A"]
    masks = {e["readers"]: voxels_in_scan(tmp_path, e, series) for e in found}
    np.testing.assert_array_equal(masks[4], FIRST_CORE)
    np.testing.assert_array_equal(masks[2], LONE)


def test_ratings_are_kept_by_reader(prepared: tuple[Path, dict]) -> None:
    by_patient = entries(prepared[0])
    assert by_patient["LIDC-A"]["ratings_by_reader"] == {key: [5, 4, 4, 2] for key in RATINGS}
    assert {by_patient["LIDC-A"][key] for key in RATINGS} == {3.75}
    assert by_patient["LIDC-B"]["ratings_by_reader"]["texture"] == [1, 2, 3, 0]
    assert by_patient["LIDC-B"]["malignancy"] == 2.0


def test_the_same_scans_make_masks(prepared: tuple[Path, dict], tmp_path: Path) -> None:
    rule = bundle_rule("diffmask")
    options = {"validation_fraction": 0.0, "dataset_dir": "/"}
    prepare_scans(prepared[0] / "scans.json", tmp_path, rule, **options)
    masks = {entry["patient"]: entry for entry in content(tmp_path)["training"]}
    for patient, expected in (("LIDC-A", FIRST), ("LIDC-B", DISC)):
        mask = array(tmp_path, masks[patient], "label")
        assert mask.sum() == pytest.approx(expected.sum(), rel=0.02)
        assert masks[patient]["texture"] in (3.75, 2.0)


def test_normal_windows_touch_no_mark(download: Path, prepared: tuple[Path, dict]) -> None:
    out, _ = prepared
    normal = content(out)["normal"]
    assert any(entry["patient"] == "LIDC-C" for entry in normal)
    for entry in normal:
        image, lung = array(out, entry, "image"), array(out, entry, "organ_mask")
        assert image.dtype == np.int16
        assert image.shape == lung.shape == (24, 24, 16)
        assert lung.mean() >= 0.3
        assert not (image == 30).any()


def test_split_is_by_patient(download: Path, prepared: tuple[Path, dict]) -> None:
    listed = content(prepared[0])
    sections = {name: {e["patient"] for e in listed[name]} for name in ("training", "validation")}
    assert not sections["training"] & sections["validation"]
    for patient in ("LIDC-A", "LIDC-B"):
        section = "validation" if validation_patient(patient, 0, 0.5) else "training"
        assert patient in sections[section]
    # windows without lesion are trained on
    assert listed["normal"]
    assert not sections["validation"] & {entry["patient"] for entry in listed["normal"]}


def test_resume_redoes_only_what_is_not_done(
    download: Path, prepared: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = prepared
    calls: list[str] = []
    read = lidc.read_series

    def stop_at_second(folder: Path, uid: str, pixels: bool) -> DicomSeries:
        calls.append(folder.parts[-3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(folder, pixels=pixels)

    monkeypatch.setattr(lidc, "read_series", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_lidc(download, tmp_path, RULE, workers=1, validation_fraction=0.5)
    assert [p.name for p in (tmp_path / "scans").iterdir()] == ["LIDC-A_s1"]
    assert prepare_lidc(download, tmp_path, RULE, 3, 0.5, 1, 0.5) == summary
    assert calls == ["LIDC-A", "LIDC-B", "LIDC-B", "LIDC-C"]
    assert tree(tmp_path) == tree(out)
    with pytest.raises(ValueError, match="out must be a new folder or one prepared with the same"):
        prepare_lidc(download, tmp_path, RULE, 3, 0.6, 1, 0.5)


def other_object(storage: str, modality: str) -> Callable[[int, Dataset], None]:
    """Make of a slice what archives put beside a scan."""

    def edit(_: int, header: Dataset) -> None:
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = storage
        header.Modality = modality
        if storage == CTImageStorage:
            header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        else:
            del header.PixelData, header.ImagePositionPatient

    return edit


@pytest.mark.parametrize("named_beside", [True, False])
def test_what_lies_beside_the_slices_is_passed_over(
    download: Path, tmp_path: Path, named_beside: bool
) -> None:
    """A segmentation, a report, a scout and a coarse series, all before the slices."""
    root = tmp_path / "download"
    shutil.copytree(download / "LIDC-A", root / "LIDC-A")
    folder = root / "LIDC-A" / "study" / "series"
    xml = (folder / "069.xml").read_text().replace("1.2.3", "1.9.65")
    (folder / "069.xml").unlink()
    ((folder if named_beside else root) / "a.xml").write_text(xml)
    others = [("66.4", "SEG"), ("88.33", "SR"), ("88.67", "SR"), ("2", "CT"), ("2", "CT")]
    for number, (storage, modality) in enumerate(others):
        uid, heights = f"1.8.{number}", range(3 if number == 4 else 1)
        write_dicom_series(
            folder,
            np.zeros((len(heights), 8, 8)),
            positions=[(0, 0, 5 * z) for z in heights],
            series_uid=uid,
            patient="other",
            names=[f"000000_{number}_{k}" for k in heights],
            edit=other_object(f"1.2.840.10008.5.1.4.1.1.{storage}", modality)
            if number < 4
            else None,
        )
    out = tmp_path / "out"
    summary = prepare_lidc(root, out, RULE._replace(normal=0), workers=1, validation_fraction=0.0)
    assert (summary["broken"], summary["training"]) == ({}, 1)
    entry = content(out)["training"][0]
    series = read_series(folder, "1.9.65")
    np.testing.assert_array_equal(voxels_in_scan(out, entry, series), FIRST)


def test_broken_patients_are_named_and_others_done(
    download: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, out = tmp_path / "download", tmp_path / "out"
    shutil.copytree(download, root)
    next((root / "LIDC-A").rglob("000007.dcm")).unlink()
    (root / "elsewhere.xml").unlink()
    for name in ("._069.xml", "Thumbs.db"):
        (root / "LIDC-B" / name).write_bytes(b"of another system")
    (root / "LIDC-B" / "link.xml").symlink_to(root / "nowhere.xml")
    command = ["prepare", "lidc", "--dicom", str(root), "--out", str(out), "--workers", "1"]
    command += ["--size", "24,24,16", "--normal_rois", "0"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "2 scans could not be prepared" in error
    assert "._069.xml (and 1 more) is a left-over of another system" in caplog.text
    assert "link.xml is a link to a file that is not there" in caplog.text
    assert "LIDC-A_s1: series must be complete, got 1 missing" in error
    assert "LIDC-C_s1: series must have one LidcReadMessage XML, got []" in error
    assert set(entries(out)) == {"LIDC-B"}
    assert sorted(p.name for p in (out / "cases").iterdir()) == ["LIDC-B_s1"]
    shutil.rmtree(root / "LIDC-A")
    shutil.rmtree(root / "LIDC-C")
    assert main(command) == 0


def flat_series() -> DicomSeries:
    uids = tuple(f"u{k}" for k in range(SHAPE[2]))
    return DicomSeries(np.zeros(SHAPE, np.int16), np.eye(4), uids, np.arange(44.0), "s", "p", "CT")


def reading(mask: np.ndarray, reader: int) -> Reading:
    uids = flat_series().sop_uids
    slices = np.flatnonzero(mask.any((0, 1)))
    chains = tuple(Outline(uids[k], True, chain_round(mask[..., k])) for k in slices)
    return Reading(reader, "n", {"texture": 5}, chains)


def test_chain_is_not_part_of_the_nodule() -> None:
    square = np.array([[2, 3], [3, 3], [4, 3], [4, 4], [4, 5], [3, 5], [2, 5], [2, 4]])
    for points in (square, square[::-1], square[::2]):  # any direction; corners alone
        start, mask = enclosed(points)
        np.testing.assert_array_equal(start + np.argwhere(mask), [[3, 4]])
    notch = np.array([[0, 0], [6, 0], [6, 6], [4, 6], [4, 2], [2, 2], [2, 6], [0, 6]])
    _, mask = enclosed(notch)  # a U: its bay is outside
    expected = np.zeros((7, 7), bool)
    expected[1:6, 1] = expected[1, 2:6] = expected[5, 2:6] = True
    np.testing.assert_array_equal(mask, expected)


def test_exclusions_are_taken_out_whatever_their_order() -> None:
    whole, hole = box((10, 20), (10, 20), (5, 7)), box((13, 16), (12, 17), (6, 7))
    inner = Outline("u6", False, chain_round(hole[..., 6]))
    marked = reading(whole, 1)
    for outlines in ((*marked.outlines, inner), (inner, *marked.outlines)):
        found = reading_mask(marked._replace(outlines=outlines), flat_series())
        assert found is not None
        mask = np.zeros(SHAPE, bool)
        mask[tuple((found.start + np.argwhere(found.mask)).T)] = True
        np.testing.assert_array_equal(mask, whole & ~hole)


def test_outlines_off_the_series_are_refused() -> None:
    marked = reading(box((10, 20), (10, 20), (5, 7)), 1)
    moved = marked.outlines[0]._replace(sop_uid="u99")
    with pytest.raises(ValueError, match="got nodule n on u99, which series s lacks"):
        reading_mask(marked._replace(outlines=(moved,)), flat_series())
    beyond = marked.outlines[0]._replace(points=np.array([[60, 1], [64, 1], [64, 9]]))
    with pytest.raises(ValueError, match=r"inside slices of \(64, 64\) pixels"):
        reading_mask(marked._replace(outlines=(beyond,)), flat_series())
    lone = marked.outlines[0]._replace(points=np.array([[5, 5], [6, 5]]))
    assert reading_mask(marked._replace(outlines=(lone,)), flat_series()) is None


def test_readings_are_clustered_by_overlap_and_distance() -> None:
    shapes = [
        (box((10, 20), (10, 20), (5, 9)), 1),
        (box((12, 20), (10, 20), (5, 9)), 2),
        (box((19, 25), (10, 20), (5, 9)), 2),  # second nodule of reader 2, touching the first
        (box((20, 26), (10, 20), (5, 9)), 3),
        (box((10, 13), (40, 43), (5, 6)), 1),  # no shared voxel, neighbouring slices
        (box((10, 13), (40, 43), (6, 7)), 2),
        (box((10, 13), (40, 43), (12, 13)), 3),  # too far
    ]
    masks = [reading_mask(reading(*shape), flat_series()) for shape in shapes]
    known = [mask for mask in masks if mask is not None]
    clusters = cluster_readings(known, np.eye(4))
    index = [[next(i for i, m in enumerate(known) if m is c) for c in group] for group in clusters]
    assert index == [[0, 1], [2, 3], [4, 5], [6]]
    assert cluster_readings([], np.eye(4)) == []


def test_xml_of_other_kinds_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f'<IdriReadMessage xmlns="{XML}"/>')
    with pytest.raises(ValueError, match="annotation must be a LidcReadMessage"):
        parse_read_message(path)
    path.write_text("<LidcReadMessage")
    with pytest.raises(ValueError, match="annotation must be well-formed XML"):
        parse_read_message(path)
    path.write_text(message([nodule("n", roi("", np.array([[1, 2]])), 3)]))
    with pytest.raises(ValueError, match="must give every mark in full, got roi without imageSOP"):
        parse_read_message(path)
    point, ring = np.array([[1, 2]]), np.array([[1, 1], [3, 1], [3, 3], [1, 3]])
    both = nodule("p", roi("u", point), 3) + nodule("u", roi("u", ring), None)
    path.write_text(message([both, nodule("r", roi("u", ring, "false"), 3)]))
    found = parse_read_message(path)
    assert [r.nodule_id for r in found.readings] == ["r"]
    assert (found.readings[0].reader, found.readings[0].outlines[0].inclusion) == (2, False)
    assert len(found.small_nodules) == 2  # no ratings, or a single point
    assert found.series_uid == "1.2.3"

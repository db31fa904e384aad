"""Readers' marks, their masks and their clusters, on outlines known by hand."""

from pathlib import Path

import numpy as np
import pytest

from tests.prepare.lidc_download import SHAPE, XML, box, chain_round, message, nodule, roi
from tools.dicom.series import DicomSeries
from tools.prepare.lidc_consensus import ReadingMask, cluster_readings, enclosed, reading_mask
from tools.prepare.lidc_xml import Outline, Reading, is_read_message, parse_read_message


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


def test_bounds_are_voxel_edges() -> None:
    mask = ReadingMask(np.array([3, 4, 5]), np.ones((2, 1, 1), bool), None)
    np.testing.assert_allclose(
        mask.bounds_mm(np.diag([-1.0, 2.0, 3.0, 1.0])), [[-4.5, 7, 13.5], [-2.5, 9, 16.5]]
    )


def test_xml_of_other_kinds_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f'<IdriReadMessage xmlns="{XML}"/>')
    assert not is_read_message(path)
    with pytest.raises(ValueError, match="annotation must be a LidcReadMessage"):
        parse_read_message(path)
    path.write_text("<LidcReadMessage")
    with pytest.raises(ValueError, match="annotation must be well-formed XML"):
        is_read_message(path)
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

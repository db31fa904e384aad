"""Radiologists' marks of LIDC-IDRI from a ``LidcReadMessage`` file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "RATINGS",
    "READERS",
    "Outline",
    "ReadMessage",
    "Reading",
    "is_read_message",
    "parse_read_message",
]

NAMESPACE = "{http://www.nih.gov}"
READERS = 4  # of each scan; no nodule has more readings
RATINGS = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)


class Outline(NamedTuple):
    """A closed chain of pixels on one slice.

    Attributes:
        sop_uid: SOP instance UID of the slice.
        inclusion: whether what it encloses belongs to the nodule or is taken out of it.
        points: integer (column, row) from the upper left pixel, 0-based, shape (n, 2).
    """

    sop_uid: str
    inclusion: bool
    points: np.ndarray


class Reading(NamedTuple):
    """One nodule of at least 3 mm as one reader outlined and rated it.

    Attributes:
        reader: number of the reading session in the file, from 1; files do not share readers.
        nodule_id: the reader's own name of the nodule.
        ratings: by name, 1 to 5 (1 to 6 for calcification); only those that were given.
        outlines: of all slices.
    """

    reader: int
    nodule_id: str
    ratings: dict[str, int]
    outlines: tuple[Outline, ...]


class ReadMessage(NamedTuple):
    """All marks on one series.

    Attributes:
        series_uid: series instance UID in the header; empty if absent.
        readings: nodules of at least 3 mm.
        small_nodules: marks of nodules below 3 mm: one point each.
    """

    series_uid: str
    readings: tuple[Reading, ...]
    small_nodules: tuple[Outline, ...]


def is_read_message(path: str | Path) -> bool:
    """Return whether an XML file holds marks on a CT series; those on radiographs do not.

    Args:
        path: an XML file; only its first element is read.

    Raises:
        ValueError: if the file is no XML.
    """
    try:
        for _, element in ElementTree.iterparse(path, events=("start",)):
            return element.tag == f"{NAMESPACE}LidcReadMessage"
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation must be well-formed XML, got {path} ({error})") from error
    return False


def parse_read_message(path: str | Path) -> ReadMessage:
    """Read the marks of all readers on one series.

    A mark counts as nodule of at least 3 mm if it carries ratings and an outline of more than one
    point; other nodule marks are below 3 mm. Marks of non-nodules are left out.

    Args:
        path: XML file whose first element is ``LidcReadMessage``, namespace http://www.nih.gov.

    Returns:
        Marks in the order of the file.

    Raises:
        ValueError: if the file is no such XML, or an element of a mark is missing or no number.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation must be well-formed XML, got {path} ({error})") from error
    if root.tag != f"{NAMESPACE}LidcReadMessage":
        raise ValueError(f"annotation must be a LidcReadMessage, got {root.tag} in {path}")
    readings: list[Reading] = []
    small: list[Outline] = []
    try:
        for reader, session in enumerate(_all(root, "readingSession"), start=1):
            for nodule in _all(session, "unblindedReadNodule"):
                reading = _reading(reader, nodule)
                if reading.ratings and any(len(part.points) > 1 for part in reading.outlines):
                    readings.append(reading)
                else:
                    small.extend(reading.outlines)
    except ValueError as error:
        raise ValueError(
            f"annotation must give every mark in full, got {error} in {path}"
        ) from error
    # the header's spelling of the element changed over the years
    found = (root.iter(f"{NAMESPACE}{name}") for name in ("SeriesInstanceUid", "SeriesInstanceUID"))
    uids = [(element.text or "").strip() for elements in found for element in elements]
    return ReadMessage(uids[0] if uids else "", tuple(readings), tuple(small))


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return element.findall(f"{NAMESPACE}{name}")


def _text(element: ElementTree.Element, name: str) -> str:
    text = (element.findtext(f"{NAMESPACE}{name}") or "").strip()
    if not text:
        raise ValueError(f"{element.tag.removeprefix(NAMESPACE)} without {name}")
    return text


def _reading(reader: int, nodule: ElementTree.Element) -> Reading:
    characteristics = nodule.find(f"{NAMESPACE}characteristics")
    given = {
        name: (characteristics.findtext(f"{NAMESPACE}{name}") or "").strip()
        for name in RATINGS
        if characteristics is not None
    }
    return Reading(
        reader,
        _text(nodule, "noduleID"),
        {name: int(value) for name, value in given.items() if value},
        tuple(_outline(roi) for roi in _all(nodule, "roi")),
    )


def _outline(roi: ElementTree.Element) -> Outline:
    inclusion = _text(roi, "inclusion").upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise ValueError(f"inclusion {inclusion}")
    points = [[int(_text(p, "xCoord")), int(_text(p, "yCoord"))] for p in _all(roi, "edgeMap")]
    return Outline(
        _text(roi, "imageSOP_UID"), inclusion == "TRUE", np.array(points, int).reshape(-1, 2)
    )

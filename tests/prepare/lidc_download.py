"""A writer of small LIDC-IDRI downloads: scans of lung, and what readers outlined in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tests.dicom_series import write_dicom_series
from tools.prepare.lidc import RATINGS

SHAPE = (64, 64, 44)  # columns, rows, slices of 1 mm
XML = "http://www.nih.gov"


def box(columns: Sequence[int], rows: Sequence[int], slices: Sequence[int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[slice(*columns), slice(*rows), slice(*slices)] = True
    return mask


def chain_round(mask: np.ndarray) -> np.ndarray:
    """First pixels outside a convex shape, in order of their angle."""
    ring = np.argwhere(ndimage.binary_dilation(mask) & ~mask)
    to = ring - np.argwhere(mask).mean(0)
    return ring[np.argsort(np.arctan2(to[:, 1], to[:, 0]))]


def roi(uid: str, points: np.ndarray, inclusion: str = "TRUE") -> str:
    edges = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points
    )
    return (
        f"<roi><imageZposition>0.0</imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def nodule(name: str, rois: str, rating: int | None) -> str:
    rated = "".join(f"<{key}>{rating}</{key}>" for key in RATINGS) if rating else ""
    return (
        f"<unblindedReadNodule><noduleID>{name}</noduleID>"
        f"<characteristics>{rated}</characteristics>{rois}</unblindedReadNodule>"
    )


def outlined(mask: np.ndarray, uids: Sequence[str]) -> str:
    slices = np.flatnonzero(mask.any((0, 1)))
    return "".join(roi(uids[k], chain_round(mask[..., k])) for k in slices)


def message(sessions: Sequence[str], series_uid: str = "1.2.3") -> str:
    body = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    head = f"<ResponseHeader><SeriesInstanceUid>{series_uid}</SeriesInstanceUid></ResponseHeader>"
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="{XML}">{head}{body}</LidcReadMessage>'


def write_scan(
    root: Path, patient: str, lesions: np.ndarray, descending: bool = False
) -> tuple[Path, list[str]]:
    """Write lung in a body with bright lesions; return the folder and UIDs of ascending slices."""
    image = np.full(SHAPE, 1040, np.int16)  # 40 HU after the intercept
    image[8:-8, 8:-8, 2:-2] = 150
    image[lesions] = 1030
    stored = image.transpose(2, 1, 0)
    heights = np.arange(float(SHAPE[2]))
    names = [f"{n:06d}.dcm" for n in np.random.default_rng(3).permutation(SHAPE[2])]
    if descending:
        stored, heights = stored[::-1], heights[::-1]
    folder = root / patient / "study" / "series"
    uids = write_dicom_series(
        folder,
        stored,
        positions=[(-30.0, -20.0, z) for z in heights],
        intercept=-1000.0,
        series_uid=f"1.9.{ord(patient[-1])}",
        patient=patient,
        names=names,
    )
    return folder, uids[::-1] if descending else uids

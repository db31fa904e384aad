"""A reader test: one page on which people say which lesion is synthetic (``tools turing``).

The page shows pairs of a real and a synthetic lesion of about the same size, never of one patient,
first the lesion alone, then with more around it. It needs no network and no other file, keeps its
state in the browser, and gives the answers as a file of JSON, which :mod:`tools.studies.readers`
scores. Which lesion is synthetic stands in the page enciphered: nobody reads it by chance, in the
page, its source, names or order; who sets out to decipher it will, as the page does it at the end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from scipy.ndimage import find_objects
from scipy.optimize import linear_sum_assignment

from tools.files import new_file
from tools.organs.coarse_grid import block_mean
from tools.report.page import render
from tools.scans.crops import MARGIN_MM, Crop
from tools.studies.judge import each_crop

__all__ = ["MODES", "Picture", "Shown", "keystream", "matched", "write_reader_test"]

FORMAT = "reader-test 1"
MODES = ("pair", "single")
CONTEXT_MM = 30.0  # on each side of a lesion
CONTEXT_VOXEL_MM = 1.4
LARGER = 1.5  # times the volume of the crop that the context must at least show
UNLIKE = 1.25  # diameters of a pair differ by less
WINDOWS_HU = (("lung", -1350.0, 150.0), ("soft tissue", -160.0, 240.0), ("wide", -1000.0, 400.0))
PERCENTILES = (("usual", 1.0, 99.0), ("bright", 50.0, 99.8), ("wide", 0.0, 100.0))
STEP_HU = 2.0
STEPS = 1000  # of intensities without units

logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A box of a scan, ready to be shown: first voxels are right, front and top of the patient."""

    levels: np.ndarray  # (X, Y, Z) uint16
    low: float  # intensity of level 0
    step: float
    spacing_mm: np.ndarray
    centre: np.ndarray  # of the lesion, as an index


class Shown(NamedTuple):
    """A lesion of the test."""

    name: str
    patient: str
    synthetic: bool
    diameter_mm: float
    windows: Sequence[tuple[str, float, float]]
    pictures: Mapping[str, Picture]  # crop, context


def write_reader_test(
    real: str | Path,
    synthetic: str | Path,
    out: str | Path,
    section: str | None = None,
    values: Sequence[int] = (),
    count: int = 40,
    mode: str = "pair",
    modality: str = "CT",
    seed: int = 0,
) -> dict[str, Any]:
    """Write the page.

    Args:
        real: folder or datalist of lesions, see :func:`tools.studies.judge.read_crops`.
        synthetic: likewise.
        out: HTML file.
        section: list of the datalist of the real ones.
        values: of the label maps that are lesions.
        count: pairs at most, evenly over sizes.
        mode: pair, or single for one lesion at a time.
        modality: CT has windows in HU, MR by percentiles.
        seed: of pairs, names and the order of each reader.

    Returns:
        ``test`` (what tells it from others), ``pairs``, ``views``, ``megabytes``.

    Raises:
        ValueError: if an option is none of those, or no pair can be made.
    """
    for name, value, known in (("mode", mode, MODES), ("modality", modality, ("CT", "MR"))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    sources = ((real, section, False), (synthetic, None, True))
    sets = [
        [_shown(crop, made, modality) for crop in each_crop(path, values, part, CONTEXT_MM)]
        for path, part, made in sources
    ]
    pairs = [_same_field(*pair) for pair in matched(sets[0], sets[1], count, seed)]
    content = _content(pairs, mode, seed)
    page = render("reader.html", title="Reader test", test=json.dumps(content))
    with new_file(out) as partial:
        partial.write_text(page, encoding="utf-8")
    facts = {"test": content["test"], "pairs": len(pairs), "views": content["views"]}
    return {**facts, "megabytes": round(len(page) / 1e6, 2)}


def matched(
    real: Sequence[Shown], synthetic: Sequence[Shown], count: int, seed: int = 0
) -> list[tuple[Shown, Shown]]:
    """Return pairs of about the same diameter, never of one patient, each lesion once.

    The sum of the logarithms of the ratios of their diameters is the least there is; ratios of 1.25
    and more are left out. A patient is the same also where one set names him by a longer name that
    begins alike: P1 and P1_2.

    Args:
        real: lesions.
        synthetic: likewise.
        count: so many pairs at most, evenly over the sizes.
        seed: which of several as good it is.

    Raises:
        ValueError: if there is no pair.
    """
    rng = np.random.default_rng(seed)
    sets = [[each[k] for k in rng.permutation(len(each))] for each in (real, synthetic)]
    if not all(sets):
        lacking = "synthetic" if sets[0] else "real"
        raise ValueError(f"{lacking} must hold lesions, got none")
    sizes = [np.log([lesion.diameter_mm for lesion in each]) for each in sets]
    apart = np.abs(sizes[0][:, None] - sizes[1])
    apart[[[_same_person(a, b) for b in sets[1]] for a in sets[0]]] = 1e3
    found = zip(*linear_sum_assignment(apart), strict=True)
    pairs = [(sets[0][k], sets[1][n]) for k, n in found if apart[k, n] < np.log(UNLIKE)]
    if not pairs:
        raise ValueError(
            "real and synthetic must hold lesions of other patients whose diameters differ by less "
            f"than a quarter, got none among {len(real)} and {len(synthetic)}"
        )
    pairs.sort(key=lambda pair: pair[0].diameter_mm)
    chosen = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    return [pairs[k] for k in chosen]


def _same_person(one: Shown, other: Shown) -> bool:
    short, long = sorted((one.patient, other.patient), key=len)
    return short == long or (long.startswith(short) and not long[len(short)].isalnum())


def _shown(crop: Crop, synthetic: bool, modality: str) -> Shown:
    """Return a lesion with its pictures, in the axis order in which they are shown."""
    orientation = nib.io_orientation(crop.affine)
    image, mask = (
        nib.apply_orientation(each, orientation)[::-1, ::-1, ::-1]
        for each in (crop.image, crop.mask)
    )
    spacing = np.array(crop.spacing_mm)[np.argsort(orientation[:, 0])]
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    sides = zip(find_objects(mask.astype(np.uint8))[0], margin, strict=True)
    near = tuple(slice(max(0, side.start - m), side.stop + m) for side, m in sides)
    factors = np.maximum(1, CONTEXT_VOXEL_MM / spacing + 0.5).astype(int).tolist()
    if modality == "CT":
        windows: Sequence[tuple[str, float, float]] = WINDOWS_HU
        low, step = float(np.floor(image.min())), STEP_HU
    else:
        windows = [
            (name, float(np.percentile(image, low)), float(np.percentile(image, high)))
            for name, low, high in PERCENTILES
        ]
        low, step = windows[-1][1], max((windows[-1][2] - windows[-1][1]) / STEPS, 1e-9)
    pictures = {
        "crop": (image[near], mask[near], spacing, low, step),
        "context": (
            *(block_mean(x, factors) for x in (image, mask)),
            spacing * factors,
            low,
            2 * step,
        ),
    }
    return Shown(
        crop.name,
        crop.patient,
        synthetic,
        crop.diameter_mm,
        windows,
        {name: _picture(*each) for name, each in pictures.items()},
    )


def _picture(
    image: np.ndarray, mask: np.ndarray, spacing_mm: np.ndarray, low: float, step: float
) -> Picture:
    levels = np.round((image - low) / step).clip(0, 65535).astype(np.uint16)
    centre = np.average(np.argwhere(mask), axis=0, weights=mask[mask > 0])
    return Picture(levels, low, step, spacing_mm, centre)


def _same_field(*lesions: Shown) -> list[Shown]:
    """Return lesions whose pictures reach as far as those of all: how far would tell them apart."""
    views: dict[str, list[Picture]] = {}
    for view in ("crop", "context"):
        pictures = [lesion.pictures[view] for lesion in lesions]
        reach = [
            ((p.centre + 0.5) * p.spacing_mm, (p.levels.shape - p.centre - 0.5) * p.spacing_mm)
            for p in pictures
        ]
        before, after = np.min(reach, axis=0)
        views[view] = [_cut(picture, before, after) for picture in pictures]
    extent = {
        view: min(float(np.prod(p.levels.shape * p.spacing_mm)) for p in found)
        for view, found in views.items()
    }
    if extent["context"] < LARGER * extent["crop"]:  # the scans end there
        del views["context"]
    return [
        lesion._replace(pictures={view: found[k] for view, found in views.items()})
        for k, lesion in enumerate(lesions)
    ]


def _cut(picture: Picture, before_mm: np.ndarray, after_mm: np.ndarray) -> Picture:
    middle = picture.centre + 0.5
    first = np.round(middle - before_mm / picture.spacing_mm).astype(int).clip(0)
    last = np.round(middle + after_mm / picture.spacing_mm).astype(int)
    last = np.maximum(last, first + 1)
    levels = picture.levels[tuple(map(slice, first, last))]
    return picture._replace(levels=levels, centre=picture.centre - first)


def _content(pairs: Sequence[Sequence[Shown]], mode: str, seed: int) -> dict[str, Any]:
    """Return what the page holds, JSON values only; nothing plain in it depends on the truth."""
    lesions = [lesion for pair in pairs for lesion in pair]
    salt = hashlib.sha256(f"{seed} {[lesion.name for lesion in lesions]}".encode()).hexdigest()
    names = [
        hashlib.sha256(f"{salt} {lesion.synthetic} {lesion.name}".encode()).hexdigest()[:8]
        for lesion in lesions
    ]
    own = dict(sorted(zip(names, lesions, strict=True)))
    content: dict[str, Any] = {
        "format": FORMAT,
        "mode": mode,
        "seed": seed,
        "pairs": sorted(sorted(pair) for pair in list(pairwise(names))[::2]),
        "views": [v for v in ("crop", "context") if any(v in each.pictures for each in lesions)],
        "lesions": {name: _packed(lesion) for name, lesion in own.items()},
    }
    content["test"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    truth = {name: [int(lesion.synthetic), lesion.name] for name, lesion in own.items()}
    plain = json.dumps(truth).encode()
    stream = zip(plain, keystream(content["test"]), strict=False)
    content["key"] = base64.b64encode(bytes(a ^ b for a, b in stream)).decode()
    return content


def _packed(lesion: Shown) -> dict[str, Any]:
    pictures = {
        view: {
            "shape": list(p.levels.shape),
            "spacing": p.spacing_mm.round(4).tolist(),
            "centre": p.centre.round(2).tolist(),
            "low": p.low,
            "step": p.step,
            "data": _deflated(p.levels),
        }
        for view, p in lesion.pictures.items()
    }
    windows = [list(window) for window in lesion.windows]
    return {"mm": round(lesion.diameter_mm, 1), "windows": windows, "pictures": pictures}


def _deflated(levels: np.ndarray) -> str:
    """Return levels as differences along the rows of axial slices, high bytes before low ones."""
    rows = np.ascontiguousarray(levels.T)
    steps = np.diff(rows, axis=-1, prepend=np.uint16(0)).astype(np.uint16)
    halves = (steps >> 8).astype(np.uint8).tobytes() + (steps & 255).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(halves, 6)).decode()


def keystream(text: str) -> Iterator[int]:
    """Yield the bytes that the key of a test is enciphered with; reader.js does the same.

    Not meant to resist anybody: FNV-1a of the text seeds Mulberry32, of which each number gives its
    lowest byte.
    """
    state = 0x811C9DC5
    for byte in text.encode():
        state = (state ^ byte) * 0x01000193 & 0xFFFFFFFF
    while True:
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        mixed = (state ^ state >> 15) * (1 | state) & 0xFFFFFFFF
        mixed ^= (mixed + ((mixed ^ mixed >> 7) * (61 | mixed) & 0xFFFFFFFF)) & 0xFFFFFFFF
        yield (mixed ^ mixed >> 14) & 255

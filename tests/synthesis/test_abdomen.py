"""Tumours in the phantom's abdomen by the same path as nodules: organ tables, nothing else."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools.organs import load_organ
from tools.organs.sources import make_organ_source
from tools.phantoms.abdomen_ct import ORGANS, AbdomenPhantom, abdomen_ct
from tools.scans.scan import Scan
from tools.shapes import EllipsoidShapes, LibraryShapes, SizedEllipsoids
from tools.synthesis.cases import Case
from tools.synthesis.hand_crafted import HandCrafted
from tools.synthesis.synthesizer import Synthesizer
from tools.synthesis.textures import Textures
from tools.synthesis.view import CubeView

WINDOW = (-175.0, 250.0)
DARKER = [[-145 / 425, -65 / 425]]  # by 65 to 145 HU


@lru_cache
def phantom() -> AbdomenPhantom:
    return abdomen_ct((117, 88, 80), 3.0, 2)


def job(repository: Path, name: str, shapes: Any, **options: Any) -> Synthesizer:
    organ = load_organ(name)
    texturer = HandCrafted(repository / "bundles" / "lefusion_lidc", CubeView(WINDOW), DARKER)
    textures = Textures("none", texturer.presets, organ, window_hu=WINDOW)
    source = make_organ_source(organ, "recipe" if organ.recipe else "auto")
    given: dict[str, Any] = {"count": 2, "placement": "anywhere", "attempts": 1} | options
    return Synthesizer(organ, texturer, shapes, textures, source, **given)


def label_map(name: str) -> np.ndarray:
    return (phantom().organs == ORGANS[name]).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "shapes", "sizes"),
    [
        ("liver", SizedEllipsoids({"small": 1}), (12, 20)),
        ("kidney", SizedEllipsoids({"small": 1}), (12, 20)),
        ("pancreas", SizedEllipsoids({"tiny": 1}), (6, 10)),
        ("liver", LibraryShapes([np.ones((9, 9, 9), bool)]), (6, 20)),
    ],
)
def test_tumours_lie_in_their_organ_are_darker_and_change_nothing_else(
    repository: Path, name: str, shapes: Any, sizes: tuple[float, float]
) -> None:
    scan = Scan(nib.Nifti1Image(phantom().image, phantom().affine))
    organ = label_map(name)
    case = Case("a", Path("a"), nib.Nifti1Image(organ, scan.affine))
    made = job(repository, name, shapes)
    plan = made.plan(scan, case, np.random.default_rng(4), "error")
    (result,) = made.finish([plan])
    tumour = result.label == 2
    assert np.array_equal(result.label > 0, organ > 0)
    assert np.array_equal(result.stored[~tumour], phantom().image[~tumour])
    assert result.stored[tumour].mean() < phantom().image[tumour].mean() - 10
    assert len(result.records) == 2
    for record in result.records:
        assert (record.label, record.class_name) == (2, "tumour")
        assert sizes[0] - 1e-3 <= record.diameter_requested_mm <= sizes[1] + 1e-3
        # half of it or more is in the organ; a voxel of 3 mm is a tenth of the smallest
        assert 0.7 < record.diameter_mm / record.diameter_requested_mm < 1.1
    assert tumour.sum() * 27 == pytest.approx(sum(r.volume_mm3 for r in result.records))


def test_tumours_of_the_map_stay_and_are_kept_away_from(repository: Path) -> None:
    scan = Scan(nib.Nifti1Image(phantom().image, phantom().affine))
    organ = label_map("liver")
    middle = np.argwhere(organ).mean(0)
    away = np.linalg.norm(np.indices(organ.shape).T * 3.0 - middle * 3.0, axis=-1).T
    organ[(organ > 0) & (away < 20)] = 2
    made = job(repository, "liver", EllipsoidShapes(), diameter_mm=(12.0, 16.0), count=3)
    # a datalist names the label map so
    case = Case("a", Path("a"), None, nib.Nifti1Image(organ, scan.affine))
    (result,) = made.finish([made.plan(scan, case, np.random.default_rng(1), "error")])
    assert (result.label[organ == 2] == 2).all()
    assert np.array_equal(result.stored[organ == 2], phantom().image[organ == 2])
    for record in result.records:
        index = (
            np.linalg.inv(scan.affine)[:3, :3] @ record.site_mm + np.linalg.inv(scan.affine)[:3, 3]
        )
        gap = np.linalg.norm(index * 3.0 - middle * 3.0) - 20 - record.diameter_requested_mm / 2
        assert gap > 4 - 3


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pancreas", {"shapes": SizedEllipsoids({"large": 1})}, "organ_mask must have room"),
        ("liver", {"placement": "subpleural"}, "placement must be one of anywhere, interior, got"),
        ("liver", {"diameter_mm": (6, 200)}, "diameter_mm must be two numbers from 2 to 128"),
        (
            "liver",
            {"shapes": SizedEllipsoids({"tiny": 1}), "sizes": ((1.0, 5.0, 8.0),)},
            "sizes must be those of the shape, which has its own",
        ),
    ],
)
def test_what_does_not_fit_gets_one_sentence(
    repository: Path, name: str, options: dict[str, Any], sentence: str
) -> None:
    scan = Scan(nib.Nifti1Image(phantom().image, phantom().affine))
    case = Case("a", Path("a"), nib.Nifti1Image(label_map(name), scan.affine))
    given = {"shapes": EllipsoidShapes()} | options
    with pytest.raises(ValueError, match=sentence):
        job(repository, name, **given).plan(scan, case, np.random.default_rng(0), "error")


def test_an_abdomen_without_contrast_medium_is_told_of(repository: Path) -> None:
    label = label_map("liver")
    plain = np.where(label > 0, phantom().image - 70, phantom().image)  # liver near 40 HU
    made = job(repository, "liver", SizedEllipsoids({"small": 1}), count=1)
    for image, told in ((phantom().image, False), (plain, True)):
        scan = Scan(nib.Nifti1Image(image, phantom().affine))
        case = Case("a", Path("a"), nib.Nifti1Image(label, scan.affine))
        notes = made.plan(scan, case, np.random.default_rng(4), "error").notes
        assert any("as without contrast medium (below 80)" in note for note in notes) == told

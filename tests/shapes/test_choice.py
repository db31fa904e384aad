"""The words of --shape, what only learned shapes take, and what each organ's chart has."""

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools import shapes
from tools.organs import Organ, load_organ
from tools.shapes import (
    DiffMaskShapes,
    DiffMaskWallShapes,
    EllipsoidShapes,
    LibraryShapes,
    MaskFileShape,
    MaskFileWallShape,
    WallLibrary,
    make_shape_source,
)

LUNG, HEART = load_organ("lung"), load_organ("heart")
ORGANS = pytest.mark.parametrize("organ", [LUNG, HEART], ids=["lung", "heart"])


@pytest.fixture
def lesions(tmp_path: Path) -> Path:
    """A folder with one label map: half a heart with a lesion, of values above 0 for a lung."""
    label = np.ones((9, 9, 3), np.uint8)
    label[3:6], label[6:9], label[7, 3:5, 1] = 2, 0, 3
    label[4, 4, 1] = 3
    nib.save(nib.Nifti1Image(label, np.diag([2.0, 2.0, 8.0, 1.0])), tmp_path / "a_label.nii.gz")
    return tmp_path


@pytest.mark.parametrize(
    ("organ", "word", "kind"),
    [
        (LUNG, "auto", DiffMaskShapes),
        (LUNG, "diffmask", DiffMaskShapes),
        (LUNG, "ellipsoid", EllipsoidShapes),
        (LUNG, "library:{}", LibraryShapes),
        (LUNG, "{}/a_label.nii.gz", MaskFileShape),
        (HEART, "auto", DiffMaskWallShapes),
        (HEART, "diffmask", DiffMaskWallShapes),
        (HEART, "library:{}", WallLibrary),
        (HEART, "{}/a_label.nii.gz", MaskFileWallShape),
    ],
    ids=str,
)
def test_words_stand_for_sources(lesions: Path, organ: Organ, word: str, kind: type) -> None:
    source = make_shape_source(organ, word.format(lesions), device="cpu")
    assert type(source) is kind


@ORGANS
def test_what_is_no_shape_is_told_what_there_is(organ: Organ) -> None:
    only_in_a_box = () if organ is LUNG else ("library", "ellipsoid")
    for word in ("blob", "ellipsoid:", "scan.png", "", *only_in_a_box):
        with pytest.raises(ValueError, match=f"must be one of diffmask, .* got '{word}'") as told:
            make_shape_source(organ, word)
        assert ("ellipsoid," in str(told.value)) == (organ is LUNG)


@ORGANS
def test_bundles_and_devices_that_are_not_there_are_named(organ: Organ) -> None:
    with pytest.raises(FileNotFoundError, match="bundle must be a bundle folder or one of"):
        make_shape_source(organ, "diffmask:nowhere")
    with pytest.raises(ValueError, match="device must be auto or one of"):
        make_shape_source(organ, "diffmask", device="abacus")


def test_without_learned_shapes_auto_is_an_ellipsoid_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(name: str) -> Path:
        raise FileNotFoundError(f"bundle must be one, got {name!r}")

    monkeypatch.setattr(shapes, "find_bundle", nothing)
    with caplog.at_level(logging.WARNING):
        assert type(make_shape_source(LUNG)) is EllipsoidShapes
    assert "shapes are ellipsoids" in caplog.text
    with pytest.raises(FileNotFoundError, match="got 'diffmask'"):
        make_shape_source(HEART)


def test_a_bundle_is_named_by_its_folder_and_takes_scores(shape_bundle: Path) -> None:
    word = f"diffmask:{shape_bundle}"
    for scores in ((5, 1.5), (None, None)):
        source = make_shape_source(LUNG, word, 0, *scores, device="cpu")
        assert (source.spiculation, source.lobulation) == scores


@ORGANS
@pytest.mark.parametrize("value", [0, 5.1, -1, float("nan"), "high"])
@pytest.mark.parametrize("name", ["spiculation", "lobulation"])
def test_scores_go_from_one_to_five(organ: Organ, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a score from 1 to 5, got {value!r}"):
        make_shape_source(organ, **{name: value})


def test_scores_need_learned_shapes_of_a_box() -> None:
    for organ, words in ((LUNG, ("ellipsoid", "library", "a.nii.gz")), (HEART, ("diffmask",))):
        for word in words:
            with pytest.raises(ValueError, match="spiculation and lobulation need shape diffmask"):
                make_shape_source(organ, word, lobulation=2.0)

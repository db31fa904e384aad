"""The words of --shape, and what only learned shapes take."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools.synthesis.diffmask_shapes import DiffMaskShapes
from tools.synthesis.shape_choice import ShapeOptions, make_shape_source


def test_a_bundle_is_named_by_its_folder(shape_bundle: Path) -> None:
    options = ShapeOptions(spiculation=5, lobulation=1.5, device="cpu")
    source = make_shape_source(f"diffmask:{shape_bundle}", options=options)
    assert isinstance(source, DiffMaskShapes)
    assert (source.spiculation, source.lobulation) == (5, 1.5)
    free = make_shape_source(f"diffmask:{shape_bundle}", options=ShapeOptions(device="cpu"))
    assert isinstance(free, DiffMaskShapes)
    assert (free.spiculation, free.lobulation) == (None, None)
    with pytest.raises(FileNotFoundError, match="bundle must be a bundle folder or one of"):
        make_shape_source("diffmask:nowhere")
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda"):
        make_shape_source(f"diffmask:{shape_bundle}", options=ShapeOptions(device="abacus"))


@pytest.mark.parametrize("value", [0, 5.1, -1, float("nan"), "high"])
@pytest.mark.parametrize("name", ["spiculation", "lobulation"])
def test_scores_go_from_one_to_five(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a score from 1 to 5, got {value!r}"):
        ShapeOptions(**{name: value})


def test_scores_need_learned_shapes(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), path)
    for shape in ("ellipsoid", "library", str(path)):
        with pytest.raises(ValueError, match="spiculation and lobulation need shape diffmask"):
            make_shape_source(shape, options=ShapeOptions(lobulation=2.0))


def test_what_is_no_shape_is_told_what_there_is() -> None:
    for word in ("cube", "ellipsoid:5", "scan.png", ""):
        with pytest.raises(ValueError, match=r"shape must be one of diffmask, .* got "):
            make_shape_source(word)

"""Lesions of real walls copied into others, by their place in the wall."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tools.phantoms.heart_datasets import write_heart_dataset
from tools.scans.scan import Scan
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.lesion import WindowJob


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    write_heart_dataset(folder, sections={"training": 1})
    return folder


def window_of(hearts: Path, method: str) -> tuple:
    """The texturer, a heart as it sees it, and the job to fill its blanked lesion."""
    options = {"library": str(hearts), "texture": "none"}
    opened = open_synthesizer("lefusion_emidec", "cpu", None, options, method=method)
    texturer = opened.get("texturer")
    scan = Scan(hearts / "cases" / "phantom_000_image.nii.gz")
    canvas = texturer.view.open(scan, scan.load_labels(scan_label(hearts), "label"))
    masks = np.stack([canvas.seen == value for value in (3, 4)])
    blank = np.where(masks.any(0), 0, canvas.image)
    healthy = np.where(masks.any(0), 2, canvas.seen)
    job = WindowJob(blank, masks, None, 0, None, -1, healthy, canvas.grid.affine)
    return texturer, canvas, job


def scan_label(hearts: Path) -> Path:
    return hearts / "cases" / "phantom_000_label.nii.gz"


@pytest.mark.parametrize("method", ["copy_paste", "carvemix", "lesionmix"])
def test_a_heart_gets_its_own_lesion_back(hearts: Path, method: str) -> None:
    texturer, canvas, job = window_of(hearts, method)
    (made,) = texturer.sample([job])
    inside = job.lesion_mask.any(0)
    assert np.array_equal(made[~inside], job.image[~inside])
    depth = np.stack(
        [
            ndimage.distance_transform_edt(inside[..., k], sampling=1.5)
            for k in range(inside.shape[2])
        ],
        -1,
    )
    low, high = canvas.scale
    real = np.clip(canvas.image, low, high)
    if method == "lesionmix":  # brighter or darker, and mixed with what was there, 0
        assert (made[inside] > 0).all()
    else:
        deep = depth > 1.6 if method == "copy_paste" else depth == depth.max()
        assert np.abs(made - real)[deep].max() < 0.01 * (high - low)
    assert np.array_equal(texturer.sample([job])[0], made)


def test_a_wall_cannot_be_charted_without_its_labels(hearts: Path) -> None:
    texturer, _, job = window_of(hearts, "carvemix")
    with pytest.raises(ValueError, match="job must hold the label map of its organ, got none"):
        texturer.sample([job._replace(labels=None)])

"""Files of a sample are read through the one door, masks onto the grid of the image."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor

from tools.scans.load import LoadMaskd, LoadScansd

AFFINE = np.diag([0.7, 0.7, 1.25, 1.0])
SHAPE = (8, 10, 12)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE) -> str:
    nib.save(nib.Nifti1Image(values, affine), path)
    return str(path)


def box(shape: tuple[int, ...] = SHAPE, step: int = 1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[2 * step : 4 * step, 4 * step : 8 * step, 6 * step : 8 * step] = 1
    return mask


FINE = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
FINE[:3, 3] = -AFFINE.diagonal()[:3] / 4
FLIPPED = AFFINE @ np.diag([-1, 1, 1, 1])
FLIPPED[0, 3] = 0.7 * (SHAPE[0] - 1)
FAR = AFFINE + np.pad([[500.0]] * 3, ((0, 1), (3, 0)))
MASKS = {
    "own grid": (box(), AFFINE),
    "soft": (np.where(box(), 0.7, 0.2).astype(np.float32), AFFINE),
    "nearly whole": (np.where(box(), 0.9999999998, np.nan), AFFINE),
    "fourth axis": (box()[..., None], AFFINE),
    "mirrored": (box()[::-1].copy(), FLIPPED),
    "finer": (box((16, 20, 24), 2), FINE),
}


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_masks_come_onto_the_grid_of_the_image(tmp_path: Path, name: str, channel: bool) -> None:
    image = save(tmp_path / "image.nii.gz", np.zeros(SHAPE, np.int16))
    mask = save(tmp_path / "mask.nii.gz", *MASKS[name])
    if channel:
        sample = LoadScansd("image")({"image": image, "boundary": Path(mask)})
        sample["image"] = sample["image"][None]
        found = LoadMaskd("boundary")(sample)["boundary"]
        assert tuple(found.shape) == (1, *SHAPE)
    else:
        load = LoadScansd(["image", "label"], mask_keys="label")
        found = load({"image": image, "label": mask})["label"][None]
    assert np.allclose(found.affine, AFFINE)
    assert np.array_equal(found[0].numpy(), box())


@pytest.mark.parametrize(
    ("values", "affine", "sentence"),
    [
        (box() * 1.5, AFFINE, r"must hold whole numbers, .* got 1\.5"),
        (box(), FAR, "must lie in the scan"),
        (box((16, 20, 24), 2), None, "must say where it lies"),
    ],
)
def test_masks_of_elsewhere_name_their_file(
    tmp_path: Path, values: np.ndarray, affine: np.ndarray | None, sentence: str
) -> None:
    image = save(tmp_path / "image.nii.gz", np.zeros(SHAPE, np.int16))
    mask = save(tmp_path / "mask.nii.gz", values, affine)
    for load in (LoadScansd(["image", "boundary"], "boundary"), LoadMaskd("boundary")):
        sample = {"image": image, "boundary": mask}
        if isinstance(load, LoadMaskd):
            sample = LoadScansd("image")(sample)
        with pytest.raises(ValueError, match=rf"{sentence}.*mask\.nii\.gz"):
            load(sample)


def test_what_is_no_path_is_left_alone(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.nii.gz", box())
    load = LoadMaskd("boundary")
    alone = load({"boundary": mask})["boundary"]
    assert isinstance(alone, MetaTensor)
    assert tuple(alone.shape) == (1, *SHAPE)
    assert load({"boundary": alone})["boundary"] is alone
    assert load({"image": 1}) == {"image": 1}
    assert load({"boundary": None}) == {"boundary": None}

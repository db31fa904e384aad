"""Lesions one by one: boxes in mm for MONAI, label maps of numbers for nnDetection."""

import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.export.tiny import AFFINE, SHAPE, Tiny, box_label, edit, save
from tools.cli import main
from tools.export.dataset import ExportChoice
from tools.export.detection import export_detection, find_objects, world_box

TWO = ExportChoice(folds=2)


def with_instances(tiny: Tiny) -> Path:
    """Write a synthetic case whose one piece of label is two lesions that touch."""
    out = tiny.synthetic()
    numbers = box_label(9).astype(np.uint16)
    numbers[11:] *= 2
    save(out / "a" / "instances.nii.gz", numbers)
    entry = {"instances": "a/instances.nii.gz"}
    edit(out / "datalist.json", lambda content: content["training"][0].update(entry))
    return out


def test_boxes_are_where_the_lesions_are(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "boxes"
    facts = export_detection(with_instances(tiny), tiny.real(count=2), out, choice=TWO)
    assert facts["lesions"] == 4
    content = json.loads((out / "dataset_fold0.json").read_text())
    assert content["labels"] == {"0": "lesion"}
    (made,) = [each for each in content["training"] if each["synthetic"]]
    # voxels 9, 10 and 11, 12 of the first axis, 2 to 5 of the others; slices of 2 mm
    assert made["box"] == [[9.5, 3.5, 7.0, 2.0, 4.0, 8.0], [11.5, 3.5, 7.0, 2.0, 4.0, 8.0]]
    assert made["label"] == [0, 0]
    assert (out / made["image"]).is_file()
    real = [each for each in (*content["training"], *content["validation"]) if each is not made]
    assert [each["box"] for each in real] == [[[2.5, 3.5, 7.0, 4.0, 4.0, 8.0]]] * 2
    assert not any(each["synthetic"] for each in content["validation"])


def test_monai_reads_the_boxes_back_to_voxels(tiny: Tiny, tmp_path: Path) -> None:
    from monai.apps.detection.transforms.dictionary import (
        AffineBoxToImageCoordinated,
        ConvertBoxToStandardModed,
    )
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    out = tmp_path / "boxes"
    export_detection(with_instances(tiny), tiny.real(count=2), out, choice=TWO)
    content = json.loads((out / "dataset_fold0.json").read_text())
    (made,) = [each for each in content["training"] if each["synthetic"]]
    chain = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            ConvertBoxToStandardModed("box", mode=content["box_mode"]),
            AffineBoxToImageCoordinated("box", box_ref_image_keys="image"),
        ]
    )
    found = chain({"image": out / made["image"], "box": np.array(made["box"])})["box"]
    # MONAI counts from the middle of the first voxel
    wanted = [[8.5, 1.5, 1.5, 10.5, 5.5, 5.5], [10.5, 1.5, 1.5, 12.5, 5.5, 5.5]]
    assert np.allclose(found, wanted)


class PlainValues(pickle.Unpickler):
    """Reads lists, dictionaries and texts: the pickle that nnDetection wants has no code in it."""

    def find_class(self, module_name: str, global_name: str) -> type:
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")


def test_nndetection_gets_numbers_and_classes(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    export_detection(with_instances(tiny), tiny.real(count=2), out, "nndetection", choice=TWO)
    numbers = np.asarray(nib.load(out / "labelsTr" / "synthetic_a.nii.gz").dataobj)
    assert sorted(np.unique(numbers)) == [0, 1, 2]
    beside = json.loads((out / "labelsTr" / "synthetic_a.json").read_text())
    assert beside == {"instances": {"1": 0, "2": 0}}
    content = json.loads((out / "dataset.json").read_text())
    assert (content["dim"], content["labels"]) == (3, {"0": "lesion"})
    splits = PlainValues((out / "splits_final.pkl").open("rb")).load()
    assert all("synthetic_a" in split["train"] for split in splits)
    assert (out / "imagesTr" / "real_case_0_0000.nii.gz").exists()


def test_lesions_of_two_classes_keep_theirs() -> None:
    labels = np.zeros((6, 4, 4), int)
    labels[:2], labels[4:] = 1, 2
    found = find_objects(labels)
    assert found.classes == [0, 1]
    assert found.numbers[0, 0, 0] == 1
    assert found.numbers[5, 0, 0] == 2
    # an infarct with no-reflow in it is one lesion
    labels[1, 1, 1] = 2
    assert find_objects(labels, (labels > 0).astype(int) * np.r_[1, 1, 0, 0, 2, 2][:, None, None])[
        1
    ] == [0, 1]
    assert find_objects(np.zeros(SHAPE, int)).classes == []


def test_turned_axes_give_the_box_round_the_lesion() -> None:
    affine = AFFINE.copy()
    affine[:2] *= -1  # as DICOM series are stored
    box = (slice(0, 2), slice(0, 1), slice(0, 1))
    assert world_box(box, affine, "xyzxyz") == [-1.5, -0.5, -1.0, 0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--form", "yolo"], "form must be one of monai, nndetection, got 'yolo'"),
        (["--box_mode", "xyxy"], "box_mode must be one of cccwhd, xyzxyz"),
        (["--coordinates", "LAS"], "coordinates must be one of RAS, LPS"),
    ],
)
def test_unknown_words_are_refused(
    tiny: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    given = [str(tiny.synthetic()), "--real", str(tiny.real()), "--out", str(tmp_path / "x")]
    assert main(["export", "detection", *given, *words]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()

"""Lobes: read from the label maps that programs write, asked for by name, kept to by lesions."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.latent_stub import LatentStub
from tools.synthesis.cases import Case
from tools.synthesis.job import Job
from tools.synthesis.job_choice import JobOptions, make_job
from tools.synthesis.lobes import (
    LOBES,
    LUNG_CLASSES,
    check_lobes,
    lobe_region,
    numbered_lobes,
    read_lobes,
)
from tools.synthesis.organ_masks import RecipeOrgan
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans

SHAPE = (84, 60, 60)
# right lung at low x (RAS), two lobes on each side here: upper above
AFFINE = np.diag([1.5, 1.5, 1.5, 1.0])


def make_lobes() -> np.ndarray:
    """Two lungs of two lobes, numbered as LOBES."""
    lobes = np.zeros(SHAPE, np.uint8)
    for low, side in ((4, "right"), (46, "left")):
        lobes[low : low + 34, 5:55, 5:30] = LOBES[f"{side}_lower"]
        lobes[low : low + 34, 5:55, 30:55] = LOBES[f"{side}_upper"]
    return lobes


def write_case(folder: Path, lobes: np.ndarray) -> Case:
    values = np.random.default_rng(0).normal(-850, 30, SHAPE)
    values[lobes == 0] = 40
    nib.save(nib.Nifti1Image(values.astype(np.int16), AFFINE), folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(lobes, AFFINE), folder / "lobes.nii.gz")
    return Case("scan", folder / "scan.nii.gz", folder / "lobes.nii.gz")


def make(folder: Path, case: Case, **options: object) -> np.ndarray:
    """Return the label that a run writes."""
    given = {"shape": "ellipsoid", "texture": "mixed", "count": 2, "diameter_mm": 8, "attempts": 1}
    job = make_job(LatentStub(), JobOptions(**given | options))
    synthesize_scans([case], folder, job)
    return np.asarray(nib.load(folder / "scan" / "label.nii.gz").dataobj)


@pytest.mark.parametrize("first", [1, 10, 13])
def test_three_numberings_are_known(first: int) -> None:
    labels = np.array([0, *range(first, first + 5)])
    assert read_lobes(labels).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "values", [[0, 1], [0, 1, 2], [0, 1, 2, 6], [0], [0, 14, 15, 18], [0, 13, 14]]
)
def test_other_values_are_no_lobes(values: list[int]) -> None:
    # 1 and 2 are more often the two lungs; 13 and 14 alone may be of either program
    with pytest.raises(ValueError, match="organ_mask must be a label map of lobes where a lobe is"):
        read_lobes(np.array(values))


def test_classes_of_a_program_become_our_numbers() -> None:
    values = dict(zip(LUNG_CLASSES, (31, 12, 7, 8, 9), strict=True)) | {"liver": 5}
    assert numbered_lobes(np.array([0, 5, 31, 12, 9]), values).tolist() == [0, 0, 1, 2, 5]


def test_names_are_checked() -> None:
    assert check_lobes([" left_upper", "left_upper"]) == ("left_upper",)
    for names in (["upper"], [], ["any", "left_upper"]):
        with pytest.raises(ValueError, match="lobe must be any, or one or several of"):
            check_lobes(names)
    with pytest.raises(
        ValueError, match=r"lobe must be one that the scan shows \(\['left_lower'\]"
    ):
        lobe_region(np.array([0, 2]), ["right_upper"])


@pytest.mark.parametrize("lobe", ["right_upper", "left_lower,right_lower"])
def test_lesions_lie_in_the_lobes_asked_for(tmp_path: Path, lobe: str) -> None:
    lobes = make_lobes()
    label = make(tmp_path / "out", write_case(tmp_path, lobes), lobe=lobe)
    assert label.any()
    assert set(np.unique(lobes[label == 1])) <= {LOBES[name] for name in lobe.split(",")}
    organ = read_record(tmp_path / "out" / "scan" / "lesions.json").organ_mask
    assert organ["lobe"] == lobe.split(",")


def test_any_lobe_takes_a_label_map_for_a_mask(tmp_path: Path) -> None:
    case = write_case(tmp_path, make_lobes() + np.where(make_lobes() > 0, 9, 0).astype(np.uint8))
    label = make(tmp_path / "out", case, lobe="any", count=4)
    assert (make_lobes()[label == 1] > 0).all()
    assert "lobe" not in read_record(tmp_path / "out" / "scan" / "lesions.json").organ_mask


def test_a_run_goes_on_and_a_run_with_another_lobe_is_refused(tmp_path: Path) -> None:
    case, out = write_case(tmp_path, make_lobes()), tmp_path / "out"
    make(out, case, lobe="right_upper", erosion_mm=9)
    written = (out / "scan" / "image.nii.gz").stat().st_mtime_ns
    make(out, case, lobe="right_upper", erosion_mm=9)
    assert (out / "scan" / "image.nii.gz").stat().st_mtime_ns == written
    for other in ({"lobe": "left_upper", "erosion_mm": 9}, {"lobe": "right_upper"}):
        with pytest.raises(ValueError, match="out must"):
            make(out, case, **other)


def test_a_source_without_lobes_is_one_sentence(tmp_path: Path) -> None:
    case = replace(write_case(tmp_path, make_lobes()), organ_mask=None)
    with pytest.raises(
        ValueError, match=r"lobe needs a source that knows lobes .* got organ_source"
    ):
        make(tmp_path / "out", case, lobe="right_upper", organ_source="recipe")
    assert not (tmp_path / "out" / "scan" / "image.nii.gz").exists()


def test_a_plain_mask_has_no_lobes(tmp_path: Path) -> None:
    case = write_case(tmp_path, (make_lobes() > 0).astype(np.uint8))
    with pytest.raises(ValueError, match="organ_mask must be a label map of lobes"):
        make(tmp_path / "out", case, lobe="right_upper")


def test_lobes_do_not_go_with_a_mask_that_has_its_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lobe does not go with a mask file as shape"):
        make_job(LatentStub(), JobOptions(shape="lesion.nii.gz", lobe="left_upper"))


def test_requests_of_older_versions_say_nothing_of_lobes(tmp_path: Path) -> None:
    stub = LatentStub()
    job = make_job(stub, JobOptions(shape="ellipsoid", texture="solid"))
    assert isinstance(job, Job)
    assert isinstance(job.organs, RecipeOrgan)
    case = write_case(tmp_path, make_lobes())
    assert not {"lobe", "erosion_mm"} & set(job.describe(case))
    asked = make_job(stub, JobOptions(shape="ellipsoid", lobe=["left_upper"], erosion_mm=5))
    assert asked.describe(case)["lobe"] == ("left_upper",)

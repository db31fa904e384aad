"""Regions: read from the label maps that programs write, asked for by name, kept to by lesions."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.jobs import lung_job
from tools.organs import load_organ
from tools.synthesis.cases import Case
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans

LUNG, HEART = load_organ("lung"), load_organ("heart")
NUMBERS = {name: number for number, name in enumerate(LUNG.structures, 1)}
SHAPE, AFFINE = (84, 60, 60), np.diag([1.5, 1.5, 1.5, 1.0])


@pytest.mark.parametrize("first", [1, 10, 13])
def test_three_numberings_are_known(first: int) -> None:
    labels = np.array([0, *range(first, first + 5)])
    assert LUNG.read_regions(labels).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "values", [[0, 1], [0, 1, 2], [0, 1, 2, 6], [0], [0, 14, 15, 18], [0, 13, 14]]
)
def test_other_values_are_no_regions(values: list[int]) -> None:
    # 1 and 2 are more often the two lungs; 13 and 14 alone may be of either program
    with pytest.raises(
        ValueError, match="organ_mask must be a label map of lobes where one is asked"
    ):
        LUNG.read_regions(np.array(values))


def test_classes_of_a_program_become_our_numbers() -> None:
    values = dict(zip(LUNG.structures.values(), (31, 12, 7, 8, 9), strict=True)) | {"liver": 5}
    found = LUNG.number_regions(np.array([0, 5, 31, 12, 9]), values)
    assert found.tolist() == [0, 0, 1, 2, 5]


def test_names_are_checked() -> None:
    for anywhere in (None, "any", ["any"]):
        assert LUNG.check_regions(anywhere) is None
        assert HEART.check_regions(anywhere) is None
    for given in (" left_upper,left_upper", [" left_upper", "left_upper"]):
        assert LUNG.check_regions(given) == ("left_upper",)
    for names in (["upper"], [], ["any", "left_upper"], ""):
        with pytest.raises(ValueError, match="lobe must be any, or one or several of"):
            LUNG.check_regions(names)
    with pytest.raises(ValueError, match=r"region must be any, .* got \['left_upper'\]"):
        HEART.check_regions("left_upper")


def test_regions_that_a_scan_lacks_are_named() -> None:
    regions = np.array([0, 2, 5])
    assert LUNG.choose_regions(regions, ["right_upper", "right_lower"]).tolist() == [0, 0, 1]
    shown = r"lobe must be one that the scan shows \(\['left_lower', 'right_lower'"
    with pytest.raises(ValueError, match=shown):
        LUNG.choose_regions(regions, ["right_upper"])


@pytest.fixture(scope="module")
def lobes() -> np.ndarray:
    """Two lungs of two lobes, the right one at low x (RAS), upper above."""
    result = np.zeros(SHAPE, np.uint8)
    for low, side in ((4, "right"), (46, "left")):
        result[low : low + 34, 5:55, 5:30] = NUMBERS[f"{side}_lower"]
        result[low : low + 34, 5:55, 30:55] = NUMBERS[f"{side}_upper"]
    return result


def write_case(folder: Path, lobes: np.ndarray, organ: np.ndarray | None) -> Case:
    values = np.random.default_rng(0).normal(-850, 30, SHAPE)
    values[lobes == 0] = 40
    nib.save(nib.Nifti1Image(values.astype(np.int16), AFFINE), folder / "scan.nii.gz")
    if organ is None:
        return Case("scan", folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(organ.astype(np.uint8), AFFINE), folder / "lobes.nii.gz")
    return Case("scan", folder / "scan.nii.gz", folder / "lobes.nii.gz")


def make(out: Path, case: Case, region: str, **options: object) -> np.ndarray:
    """Return the label that a run writes."""
    synthesize_scans([case], out, lung_job(diameter_mm=8, region=region, **options))
    return np.asarray(nib.load(out / "scan" / "label.nii.gz").dataobj)


@pytest.mark.parametrize("names", ["right_upper", "left_lower,right_lower", "any"])
def test_lesions_lie_in_the_regions_asked_for(
    tmp_path: Path, lobes: np.ndarray, names: str
) -> None:
    # any region takes whatever label map for a mask
    given = lobes + np.where(lobes > 0, 9, 0) if names == "any" else lobes
    label = make(tmp_path / "out", write_case(tmp_path, lobes, given), names, count=2)
    wanted = NUMBERS if names == "any" else names.split(",")
    assert label.any()
    assert np.isin(lobes[label == 1], [NUMBERS[name] for name in wanted]).all()
    organ = read_record(tmp_path / "out" / "scan" / "lesions.json").organ_mask
    assert organ.get("lobe") == (None if names == "any" else wanted)


def test_a_run_goes_on_and_a_run_with_another_region_is_refused(
    tmp_path: Path, lobes: np.ndarray
) -> None:
    case, out = write_case(tmp_path, lobes, lobes), tmp_path / "out"
    make(out, case, "right_upper", erosion_mm=9)
    written = (out / "scan" / "image.nii.gz").stat().st_mtime_ns
    make(out, case, "right_upper", erosion_mm=9)
    assert (out / "scan" / "image.nii.gz").stat().st_mtime_ns == written
    for region, depth in (("left_upper", 9), ("right_upper", None)):
        with pytest.raises(ValueError, match="out must"):
            make(out, case, region, erosion_mm=depth)


def test_sources_and_masks_without_regions_are_one_sentence(
    tmp_path: Path, lobes: np.ndarray
) -> None:
    for organ, message in (
        (None, r"lobe needs a source that knows lobes .* got organ_source recipe"),
        (lobes > 0, "organ_mask must be a label map of lobes"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "out", write_case(tmp_path, lobes, organ), "right_upper")
    assert not (tmp_path / "out" / "scan" / "image.nii.gz").exists()

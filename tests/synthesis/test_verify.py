"""Each way in which a data set can be spoilt is found, and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.jobs import crops, heart_job, heart_scan, lung_job
from tests.synthesis.test_run import write_scans
from tools.cli import main
from tools.synthesis.cases import Case, find_cases
from tools.synthesis.ranks import Rank
from tools.synthesis.run import synthesize_scans
from tools.synthesis.verify import verify_case, verify_dataset


@pytest.fixture(scope="module", params=["cubes", "crops"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    job = lung_job(crops() if request.param == "crops" else None)
    synthesize_scans(find_cases(write_scans(folder / "scans")), folder / "out", job, Rank())
    return folder


def edited(name: str, edit: Callable[[np.ndarray, np.ndarray], object]) -> Callable[[Path], None]:
    """Change image or label of case a; the edit gets both arrays."""

    def spoil(out: Path) -> None:
        images = {key: nib.load(out / "a" / f"{key}.nii.gz") for key in ("image", "label")}
        arrays = {key: np.asarray(image.dataobj).copy() for key, image in images.items()}
        edit(arrays[name], arrays["label"].copy())
        before = images[name]
        nib.save(type(before)(arrays[name], before.affine, before.header), before.get_filename())

    return spoil


def put(where: Callable[[np.ndarray], tuple], value: float) -> Callable[..., None]:
    def edit(array: np.ndarray, label: np.ndarray) -> None:
        array[where(label)] = value

    return edit


def inside(label: np.ndarray) -> tuple:
    return np.nonzero(label)


def first(label: np.ndarray) -> tuple:
    return tuple(np.argwhere(label)[0])


def corner(label: np.ndarray) -> tuple:
    return (0, 0, 0)


def moved(out: Path) -> None:
    image = nib.load(out / "a" / "label.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 4
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), out / "a" / "label.nii.gz")


def cut(out: Path) -> None:
    path = out / "a" / "image.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


def record(**changes: object) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        path = out / "a" / "lesions.json"
        content = json.loads(path.read_text())
        content["scan"].update(changes)
        path.write_text(json.dumps(content))

    return spoil


def unlisted(out: Path) -> None:
    path = out / "datalist.json"
    content = json.loads(path.read_text())
    content["training"].pop(0)
    path.write_text(json.dumps(content))


SPOILT = {
    "voxel far from the label": (edited("image", put(corner, 77)), "outside of label and margin"),
    "voxels in the label": (edited("image", put(inside, -900)), "in other bins than recorded"),
    "voxel taken from the label": (edited("label", put(first, 0)), "mm3, its record"),
    "label emptied": (
        edited("label", put(inside, 0)),
        "lesion 1 of the record is not in the label",
    ),
    "label of no record": (
        edited("label", put(corner, 9)),
        r"label holds \[9\], of which no record",
    ),
    "label moved": (moved, "image and label lie at different places"),
    "image cut": (cut, "image must be whole, .* cut short or damaged"),
    "record of another shape": (record(shape=[3, 3, 3]), "have different shapes"),
    "record of other voxels": (record(spacing_mm=[3, 3, 3]), "the record says"),
    "record of another scan": (record(sha256="0" * 64), "it was made of another scan"),
    "case not listed": (unlisted, "datalist.json does not list each image once: a/image.nii.gz"),
    "no datalist": (lambda out: (out / "datalist.json").unlink(), "datalist.json is missing"),
    "case gone": (lambda out: shutil.rmtree(out / "a"), "datalist.json does not list"),
    "nothing left": (lambda out: [shutil.rmtree(out / n) for n in "abc"], "holds no case"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_spoilt_is_named(
    sound: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(sound / "out", out)
    scans = str(sound / "scans")
    assert main(["verify", str(out), "--scan", scans]) == 0
    spoil, sentence = SPOILT[case]
    spoil(out)
    findings = verify_dataset(out, {x.name: x.path for x in find_cases(scans)})
    with pytest.raises(ValueError, match=sentence):
        raise ValueError("; ".join(findings))
    assert main(["verify", str(out), "--scan", scans]) == 1
    assert capsys.readouterr().err.count("error: dir must be sound") == 1


def test_the_muscle_round_an_infarct_must_be_that_of_the_scan(tmp_path: Path) -> None:
    scan, organ = heart_scan()
    assert scan.nifti is not None
    nib.save(scan.nifti, tmp_path / "h.nii.gz")
    nib.save(organ, tmp_path / "organ.nii.gz")
    case = Case("h", tmp_path / "h.nii.gz", tmp_path / "organ.nii.gz")
    synthesize_scans([case], tmp_path / "out", heart_job(), Rank())
    folder = tmp_path / "out" / "h"
    assert verify_case(folder, case.path) == []
    image = nib.load(folder / "image.nii.gz")
    values = np.asarray(image.dataobj).copy()
    muscle = np.argwhere(np.asarray(nib.load(folder / "label.nii.gz").dataobj) == 2)
    values[tuple(muscle[-1])] += 5
    nib.save(type(image)(values, image.affine, image.header), folder / "image.nii.gz")
    (finding,) = verify_case(folder, case.path)
    assert finding.startswith("1 voxels outside of label and margin differ from the scan")


def test_instances_tell_the_lesions_apart(tmp_path: Path) -> None:
    cases, out = find_cases(write_scans(tmp_path / "scans", ("a",))), tmp_path / "out"
    made = synthesize_scans(cases, out, lung_job(), Rank(), instances=True)
    path = out / "a" / "instances.nii.gz"
    image = nib.load(path)
    numbers, label = (
        np.asarray(nib.load(each).dataobj) for each in (path, path.with_name("label.nii.gz"))
    )
    assert ((numbers > 0) == (label > 0)).all()
    assert len(np.unique(numbers)) - 1 == made[0]["lesions"]
    (entry,) = json.loads((out / "datalist.json").read_text())["training"]
    assert entry["instances"] == "a/instances.nii.gz"
    assert verify_dataset(out, {"a": cases[0].path}) == []
    with pytest.raises(ValueError, match="instances=True where None is asked for"):
        synthesize_scans(cases, out, lung_job(), Rank())
    spoilt = numbers.copy()
    spoilt[numbers == 1] = 0
    nib.save(type(image)(spoilt, image.affine, image.header), path)
    findings = verify_case(out / "a")
    assert any("do not mark the same voxels" in text for text in findings)
    assert any("instances hold the lesions" in text for text in findings)

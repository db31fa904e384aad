"""The main job on a small scan: exact background, exact header, sizes and places as asked."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.files import MARK
from tools.synthesis.bundles import find_bundle
from tools.synthesis.cases import Case
from tools.synthesis.generator import LesionGenerator, WindowJob
from tools.synthesis.job import Job
from tools.synthesis.pipeline import synthesize_lesions
from tools.synthesis.plan import Request, TextureChoice, plan_lesions
from tools.synthesis.run import synthesize_scans
from tools.synthesis.scan import Scan
from tools.synthesis.shapes import EllipsoidShapes

STEPS = 2


@pytest.fixture(scope="module")
def generator() -> LesionGenerator:
    return LesionGenerator("lefusion_lidc", "cpu", {"num_inference_steps": STEPS})


def write_scan(
    path: Path,
    dtype: type = np.int16,
    scaling: tuple[float, float] = (1.0, 0.0),
    affine: np.ndarray | None = None,
) -> Path:
    """Lung-like noise with a header scaling."""
    rng = np.random.default_rng(0)
    stored = (rng.normal(-850, 30, (60, 56, 40)) - scaling[1]) / scaling[0]
    if np.dtype(dtype).kind in "iu":
        stored = np.clip(np.rint(stored), np.iinfo(dtype).min, np.iinfo(dtype).max)
    image = nib.Nifti1Image(
        stored.astype(dtype), np.diag([1, 1, 1.5, 1]) if affine is None else affine
    )
    image.header.set_slope_inter(*scaling)
    image.header["descrip"] = b"a test"
    nib.save(image, path)
    return path


def plans_for(scan: Scan, generator: LesionGenerator, count: int = 2, **request: object) -> list:
    organ = np.zeros(scan.stored.shape, bool)
    organ[4:-4, 4:-4, 4:-4] = True
    return plan_lesions(
        scan.image,
        scan.affine,
        organ,
        Request(count, **{"diameter_mm": (8.0, 12.0), **request}),
        EllipsoidShapes(),
        TextureChoice("solid,ground_glass", generator.presets),
        np.random.default_rng(0),
    )


FORMS = {
    "int16": {},
    "uint16": {"dtype": np.uint16, "scaling": (1.0, -1024.0)},
    "float32": {"dtype": np.float32},
    "scaled": {"dtype": np.int16, "scaling": (0.5, 10.0)},
    "flipped": {"affine": np.diag([-1, -1, 1.5, 1])},
    "permuted": {"affine": np.array([[0, 0, 1.5, 3], [1, 0, 0, -9], [0, 1, 0, 4], [0, 0, 0, 1.0]])},
}


@pytest.mark.parametrize("form", FORMS)
def test_only_the_label_changes_whatever_the_file(
    tmp_path: Path, generator: LesionGenerator, form: str
) -> None:
    scan = Scan(write_scan(tmp_path / "scan.nii.gz", **FORMS[form]))
    result = synthesize_lesions(scan, None, plans_for(scan, generator), generator, max_attempts=1)
    scan.write(tmp_path / "out.nii.gz", result.stored)
    before = nib.load(tmp_path / "scan.nii.gz")
    after = nib.load(tmp_path / "out.nii.gz")
    raw_before, raw_after = (np.asarray(n.dataobj.get_unscaled()) for n in (before, after))
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.array_equal(after.affine, before.affine)
    assert (after.dataobj.slope, after.dataobj.inter) == (
        before.dataobj.slope,
        before.dataobj.inter,
    )
    assert after.header["descrip"] == before.header["descrip"]
    changed = raw_before != raw_after
    assert not changed[result.label == 0].any()
    assert changed[result.label == 1].mean() > 0.8


def test_records_tell_what_was_made(tmp_path: Path, generator: LesionGenerator) -> None:
    scan = Scan(write_scan(tmp_path / "scan.nii.gz"))
    plans = plans_for(scan, generator)
    records = synthesize_lesions(
        scan, None, plans, generator, max_attempts=2, tolerance=0.0
    ).records
    assert [record.texture for record in records] == ["solid", "ground_glass"]
    for record, plan in zip(records, plans, strict=True):
        assert record.attempts == 2
        assert record.volume_mm3 == pytest.approx(plan.label.sum() * 1.5)
        assert record.diameter_mm == pytest.approx(plan.diameter_mm, rel=0.03)
        assert sum(record.histogram_achieved) == pytest.approx(1, abs=1e-5)
        assert record.sampler["num_inference_steps"] == STEPS


def test_same_seed_same_voxels_whatever_the_batch(
    tmp_path: Path, generator: LesionGenerator
) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 24, 24), bool)
    mask[8:16, 8:16, 8:16] = True
    jobs = [
        WindowJob(rng.normal(-850, 30, mask.shape).astype(np.float32), mask, None, seed)
        for seed in (3, 4, 5)
    ]
    together = generator.sample(jobs)
    for job, window in zip(jobs, together, strict=True):
        assert np.array_equal(generator.sample([job])[0], window)


def test_a_given_site_is_the_centre_of_the_lesion(
    tmp_path: Path, generator: LesionGenerator
) -> None:
    scan = Scan(write_scan(tmp_path / "scan.nii.gz"))
    site = (25.0, 30.0, 27.0)
    plan = plans_for(scan, generator, count=1, site_mm=site)[0]
    index = np.argwhere(plan.label) + [part.start for part in plan.box]
    centre = nib.affines.apply_affine(scan.affine, index.mean(0))
    assert np.abs(centre - site).max() < 1.0


def test_a_run_writes_a_dataset_and_resumes(tmp_path: Path, generator: LesionGenerator) -> None:
    write_scan(tmp_path / "scan_image.nii.gz")
    organ = np.ones((60, 56, 40), np.uint8)
    nib.save(nib.Nifti1Image(organ, np.diag([1, 1, 1.5, 1])), tmp_path / "organ.nii.gz")
    textures = TextureChoice("solid", generator.presets)
    request = Request(1, (8.0, 8.0))
    job = Job(generator, request, EllipsoidShapes(), textures, max_attempts=1)
    scans = [Case("scan", tmp_path / "scan_image.nii.gz", tmp_path / "organ.nii.gz")]
    out = tmp_path / "out"
    cases = synthesize_scans(scans, out, job)
    assert sorted(p.name for p in out.iterdir()) == [MARK, "datalist.json", "report.html", "scan"]
    image = (cases[0]["folder"] / "image.nii.gz").read_bytes()
    stamp = (cases[0]["folder"] / "image.nii.gz").stat().st_mtime_ns
    synthesize_scans(scans, out, job)
    assert (cases[0]["folder"] / "image.nii.gz").stat().st_mtime_ns == stamp
    again = synthesize_scans(scans, tmp_path / "again", job)
    assert (again[0]["folder"] / "image.nii.gz").read_bytes() == image


def test_a_failure_leaves_nothing_half_written(
    tmp_path: Path, generator: LesionGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(tmp_path / "scan.nii.gz")
    nib.save(
        nib.Nifti1Image(np.ones((60, 56, 40), np.uint8), np.diag([1, 1, 1.5, 1])),
        tmp_path / "organ.nii.gz",
    )
    textures = TextureChoice("solid", generator.presets)
    job = Job(generator, Request(1), EllipsoidShapes(), textures, max_attempts=1)
    scans = [Case("scan", tmp_path / "scan.nii.gz", tmp_path / "organ.nii.gz")]

    def full_disk(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Scan, "write_label", full_disk)
    with pytest.raises(OSError, match="no space"):
        synthesize_scans(scans, tmp_path / "out", job)
    assert not (tmp_path / "out").exists()


def test_bad_input_gets_one_sentence(tmp_path: Path, generator: LesionGenerator) -> None:
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
        Request(0)
    with pytest.raises(ValueError, match="diameter_mm must be two numbers from 2 to 60"):
        Request(1, (20.0, 6.0))
    with pytest.raises(ValueError, match="texture must be one of"):
        TextureChoice("granite", generator.presets)
    with pytest.raises(FileNotFoundError, match=r"bundle must be a bundle folder or one of \["):
        find_bundle("nothing")
    scan = Scan(write_scan(tmp_path / "scan.nii.gz"))
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), tmp_path / "small.nii.gz")
    with pytest.raises(ValueError, match="organ_mask must have the scan's shape"):
        scan.load_mask(tmp_path / "small.nii.gz", "organ_mask")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(ValueError, match="scan must have 3 dimensions"):
        Scan(tmp_path / "four.nii.gz")

"""Whole runs with a latent bundle's stub: the chest phantom, and real chests where they are."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests.synthesis.latent_stub import LatentStub
from tools.phantoms.datasets import write_chest_phantom
from tools.synthesis.cases import Case
from tools.synthesis.job_choice import JobOptions, make_job
from tools.synthesis.records import ScanRecord, read_record
from tools.synthesis.run import synthesize_scans

MARGIN = 3.0


def run(case: Case, out: Path, **options: object) -> tuple[np.ndarray, ScanRecord]:
    """Run, check that nothing changes from the margin on; return label and record."""
    given = {"shape": "ellipsoid", "diameter_mm": (6, 14), "attempts": 1, "organ_source": "recipe"}
    stub = LatentStub(step=16, context=8, smallest=48)
    (made,) = synthesize_scans([case], out, make_job(stub, JobOptions(**given | options)))
    before, after = (nib.load(path) for path in (case.path, made["folder"] / "image.nii.gz"))
    label = np.asarray(nib.load(made["folder"] / "label.nii.gz").dataobj)
    changed = before.dataobj.get_unscaled() != after.dataobj.get_unscaled()
    away = ndimage.distance_transform_edt(label == 0, sampling=before.header.get_zooms()[:3])
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.array_equal(after.affine, before.affine)
    assert not changed[away >= MARGIN].any()
    assert changed[label == 1].mean() > 0.99
    record = read_record(made["folder"] / "lesions.json")
    assert all(max(lesion.sampler["window_voxels"]) <= 64 for lesion in record.lesions)
    return label, record


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("chest")
    paths = write_chest_phantom(folder, 0, (110, 90, 82), 3.5)
    return Case("chest", Path(paths["image"]), Path(paths["lung"]))


@pytest.mark.parametrize("placement", ["interior", "subpleural"])
def test_lesions_lie_on_their_side_of_the_shell(
    chest: Case, tmp_path: Path, placement: str
) -> None:
    label, record = run(
        chest, tmp_path, count=2, placement=placement, erosion_mm=10, texture="ground_glass"
    )
    assert record.phantom
    image = nib.load(chest.organ_mask)
    organ = np.asarray(image.dataobj) > 0
    assert organ[label == 1].all()
    depth = ndimage.distance_transform_edt(
        np.pad(organ, 1, mode="edge"), sampling=image.header.get_zooms()[:3]
    )[1:-1, 1:-1, 1:-1]
    for lesion in record.lesions:
        index = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), lesion.site_mm))
        centre = depth[tuple(index.astype(int))]
        assert (centre >= 10) if placement == "interior" else (centre < 10 + 3.5 / 2)
    if placement == "subpleural":
        assert (depth[label == 1] < 10).mean() > 0.6


@pytest.mark.real
@pytest.mark.parametrize("name", ["case1", "case2"])
def test_real_chests_change_round_the_lesions_only(
    shared_dir: Path, tmp_path: Path, name: str
) -> None:
    case = Case(name, shared_dir / "data" / "lung_ct" / f"{name}_image.nii.gz")
    label, record = run(case, tmp_path, count=2)
    assert label.any()
    assert {lesion.texture for lesion in record.lesions} <= {"solid", "ground_glass"}

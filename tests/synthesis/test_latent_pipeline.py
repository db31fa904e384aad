"""Lesions through latents: nothing changes from the margin on, and crops lie where they should."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from tests.synthesis.latent_stub import RISE, LatentStub, row
from tools.synthesis.latent_pipeline import crop_grid, synthesize_latent
from tools.synthesis.latent_settings import LatentSettings
from tools.synthesis.level_set import Place
from tools.synthesis.pipeline import synthesize_lesions
from tools.synthesis.placement import Site
from tools.synthesis.plan import LesionPlan
from tools.synthesis.scan import Scan
from tools.synthesis.shapes import EllipsoidShapes
from tools.windows import BlendZone, cut_window

MARGIN = 3.0


def turned(spacing: tuple[float, float, float], degrees: float = 20.0) -> np.ndarray:
    affine = np.eye(4)
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.diag([-1, 1, 1]) @ np.diag(spacing)
    affine[:3, 3] = 20, -35, 7
    return affine


def make_scan(
    folder: Path,
    affine: np.ndarray,
    shape: tuple[int, int, int] = (90, 84, 56),
    dtype: type = np.int16,
    scaling: tuple[float, float] = (1.0, 0.0),
) -> Scan:
    """Lung-like noise in a file."""
    rng = np.random.default_rng(0)
    stored = (rng.normal(-850, 30, shape) - scaling[1]) / scaling[0]
    if np.dtype(dtype).kind in "iu":
        stored = np.rint(stored)
    image = nib.Nifti1Image(stored.astype(dtype), affine)
    image.header.set_slope_inter(*scaling)
    nib.save(image, folder / "scan.nii.gz")
    return Scan(folder / "scan.nii.gz")


def plan_at(
    scan: Scan, index: tuple[float, ...], diameter: float = 9.0, seed: int = 1, **more: object
) -> LesionPlan:
    point = apply_affine(scan.affine, index)
    shape = EllipsoidShapes().draw(
        diameter, np.random.default_rng(seed), Place(tuple(point), scan.affine, None)
    )
    label, box = shape.on_grid(scan.affine, scan.nifti.shape, point)
    site = Site(tuple(index), tuple(point), "given")
    values = {"texture": "solid", "histogram": None, "seed": seed, "subtype": 0} | more
    return LesionPlan(site, shape, diameter, label, box, **values)


def distance_mm(scan: Scan, label: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(label == 0, sampling=voxel_sizes(scan.affine))


FORMS = {
    "int16": {"affine": np.diag([1, 1, 1.5, 1])},
    "uint16": {"affine": np.eye(4), "dtype": np.uint16, "scaling": (1.0, -1024.0)},
    "float32": {"affine": np.diag([0.7, 0.7, 2.5, 1]), "dtype": np.float32},
    "scaled": {"affine": np.eye(4), "scaling": (0.5, 10.0)},
    "flipped": {"affine": np.diag([-1, -1, 1, 1])},
    "permuted": {"affine": np.array([[0, 0, 1.5, 3], [1, 0, 0, -9], [0, 1, 0, 4], [0, 0, 0, 1.0]])},
    "oblique": {"affine": turned((0.8, 0.8, 1.2))},
}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_changes_from_the_margin_on(tmp_path: Path, form: str) -> None:
    scan = make_scan(tmp_path, **FORMS[form])
    plans = [plan_at(scan, (20, 25, 20)), plan_at(scan, (62, 55, 36), 12.0, 2)]
    result = synthesize_latent(scan, None, plans, LatentStub(), max_attempts=1)
    scan.write(tmp_path / "out.nii.gz", result.stored)
    before, after = (nib.load(tmp_path / f"{n}.nii.gz") for n in ("scan", "out"))
    assert after.get_data_dtype() == before.get_data_dtype()
    changed = before.dataobj.get_unscaled() != after.dataobj.get_unscaled()
    away = distance_mm(scan, result.label)
    assert not changed[away >= MARGIN].any()
    assert changed[away == 0].all()
    assert changed[(away > 0) & (away < 0.8 * MARGIN)].mean() > 0.95


def test_the_change_fades_as_a_raised_cosine_of_the_distance(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, turned((0.7, 0.9, 1.3)), dtype=np.float32)
    result = synthesize_latent(scan, None, [plan_at(scan, (40, 40, 28))], LatentStub(), 1)
    away = distance_mm(scan, result.label)
    expected = np.where(away < MARGIN, RISE * (0.5 + 0.5 * np.cos(np.pi * away / MARGIN)), 0)
    assert (result.stored - scan.stored) == pytest.approx(expected, abs=0.01)


def test_a_margin_of_nought_changes_the_label_only(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.eye(4))
    stub = LatentStub(margin_mm=0.0)
    result = synthesize_latent(scan, None, [plan_at(scan, (40, 40, 28))], stub, 1)
    assert np.array_equal(result.stored != scan.stored, result.label == 1)


def test_crops_of_one_millimetre_are_read_without_interpolation(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = 41.3, 12.7, -80.2
    scan = make_scan(tmp_path, affine, (90, 84, 70))
    stub = LatentStub()
    synthesize_latent(scan, None, [plan_at(scan, (41.4, 40.3, 32.6))], stub, 1)
    (job,) = stub.jobs
    assert job.image.shape == (64, 64, 64)
    assert np.array_equal(job.image, np.rint(job.image))


def test_crops_hold_the_lesion_with_context_and_stay_in_the_scan(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, turned((0.8, 0.8, 1.2), 0.0), (130, 120, 80))
    settings = LatentSettings()
    corners = apply_affine(scan.affine, [(0, 0, 0), (129, 119, 79)])
    first, last = corners.min(0), corners.max(0)
    for low, high in ((first + 1, first + 12), (last - 50, last - 40), ((first + last) / 2,) * 2):
        grid = crop_grid(low, high, scan, settings)
        ends = apply_affine(grid.affine, [(0, 0, 0), np.array(grid.size) - 1])
        assert all(n % 32 == 0 and n >= 64 for n in grid.size)
        assert (ends[0] >= first - 1e-6).all()
        assert (ends[1] <= last + 1e-6).all()
        assert (ends[0] <= low).all()
        assert (ends[1] >= high).all()
        room = np.minimum(low - first, last - high)
        assert (np.minimum(low - ends[0], ends[1] - high) >= np.minimum(room, 15.0) - 1).all()
    long = crop_grid(
        (first + last) / 2 - (20, 5, 5), (first + last) / 2 + (20, 5, 5), scan, settings
    )
    assert long.size == (96, 64, 64)


def test_a_scan_smaller_than_the_crop_is_mirrored_not_walled(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.diag([1, 1, 2.5, 1]), (50, 84, 12))
    stub = LatentStub()
    result = synthesize_latent(scan, None, [plan_at(scan, (44, 5, 9), 7.0)], stub, 1)
    (job,) = stub.jobs
    assert job.image.shape == (64, 64, 64)
    assert job.image.max() < -600  # no constant grey beyond the faces
    assert job.image.std(2).min() > 1
    changed = result.stored != scan.stored
    assert changed[result.label == 1].all()
    assert not changed[distance_mm(scan, result.label) >= MARGIN].any()


def test_the_mask_in_the_crop_lies_where_the_label_does(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, turned((0.7, 0.7, 2.0)))
    stub = LatentStub()
    plan = plan_at(scan, (45, 40, 28), 14.0)
    synthesize_latent(scan, None, [plan], stub, 1)
    (job,) = stub.jobs
    label = np.zeros(scan.stored.shape, np.float32)
    label[plan.box] = plan.label
    voxels = apply_affine(scan.affine, np.argwhere(label))
    grid = crop_grid(voxels.min(0), voxels.max(0), scan, stub.latent)
    drawn = cut_window(label, scan.affine, grid) >= 0.5
    assert 2 * (drawn & job.lesion_mask).sum() / (drawn.sum() + job.lesion_mask.sum()) > 0.9


def test_costs_are_those_of_the_lesion_not_of_the_scan(tmp_path: Path) -> None:
    jobs = []
    for shape, index in (((80, 80, 80), (40, 40, 40)), ((160, 150, 140), (90, 80, 60))):
        stub, scan = LatentStub(), make_scan(tmp_path, np.eye(4), shape)
        synthesize_latent(scan, None, [plan_at(scan, index)], stub, 1)
        jobs += stub.jobs
    assert [job.image.shape for job in jobs] == [(64, 64, 64)] * 2
    assert np.array_equal(jobs[0].lesion_mask.sum(), jobs[1].lesion_mask.sum())


def test_rings_add_up_but_leave_other_lesions_alone(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.eye(4), dtype=np.float32)
    first, second = plan_at(scan, (35, 40, 28)), plan_at(scan, (44, 40, 28), seed=2)
    zones = [
        BlendZone.around(p.label, p.box, scan.affine, scan.nifti.shape, MARGIN)
        for p in (first, second)
    ]
    both = synthesize_latent(scan, None, [first, second], LatentStub(), 1)
    change = both.stored - scan.stored
    assert change[both.label == 1] == pytest.approx(RISE, abs=0.01)
    weights = np.zeros((2, *scan.stored.shape))
    for weight, zone in zip(weights, zones, strict=True):
        weight[zone.box][zone.inside] = zone.weight
    ring = both.label == 0
    met = ring & (weights > 0).all(0)
    assert met.any()
    assert ((both.label == 1) & (weights > 0).all(0)).any()  # the ring of one reaches the other
    assert change[ring] == pytest.approx(RISE * weights.sum(0)[ring], abs=0.01)


def test_metal_in_the_ring_is_not_cut_to_the_models_range(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.eye(4))
    scan.stored[:, :, 20:] = 2500
    result = synthesize_latent(scan, None, [plan_at(scan, (40, 40, 15))], LatentStub(), 1)
    metal = (scan.stored == 2500) & (distance_mm(scan, result.label) < MARGIN)
    assert metal.any()
    assert (result.stored[metal] == 2500).all()
    assert result.stored[scan.stored < 2500].max() <= 1000


def test_records_tell_the_margin_and_the_best_attempt_is_kept(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.eye(4))
    stub = LatentStub(noise=200.0)
    plan = plan_at(scan, (40, 40, 28), histogram=row(12), subtype=2)
    result = synthesize_latent(scan, None, [plan], stub, max_attempts=3, tolerance=0.0)
    (record,) = result.records
    assert record.attempts == 3
    assert record.sampler["margin_mm"] == MARGIN
    assert record.sampler["window_voxels"] == [64, 64, 64]
    assert [job.subtype for job in stub.jobs] == [2, 2, 2]
    assert len({job.seed for job in stub.jobs}) == 3
    alone = [
        synthesize_latent(
            scan,
            None,
            [plan_at(scan, (40, 40, 28), histogram=row(12), seed=1)],
            Fixed(stub, job.seed),
            1,
        )
        .records[0]
        .histogram_jsd
        for job in stub.jobs
    ]
    assert record.histogram_jsd == pytest.approx(min(alone))
    assert record.seed == stub.jobs[int(np.argmin(alone))].seed


class Fixed(LatentStub):
    """The same with a seed of our choice."""

    def __init__(self, other: LatentStub, seed: int) -> None:
        super().__init__(noise=other.noise)
        self.seed = seed

    def sample(self, jobs: list) -> list[np.ndarray]:
        return super().sample([job._replace(seed=self.seed) for job in jobs])


def test_a_lesion_is_cut_to_the_organ(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.eye(4))
    organ = np.zeros(scan.stored.shape, bool)
    organ[:42] = True
    stub = LatentStub()
    synthesize_latent(scan, organ, [plan_at(scan, (40, 40, 28))], stub, 1)
    (job,) = stub.jobs
    found = np.argwhere(job.lesion_mask)
    whole = plan_at(scan, (40, 40, 28)).label
    assert np.ptp(found, axis=0)[0] + 1 < whole.shape[0]


def test_bundles_without_latents_are_refused(tmp_path: Path) -> None:
    scan, stub = make_scan(tmp_path, np.eye(4)), LatentStub()
    plan = plan_at(scan, (40, 40, 28))
    with pytest.raises(ValueError, match="max_attempts must be at least 1, got 0"):
        synthesize_latent(scan, None, [plan], stub, max_attempts=0)
    stub.latent = None
    with pytest.raises(ValueError, match="bundle must have latent_window, got latent_stub"):
        synthesize_latent(scan, None, [plan], stub)


def test_the_other_pipeline_changes_no_ring(tmp_path: Path) -> None:
    scan = make_scan(tmp_path, np.eye(4))
    plan = plan_at(scan, (40, 40, 28))
    result = synthesize_lesions(scan, None, [plan], LatentStub(), max_attempts=1)
    assert "margin_mm" not in result.records[0].sampler
    assert not (result.stored != scan.stored)[result.label == 0].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 0}, "step must be above 0"),
        ({"margin_mm": -1.0}, "margin_mm must be at least 0"),
        ({"margin_mm": 20.0}, "margin_mm must be at most the context of 16 voxels"),
        ({"intensity_range": (400.0, -1000.0)}, "intensity_range must be two HU"),
    ],
)
def test_settings_that_break_a_rule_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentSettings(**values)

"""One path for all organs: only lesions change, in any file; records say what was done."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from tests.synthesis.jobs import (
    MARGIN,
    RISE,
    WINDOW,
    HalfWall,
    Stub,
    crops,
    cubes,
    heart_job,
    heart_scan,
    library,
    lung_job,
    noise,
    rims,
    row,
    slices,
)
from tools.scans.scan import Scan
from tools.shapes import MaskFileShape
from tools.synthesis.cases import Case
from tools.synthesis.catalogue import Subtype, SubtypeLibrary
from tools.synthesis.lesion import SynthesisResult
from tools.synthesis.synthesizer import Plan, Synthesizer
from tools.synthesis.view import CropView, CubeView
from tools.windows import BlendZone

SHAPE = (60, 56, 40)


def turned(spacing: tuple[float, float, float], degrees: float = 20.0) -> np.ndarray:
    affine, a = np.eye(4), np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.diag([-1, 1, 1]) @ np.diag(spacing)
    affine[:3, 3] = 20, -35, 7
    return affine


def lung_scan(
    folder: Path,
    affine: np.ndarray | None = None,
    shape: tuple[int, int, int] = SHAPE,
    dtype: type = np.int16,
    scaling: tuple[float, float] = (1.0, 0.0),
) -> Scan:
    """Lung-like noise in a file with a header scaling."""
    stored = (np.random.default_rng(0).normal(-850, 30, shape) - scaling[1]) / scaling[0]
    if np.dtype(dtype).kind in "iu":
        stored = np.clip(np.rint(stored), np.iinfo(dtype).min, np.iinfo(dtype).max)
    affine = np.diag([1, 1, 1.5, 1]) if affine is None else affine
    image = nib.Nifti1Image(stored.astype(dtype), affine)
    image.header.set_slope_inter(*scaling)
    image.header["descrip"] = b"a test"
    nib.save(image, folder / "scan.nii.gz")
    return Scan(folder / "scan.nii.gz")


def inner(scan: Scan, voxels: int = 4) -> nib.Nifti1Image:
    """An organ that ends some voxels before the border."""
    organ = np.zeros(scan.nifti.shape, np.uint8)
    organ[(slice(voxels, -voxels),) * 3] = 1
    return nib.Nifti1Image(organ, scan.affine)


def run(
    job: Synthesizer, scan: Scan, organ: nib.Nifti1Image | None = None, seed: int = 0
) -> tuple[Plan, SynthesisResult]:
    case = Case("scan", Path("scan"), inner(scan) if organ is None else organ)
    plan = job.plan(scan, case, np.random.default_rng(seed))
    return plan, job.finish([plan])[0]


def distance_mm(scan: Scan, label: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(label == 0, sampling=voxel_sizes(scan.affine))


FORMS: dict[str, dict[str, Any]] = {
    "int16": {},
    "uint16": {"dtype": np.uint16, "scaling": (1.0, -1024.0)},
    "float32": {"dtype": np.float32, "affine": np.diag([0.9, 0.9, 2.0, 1])},
    "scaled": {"scaling": (0.5, 10.0)},
    "flipped": {"affine": np.diag([-1, -1, 1.5, 1])},
    "permuted": {"affine": np.array([[0, 0, 1.5, 3], [1, 0, 0, -9], [0, 1, 0, 4], [0, 0, 0, 1.0]])},
    "oblique": {"affine": turned((0.9, 0.9, 1.3))},
}


@pytest.mark.parametrize("kind", ["cubes", "rims", "crops"])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_changes_beyond_label_and_margin(tmp_path: Path, form: str, kind: str) -> None:
    scan = lung_scan(tmp_path, **FORMS[form])
    stub = {"cubes": cubes, "rims": rims, "crops": crops}[kind]()
    margin = {"cubes": 0.0, "rims": 2.0, "crops": MARGIN}[kind]
    _, result = run(lung_job(stub, count=2, diameter_mm=(8, 11)), scan)
    scan.write(tmp_path / "out.nii.gz", result.stored)
    before, after = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("scan", "out"))
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.array_equal(after.affine, before.affine)
    scaling = [(image.dataobj.slope, image.dataobj.inter) for image in (before, after)]
    assert scaling[0] == scaling[1]
    assert after.header["descrip"] == b"SYNTHETIC lesions; " + bytes(before.header["descrip"])
    changed = before.dataobj.get_unscaled() != after.dataobj.get_unscaled()
    away = distance_mm(scan, result.label)
    assert not changed[(away > 0) & (away >= margin)].any()
    assert changed[away == 0].mean() > 0.9
    if margin:
        assert changed[(away > 0) & (away < 0.8 * margin)].mean() > (
            0.95 if stub.view.fades else 0.8
        )


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_in_a_wall_only_lesion_voxels_change_and_the_organ_is_carried(
    axes: tuple[int, int, int],
) -> None:
    scan, organ = heart_scan(axes)
    plan, result = run(heart_job(), scan, organ)
    changed, before = result.stored != scan.stored, np.asarray(organ.dataobj)
    assert changed.any()
    assert set(np.unique(result.label[changed])) <= {3, 4}
    lesion = result.label > 2
    assert np.array_equal(result.label[~lesion], before[~lesion])
    assert (before[lesion] == 2).all()
    expected = plan.canvas.scale.unscaled(np.array(0.5))
    assert np.allclose(result.stored[lesion], np.rint(expected), atol=1)


def test_axes_of_the_file_do_not_change_what_the_model_sees() -> None:
    seen = []
    for axes in ((0, 1, 2), (2, 0, 1)):
        stub = slices()
        run(heart_job(stub), *heart_scan(axes))
        seen.append(stub.jobs[0])
    assert np.allclose(seen[0].image, seen[1].image, atol=1e-3)
    assert np.array_equal(seen[0].lesion_mask, seen[1].lesion_mask)
    assert seen[0].lesion_mask.shape == (2, 48, 48, 8)


@pytest.mark.parametrize("organ", ["lung", "heart"])
def test_records_have_one_form(tmp_path: Path, organ: str) -> None:
    if organ == "lung":
        scan = lung_scan(tmp_path)
        plan, result = run(lung_job(count=2, attempts=2), scan)
        classes, kind = [(1, "lesion")] * 2, "equal_volume_sphere"
        assert [r.diameter_requested_mm for r in result.records] == [
            pytest.approx(lesion.diameter_mm, abs=1e-3) for lesion in plan.lesions
        ]
        for record, lesion in zip(result.records, plan.lesions, strict=True):
            assert record.diameter_mm == pytest.approx(lesion.diameter_mm, rel=0.05)
            assert record.site_mm == pytest.approx(lesion.point_mm, abs=1e-3)
    else:
        scan, mask = heart_scan()
        plan, result = run(heart_job(), scan, mask)
        classes, kind = [(3, "infarct"), (4, "no_reflow")], "enclosing_sphere"
        assert [r.diameter_requested_mm for r in result.records] == [60.0, None]
        whole, core = (r.diameter_mm for r in result.records)
        assert whole > core  # that of the infarct holds its core
        for record in result.records:
            index = np.linalg.inv(scan.affine) @ [*record.site_mm, 1]
            assert result.label[tuple(np.rint(index[:3]).astype(int))] == record.label
    assert [(r.label, r.class_name) for r in result.records] == classes
    for record in result.records:
        bins = len(record.histogram_achieved)
        assert bins == 16
        assert len(record.histogram_requested) == bins
        assert sum(record.histogram_achieved) == pytest.approx(1, abs=1e-5)
        assert record.diameter_kind == kind
        sampler = record.sampler
        assert sampler["num_inference_steps"] == 1
        assert len(sampler["window_voxels"]) == 3
        assert len(sampler["intensity_range"]) == 2
        assert (sampler["margin_mm"], sampler["lesion"] > 0) == (0.0, True)
    total = sum(r.volume_mm3 for r in result.records)
    voxel = float(np.prod(scan.spacing_mm))
    assert total == pytest.approx(np.isin(result.label, [c for c, _ in classes]).sum() * voxel)


def test_the_best_attempt_is_kept() -> None:
    stub = slices((-0.9, 0.55, -0.9))
    _, result = run(heart_job(stub, attempts=3), *heart_scan())
    assert len(stub.jobs) == 2  # the second is good enough
    assert {record.attempts for record in result.records} == {2}
    assert {record.seed for record in result.records} == {stub.jobs[1].seed}
    assert stub.jobs[0].seed != stub.jobs[1].seed


def test_the_change_of_a_margin_fades_as_a_raised_cosine_of_the_distance(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, turned((0.9, 0.9, 1.3)), dtype=np.float32)
    _, result = run(lung_job(crops()), scan)
    away = distance_mm(scan, result.label)
    expected = np.where(away < MARGIN, RISE * (0.5 + 0.5 * np.cos(np.pi * away / MARGIN)), 0)
    assert (result.stored - scan.stored) == pytest.approx(expected, abs=0.01)


def test_a_margin_of_nought_changes_the_label_only(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, np.eye(4))
    _, result = run(lung_job(crops(margin_mm=0.0)), scan)
    assert np.array_equal(result.stored != scan.stored, result.label == 1)


def test_crops_of_one_millimetre_are_read_without_interpolation(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = 41.3, 12.7, -80.2
    stub = crops()
    run(lung_job(stub), lung_scan(tmp_path, affine, (90, 84, 70)))
    (job,) = stub.jobs
    assert job.image.shape == (64, 64, 64)
    assert np.array_equal(job.image, np.rint(job.image))


def test_crops_hold_the_lesion_with_context_and_stay_in_the_scan(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, turned((0.8, 0.8, 1.2), 0.0), (130, 120, 80))
    view = crops().view
    assert isinstance(view, CropView)
    corners = apply_affine(scan.affine, [(0, 0, 0), (129, 119, 79)])
    first, last = corners.min(0), corners.max(0)
    for low, high in ((first + 1, first + 12), (last - 50, last - 40), ((first + last) / 2,) * 2):
        grid = view.crop(low, high, scan)
        ends = apply_affine(grid.affine, [(0, 0, 0), np.array(grid.size) - 1])
        assert all(n % 32 == 0 and n >= 64 for n in grid.size)
        assert (ends[0] >= first - 1e-6).all()
        assert (ends[1] <= last + 1e-6).all()
        room = np.minimum(low - first, last - high)
        assert (np.minimum(low - ends[0], ends[1] - high) >= np.minimum(room, 15.0) - 1).all()
    middle, reach = (first + last) / 2, np.array((20, 5, 5))
    assert view.crop(middle - reach, middle + reach, scan).size == (96, 64, 64)


def test_a_scan_smaller_than_the_crop_is_mirrored_not_walled(tmp_path: Path) -> None:
    scan, stub = lung_scan(tmp_path, np.diag([1, 1, 2.5, 1]), (50, 84, 14)), crops()
    run(lung_job(stub), scan, inner(scan, 1))
    (job,) = stub.jobs
    assert job.image.shape == (64, 64, 64)
    assert job.image.max() < -600  # no constant grey beyond the faces
    assert job.image.std(2).min() > 1


def test_rings_add_up_but_leave_other_lesions_alone(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, np.eye(4), (90, 84, 56), np.float32)
    job = lung_job(crops(), diameter_mm=9, site=(35, 40, 28))
    plans = [
        run(job, scan)[0],
        run(lung_job(crops(), diameter_mm=9, site=(46, 40, 28)), scan, seed=2)[0],
    ]
    both = plans[0]._replace(lesions=[plan.lesions[0] for plan in plans])
    for lesion in both.lesions:
        lesion.jsd = float("inf")
    (result,) = job.finish([both])
    change = result.stored - scan.stored
    assert change[result.label == 1] == pytest.approx(RISE, abs=0.01)
    weights = np.zeros((2, *scan.stored.shape))
    for weight, lesion in zip(weights, both.lesions, strict=True):
        zone = BlendZone.around(lesion.masks[0], lesion.box, scan.affine, scan.nifti.shape, MARGIN)
        weight[zone.box][zone.inside] = zone.weight
    ring = result.label == 0
    assert (ring & (weights > 0).all(0)).any()
    assert ((result.label == 1) & (weights > 0).all(0)).any()  # one ring reaches the other lesion
    assert change[ring] == pytest.approx(RISE * weights.sum(0)[ring], abs=0.01)


def test_metal_in_the_ring_is_not_cut_to_the_models_range(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, np.eye(4), (90, 84, 56))
    scan.stored[:, :, 20:24] = 2500
    _, result = run(lung_job(crops(), diameter_mm=9, site=(40, 40, 15)), scan)
    metal = (scan.stored == 2500) & (distance_mm(scan, result.label) < MARGIN)
    assert metal.any()
    assert (result.stored[metal] == 2500).all()
    assert result.stored[scan.stored < 2500].max() <= 1000


def test_a_lesion_is_cut_to_the_organ_in_label_and_window(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, np.eye(4), (90, 84, 56))
    organ = np.zeros(scan.nifti.shape, np.uint8)
    organ[:42] = 1
    for stub in (cubes(), crops()):
        job = lung_job(stub, diameter_mm=9, site=(40, 40, 28))
        _, result = run(job, scan, nib.Nifti1Image(organ, scan.affine))
        assert not result.label[42:].any()
        seen = np.asarray(stub.jobs[0].lesion_mask)[0]
        assert np.ptp(np.argwhere(seen), axis=0)[0] < np.ptp(np.argwhere(seen), axis=0)[1]


def test_a_given_site_is_the_centre_of_the_lesion(tmp_path: Path) -> None:
    scan, site = lung_scan(tmp_path), (25.0, 30.0, 27.0)
    _, result = run(lung_job(diameter_mm=10, site="25,30,27"), scan)
    centre = apply_affine(scan.affine, np.argwhere(result.label).mean(0))
    assert np.abs(centre - site).max() < 1.0


def test_subtype_and_histogram_are_asked_for_together(tmp_path: Path) -> None:
    stub = crops()
    job = lung_job(stub, "ground_glass,solid,none", count=3, diameter_mm=6)
    run(job, lung_scan(tmp_path, np.eye(4), (90, 84, 56)))
    assert [job.subtype for job in stub.jobs] == [2, 0, -1]
    assert np.argmax(stub.jobs[0].histogram) == 10
    assert np.argmax(stub.jobs[1].histogram) == 20  # of a lesion of about its size
    assert stub.jobs[2].histogram is None
    assert library()["solid"].medoid == row(25)


def test_lesions_of_a_wall_that_are_there_already_stay() -> None:
    scan, organ = heart_scan(infarct=True)
    there = np.asarray(organ.dataobj) > 2
    _, result = run(heart_job(), scan, organ)
    assert there.any()
    assert np.array_equal(result.label[there], np.asarray(organ.dataobj)[there])
    assert np.array_equal(result.stored[there], scan.stored[there])


@pytest.mark.parametrize("missing", [1, 2])
def test_a_part_of_the_organ_that_is_missing_is_named(missing: int) -> None:
    scan, organ = heart_scan()
    label = np.where(np.asarray(organ.dataobj) == missing, 0, organ.dataobj).astype(np.uint8)
    name = {1: "cavity", 2: "myocardium"}[missing]
    with pytest.raises(ValueError, match=f"organ_mask must mark the {name} as {missing}, got none"):
        run(heart_job(), scan, nib.Nifti1Image(label, organ.affine))


class TooMany(HalfWall):
    """Leaves nothing."""

    def draw(self, *arguments: Any) -> Any:
        shape = super().draw(*arguments)
        return shape._replace(label=0 * shape.label)


def test_a_shape_that_leaves_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="shape must leave a lesion, got none"):
        run(heart_job(shapes=TooMany()), *heart_scan())


def test_fewer_lesions_where_not_all_fit(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path, np.eye(4), (44, 44, 44))
    options = {"count": 4, "diameter_mm": 18, "placement": "interior"}
    with pytest.raises(ValueError, match=r"room for all lesions, but . of 4 .* what helps: a sma"):
        run(lung_job(**options), scan)
    plan, result = run(lung_job(**options, if_impossible="fewer"), scan)
    assert 1 <= len(plan.lesions) < 4
    assert len(result.records) == len(plan.lesions)
    assert plan.notes == (f"{4 - len(plan.lesions)} of 4 lesions found no room in the organ",)


def test_a_mask_file_is_one_lesion_where_it_lies(tmp_path: Path) -> None:
    scan = lung_scan(tmp_path)
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:30, 22:31, 12:18] = 1
    nib.save(nib.Nifti1Image(mask, scan.affine), tmp_path / "mask.nii.gz")
    job = lung_job(shapes=MaskFileShape(tmp_path / "mask.nii.gz"), count=None)
    assert job.count == 1
    _, result = run(job, scan)
    assert np.array_equal(result.label, mask)
    assert result.records[0].diameter_requested_mm is None
    with pytest.raises(ValueError, match="count must be 1 with a mask file as shape, got 3"):
        lung_job(shapes=MaskFileShape(tmp_path / "mask.nii.gz"), count=3)
    with pytest.raises(ValueError, match="lobe does not go with a mask file as shape"):
        lung_job(shapes=MaskFileShape(tmp_path / "mask.nii.gz"), region="left_upper")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 0}, "count must be a whole number from 1 to 1000, got 0"),
        ({"count": True}, "count must be a whole number from 1 to 1000, got True"),
        ({"diameter_mm": (20, 6)}, "diameter_mm must be two numbers from 2 to 60, smallest first"),
        ({"diameter_mm": "6,8,9"}, "diameter_mm must be one number or two with a comma"),
        ({"diameter_mm": (6, float("nan"))}, "diameter_mm must be a number, got nan"),
        ({"sizes": [(1.0, 30.0, 900.0)]}, r"diameter_mm must be .* got \(30.0, 900.0\)"),
        ({"diameter_mm": "wide"}, "diameter_mm must be a number, got 'wide'"),
        ({"site": (1, 2)}, "site must be 3 numbers with commas between"),
        ({"site": (1, 2, "x")}, "site must be a number, got 'x'"),
        ({"site": (1, 2, float("inf"))}, "site must be a number, got inf"),
        ({"placement": "wall"}, "placement must be one of mixed, interior, subpleural"),
        ({"erosion_mm": 0}, "erosion_mm must be above 0 and at most 100"),
        ({"region": "upper"}, "lobe must be any, or one or several of"),
        ({"inner_share": (0.2, 1.2)}, "no_reflow_share"),
        ({"inner_share": (0.3, 0.2)}, "no_reflow_share"),
        ({"if_impossible": "perhaps"}, "if_impossible must be one of error, fewer, skip"),
    ],
)
def test_wishes_that_break_a_rule_are_one_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lung_job(**options)


def test_numbers_may_be_words_and_one_number_is_a_range() -> None:
    job = heart_job(diameter_mm="30,40", site="1,-2.5,3", inner_share=0.2)
    assert (job.diameter_mm, job.site) == ((30.0, 40.0), (1.0, -2.5, 3.0))
    assert job.inner_share == (0.2, 0.2)
    assert lung_job(diameter_mm="40").diameter_mm == (40.0, 40.0)


def test_more_lesions_than_the_organ_takes_are_refused() -> None:
    assert heart_job().count == 1
    with pytest.raises(ValueError, match="count must be 1 in a heart, got 3"):
        heart_job(count=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 0}, "step must be above 0"),
        ({"margin_mm": -1.0}, "margin_mm must be at least 0"),
        ({"margin_mm": 20.0}, "margin_mm must be at most the context of 16 voxels"),
    ],
)
def test_views_that_break_a_rule_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crops(**values)
    with pytest.raises(ValueError, match="intensity_range must be two HU"):
        CropView((-1000, 400), (400, -1000))


def test_attempts_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="attempts must be a whole number from 1 to 1000, got 0"):
        run(lung_job(attempts=0), lung_scan(tmp_path))


def test_a_stub_that_gives_nothing_leaves_the_scan(tmp_path: Path) -> None:
    class Nothing(Stub):
        def sample(self, jobs: Any) -> Any:
            return [None for _ in jobs]

    scan = lung_scan(tmp_path, scaling=(0.5, 10.0))
    stub = cubes()
    _, result = run(lung_job(Nothing(stub.view, stub.fill)), scan)
    assert np.array_equal(result.stored, scan.stored)
    assert result.label.any()


def test_a_core_lies_in_its_halo_and_the_record_knows_outline_and_request(tmp_path: Path) -> None:
    """The stub fills with noise, so only the core's own step can put bright voxels together."""
    part = Subtype(1, 1.0, np.array([9.0]), np.array([row(8, 30)]), row(8, 30), solid_bin=20)
    known = SubtypeLibrary(part_solid=part)
    known.outline = "readers' consensus"
    stub = Stub(CubeView(WINDOW), noise, known.presets, known)
    scan = lung_scan(tmp_path, np.eye(4))
    stub.cores = True
    _, cored = run(lung_job(stub, "part_solid", diameter_mm=12), scan)
    stub.cores = False
    _, plain = run(lung_job(stub, "part_solid", diameter_mm=12), scan)
    depth = ndimage.distance_transform_edt(cored.label)
    solid = cored.stored[cored.label > 0] > -300
    deep = depth[cored.label > 0]
    assert solid.mean() == pytest.approx(0.5, abs=0.1)  # bins fluctuate, the scan's grid blurs
    assert deep[solid].mean() > deep[~solid].mean() + 0.6
    grey = plain.stored[cored.label > 0] > -300
    assert abs(deep[grey].mean() - deep[~grey].mean()) < 0.45
    (record,) = cored.records
    assert record.sampler["outline"] == "readers' consensus"
    assert 0.3 < record.sampler["solid_share"] < 0.7  # what was drawn
    assert record.histogram_jsd < 0.5 * plain.records[0].histogram_jsd

"""Tissue drawn toward a lesion, strands to the pleura: inside the organ, as the record says."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from tests.synthesis.jobs import Stub, crops, cubes, lung_job, rims
from tools.organs import load_organ
from tools.report.slices import OrientedVolume, changed_outside
from tools.scans.scan import Scan
from tools.shapes import MaskFileShape
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.cases import Case
from tools.synthesis.host_reaction import Moved, PleuralTag, Retraction, in_reach, reaction_of
from tools.synthesis.lesion import SynthesisResult
from tools.synthesis.ranks import Rank
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans
from tools.synthesis.synthesizer import Plan, Synthesizer
from tools.synthesis.verify import verify_case

RULE = Retraction(reach_mm=6.0, strength=0.2)
TAG = PleuralTag(reach_mm=10.0, width_mm=2.0, tissue_hu=20.0)
RADIUS = 10.0
SHAPE = (44, 40, 30)
AFFINE = np.array([[0, 0, 1.6, -20], [-1.0, 0, 0, 9], [0, 1.1, 0, -30], [0, 0, 0, 1]])
SITE = apply_affine(AFFINE, (20, 18, 14.5))
POINTS = apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
AWAY = np.linalg.norm(POINTS - SITE, axis=-1)
INNER = np.zeros(SHAPE, bool)
INNER[2:-2, 2:-2, 2:-2] = True


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """Lung with grain and a bright plate, its axes turned and its voxels not cubes."""
    values = np.random.default_rng(0).normal(-850, 20, SHAPE)
    values[26:28] = -100
    path = tmp_path_factory.mktemp("scan") / "a_image.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.int16), AFFINE), path)
    return Scan(path)


def image_of(mask: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(mask.astype(np.uint8), AFFINE)


def job(stub: Stub | None = None, **options: Any) -> Synthesizer:
    site = ",".join(map(str, SITE))
    given = {"site": site, "diameter_mm": 7.0, "host_reaction": "retraction"} | options
    return lung_job(stub, **given)


def run(
    made: Synthesizer, scan: Scan, existing: np.ndarray | None = None
) -> tuple[Plan, SynthesisResult]:
    there = None if existing is None else image_of(existing)
    plan = made.plan(scan, Case("a", Path("a"), image_of(INNER), there), np.random.default_rng(0))
    return plan, made.finish([plan])[0]


def moved(scan: Scan, inside: np.ndarray) -> tuple[np.ndarray, Moved]:
    copied = scan.copied()
    told = RULE.move(copied, inside, SITE, RADIUS - RULE.reach_mm)
    return copied.stored, told


def test_the_field_is_nothing_at_the_centre_and_from_the_radius_on() -> None:
    r = np.linspace(0, RADIUS, 2001)
    u = RULE.displacement(r, RADIUS)
    assert (u[0], u[-1]) == (0, 0)
    assert (RULE.displacement(np.array([10.5, 99]), RADIUS) == 0).all()
    assert u.max() == pytest.approx(2.0, abs=1e-4)
    assert (u[-2] - u[-1]) / (r[1] - r[0]) < 1e-2  # its slope ends with it


@pytest.mark.parametrize("border", [2, 5, 9, 30])
def test_at_the_largest_strength_the_map_is_one_to_one_and_stays_inside(border: int) -> None:
    """The lung ends at a plane some mm from the centre, seen along a ray: the worst case."""
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    still = Scan(nib.Nifti1Image(np.zeros((64, 64, 64), np.int16), affine))
    inside = np.ones(still.shape, bool)
    inside[: max(0, 32 - 2 * border)] = False
    whole = (slice(0, 64),) * 3
    at, to = RULE._sources(still, inside, whole, np.full(3, 16.0), RADIUS)
    source = np.indices(still.shape).astype(float)
    source[(slice(None), *at.T)] = to.T
    assert inside[tuple(np.rint(to).astype(int).T)].all()
    jacobian = np.stack([np.stack(np.gradient(part)) for part in source])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0
    assert len(at) > 1000


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 0.1), "reach_mm must be above 0, got 0"), ((5, 0.21), "strength must be .* at most 0.2")],
)
def test_numbers_that_would_tear_tissue_are_refused(numbers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retraction(*numbers)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 1, 0), "reach_mm must be above 0, got 0"), ((9, 0, 0), "width_mm must be above 0, got")],
)
def test_numbers_that_draw_no_strand_are_refused(numbers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PleuralTag(*numbers)


def test_tissue_comes_nearer_and_all_beyond_the_radius_or_the_lung_stays(scan: Scan) -> None:
    inside = INNER & (POINTS[..., 1] < SITE[1] + 8)
    after, told = moved(scan, inside)
    differs = after != scan.stored
    assert told == ("retraction", tuple(SITE.round(3).tolist()), 10.0, 2.0, differs.sum())
    assert differs[AWAY < 0.8 * RADIUS].mean() > 0.5
    assert not differs[(AWAY >= RADIUS) | ~inside].any()
    # the plate, 6.5 mm from the centre, comes nearer by most of 2 mm
    lines = [each[:, 18, 14] for each in (scan.stored, after)]
    before, now = (np.average(range(44), weights=np.maximum(x + 550, 0)) for x in lines)
    assert 1.0 < before - now < 2.2
    again, _ = moved(scan, inside)
    assert np.array_equal(after, again)


def test_a_strand_leads_to_the_nearest_pleura_and_ends_there(scan: Scan) -> None:
    pleura = SITE[1] + 9  # the plate, and the other ends, are farther away
    inside = INNER & (POINTS[..., 1] < pleura)
    inside[20, 14:16, 14] = False  # a vessel that the mask leaves out
    copied = scan.copied()
    told = TAG.move(copied, inside, SITE, 3.0)
    differs = copied.stored != scan.stored
    assert told.voxels == differs.sum() > 30
    middle = np.array(told.centre_mm)
    # the nearest voxel beyond lies within half a diagonal of the way along y
    assert np.abs(middle - [SITE[0], (SITE[1] + pleura) / 2, SITE[2]]).max() < 0.8
    assert not differs[(np.linalg.norm(POINTS - middle, axis=-1) >= told.radius_mm) | ~inside].any()
    gain = (copied.stored - scan.stored.astype(float)).clip(0)
    near = np.linalg.norm((POINTS - SITE)[..., [0, 2]], axis=-1)
    along = POINTS[..., 1] - SITE[1]
    for low, high in ((0, 2), (2, 4), (4, 7)):
        part = inside & (along > low) & (along < high)
        assert gain[part & (near < 0.9)].mean() > 250
        assert gain[part & (near > 4)].sum() == 0
    # like a tent at the pleura
    sheet = [gain[inside & (along > low) & (along < low + 2)].sum() for low in (2, 6)]
    assert sheet[1] > 1.3 * sheet[0]
    assert gain.min() == 0


@pytest.mark.parametrize("border", [1, 15])
def test_no_strand_where_the_pleura_is_touched_or_far(
    scan: Scan, border: int, caplog: pytest.LogCaptureFixture
) -> None:
    inside = np.ones(SHAPE, bool)
    inside[POINTS[..., 1] > SITE[1] + border] = False
    copied = scan.copied()
    with caplog.at_level("INFO"):
        told = TAG.move(copied, inside, SITE, 3.0)
    assert told == ("pleural_tag", tuple(SITE.round(3).tolist()), 0.0, 0.0, 0)
    assert "the pleura is not 0 to 10 mm away" in caplog.text
    assert np.array_equal(copied.stored, scan.stored)
    whole = TAG.move(copied, np.ones(SHAPE, bool), SITE, 3.0)
    assert whole.voxels == 0


def test_lesions_in_the_way_are_no_pleura(scan: Scan) -> None:
    inside = INNER & (POINTS[..., 1] < SITE[1] + 11)
    there = np.linalg.norm(POINTS - SITE - [0, -10, 0], axis=-1) < 4.5  # its edge is nearer
    copied = scan.copied()
    assert TAG.move(copied, inside & ~there, SITE, 3.0).centre_mm[1] > SITE[1] + 3
    assert np.array_equal(copied.stored[there], scan.stored[there])


def test_the_record_of_a_strand_holds_all_that_differs(scan: Scan) -> None:
    _, result = run(job(host_reaction="pleural_tag"), scan)
    _, without = run(job(host_reaction="none"), scan)
    told = result.records[0].sampler["host_reaction"]
    assert told["name"] == "pleural_tag"
    assert told["voxels"] > 30
    sphere = np.linalg.norm(POINTS - told["centre_mm"], axis=-1) < told["radius_mm"]
    differs = result.stored != without.stored
    assert differs.any()
    assert not differs[~sphere & (result.label == 0)].any()


@pytest.mark.parametrize("kind", ["cubes", "rims", "crops"])
def test_only_lesion_margin_and_reach_differ_and_the_model_sees_it_bent(
    scan: Scan, kind: str
) -> None:
    make = {"cubes": cubes, "rims": rims, "crops": crops}[kind]
    bent, plain = make(), make()
    plan, result = run(job(bent), scan)
    _, without = run(job(plain, host_reaction="none"), scan)
    (record,) = result.records
    told = record.sampler["host_reaction"]
    assert told["radius_mm"] == pytest.approx(record.diameter_mm / 2 + 15, abs=0.01)
    assert "host_reaction" not in without.records[0].sampler
    assert np.array_equal(result.label, without.label)
    assert (bent.jobs[0].image != plain.jobs[0].image).any()
    margin = {"cubes": 0.0, "rims": 2.0, "crops": 3.0}[kind]
    near = ndimage.distance_transform_edt(result.label == 0, sampling=voxel_sizes(AFFINE))
    differs = result.stored != scan.stored
    reached = told["radius_mm"] > AWAY
    assert not differs[(near > margin) & ~(reached & INNER)].any()
    assert differs[reached].sum() > (without.stored != scan.stored).sum()
    assert np.array_equal(run(job(make()), scan)[1].stored, result.stored)
    assert plan.canvas.scan.sha256 == scan.sha256


def test_lesions_that_were_there_stay(scan: Scan) -> None:
    there = np.linalg.norm(POINTS - SITE - [0, 0, 9], axis=-1) < 3
    _, result = run(job(), scan, there)
    assert there.sum() > 20
    assert np.array_equal(result.stored[there], scan.stored[there])
    assert (run(job(), scan)[1].stored != scan.stored)[there].any()


def test_record_verify_and_audit_agree(scan: Scan, tmp_path: Path) -> None:
    nib.save(image_of(INNER), tmp_path / "lung.nii.gz")
    case = Case("a", scan.path, tmp_path / "lung.nii.gz")
    synthesize_scans([case], tmp_path / "out", job(), Rank())  # verifies what it wrote
    folder = tmp_path / "out" / "a"
    record = read_record(folder / "lesions.json")
    assert record.request["host_reaction"] == "retraction"
    volumes = [
        OrientedVolume(path)
        for path in (scan.path, folder / "image.nii.gz", folder / "label.nii.gz")
    ]
    assert changed_outside(*volumes) > 500
    assert changed_outside(*volumes, 0.0, partial(in_reach, record)) == 0
    content = json.loads((folder / "lesions.json").read_text())
    told = content["lesions"][0]["sampler"]["host_reaction"]
    for wrong, message in (
        ({**told, "radius_mm": 8.0}, "voxels outside of label and margin differ"),
        ({**told, "radius_mm": "wide"}, "radius_mm must be float, got 'wide'"),
        (None, "voxels outside of label and margin differ"),
    ):
        content["lesions"][0]["sampler"]["host_reaction"] = wrong
        (folder / "lesions.json").write_text(json.dumps(content))
        (found,) = verify_case(folder, scan)
        assert message in found


@pytest.mark.parametrize("name", ["liver", "kidney", "pancreas", "heart"])
def test_organs_that_do_not_know_it_refuse(name: str) -> None:
    assert reaction_of(load_organ(name), "none") is None
    with pytest.raises(ValueError, match=f"must be none in a {name}, got 'retraction'"):
        reaction_of(load_organ(name), "retraction")


def test_wrong_words_bundles_without_it_and_masks_without_an_organ_are_refused(
    scan: Scan,
) -> None:
    with pytest.raises(
        ValueError, match="must be none or retraction or pleural_tag in a lung, got 'pull'"
    ):
        job(host_reaction="pull")
    with pytest.raises(ValueError, match="host_reaction does not go with bundle difftumor"):
        open_synthesizer("difftumor", "cpu", options={"host_reaction": "retraction"})
    shape = MaskFileShape("mask", ((AWAY < 4).astype(np.uint8), AFFINE), 60.0)
    made = job(shapes=shape, site=None)
    with pytest.raises(ValueError, match="host_reaction retraction needs organ_mask"):
        made.plan(scan, Case("a", Path("a")), np.random.default_rng(0))

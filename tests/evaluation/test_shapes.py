"""Shapes are measured as drawn: spheres kept or left, sets told apart or not, files written."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.commands.models import evaluate
from tools.evaluation import shape_statistics, shape_tests, shapes
from tools.evaluation.shape_figure import example_shapes
from tools.evaluation.shape_sources import (
    PlacedMask,
    RealShape,
    draw_ellipsoid,
    load_shapes,
    nearest_shapes,
)
from tools.evaluation.shapes import draw_all, evaluate_shapes
from tools.transforms.spheres import Sphere, enclosing_sphere, sphere_mask


def ball(
    sphere: Sphere,
    affine: np.ndarray,
    shape: Sequence[int],
    seed: int,
    within: np.ndarray | None = None,
    spiculation: float | None = None,
) -> np.ndarray:
    """Fills the sphere; a marked score makes it smaller."""
    radius = sphere.radius_mm - (0.5 if spiculation == 5 else 0)
    mask = sphere_mask(Sphere(sphere.centre_mm, radius), affine, shape)
    return mask if within is None else mask & within


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of several sizes, elongated, near the border of their grids."""
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(0)
    sections: dict[str, list[dict]] = {"training": [], "validation": []}
    for i in range(20):
        mask = np.zeros((24, 22, 16), np.uint8)
        n = rng.integers(2, 7, size=3)
        mask[1 : 2 + 2 * n[0], 2 : 2 + n[1], 0 : n[2]] = 1
        nib.save(nib.Nifti1Image(mask, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / f"{i}.nii.gz")
        entry = {"label": f"{i}.nii.gz", "patient": f"p{i // 2}"}
        entry |= {"spiculation": 1.0 + i % 5, "lobulation": 1.0}
        sections["training" if i < 12 else "validation"].append(entry)
    (folder / "datalist.json").write_text(json.dumps(sections))
    return folder


@pytest.fixture(scope="module")
def lesions(dataset: Path) -> list[RealShape]:
    return load_shapes(str(dataset))


def test_real_masks_are_loaded_with_room_for_their_spheres(
    dataset: Path, lesions: list[RealShape]
) -> None:
    assert len(lesions) == 8
    for lesion in lesions:
        mask, affine = lesion.placed
        original = nib.load(lesion.name)
        assert mask.sum() == np.asarray(original.dataobj).sum()
        found = enclosing_sphere(mask, affine)
        assert np.allclose(found.centre_mm, lesion.sphere.centre_mm, atol=1e-4)
        # the whole sphere lies on the grid: no voxel of it at the border
        inside = sphere_mask(lesion.sphere, affine, mask.shape)
        assert not inside[0].any()
        assert not inside[:, :, -1].any()
    assert lesions[0].scores == {"spiculation": 3.0, "lobulation": 1.0}
    assert [x.name for x in load_shapes(str(dataset), limit=2)] == [
        lesions[0].name,
        lesions[-1].name,
    ]
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        load_shapes(str(dataset), limit=0)


@pytest.mark.parametrize("radius", [2.0, 5.0, 11.0])
def test_ellipsoids_fill_the_sphere_asked_for(radius: float) -> None:
    sphere, affine = Sphere((3.2, -1.4, 7.7), radius), np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = np.array(sphere.centre_mm) - 14.3
    mask = draw_ellipsoid(sphere, affine, (29, 29, 29), seed=1)
    found = enclosing_sphere(mask, affine)
    assert found.radius_mm == pytest.approx(radius, abs=0.4)
    assert np.linalg.norm(np.subtract(found.centre_mm, sphere.centre_mm)) < 0.5
    assert not (mask & ~sphere_mask(sphere, affine, mask.shape)).any()
    assert np.array_equal(mask, draw_ellipsoid(sphere, affine, (29, 29, 29), seed=1))
    half = np.zeros_like(mask)
    half[:14] = True
    assert np.array_equal(draw_ellipsoid(sphere, affine, mask.shape, 1, half), mask & half)


def test_nearest_masks_are_other_lesions_at_the_same_place(
    dataset: Path, lesions: list[RealShape]
) -> None:
    library = load_shapes(str(dataset), "training")
    found = nearest_shapes(lesions, library)
    assert len({item.name for item in found}) == len(lesions)  # none twice
    for item, lesion in zip(found, lesions, strict=True):
        own = enclosing_sphere(*item.placed)
        assert np.allclose(own.centre_mm, lesion.sphere.centre_mm, atol=1e-4)
    assert len(nearest_shapes(lesions, library[:3])) == len(lesions)


def test_what_leaves_the_sphere_or_the_boundary_is_seen(lesions: list[RealShape]) -> None:
    def too_large(
        sphere: Sphere, affine: np.ndarray, shape: Sequence[int], *_: int, **__: object
    ) -> np.ndarray:
        return ball(Sphere(sphere.centre_mm, sphere.radius_mm + 1), affine, shape, 0)

    good = shapes._sphere_summary(draw_all(ball, lesions, 0, "good"), lesions)
    bad = shapes._sphere_summary(draw_all(too_large, lesions, 0, "bad"), lesions)
    assert good["inside"] == {"mean": 1.0, "least": 1.0}
    assert bad["inside"]["least"] < 0.95
    assert bad["diameter_error_mm"]["signed_median"] > 1
    cut = draw_all(ball, lesions, 0, "cut", cut=True)
    assert shapes._sphere_summary(cut, lesions)["inside"]["least"] == 1.0
    # a source that does not care about the boundary is found out
    careless = draw_all(too_large, lesions, 0, "careless", cut=True)
    assert shapes._sphere_summary(careless, lesions)["inside"]["least"] < 0.9


def test_empty_draws_are_counted(lesions: list[RealShape]) -> None:
    def sometimes(
        sphere: Sphere, affine: np.ndarray, shape: Sequence[int], seed: int, **_: object
    ) -> np.ndarray:
        if seed == 0:
            raise ValueError("sphere must have room for a lesion, got none")
        return np.zeros(shape) if seed == 1 else ball(sphere, affine, shape, seed)

    drawn = draw_all(sometimes, lesions, 0, "sometimes")
    assert shapes._sphere_summary(drawn, lesions)["empty"] == 2
    assert np.isnan(drawn.features).any(1).tolist() == [True] * 2 + [False] * 6


def test_forest_tells_different_sets_apart_and_equal_ones_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shape_tests, "TREES", 30)
    rng = np.random.default_rng(0)
    real, patients = rng.normal(size=(60, 3)), [f"p{i // 2}" for i in range(60)]
    same = shape_tests.forest_test(real, rng.normal(size=(60, 3)), patients, folds=3)
    other = shape_tests.forest_test(real, rng.normal(2, 1, size=(60, 3)), patients, folds=3)
    assert 0.3 < same["accuracy"]["mean"] < 0.7
    assert other["accuracy"]["mean"] > 0.9
    assert other["auc"]["mean"] > 0.95
    with pytest.raises(ValueError, match="must match real"):
        shape_tests.forest_test(real, real[:5], patients)


def test_windows_are_alike_in_size_and_place() -> None:
    small, large = (
        PlacedMask(ball(Sphere((c,) * 3, r), np.eye(4), (30,) * 3, 0), np.eye(4))
        for c, r in ((8.0, 4.0), (15.0, 12.0))
    )
    windows = shape_tests.shape_windows([small, large], 24)
    assert windows.shape == (2, 1, 24, 24, 24)
    volumes = (windows >= 0.5).flatten(1).sum(1).double()
    # 27 times the volume; between voxels the outline of the small one lies a little inside
    assert 0.65 < float(volumes[0] / volumes[1]) < 1.2
    same = shape_statistics.diversity([[small, large, None], [None, small]])
    assert same["n"] == 1
    assert same["mean"] > 0.65


def test_steering_is_the_paired_change(lesions: list[RealShape]) -> None:
    ellipsoid = draw_all(draw_ellipsoid, lesions, 0, "low").shapes
    boxes = [lesion.placed for lesion in lesions]
    found = shape_statistics.steering(list(zip(ellipsoid, boxes, strict=True)))
    assert found["roughness"]["mean"] > 0
    low, high = found["sphericity"]["low"], found["sphericity"]["high"]
    assert found["sphericity"]["mean"] == pytest.approx(high - low)
    assert shape_statistics.steering([(None, boxes[0])]) == {}


def test_examples_rise_in_size_and_differ(lesions: list[RealShape]) -> None:
    chosen = example_shapes(lesions, 4)
    sizes = [lesions[i].sphere.radius_mm for i in chosen]
    assert len(set(chosen)) == 4
    assert sizes == sorted(sizes)


def test_whole_evaluation_writes_three_files(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape_statistics, "RESAMPLES", 4)
    monkeypatch.setattr(shapes, "SUBSET", 2)
    monkeypatch.setattr(shapes, "SEEDS", 2)
    monkeypatch.setattr(shape_tests, "TREES", 10)
    quick = partial(shape_tests.two_sample_tests, folds=2, epochs=1)
    monkeypatch.setattr(shapes, "two_sample_tests", quick)
    results = evaluate_shapes("any/model", str(dataset), str(tmp_path), 5, draw=ball, device="cpu")
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == json.loads(json.dumps(results))
    page = (tmp_path / "results.md").read_text()
    for title in ("sphere", "Features", "Distance", "Real or drawn", "Diversity", "Ratings"):
        assert f"{title}" in page
    assert (tmp_path / "shapes.png").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "results.json",
        "results.md",
        "shapes.png",
    ]
    sources = results["sources"]
    assert set(sources) == {"real_validation", "model", "ellipsoid", "real_training"}
    assert results["boundary"]["inside"]["least"] == 1.0
    assert results["diversity"]["model"]["mean"] == pytest.approx(1)  # a ball is always the same
    assert set(results["steering"]) == {"spiculation"}  # all that this source knows of
    assert set(results["real_slopes"]) == {"spiculation"}  # the other does not vary
    near, far = (sources[k]["distance"]["mean"]["value"] for k in ("real_training", "model"))
    assert near < far


def test_command_measures_shapes_where_there_are_no_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(shapes, "evaluate_shapes", lambda **arguments: calls.append(arguments))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text("{}")
    evaluate("data", out="there", bundle=str(tmp_path), limit=3, seed=2)
    expected = {"bundle": str(tmp_path), "dataset_dir": "data", "out": "there"}
    assert calls == [expected | {"limit": 3, "seed": 2}]


def test_a_bundle_that_draws_nothing_is_an_error(dataset: Path, tmp_path: Path) -> None:
    def never(
        sphere: Sphere, affine: np.ndarray, shape: Sequence[int], *_: int, **__: object
    ) -> np.ndarray:
        return np.zeros(shape)

    with pytest.raises(ValueError, match="bundle must draw at least one mask, got none"):
        evaluate_shapes("model", str(dataset), str(tmp_path), limit=3, draw=never)
    assert list(tmp_path.iterdir()) == []

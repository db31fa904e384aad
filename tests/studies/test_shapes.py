"""Shapes are measured as drawn: spheres kept or left, and sources that fill them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.studies.conftest import ball, study_of
from tools.phantoms.datasets import lesion_datalist
from tools.studies import shapes
from tools.studies.cases import Case, PlacedMask, read_masks
from tools.studies.figure import example_cases
from tools.studies.shapes import NearestShapes, ShapeMethod, draw_ellipsoid, shape_windows
from tools.transforms.spheres import Sphere, enclosing_sphere, sphere_mask


def too_large(sphere: Sphere, affine: np.ndarray, shape: Sequence[int], *_: Any, **__: Any) -> Any:
    return ball(Sphere(sphere.centre_mm, sphere.radius_mm + 1), affine, shape)


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
def cases(dataset: Path) -> list[Case]:
    return read_masks(lesion_datalist(dataset, "validation"))


@pytest.fixture(scope="module")
def library(dataset: Path) -> list[Case]:
    return read_masks(lesion_datalist(dataset, "training"))


def test_masks_are_read_with_room_for_their_spheres(dataset: Path, cases: list[Case]) -> None:
    assert len(cases) == 8
    for case in cases:
        original = nib.load(case.name)
        assert case.masks.sum() == np.asarray(original.dataobj).sum()
        found = enclosing_sphere(*case.placed)
        assert np.allclose(found.centre_mm, case.sphere.centre_mm, atol=1e-4)
        # the whole sphere lies on the grid: no voxel of it at the border
        inside = sphere_mask(case.sphere, case.affine, case.masks[0].shape)
        assert not inside[0].any()
        assert not inside[:, :, -1].any()
    assert cases[0].facts["spiculation"] == 3.0
    two = read_masks(lesion_datalist(dataset, "validation"), limit=2)
    assert [case.name for case in two] == [cases[0].name, cases[-1].name]


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
    cases: list[Case], library: list[Case]
) -> None:
    found = list(NearestShapes("m", library=library).generate(cases, 0))
    for placed, case in zip(found, cases, strict=True):
        own = enclosing_sphere(*placed)
        assert np.allclose(own.centre_mm, case.sphere.centre_mm, atol=1e-4)
    voxels = sorted(int(case.masks.sum()) for case in library)
    taken = sorted(int(placed.mask.sum()) for placed in found)
    assert all(taken.count(n) <= voxels.count(n) for n in taken)  # none twice
    few = NearestShapes("m", library=library[:3])
    assert len(list(few.generate(cases, 0))) == len(cases)


@pytest.mark.parametrize(
    ("source", "cut", "least"),
    # a source that does not care about the boundary is found out
    [(ball, False, 1.0), (ball, True, 1.0), (too_large, False, 0.95), (too_large, True, 0.9)],
)
def test_what_leaves_the_sphere_or_the_boundary_is_seen(
    cases: list[Case], source: Callable, cut: bool, least: float
) -> None:
    study = study_of(cases, ShapeMethod("m", source=source, cut=cut))
    found = shapes.sphere(study, ["m"])["methods"]["m"]
    if source is ball:
        assert found["inside"]["least"] == least
    else:
        assert found["inside"]["least"] < least
    if not cut:
        assert (found["diameter"]["signed"] > 1) == (source is too_large)


def test_empty_draws_are_counted_and_left_out(cases: list[Case]) -> None:
    def sometimes(
        sphere: Sphere, affine: np.ndarray, shape: Sequence[int], seed: int, **_: Any
    ) -> np.ndarray:
        if seed == 0:
            raise ValueError("sphere must have room for a lesion, got none")
        return np.zeros(shape) if seed == 1 else ball(sphere, affine, shape)

    study = study_of(cases, ShapeMethod("m", source=sometimes))
    assert [shape is None for shape in study.runs["m"].first] == [True] * 2 + [False] * 6
    assert shapes.sphere(study, ["m"])["methods"]["m"]["empty"] == 2
    features = shapes.features(study, ["m"])
    assert features["methods"]["m"]["sphericity"]["n"] == 6


def test_windows_are_alike_in_size_and_place() -> None:
    small, large = (
        PlacedMask(ball(Sphere((c,) * 3, r), np.eye(4), (30,) * 3), np.eye(4))
        for c, r in ((8.0, 4.0), (15.0, 12.0))
    )
    windows = shape_windows([small, large], 24)
    assert windows.shape == (2, 1, 24, 24, 24)
    volumes = (windows >= 0.5).flatten(1).sum(1).double()
    # 27 times the volume; between voxels the outline of the small one lies a little inside
    assert 0.65 < float(volumes[0] / volumes[1]) < 1.2


def test_balls_are_always_the_same_and_have_the_size_asked_for(
    cases: list[Case], library: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(cases, ShapeMethod("m", source=ball), library=library)
    found = shapes.diversity(study, ["m"], spheres=3, draws=2)
    assert found["methods"]["m"]["mean"] == pytest.approx(1)
    assert found["real"]["mean"] < 1
    monkeypatch.setattr(shapes, "SWEPT_MM", (6.0, 20.0))
    for grid, row in shapes.sizes(study, ["m"])["methods"]["m"].items():
        coarse = max(float(part) for part in grid.split(" x "))
        for asked, got in row.items():
            assert got["got_mm"] == pytest.approx(float(asked), abs=coarse)


def test_scores_change_what_they_should(cases: list[Case], library: list[Case]) -> None:
    def rough(*arguments: Any, within: Any = None, spiculation: float = 1.0) -> np.ndarray:
        mask = ball(*arguments)
        if spiculation == 5:
            mask &= np.indices(mask.shape).sum(0) % 3 > 0
        return mask

    study = study_of(cases, ShapeMethod("m", source=rough), library=library)
    found = shapes.steering(study, ["m"], spheres=3)
    assert set(found["methods"]["m"]) == {"spiculation"}  # all that this source knows of
    row = found["methods"]["m"]["spiculation"]["sphericity"]
    assert row["mean"] == pytest.approx(row["high"] - row["low"])
    assert row["mean"] < 0
    assert set(found["real"]) == {"spiculation"}  # the other does not vary


def test_examples_rise_in_size_and_differ(cases: list[Case]) -> None:
    chosen = example_cases(cases, 4)
    sizes = [cases[i].sphere.radius_mm for i in chosen]
    assert len(set(chosen)) == 4
    assert sizes == sorted(sizes)

"""Shapes of lesions: where they come from, and whether they keep, vary and look as they should."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from tools.metrics import ShapeFeatures, shape_features
from tools.metrics.shape import feature_distances
from tools.shapes.sources import EllipsoidShapes
from tools.studies.cases import Case, PlacedMask
from tools.studies.classify import forest_test, network_test
from tools.studies.methods import Drawn, Method
from tools.studies.statistics import Found, mean_and_error, quartiles, standard_error
from tools.transforms.spheres import (
    Sphere,
    enclosing_sphere,
    half_voxel_mm,
    shape_grid,
    sphere_mask,
)
from tools.windows import cut_window

# Below this diameter an ellipsoid's deformation grows with its size, so a large one may be shrunk;
# a small one is coarse on its window of 1 mm.
ELLIPSOID_MM, FITS = 16.0, 6
KEPT_BY_PLANE = (0.0, 0.6)  # where a boundary cuts: distance from the centre in radii
SCORES = ("spiculation", "lobulation")
STEERED = ("roughness", "sphericity")
MASK_WINDOW, MASK_EPOCHS = 16, 16  # of the 3-D network
OVERLAP_WINDOW = 24
SWEPT_MM = (4.0, 6.0, 8.0, 10.0, 14.0, 18.0, 24.0, 30.0)
GRIDS_MM = ((1.0, 1.0, 1.0), (0.78, 0.78, 1.0), (0.7, 0.7, 2.5))
SWEEP_MARGIN_MM = 4.0

# (sphere, affine, shape, seed, within=None), for a shape model spiculation and lobulation too, to a
# bool mask on the grid; empty or a ValueError where there is none
DrawShape = Callable[..., np.ndarray]


@dataclass
class ShapeMethod(Method):
    """Masks drawn into the spheres of real ones, on their grids; None where nothing comes of it.

    With ``cut`` only one side of a random plane through each sphere is allowed.
    """

    source: DrawShape = np.zeros
    cut: bool = False

    def generate(self, cases: Sequence[Case], seed: int) -> Iterator[PlacedMask | None]:
        """Yield the masks."""
        for i, (case, within) in enumerate(zip(cases, self.boundaries(cases, seed), strict=True)):
            yield self.draw(case, seed + i, within=within)

    def draw(self, case: Case, seed: int, **arguments: Any) -> PlacedMask | None:
        """Return a mask in the sphere of a case."""
        mask, affine = case.placed
        try:
            drawn = np.asarray(self.source(case.sphere, affine, mask.shape, seed, **arguments)) > 0
        except ValueError as error:  # what a source says of an empty prediction
            tqdm.write(f"nothing drawn: {error}")
            return None
        return PlacedMask(drawn, affine) if drawn.any() else None

    def boundaries(self, cases: Sequence[Case], seed: int) -> list[np.ndarray | None]:
        """Return True on the larger side of a random plane through each sphere; None: no plane."""
        rng, found = np.random.default_rng(seed), list[np.ndarray | None]()
        if not self.cut:
            return [None] * len(cases)
        for case in cases:
            mask, affine = case.placed
            normal = rng.normal(size=3)
            height = rng.uniform(*KEPT_BY_PLANE) * case.sphere.radius_mm
            points = _points(affine, mask.shape) - case.sphere.centre_mm
            found.append(points @ (normal / np.linalg.norm(normal)) <= height)
        return found


@dataclass
class NearestShapes(Method):
    """Real masks of nearest size, each about the centre of the other: the best to be reached.

    They are mirrored at random; none is taken twice while there are others.
    """

    library: Sequence[Case] = ()

    def generate(self, cases: Sequence[Case], seed: int) -> Iterator[PlacedMask]:
        """Yield the masks."""
        rng = np.random.default_rng(seed)
        radii = np.array([item.sphere.radius_mm for item in self.library])
        free = np.ones(len(self.library), bool)
        found: dict[int, PlacedMask] = {}
        for i in rng.permutation(len(cases)):
            if not free.any():
                free[:] = True
            distance = np.where(free, np.abs(radii - cases[i].sphere.radius_mm), np.inf)
            chosen = int(distance.argmin())
            free[chosen] = False
            found[int(i)] = _place_on(self.library[chosen].placed, cases[i].sphere, rng)
        yield from (found[i] for i in range(len(cases)))


def _points(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the place of each voxel in mm, ``(*shape, 3)``."""
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def draw_ellipsoid(
    sphere: Sphere,
    affine: np.ndarray,
    shape: Sequence[int],
    seed: int,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a deformed ellipsoid (:class:`tools.shapes.sources.EllipsoidShapes`) into a sphere.

    Size and place are fitted in a few steps until the smallest sphere about its voxels is the one
    asked for; the ellipsoid keeps its form. ``within`` is True where the lesion may lie.
    """
    wanted = max(1.6 * sphere.radius_mm, ELLIPSOID_MM)
    drawn = EllipsoidShapes().draw(wanted, np.random.default_rng(seed))
    own = enclosing_sphere(drawn.sdf > 0, np.eye(4))
    offsets = _points(affine, shape) - sphere.centre_mm
    allowed = sphere_mask(sphere, affine, shape)
    scale, shift = sphere.radius_mm / own.radius_mm, np.zeros(3)
    best, least = np.linalg.norm(offsets, axis=-1) <= np.linalg.norm(offsets, axis=-1).min(), np.inf
    for _ in range(FITS):
        points = (offsets - shift) / max(scale, 1e-6) + own.centre_mm
        level = ndimage.map_coordinates(drawn.sdf, np.moveaxis(points, -1, 0), order=1, cval=-1.0)
        mask = (level > 0) & allowed
        if not mask.any():
            scale *= 1.2
            continue
        found = enclosing_sphere(mask, affine)
        drift = np.subtract(sphere.centre_mm, found.centre_mm)
        error = abs(sphere.radius_mm - found.radius_mm) + float(np.linalg.norm(drift))
        if error < least:
            best, least = mask, error
        scale *= (sphere.radius_mm + 0.5) / (found.radius_mm + 0.5)
        shift = shift + drift
    return best if within is None else best & (np.asarray(within) > 0)


def _place_on(item: PlacedMask, sphere: Sphere, rng: np.random.Generator) -> PlacedMask:
    """Return a mask mirrored in-plane at random, its sphere about the centre of another one."""
    mask, affine = item
    for axis in range(2):
        mask = np.flip(mask, axis) if rng.random() < 0.5 else mask
    own = enclosing_sphere(mask, affine)
    moved = np.array(affine, float)
    moved[:3, 3] += np.subtract(sphere.centre_mm, own.centre_mm)
    return PlacedMask(np.ascontiguousarray(mask), moved)


def sphere(study: Drawn, methods: Sequence[str]) -> Found:
    """Return errors of the sphere in mm, voxels inside sphere and boundary, empty draws."""
    found: Found = {"methods": {}}
    for name in methods:
        method, made = study.methods[name], study.runs[name].first
        summary: dict[str, Any] = {"empty": made.count(None)}
        found["methods"][name] = summary
        pairs = [(s, case) for s, case in zip(made, study.cases, strict=True) if s is not None]
        if not pairs:
            continue
        spheres = [(enclosing_sphere(*shape), case.sphere) for shape, case in pairs]
        signed = [2 * (own.radius_mm - asked.radius_mm) for own, asked in spheres]
        summary["diameter"] = _errors(np.abs(signed)) | {"signed": float(np.median(signed))}
        if not isinstance(method, ShapeMethod):
            continue
        moved = [np.linalg.norm(np.subtract(s.centre_mm, a.centre_mm)) for s, a in spheres]
        summary["centre"] = _errors(np.array(moved))
        inside = _shares_inside(method, study, made)
        summary["inside"] = {"mean": float(np.mean(inside)), "least": float(np.min(inside))}
    return found


def _errors(values: np.ndarray) -> dict[str, Any]:
    return {**(quartiles(values) or {}), "p95": float(np.percentile(values, 95))}


def _shares_inside(
    method: ShapeMethod, study: Drawn, made: Sequence[PlacedMask | None]
) -> list[float]:
    """Return the share of each mask's voxels in the sphere and the boundary asked for."""
    shares = []
    boundaries = method.boundaries(study.cases, study.seed)
    for shape, case, within in zip(made, study.cases, boundaries, strict=True):
        if shape is not None:
            allowed = sphere_mask(case.sphere, shape.affine, shape.mask.shape)
            allowed = allowed if within is None else allowed & within
            shares.append(float(allowed[shape.mask].mean()))
    return shares


def sizes(study: Drawn, methods: Sequence[str]) -> Found:
    """Draw one lesion per size and grid and measure the sphere round it.

    Sizes are diameters of the sphere round the lesion, half a voxel beyond the centres of its
    voxels; the seed counts on from lesion to lesion.
    """
    found: Found = {"methods": {}}
    pairs = [(grid, size) for grid in GRIDS_MM for size in SWEPT_MM]
    for name in methods:
        method, rows = study.methods[name], dict[str, dict[str, Any]]()
        assert isinstance(method, ShapeMethod)
        for number, (grid, size) in enumerate(tqdm(pairs, desc="sizes")):
            affine = np.diag([*grid, 1.0])
            shape = [int(np.ceil((size + 2 * SWEEP_MARGIN_MM) / spacing)) for spacing in grid]
            half = half_voxel_mm(affine)
            x, y, z = (float(s * (n - 1) / 2) for s, n in zip(grid, shape, strict=True))
            asked = Sphere((x, y, z), size / 2 - half)
            mask = method.source(asked, affine, shape, study.seed + number)
            got = 2 * (enclosing_sphere(mask, affine).radius_mm + half)
            volume = float(np.sum(mask) * np.prod(grid))
            row = rows.setdefault(" x ".join(f"{value:g}" for value in grid), {})
            row[f"{size:g}"] = {"got_mm": round(got, 2), "volume_mm3": round(volume, 1)}
        found["methods"][name] = rows
    return found


def _features(shapes: Sequence[PlacedMask | None]) -> np.ndarray:
    """Return features of each shape, ``(n, features)``, NaN where there is none."""
    nothing = (np.nan,) * len(ShapeFeatures._fields)
    return np.array([nothing if shape is None else shape_features(*shape) for shape in shapes])


def features(study: Drawn, methods: Sequence[str]) -> Found:
    """Return the features of shapes: quartiles, and the distances of their distributions.

    ``distance`` is that of :func:`tools.metrics.shape.feature_distances`, in real standard
    deviations, with its standard error over pairs of drawn and real mask.
    """
    reference = _features([case.placed for case in study.cases])
    found: Found = {"methods": {}, "real": _quartiles(reference)}
    for name in methods:
        drawn = _features(study.runs[name].first)

        def all_and_mean(rows: np.ndarray, drawn: np.ndarray = drawn) -> np.ndarray:
            found = feature_distances(drawn[rows], reference[rows])
            return np.append(found, found.mean())

        values = all_and_mean(np.arange(len(drawn)))
        errors = standard_error(len(drawn), all_and_mean, study.seed)
        pairs = zip((*ShapeFeatures._fields, "mean"), values.tolist(), errors.tolist(), strict=True)
        summary = _quartiles(drawn)
        found["methods"][name] = {
            feature: {**summary.get(feature, {}), "distance": value, "error": error}
            for feature, value, error in pairs
        }
    return found


def _quartiles(rows: np.ndarray) -> dict[str, Any]:
    known = rows[~np.isnan(rows).any(1)]
    return {
        name: quartiles(column) for name, column in zip(ShapeFeatures._fields, known.T, strict=True)
    }


def shape_windows(shapes: Sequence[PlacedMask], size: int = MASK_WINDOW) -> Tensor:
    """Return masks in windows scaled to their own spheres, ``(n, 1, size, size, size)``.

    Linear between voxels, in [0, 1]: 0.5 is the outline.
    """
    windows = []
    for mask, affine in shapes:
        centre, radius = enclosing_sphere(mask, affine)
        # voxels reach half their width beyond their centres; a lone one has no sphere at all
        grid = shape_grid(centre, radius + half_voxel_mm(affine), size)
        windows.append(torch.from_numpy(cut_window(mask, affine, grid, beyond=0.0))[None])
    return torch.stack(windows)


def mask_realism(study: Drawn, methods: Sequence[str]) -> Found:
    """Test with a random forest on features, and with a 3-D network on the masks themselves."""
    found: Found = {"methods": {}}
    for name in methods:
        pairs = zip(study.runs[name].first, study.cases, strict=True)
        kept = [(shape, case) for shape, case in pairs if shape is not None]
        synthetic, real = [shape for shape, _ in kept], [case.placed for _, case in kept]
        patients = [case.patient for _, case in kept]
        if len(set(patients)) < 2:
            found["methods"][name] = {}
            continue
        seed, device = study.seed, study.device
        windows = shape_windows(real), shape_windows(synthetic)
        found["methods"][name] = {
            "forest": forest_test(_features(real), _features(synthetic), patients, seed=seed),
            "network": network_test(
                *windows, patients, epochs=MASK_EPOCHS, seed=seed, device=device
            ),
        }
    return found


def _chosen(cases: Sequence[Case], count: int) -> list[Case]:
    """Return cases evenly spread over the sizes of their spheres."""
    ranked = sorted(cases, key=lambda case: case.sphere.radius_mm)
    places = np.unique(np.linspace(0, len(ranked) - 1, count).round().astype(int))
    return [ranked[i] for i in places]


def _overlap(shapes: Sequence[PlacedMask | None]) -> float | None:
    """Return the mean intersection over union of all pairs, each scaled to its own sphere."""
    drawn = [shape for shape in shapes if shape is not None]
    if len(drawn) < 2:
        return None
    windows = [window >= 0.5 for window in shape_windows(drawn, OVERLAP_WINDOW)]
    overlaps = [
        float((a & b).sum() / max(int((a | b).sum()), 1)) for a, b in combinations(windows, 2)
    ]
    return float(np.mean(overlaps))


def diversity(study: Drawn, methods: Sequence[str], spheres: int, draws: int) -> Found:
    """Return the mean overlap of several draws in one sphere; 1 means that all are the same.

    ``spheres`` of all sizes are drawn into. ``real``: as many real training masks of nearest size.
    """
    cases, rng = _chosen(study.cases, spheres), np.random.default_rng(study.seed)
    library = study.training_cases()
    radii = np.array([item.sphere.radius_mm for item in library])
    found: dict[str, list[float | None]] = {"real": []}
    for case in cases:
        order = np.argsort(np.abs(radii - case.sphere.radius_mm), kind="stable")[:draws]
        placed = [_place_on(library[int(i)].placed, case.sphere, rng) for i in order]
        found["real"].append(_overlap(placed))
    for name in methods:
        method = study.methods[name]
        assert isinstance(method, ShapeMethod)
        seeds = [study.seed + 1000 * k for k in range(draws)]
        found[name] = [
            _overlap([method.draw(case, seed + i) for seed in seeds])
            for i, case in enumerate(tqdm(cases, desc=f"diversity, {name}"))
        ]
    errors = {
        name: mean_and_error([value for value in values if value is not None], study.seed)
        for name, values in found.items()
    }
    return {"real": errors.pop("real"), "methods": errors}


def steering(study: Drawn, methods: Sequence[str], spheres: int) -> Found:
    """Return the change of roughness and sphericity from the lowest to the highest score.

    By score that a source knows of and feature: mean change at the same sphere and seed with its
    standard error, the means at both ends, and the share of spheres in which it rises. ``real``:
    what goes with the score in training masks (:func:`_real_slopes`).
    """
    cases, found = _chosen(study.cases, spheres), dict[str, Any]()
    for name in methods:
        method = study.methods[name]
        assert isinstance(method, ShapeMethod)
        known = inspect.signature(method.source).parameters
        found[name] = {}
        for score in (score for score in SCORES if score in known):
            ends = [
                [method.draw(case, study.seed + i, **{score: value}) for value in (1.0, 5.0)]
                for i, case in enumerate(tqdm(cases, desc=score))
            ]
            found[name][score] = _changes(ends, study.seed)
    return {"methods": found, "real": _real_slopes(study.training_cases(), study.seed)}


def _changes(ends: Sequence[Sequence[PlacedMask | None]], seed: int) -> dict[str, Any]:
    pairs = [[shape for shape in pair if shape is not None] for pair in ends]
    rows = [[shape_features(*shape) for shape in pair] for pair in pairs if len(pair) == 2]
    found = {}
    for name in STEERED if rows else ():
        values = np.array([[getattr(features, name) for features in pair] for pair in rows])
        change = values[:, 1] - values[:, 0]
        found[name] = mean_and_error(change.tolist(), seed) | {
            "low": float(values[:, 0].mean()),
            "high": float(values[:, 1].mean()),
            "rising": float((change > 0).mean()),
        }
    return found


def _real_slopes(library: Sequence[Case], seed: int) -> dict[str, dict[str, Any]]:
    """Return how roughness and sphericity of real masks go with each score, at equal size.

    A linear regression on the score and the logarithm of the sphere's radius; four times the slope
    is what lies between the scores 1 and 5. A score that does not vary is absent.
    """
    rated = [case for case in library if all(score in case.facts for score in SCORES)]
    if len(rated) < 4:
        return {}
    rows = [shape_features(*case.placed) for case in tqdm(rated, desc="real masks by rating")]
    radii = np.log([max(case.sphere.radius_mm, 0.5) for case in rated])
    found: dict[str, dict[str, Any]] = {}
    for score in SCORES:
        scores = np.array([case.facts[score] for case in rated])
        if np.ptp(scores) == 0:
            continue
        design = np.stack([scores, radii, np.ones_like(radii)], 1)
        found[score] = {
            name: _slope(design, np.array([getattr(row, name) for row in rows]), seed)
            for name in STEERED
        }
    return found


def _slope(design: np.ndarray, values: np.ndarray, seed: int) -> dict[str, Any]:
    def change(rows: np.ndarray) -> float:
        return float(4 * np.linalg.lstsq(design[rows], values[rows], rcond=None)[0][0])

    error = standard_error(len(values), change, seed)
    return {"mean": change(np.arange(len(values))), "error": float(error), "n": len(values)}

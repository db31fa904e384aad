"""Measure a bundle of lesion shapes on real validation masks (``evaluate``)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.evaluation.control import summarize
from tools.evaluation.results import write_results
from tools.evaluation.shape_figure import write_gallery
from tools.evaluation.shape_sizes import size_sweep
from tools.evaluation.shape_sources import (
    DrawShape,
    PlacedMask,
    RealShape,
    draw_ellipsoid,
    load_shapes,
    nearest_shapes,
)
from tools.evaluation.shape_statistics import (
    distance_summary,
    diversity,
    real_diversity,
    real_slopes,
    steering,
)
from tools.evaluation.shape_tables import shapes_page
from tools.evaluation.shape_tests import two_sample_tests
from tools.metrics import ShapeFeatures, shape_features
from tools.synthesis.bundles import choose_device
from tools.synthesis.records import sha256_file
from tools.transforms.spheres import enclosing_sphere, sphere_mask

__all__ = ["evaluate_shapes"]

SUBSET, SEEDS = 24, 4
KEPT_BY_PLANE = (0.0, 0.6)  # where a boundary cuts: distance from the centre in radii


@dataclass
class Drawn:
    """What one source drew for each validation mask; None where it drew nothing."""

    shapes: list[PlacedMask | None] = field(default_factory=list)
    allowed: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def features(self) -> np.ndarray:
        """Features of each shape, ``(n, features)``, NaN where there is none."""
        nothing = (np.nan,) * len(ShapeFeatures._fields)
        return np.array([nothing if s is None else shape_features(*s) for s in self.shapes])


def evaluate_shapes(
    bundle: str = "bundles/diffmask",
    dataset_dir: str = "",
    out: str = "out/evaluate",
    limit: int | None = None,
    seed: int = 0,
    boundary: bool = True,
    device: str = "auto",
    draw: DrawShape | None = None,
) -> dict[str, Any]:
    """Measure whether shapes keep to their spheres, look real, differ, and follow the ratings.

    For the sphere of every validation mask the bundle draws a mask; ellipsoids in the same
    spheres and real training masks of nearest size are measured next to them: what a simple method
    reaches, and the best that can be reached. Writes ``results.json``, ``results.md`` and
    ``shapes.png`` into ``out``.

    Args:
        bundle: folder of the bundle, or its name.
        dataset_dir: folder made by ``prepare scans``, with a training and a validation section.
        out: folder for the results.
        limit: number of validation masks, evenly spread; None takes all.
        seed: of all chance.
        boundary: also draw each shape in its sphere cut by a random plane.
        device: ``auto``, ``cpu``, ``cuda``.
        draw: what draws the masks; None takes the bundle's model.

    Returns:
        The content of ``results.json``.

    Raises:
        FileNotFoundError: if the bundle or the dataset does not exist.
        ValueError: if a section is missing, or nothing at all was drawn.
    """
    lesions = load_shapes(dataset_dir, "validation", limit)
    library = load_shapes(dataset_dir, "training")
    name, settings = Path(bundle).name, {"dataset": dataset_dir, "masks": len(lesions)}
    if draw is None:
        draw, settings["weights_sha256"] = _load_model(bundle, device)
    sources = {
        name: draw_all(draw, lesions, seed, name),
        "ellipsoid": draw_all(draw_ellipsoid, lesions, seed, "ellipsoid"),
        "real_training": Drawn([each.placed for each in nearest_shapes(lesions, library, seed)]),
    }
    if not any(shape is not None for shape in sources[name].shapes):
        raise ValueError(f"bundle must draw at least one mask, got none from {bundle}")
    results: dict[str, Any] = {"settings": settings | {"seed": seed, "source": name}}
    results["sources"] = _compare(sources, lesions, seed, str(choose_device(device)))
    if boundary:
        cut = draw_all(draw, lesions, seed, "boundaries", cut=True)
        results["boundary"] = _sphere_summary(cut, lesions)
    results["sizes"] = size_sweep(draw, seed)
    results |= _variation(draw, lesions, library, seed)
    write_results(Path(out), results, shapes_page(results))
    shapes = {source: drawn.shapes for source, drawn in sources.items()}
    write_gallery(Path(out) / "shapes.png", lesions, shapes)
    return results


def _compare(
    sources: Mapping[str, Drawn], lesions: Sequence[RealShape], seed: int, device: str
) -> dict[str, Any]:
    """Return spheres, features, distances and tests of each source against the real masks."""
    real, patients = [each.placed for each in lesions], [each.patient for each in lesions]
    reference = Drawn(list(real)).features
    found: dict[str, Any] = {"real_validation": {"features": _feature_summary(reference)}}
    for name, drawn in sources.items():
        features = drawn.features
        tests = two_sample_tests(
            real, drawn.shapes, (reference, features), patients, seed=seed, device=device
        )
        found[name] = _sphere_summary(drawn, lesions, in_place=name != "real_training") | {
            "features": _feature_summary(features),
            "distance": distance_summary(features, reference, seed),
            "tests": tests,
        }
    return found


def _load_model(bundle: str, device: str) -> tuple[DrawShape, str]:
    from tools.synthesis.shape_generator import ShapeGenerator

    generator = ShapeGenerator(bundle, device)
    return generator.draw, sha256_file(generator.weights)[:16]


def draw_all(
    draw: DrawShape, lesions: Sequence[RealShape], seed: int, description: str, cut: bool = False
) -> Drawn:
    """Draw one mask per lesion into its sphere, on its grid; lesion i with ``seed + i``.

    Args:
        draw: the source.
        lesions: whose spheres are asked for.
        seed: of the masks and of the planes.
        description: in front of the progress bar.
        cut: allow only one side of a random plane through each sphere.
    """
    rng = np.random.default_rng(seed)
    result = Drawn()
    for i, lesion in enumerate(tqdm(lesions, desc=description)):
        mask, affine = lesion.placed
        allowed = sphere_mask(lesion.sphere, affine, mask.shape)
        within = None
        if cut:
            within = _half_space(lesion, rng)
            allowed &= within
        start = time.perf_counter()
        shape = draw_or_none(draw, lesion, seed + i, within=within)
        result.seconds.append(time.perf_counter() - start)
        result.shapes.append(shape)
        result.allowed.append(allowed)
    return result


def draw_or_none(
    draw: DrawShape, lesion: RealShape, seed: int, **arguments: Any
) -> PlacedMask | None:
    """Draw a mask into the sphere of a lesion, on its grid; None where nothing comes of it."""
    mask, affine = lesion.placed
    try:
        drawn = np.asarray(draw(lesion.sphere, affine, mask.shape, seed, **arguments)) > 0
    except ValueError as error:  # what a source says of an empty prediction
        tqdm.write(f"nothing drawn: {error}")
        return None
    return PlacedMask(drawn, affine) if drawn.any() else None


def _half_space(lesion: RealShape, rng: np.random.Generator) -> np.ndarray:
    """Return True on the larger side of a random plane through the sphere of a lesion."""
    mask, affine = lesion.placed
    normal = rng.normal(size=3)
    height = rng.uniform(*KEPT_BY_PLANE) * lesion.sphere.radius_mm
    index = np.stack(np.meshgrid(*[np.arange(n) for n in mask.shape], indexing="ij"), -1)
    points = index @ affine[:3, :3].T + affine[:3, 3] - lesion.sphere.centre_mm
    return points @ (normal / np.linalg.norm(normal)) <= height


def _sphere_summary(
    drawn: Drawn, lesions: Sequence[RealShape], in_place: bool = True
) -> dict[str, Any]:
    """Return errors of the sphere in mm, voxels inside, empties and seconds of one source."""
    pairs = [(s, lesion) for s, lesion in zip(drawn.shapes, lesions, strict=True) if s is not None]
    own = [enclosing_sphere(*shape) for shape, _ in pairs]
    both = [(sphere, lesion.sphere) for sphere, (_, lesion) in zip(own, pairs, strict=True)]
    signed = [2 * (sphere.radius_mm - asked.radius_mm) for sphere, asked in both]
    summary: dict[str, Any] = {"empty": len(lesions) - len(pairs)}
    if not pairs:
        return summary
    summary["diameter_error_mm"] = _error_summary(np.abs(signed)) | {
        "signed_median": float(np.median(signed))
    }
    if in_place:
        moved = [np.linalg.norm(np.subtract(s.centre_mm, a.centre_mm)) for s, a in both]
        summary["centre_error_mm"] = _error_summary(np.array(moved))
    if drawn.allowed:
        inside = [
            float(allowed[shape.mask].mean())
            for shape, allowed in zip(drawn.shapes, drawn.allowed, strict=True)
            if shape is not None
        ]
        summary["inside"] = {"mean": float(np.mean(inside)), "least": float(np.min(inside))}
    if drawn.seconds:
        summary["seconds"] = summarize(drawn.seconds)
    return summary


def _error_summary(values: np.ndarray) -> dict[str, float | int]:
    return summarize(values.tolist()) | {"p95": float(np.percentile(values, 95))}


def _feature_summary(features: np.ndarray) -> dict[str, Any]:
    found = features[~np.isnan(features).any(1)]
    return {name: summarize(row) for name, row in zip(ShapeFeatures._fields, found.T, strict=True)}


def _variation(
    draw: DrawShape, lesions: Sequence[RealShape], library: Sequence[RealShape], seed: int
) -> dict[str, Any]:
    """Return how much draws differ at equal spheres, and how ratings change them."""
    ranked = sorted(lesions, key=lambda lesion: lesion.sphere.radius_mm)
    places = np.unique(np.linspace(0, len(ranked) - 1, SUBSET).round().astype(int))
    chosen = [ranked[i] for i in places]
    found: dict[str, Any] = {"diversity": {"real": real_diversity(chosen, library, SEEDS, seed)}}
    for name, source in (("model", draw), ("ellipsoid", draw_ellipsoid)):
        draws = [
            [draw_or_none(source, lesion, seed + 1000 * k + i) for k in range(SEEDS)]
            for i, lesion in enumerate(tqdm(chosen, desc=f"diversity, {name}"))
        ]
        found["diversity"][name] = diversity(draws, seed)
    known = inspect.signature(draw).parameters
    found["steering"] = {}
    for score in ("spiculation", "lobulation"):
        if score not in known:
            continue
        ends = [
            tuple(draw_or_none(draw, lesion, seed + i, **{score: v}) for v in (1.0, 5.0))
            for i, lesion in enumerate(tqdm(chosen, desc=score))
        ]
        found["steering"][score] = steering(ends, seed)
    found["real_slopes"] = real_slopes(library, seed)
    return found

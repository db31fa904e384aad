"""Stands for bundles: what fills windows in no time, and whole jobs made of it."""

from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tools.intensity import HuWindow
from tools.organs import load_organ
from tools.organs.sources import make_organ_source
from tools.phantoms.heart_mr import heart_mr
from tools.scans.scan import Scan
from tools.shapes import EllipsoidShapes, LabelShape, Place
from tools.synthesis.catalogue import Subtype, SubtypeLibrary
from tools.synthesis.lesion import WindowJob
from tools.synthesis.records import BundleRecord
from tools.synthesis.synthesizer import Synthesizer
from tools.synthesis.textures import Textures
from tools.synthesis.view import CropView, CubeView, SlicesView, View
from tools.transforms.rim import with_rim

WINDOW = (-1000.0, 400.0)
RISE = 300.0
MARGIN = 3.0
FLAT = {"solid": {"histogram": [1 / 16] * 16, "weight": 1.0}}
LEVEL = {"histogram": ([0.0] * 12 + [1.0] + [0.0] * 3) * 2, "weight": 1.0}


class Stub:
    """Fills windows with ``fill(job)``, counts and keeps what it was asked for."""

    def __init__(
        self,
        view: View,
        fill: Callable[[WindowJob], np.ndarray],
        presets: dict[str, Any] = FLAT,
        library: SubtypeLibrary | None = None,
    ) -> None:
        self.view, self.fill, self.presets, self.library = view, fill, presets, library
        self.settings = {"num_inference_steps": 1}
        self.record = BundleRecord("stub", "0.1.0")
        self.device, self.cores = torch.device("cpu"), False
        self.jobs: list[WindowJob] = []

    @property
    def sampled(self) -> int:
        return len(self.jobs)

    def sample(self, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
        self.jobs += jobs
        return [self.fill(job).astype(np.float32) for job in jobs]

    def batch_together(self) -> None:
        pass


def noise(job: WindowJob) -> np.ndarray:
    """Noise of the lesion's seed."""
    return np.random.default_rng(job.seed).normal(0, 200, job.image.shape)


def row(*bins: int, of: int = 40) -> list[float]:
    """A histogram with equal shares in these bins."""
    return [1 / len(bins) if i in bins else 0.0 for i in range(of)]


def library() -> SubtypeLibrary:
    """Solid lesions small and dark or large and bright; ground-glass ones of one kind."""
    solid = Subtype(0, 0.75, np.array([6.0, 20.0]), np.array([row(20), row(30)]), row(25))
    glass = Subtype(2, 0.25, np.array([9.0]), np.array([row(10)]), row(10))
    return SubtypeLibrary(solid=solid, ground_glass=glass)


def cubes(fill: Callable[[WindowJob], np.ndarray] = noise) -> Stub:
    """A bundle of voxels."""
    return Stub(CubeView(WINDOW), fill)


def rims(margin_mm: float = 2.0) -> Stub:
    """A bundle of voxels that draws the rim too: raises all that is near the lesion by 300 HU."""
    view = CubeView(WINDOW, margin_mm=margin_mm)

    def rise(job: WindowJob) -> np.ndarray:
        masks = torch.from_numpy(job.lesion_mask.reshape(-1, *job.image.shape)).float()
        drawn = with_rim(masks, margin_mm)[0].numpy() > 0
        return np.where(drawn, np.clip(job.image + RISE, *WINDOW), job.image)

    return Stub(view, rise)


def crops(noise: float = 0.0, **window: Any) -> Stub:
    """A bundle of latents: raises its whole crop by 300 HU, far from the lesion too."""
    known = library()

    def rise(job: WindowJob) -> np.ndarray:
        grain = np.random.default_rng(job.seed).normal(0, noise, job.image.shape)
        return np.clip(job.image, -1000, 1000) + RISE + grain

    view = CropView(WINDOW, (-1000.0, 1000.0), **window)
    return Stub(view, rise, known.presets, known)


def slices(levels: Sequence[float] = (0.5,)) -> Stub:
    """A bundle of thick slices: fills everything with a level of [-1, 1], the next each time."""
    view = SlicesView(load_organ("heart"), (1, 2, 3, 4), (48, 48), 1.6, (0.5, 99.5), 0)

    def level(job: WindowJob) -> np.ndarray:
        value = levels[min(len(stub.jobs), len(levels)) - 1]
        return HuWindow(*job.window).unscaled(np.full(job.image.shape, value))

    stub = Stub(view, level, {"moderate": LEVEL})
    return stub


class HalfWall:
    """Stands for a source of shapes: one side of the wall, its middle slice of the inner class."""

    def draw(self, diameter_mm: Any, rng: np.random.Generator, place: Place) -> LabelShape:
        wall = place.organ_mask
        side = np.arange(wall.shape[0])[:, None, None] < np.argwhere(wall).mean(0)[0]
        label = np.where(wall & side, place.values[0], 0).astype(np.uint8)
        middle = label[..., label.shape[2] // 2]
        middle[middle > 0] = place.values[1]
        return LabelShape.measure(label, place, "half", 60.0)


def lung_job(stub: Stub | None = None, texture: str = "solid", **options: Any) -> Synthesizer:
    """A job for nodules, with ellipsoids."""
    stub, organ = cubes() if stub is None else stub, load_organ("lung")
    given = {"count": 1, "diameter_mm": (6.0, 8.0), "attempts": 1} | options
    shapes = given.pop("shapes", None) or EllipsoidShapes()
    textures = Textures(texture, stub.presets, organ, stub.library, WINDOW)
    organs = given.pop("organs", None) or make_organ_source(organ, "recipe")
    return Synthesizer(organ, stub, shapes, textures, organs, **given)


def heart_job(stub: Stub | None = None, texture: str = "moderate", **options: Any) -> Synthesizer:
    """A job for infarcts, in half of the wall."""
    stub, organ = slices() if stub is None else stub, load_organ("heart")
    given = {"diameter_mm": (45.0, 105.0), "placement": "wall"} | options
    shapes = given.pop("shapes", None) or HalfWall()
    textures = Textures(texture, stub.presets, organ, view=stub.view)
    return Synthesizer(organ, stub, shapes, textures, make_organ_source(organ), **given)


def heart_scan(
    axes: tuple[int, int, int] = (0, 1, 2), infarct: bool = False
) -> tuple[Scan, nib.Nifti1Image]:
    """A heart and its label map, their axes in some order."""
    phantom = heart_mr((72, 64, 6), (1.4, 1.4, 9.0), seed=3, infarct=infarct)
    affine = phantom.affine[:, [*axes, 3]]
    image, label = (
        np.ascontiguousarray(np.transpose(a, axes)) for a in (phantom.image, phantom.label)
    )
    return Scan(nib.Nifti1Image(image, affine)), nib.Nifti1Image(label.astype(np.uint8), affine)

"""From the options of the command line to the job that a bundle calls for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.synthesis.generator import LesionGenerator
from tools.synthesis.hearts.job import HeartJob
from tools.synthesis.hearts.request import DIAMETER_MM
from tools.synthesis.hearts.shapes import HeartRequest, make_heart_shape_source
from tools.synthesis.hearts.textures import HeartTextures
from tools.synthesis.job import Job
from tools.synthesis.lobes import check_lobes
from tools.synthesis.organ_masks import make_organ_source
from tools.synthesis.plan import Request, TextureChoice
from tools.synthesis.shape_choice import ShapeOptions, make_shape_source
from tools.synthesis.subtypes import SubtypeTextures

__all__ = ["JobOptions", "make_job"]

Range = float | Sequence[float] | None


@dataclass(frozen=True)
class JobOptions:
    """What the user asks for, as it comes from the command line; None is the bundle's default.

    Args:
        count: lesions per scan.
        texture: names of textures with commas between.
        diameter_mm: one number or two.
        shape: name of a source of shapes.
        spiculation: of nodules, score 1 to 5.
        lobulation: likewise.
        no_reflow_share: of hearts, one number or two.
        site: centre of the first lesion, RAS mm.
        placement: of nodules.
        erosion_mm: depth of the shell under the surface of the lungs.
        lobe: names of lobes with commas between, or a list of them; "any" is all.
        organ_source: of scans in HU without a mask.
        organ_bundle: folder of the bundle that finds the organ.
        seed: source of all chance.
        attempts: samples per lesion at most.
        device: of the models.
    """

    count: int | None = None
    texture: str = "mixed"
    diameter_mm: Range = None
    shape: str = "diffmask"
    spiculation: float | None = None
    lobulation: float | None = None
    no_reflow_share: Range = None
    site: tuple[float, float, float] | None = None
    placement: str = "mixed"
    erosion_mm: float | None = None
    lobe: str | Sequence[str] = "any"
    organ_source: str = "auto"
    organ_bundle: str | None = None
    seed: int = 0
    attempts: int = 3
    device: str = "auto"


def make_job(generator: LesionGenerator, options: JobOptions) -> Job | HeartJob:
    """Return the job for a bundle: lesions in an organ of CT, or an infarct in each heart.

    Raises:
        FileNotFoundError: if a file or bundle that is named does not exist.
        ValueError: naming the argument that breaks its rule, or that the bundle does not take.
    """
    if generator.slices is None:
        return _nodule_job(generator, options)
    return _heart_job(generator, options)


def _nodule_job(generator: LesionGenerator, options: JobOptions) -> Job:
    _refuse(options, generator, {"no_reflow_share": None})
    low, high = _two("diameter_mm", options.diameter_mm) or (6.0, 20.0)
    request = Request(
        3 if options.count is None else options.count,
        (low, high),
        options.site,
        options.placement,
        options.erosion_mm,
        _lobe(options),
    )
    scores = ShapeOptions(options.spiculation, options.lobulation, options.device)
    return Job(
        generator,
        request,
        make_shape_source(options.shape, options.seed, scores),
        _textures(generator, options),
        options.seed,
        options.attempts,
        make_organ_source(options.organ_source, options.organ_bundle, generator.device),
    )


def _textures(generator: LesionGenerator, options: JobOptions) -> TextureChoice:
    """Return the source of textures; that of a bundle with a library draws by subtype and size."""
    if generator.library is None:
        return TextureChoice(options.texture, generator.presets, window_hu=generator.window)
    return SubtypeTextures(options.texture, generator.library, window_hu=generator.window)


def _lobe(options: JobOptions) -> tuple[str, ...] | None:
    given = options.lobe
    names = given.split(",") if isinstance(given, str) else list(given)
    if names == ["any"]:
        return None
    if str(options.shape).endswith((".nii", ".nii.gz")):
        raise ValueError(f"lobe does not go with a mask file as shape, got {given!r}")
    return check_lobes(names)


def _heart_job(generator: LesionGenerator, options: JobOptions) -> HeartJob:
    expected = {"spiculation": None, "lobulation": None, "placement": "mixed"}
    expected |= {"erosion_mm": None, "lobe": "any"}
    _refuse(options, generator, expected | {"organ_source": "auto", "organ_bundle": None})
    if options.count not in (None, 1):
        raise ValueError(f"count must be 1 for a heart, got {options.count}")
    request = HeartRequest(
        diameter_mm=_two("diameter_mm", options.diameter_mm) or DIAMETER_MM,
        no_reflow_share=_two("no_reflow_share", options.no_reflow_share),
        site_mm=options.site,
    )
    return HeartJob(
        generator,
        request,
        make_heart_shape_source(options.shape, options.device),
        HeartTextures(options.texture, generator.presets, slices=generator.slices),
        options.seed,
        options.attempts,
    )


def _refuse(options: JobOptions, generator: LesionGenerator, expected: dict[str, Any]) -> None:
    """Refuse options that the bundle would not heed."""
    for name, value in expected.items():
        given = getattr(options, name)
        if given != value:
            raise ValueError(
                f"{name} does not go with bundle {generator.record.name}, got {given!r}"
            )


def _two(name: str, value: Range) -> tuple[float, float] | None:
    """Return a range given as one number or two."""
    if value is None:
        return None
    numbers = value if isinstance(value, Sequence) else (value, value)
    if len(numbers) != 2 or isinstance(numbers, str):
        raise ValueError(f"{name} must be one number or two with a comma, got {value!r}")
    return float(numbers[0]), float(numbers[1])

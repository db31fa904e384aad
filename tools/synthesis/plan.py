"""What is wanted, and what each lesion of a scan shall be before anything is sampled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.histograms import choose_preset, perturb_histogram
from tools.synthesis.level_set import Place, Shape
from tools.synthesis.placement import MODES, Site, choose_sites
from tools.synthesis.shapes import MaskFileShape, ShapeSource
from tools.synthesis.size_mix import SizeMix, draw_range
from tools.synthesis.textures import LIKE, lesion_preset, read_textures

__all__ = ["LesionPlan", "Request", "TextureChoice", "plan_lesions"]

_JSON_FILE = re.compile(r"(.+?\.json)(?::(.+))?")


@dataclass(frozen=True)
class Request:
    """What the user asks for, checked.

    Args:
        count: lesions per scan, at least 1.
        diameter_mm: smallest and largest diameter of the sphere with the lesion's volume.
        site_mm: centre of the first lesion in RAS mm, or None to choose.
        placement: "mixed", "interior" or "subpleural".
        erosion_mm: depth of the shell under the surface of the organ, see :func:`choose_sites`;
            None: lesions keep clear of the surface, or cut it, by their own size.
        lobe: names of lobes that lesions may lie in; None: the whole organ.
        sizes: a mix in place of ``diameter_mm``, see :func:`tools.synthesis.size_mix.size_mix`.

    Raises:
        ValueError: naming the argument that breaks its rule.
    """

    count: int = 3
    diameter_mm: tuple[float, float] = (6.0, 20.0)
    site_mm: tuple[float, ...] | None = None
    placement: str = "mixed"
    erosion_mm: float | None = None
    lobe: tuple[str, ...] | None = None
    sizes: SizeMix | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"count must be a whole number of at least 1, got {self.count!r}")
        for low, high in [self.diameter_mm, *(part[1:] for part in self.sizes or ())]:
            if not 2 <= low <= high <= 60:
                raise ValueError(
                    f"diameter_mm must be two numbers from 2 to 60, smallest first, "
                    f"got {(low, high)}"
                )
        if self.site_mm is not None and len(self.site_mm) != 3:
            raise ValueError(f"site must be x,y,z in mm, got {self.site_mm}")
        if self.placement not in MODES:
            raise ValueError(f"placement must be one of {', '.join(MODES)}, got {self.placement!r}")
        if self.erosion_mm is not None and not 0 < self.erosion_mm <= 100:
            raise ValueError(f"erosion_mm must be above 0 and at most 100, got {self.erosion_mm}")

    def draw_diameters(self, rng: np.random.Generator) -> list[float]:
        """Return the diameter of each lesion of a scan."""
        if self.sizes is None:
            return rng.uniform(*self.diameter_mm, self.count).tolist()
        return [float(rng.uniform(*draw_range(self.sizes, rng))) for _ in range(self.count)]


class TextureChoice:
    """Names and histograms of the textures asked for.

    Args:
        text: one or several of these with commas between, taken in turn: the name of a preset;
            ``mixed`` (drawn by the presets' weights); ``none`` (no control);
            ``like:IMAGE.nii.gz:MASK.nii.gz`` (a real lesion); a JSON file, see
            :func:`tools.synthesis.textures.read_textures`, several histograms in it drawn by their
            weights; ``FILE.json:NAME`` for one of them.
        presets: the bundle's presets.
        fluctuation: relative change of each bin, see :func:`perturb_histogram`.
        window_hu: of the model; ``like:`` needs it, and a file that states another is refused.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a name is unknown or a file does not hold a histogram of the right length.
    """

    def __init__(
        self,
        text: str,
        presets: Mapping[str, Mapping[str, Any]],
        fluctuation: float = 0.1,
        window_hu: Sequence[float] | None = None,
    ) -> None:
        self.presets, self.fluctuation, self.window_hu = presets, fluctuation, window_hu
        self.bins = len(next(iter(presets.values()))["histogram"])
        read = [self._read(word.strip()) for word in text.split(",")]
        self.names = [name for name, _ in read]
        self.choices = [choices for _, choices in read]

    @property
    def file_histogram(self) -> dict[str, Any] | None:
        """Histograms from the user's files by name, JSON values only; None if all are presets."""
        known = [*self.presets, "mixed", "none"]
        pairs = zip(self.names, self.choices, strict=True)
        return {name: dict(choices) for name, choices in pairs if name not in known} or None

    def _read(self, word: str) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
        """Return the name of a word of the command line and its histograms; none for "none"."""
        if word in self.presets:
            return word, {word: self.presets[word]}
        if word in ("mixed", "none"):
            return word, self.presets if word == "mixed" else {}
        if word.startswith("like:"):
            name, preset = lesion_preset(word, self.bins, self.window_hu)
            return name, {name: preset}
        file = _JSON_FILE.fullmatch(word)
        if file is None:
            known = [*self.presets, "mixed", "none"]
            raise ValueError(f"texture must be one of {known}, {LIKE} or a JSON file, got {word!r}")
        found, name = read_textures(file[1], self.bins, self.window_hu), Path(file[1]).name
        if file[2] is None:
            return name, found
        if file[2] not in found:
            raise ValueError(f"texture must be one of {list(found)} in {file[1]}, got {file[2]!r}")
        return f"{name}:{file[2]}", {file[2]: found[file[2]]}

    def draw(
        self, number: int, rng: np.random.Generator, diameter_mm: float | None = None
    ) -> tuple[str, list[float] | None]:
        """Return name and histogram of lesion ``number``; None means no control.

        Args:
            number: of the lesion.
            rng: source of chance.
            diameter_mm: of the lesion; presets do not heed it, libraries of lesions do.
        """
        place = number % len(self.names)
        choices = self.choices[place]
        if not choices:
            return "none", None
        # one histogram alone takes no draw
        several = len(choices) > 1 or self.names[place] == "mixed"
        name = choose_preset(choices, rng) if several else next(iter(choices))
        histogram = self._histogram(name, choices, rng, diameter_mm)
        return name, perturb_histogram(histogram, rng, self.fluctuation)

    def _histogram(
        self,
        name: str,
        choices: Mapping[str, Mapping[str, Any]],
        rng: np.random.Generator,
        diameter_mm: float | None,
    ) -> list[float]:
        return choices[name]["histogram"]

    def subtype(self, number: int, name: str) -> int:
        """Return the number of the subtype of lesion ``number``; -1: presets have none."""
        return -1


@dataclass(frozen=True)
class LesionPlan:
    """One lesion, decided but not yet sampled.

    Args:
        site: where its centre lies.
        shape: its shape, continuous.
        diameter_mm: diameter asked for.
        label: True inside the lesion on the scan's grid, within ``box``.
        box: where ``label`` lies.
        texture: name of the texture.
        histogram: requested bins, or None for no control.
        seed: of the sampler.
        subtype: number of the subtype; -1: none.
    """

    site: Site
    shape: Shape
    diameter_mm: float
    label: np.ndarray
    box: tuple[slice, slice, slice]
    texture: str
    histogram: list[float] | None
    seed: int
    subtype: int = -1


def plan_lesions(
    image: np.ndarray,
    affine: np.ndarray,
    organ_mask: np.ndarray | None,
    request: Request,
    shapes: ShapeSource,
    textures: TextureChoice,
    rng: np.random.Generator,
    lesion_mask: np.ndarray | None = None,
    region_mask: np.ndarray | None = None,
) -> list[LesionPlan]:
    """Decide sizes, sites, shapes and textures of the lesions of one scan.

    Args:
        image: scan in its own units.
        affine: voxel index to RAS mm.
        organ_mask: where lesions may lie; None only with a given site.
        request: what is asked for.
        shapes: source of shapes; a mask file is used at its own place unless a site is given.
        textures: source of histograms.
        rng: source of chance; the same state gives the same plan.
        lesion_mask: existing lesions to keep away from.
        region_mask: part of the organ that lesions may lie in; None: all of it.

    Returns:
        One plan per lesion, labels apart from each other.

    Raises:
        ValueError: if not all fit, or a site is outside scan or organ.
    """
    diameters = request.draw_diameters(rng)
    site_mm: Sequence[float] | None = request.site_mm
    if isinstance(shapes, MaskFileShape):
        organ_mask = region_mask = None  # the user's mask is the user's decision
        if request.count != 1:
            raise ValueError(f"count must be 1 with a mask file as shape, got {request.count}")
        diameters = [shapes.diameter_mm]
        site_mm = shapes.point_mm if site_mm is None else site_mm
    sites = choose_sites(
        image,
        organ_mask,
        affine,
        [diameter / 2 for diameter in diameters],
        rng,
        mode=request.placement,  # type: ignore[arg-type]
        lesion_mask=lesion_mask,
        site_mm=site_mm,
        erosion_mm=request.erosion_mm,
        region_mask=region_mask,
    )
    within = organ_mask if region_mask is None else region_mask
    plans = []
    for number, (site, diameter) in enumerate(zip(sites, diameters, strict=True)):
        shape = shapes.draw(diameter, rng, Place(site.point_mm, affine, within))
        label, box = shape.on_grid(affine, image.shape, site.point_mm, within=within)
        name, histogram = textures.draw(number, rng, diameter)
        subtype, seed = textures.subtype(number, name), int(rng.integers(2**31))
        plans.append(LesionPlan(site, shape, diameter, label, box, name, histogram, seed, subtype))
    return plans

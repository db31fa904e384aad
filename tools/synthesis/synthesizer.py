"""Scan in, lesions out: where they go, how they are shaped, what fills them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tools.bundle import sha256_file
from tools.organs.organ import Organ, OrganMap
from tools.organs.sources import OrganSource, find_organ
from tools.scans.changed import give_back_memory, packed
from tools.scans.scan import AIR_HU, Scan
from tools.shapes import LabelShape, MaskFileShape, Place, Shape, ShapeSource, SizedShapes
from tools.synthesis.case_folder import describe_source
from tools.synthesis.cases import Case
from tools.synthesis.catalogue import rim_share
from tools.synthesis.host_reaction import reaction_of
from tools.synthesis.lesion import Lesion, SynthesisResult, composite
from tools.synthesis.placement import choose_sites
from tools.synthesis.records import ScanRecord
from tools.synthesis.sizes import SizeMix, draw_range
from tools.synthesis.texturers import Texturer, sample
from tools.synthesis.textures import Textures
from tools.synthesis.view import Canvas
from tools.windows import WindowGrid, cut_window

__all__ = ["IMPOSSIBLE", "Plan", "Synthesizer"]

IMPOSSIBLE = ("error", "fewer", "skip")
MOST = 1000  # lesions of a scan, attempts at one: more is a slip of the keyboard
FARTHEST_HU = 100_000

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """The lesions of one scan, ready to be sampled.

    Attributes:
        canvas: the scan, made ready.
        lesions: on it.
        organ: where the organ's mask comes from, for the record.
        notes: sentences on what was asked for and could not be done.
    """

    canvas: Canvas
    lesions: list[Lesion]
    organ: Mapping[str, Any]
    notes: tuple[str, ...] = ()


class Spot(NamedTuple):
    """Where a lesion goes, and how large it shall be: one number in a box, two in a wall."""

    point_mm: tuple[float, float, float] | None
    diameter_mm: Any


@dataclass(frozen=True)
class Synthesizer:
    """All that decides which lesions a scan gets: one path for all organs.

    Args:
        organ: table of the organ.
        texturer: fills lesions.
        shapes: draws them.
        textures: what they shall look like.
        organs: finds the organ in scans that come without a mask of it.
        count: lesions per scan; None: as the organ's table says, one with a mask file as shape.
        diameter_mm: smallest and largest, as the organ's table defines it; one number fixes it.
            Sources of shapes with sizes of their own draw those.
        site: centre of the first lesion in RAS mm; None: chosen.
        placement: word of the organ's table.
        erosion_mm: depth of a shell under the surface of the organ, see
            :func:`tools.synthesis.placement.choose_sites`.
        region: names of regions that lesions may lie in; None or "any": the whole organ.
        inner_share: share of the lesion that is of the innermost class, one number or two; None: as
            the source of shapes has it.
        sizes: a mix in place of ``diameter_mm``, see :func:`tools.synthesis.sizes.size_mix`.
        seed: of the run; each scan draws from the seed and its own name.
        attempts: samples per lesion at most, where it misses its histogram.
        if_impossible: what becomes of a scan in which not all lesions fit: ``error``; ``fewer``,
            those that do; ``skip``, none, and the scan is left out. None: ``fewer`` in runs of
            several scans, else ``error``.
        fill_nan: what stands for NaN and infinite values of scans, a number or ``air``; None: they
            are refused.
        hu_offset: added to the values of scans, where their HU were stored with a number added.
        host_reaction: what the tissue round lesions does, a word of the organ's table or "none".

    Raises:
        ValueError: naming the argument that breaks its rule.
    """

    organ: Organ
    texturer: Texturer
    shapes: ShapeSource
    textures: Textures
    organs: OrganSource
    count: int | None = None
    diameter_mm: Any = (6.0, 20.0)
    site: Any = None
    placement: str = "mixed"
    erosion_mm: float | None = None
    region: Any = None
    inner_share: Any = None
    sizes: SizeMix | None = None
    seed: int = 0
    attempts: int = 3
    if_impossible: str | None = None
    fill_nan: Any = None
    hu_offset: float = 0.0
    host_reaction: str = "none"

    def __post_init__(self) -> None:
        put = object.__setattr__  # once, so that what is read later is checked
        put(self, "count", self._checked_count())
        put(self, "diameter_mm", self._checked_sizes())
        put(self, "site", _numbers("site", self.site, 3))
        put(self, "region", self.organ.check_regions(self.region))
        put(self, "inner_share", self._checked_share())
        put(self, "erosion_mm", self._checked_erosion())
        put(self, "fill_nan", self._checked_fill())
        put(self, "hu_offset", _number("hu_offset", self.hu_offset or 0))
        if abs(self.hu_offset) > FARTHEST_HU:
            raise ValueError(f"hu_offset must be within {FARTHEST_HU} HU, got {self.hu_offset:g}")
        _require_whole("seed", self.seed, 0, 2**32 - 1)
        _require_whole("attempts", self.attempts, 1, MOST)
        reaction_of(self.organ, self.host_reaction)
        if self.hu_offset and self.organ.modality != "CT":
            raise ValueError(f"hu_offset goes with CT, got {self.hu_offset:g} for MR")
        for name, words in (
            ("placement", self.organ.placements),
            ("if_impossible", (None, *IMPOSSIBLE)),
        ):
            if getattr(self, name) not in words:
                known = ", ".join(word for word in words if word)
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.sizes and isinstance(self.shapes, SizedShapes):
            raise ValueError(
                f"sizes must be those of the shape, which has its own, got {self.sizes}"
            )
        if self.region is not None and self.one_scan_only:
            raise ValueError(
                f"{self.organ.region_option} does not go with a mask file as shape, got "
                f"{list(self.region)}"
            )

    def _checked_share(self) -> tuple[float, float] | None:
        share = _range("inner_share", self.inner_share)
        if share is not None and not 0 <= share[0] <= share[1] <= 1:
            raise ValueError(
                "inner_share (no_reflow_share) must be one number or two from 0 to 1, smallest "
                f"first, got {share}"
            )
        return share

    def _checked_erosion(self) -> float | None:
        if self.erosion_mm is None:
            return None
        erosion = _number("erosion_mm", self.erosion_mm)
        if not 0 < erosion <= 100:
            raise ValueError(f"erosion_mm must be above 0 and at most 100, got {erosion}")
        return erosion

    def _checked_fill(self) -> float | None:
        if self.fill_nan is None:
            return None
        words = {"air": AIR_HU} if self.organ.modality == "CT" else {}
        fill = words.get(str(self.fill_nan).lower(), self.fill_nan)
        return _number("fill_nan", fill, " or air" if words else "")

    def _checked_count(self) -> int:
        usual = 1 if self.one_scan_only else self.organ.usual_count
        count = usual if self.count is None else self.count
        _require_whole("count", count, 1, MOST)
        most = 1 if self.one_scan_only else self.organ.most_lesions
        if most is not None and count > most:
            what = "with a mask file as shape" if self.one_scan_only else f"in a {self.organ.name}"
            raise ValueError(f"count must be {most} {what}, got {count}")
        return count

    def _checked_sizes(self) -> tuple[float, float]:
        wanted = _range("diameter_mm", self.diameter_mm)
        assert wanted is not None
        smallest, largest = self.organ.diameter_range_mm
        for low, high in [wanted, *(part[1:] for part in self.sizes or ())]:
            if not smallest <= low <= high <= largest:
                raise ValueError(
                    f"diameter_mm must be two numbers from {smallest:g} to {largest:g}, smallest "
                    f"first, got {(low, high)}"
                )
        return wanted

    @property
    def one_scan_only(self) -> bool:
        """Whether the shape is a mask drawn on one scan."""
        return isinstance(self.shapes, MaskFileShape)

    def describe(self, case: Case) -> dict[str, Any]:
        """Return all that decides what a case becomes, beside scan and bundle; JSON values only."""
        own = ("count", "diameter_mm", "site", "placement", "erosion_mm", "region", "inner_share")
        masks = {"organ_mask": case.organ_mask, "lesion_mask": case.lesion_mask}
        return {
            **{key: getattr(self, key) for key in (*own, "sizes", "seed", "attempts")},
            "fill_nan": self.fill_nan,
            "hu_offset": self.hu_offset or None,
            "texture": self.textures.names,
            "texture_histogram": self.textures.file_histogram,
            "solid_share": self.textures.solid_share,
            "shape": describe_source(self.shapes),
            "organ_source": "file" if case.organ_mask else self.organs.record["source"],
            **{f"{k}_sha256": None if v is None else sha256_file(v) for k, v in masks.items()},
            "sampler": self.texturer.settings,
        } | ({} if self.host_reaction == "none" else {"host_reaction": self.host_reaction})

    def plan(
        self, scan: Scan, case: Case, rng: np.random.Generator, if_impossible: str | None = None
    ) -> Plan:
        """Decide all lesions of a scan and cut their windows; nothing is sampled yet.

        Args:
            scan: the input.
            case: its masks.
            rng: source of chance; the same state gives the same plan.
            if_impossible: used where the run does not say.

        Raises:
            ValueError: if the lesions do not fit the scan and that is no option.
        """
        given = case.organ_mask
        if given is None and self.organ.parts:
            given = case.lesion_mask  # a datalist names a label map of the organ so
        _ = scan.image  # a scan that cannot be right is refused before an organ is sought in it
        found = find_organ(
            self.organ, self.organs, scan, given, self.region, needed=not self.one_scan_only
        )
        warned = self._warned(scan, found)
        if self.organ.chart == "box":
            found = replace(found, inside=packed(found.inside), region=packed(found.region))
        canvas = self.texturer.view.open(scan, found.labels)
        if canvas.within is None and not self.one_scan_only:
            canvas = replace(canvas, within=found.within)
        fewer = (self.if_impossible or if_impossible) == "fewer"
        spots, notes = self._spots(scan, case, found, rng, fewer)
        give_back_memory()
        lesions: list[Lesion] = []
        for number, spot in enumerate(spots, 1):
            try:
                lesions.append(self._lesion(canvas, spot, number, rng))
            except ValueError as error:
                if not fewer:
                    raise
                notes.append(f"lesion {number} could not be made: {error}")
        canvas = self._reacted(canvas, lesions, case, found)
        give_back_memory()
        return Plan(canvas, lesions, found.record, (*notes, *warned, *scan.notes))

    def _warned(self, scan: Scan, found: OrganMap) -> list[str]:
        """Return what is to be said of the level of the organ; one that cannot be is refused."""
        organ = self.organ
        if found.inside is None or organ.levels_hu is None:
            return []
        median = scan.require_level(found.inside, organ.levels_hu, organ.name)
        if organ.enhanced_from_hu is None or median >= organ.enhanced_from_hu:
            return []
        return [
            f"the {organ.name} has a median of {median:.0f} HU, as without contrast medium (below "
            f"{organ.enhanced_from_hu:g}): tumours learnt in enhanced scans may be brighter than it"
        ]

    def _reacted(
        self, canvas: Canvas, lesions: Sequence[Lesion], case: Case, organ: OrganMap
    ) -> Canvas:
        """Return the canvas as it is once the host has reacted; the model sees it so."""
        rule = reaction_of(self.organ, self.host_reaction)
        if rule is None:
            return canvas
        if organ.inside is None:
            raise ValueError(
                f"host_reaction {self.host_reaction} needs organ_mask, as the border of the organ "
                "stays where it is, got none"
            )
        moves = np.asarray(organ.inside)
        existing = self._existing(canvas.scan, case, organ.labels)
        if existing is not None:
            moves = moves & ~np.asarray(existing)
        canvas = replace(canvas, scan=canvas.scan.copied())
        for each in lesions:
            whole = np.asarray(each.masks.any(0))
            radius = self.organ.measure_mm(whole, canvas.affine) / 2
            moved = rule.move(canvas.scan, moves, each.point_mm, radius)
            each.canvas, each.host_reaction = canvas, moved._asdict()
        for each in lesions:
            grid = each.window.grid
            image = cut_window(canvas.scan.image, canvas.scan.affine, grid)
            each.window = each.window._replace(image=image)
        return canvas

    def _spots(
        self, scan: Scan, case: Case, organ: OrganMap, rng: np.random.Generator, fewer: bool
    ) -> tuple[list[Spot], list[str]]:
        """Return where lesions go; in a wall the source of shapes decides."""
        if self.organ.chart == "wall":
            low, high = draw_range(self.sizes, rng) if self.sizes else self.diameter_mm
            return [Spot(self.site, (low, high))] * int(self.count or 1), []
        if isinstance(self.shapes, MaskFileShape):
            point = self.shapes.point_mm if self.site is None else self.site
            diameters, site, organ = [self.shapes.diameter_mm], point, OrganMap(None, {})
        else:
            diameters, site = self._draw_diameters(rng), self.site
        sites = choose_sites(
            scan.image,
            organ.inside,
            scan.affine,
            [diameter / 2 for diameter in diameters],
            rng,
            mode=self.placement,  # type: ignore[arg-type]
            lesion_mask=self._existing(scan, case, organ.labels),
            site_mm=site,
            erosion_mm=self.erosion_mm,
            region_mask=organ.region,
            fewer=fewer,
        )
        pairs = zip(sites, diameters, strict=True)
        spots = [Spot(found.point_mm, diameter) for found, diameter in pairs if found is not None]
        missing = len(sites) - len(spots)
        note = f"{missing} of {len(sites)} lesions found no room in the organ"
        return spots, [note] if missing else []

    def _existing(self, scan: Scan, case: Case, labels: np.ndarray | None) -> Any:
        """Return the lesions that are there; of an organ with parts those of its label maps.

        Beside an organ that is given, a mask of 0 and 1 is one of lesions there, too.
        """
        if not self.organ.parts:
            if case.lesion_mask is None:
                return None
            return scan.load_mask(case.lesion_mask, "lesion_mask", empty=True)
        found = [] if labels is None else [np.isin(labels, self.organ.values)]
        if case.lesion_mask is not None:
            own = scan.load_labels(case.lesion_mask, "lesion_mask")
            plain = case.organ_mask is not None and own.max() == 1
            found.append(own > 0 if plain else np.isin(own, self.organ.values))
        return np.logical_or.reduce(found) if found else None

    def _draw_diameters(self, rng: np.random.Generator) -> list[float]:
        count = int(self.count or 1)
        if isinstance(self.shapes, SizedShapes):
            return [self.shapes.draw_diameter(rng) for _ in range(count)]
        if self.sizes is None:
            low, high = self.diameter_mm
            return rng.uniform(low, high, count).tolist()
        return [float(rng.uniform(*draw_range(self.sizes, rng))) for _ in range(count)]

    def _lesion(self, canvas: Canvas, spot: Spot, number: int, rng: np.random.Generator) -> Lesion:
        """Draw shape and texture of a lesion, and cut its window."""
        shape = self._shape(canvas, spot, rng)
        masks, box = shape.masks(canvas.affine, canvas.shape, spot.point_mm, canvas.within)  # type: ignore[arg-type]
        if not masks.any():
            raise ValueError("shape must leave a lesion, got none but where others are already")
        turn = number - 1
        if self.organ.most_lesions == 1:
            turn = int(rng.integers(2**31))  # the first word of a list must not serve all scans
        asked = spot.diameter_mm if isinstance(shape, Shape) else shape.asked_mm
        whole = np.asarray(masks.any(0))
        # the cost is that of a distance map, so only where textures are drawn by it
        rim = None if self.textures.library is None else rim_share(whole, canvas.affine)
        texture = self.textures.draw(
            turn,
            rng,
            asked,
            canvas.tissue,
            [bool(mask.any()) for mask in masks],
            rim,
        )
        seed = int(rng.integers(2**31))
        draw = partial(_masks_of_window, shape, canvas, spot.point_mm)
        window = self.texturer.view.window(canvas, whole, box, spot.point_mm, draw)
        return Lesion(
            canvas,
            self.organ,
            number,
            spot.point_mm,
            None if self.one_scan_only else asked,
            shape.source,
            masks,
            box,
            texture,
            window,
            self.texturer.view,
            seed,
        )

    def _shape(self, canvas: Canvas, spot: Spot, rng: np.random.Generator) -> Shape | LabelShape:
        values = self.organ.values
        place = Place(
            spot.point_mm, canvas.affine, canvas.within, canvas.cavity, values, self.inner_share
        )
        shape = self.shapes.draw(spot.diameter_mm, rng, place)
        if isinstance(shape, LabelShape):  # lesions that are there stay as they are
            free = ~np.isin(np.asarray(canvas.labels), values)
            shape = shape._replace(label=np.where(free, shape.label, 0))
        return shape

    def finish(self, plans: Sequence[Plan]) -> list[SynthesisResult]:
        """Sample the lesions of all plans together and put them into their scans."""
        lesions = [lesion for plan in plans for lesion in plan.lesions]
        sample(lesions, self.texturer, self.attempts)
        settings = dict(self.texturer.settings)
        if self.textures.library is not None and self.textures.library.outline:
            settings["outline"] = self.textures.library.outline
        return [composite(plan.canvas, plan.lesions, settings) for plan in plans]

    def record(
        self, plan: Plan, result: SynthesisResult, request: Mapping[str, Any] | None = None
    ) -> ScanRecord:
        """Return how a scan came to its lesions, with what was asked for where that is known."""
        scan = plan.canvas.scan
        return ScanRecord(
            name=scan.name,
            sha256=scan.sha256,
            spacing_mm=scan.spacing_mm,
            shape=scan.shape,
            bundle=self.texturer.record,
            lesions=result.records,
            phantom=scan.phantom,
            organ_mask=plan.organ,
            request=request,
            notes=plan.notes,
        )


def _require_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _number(name: str, value: Any, other: str = "") -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number{other}, got {value!r}")
    return number


def _numbers(name: str, value: Any, size: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, Sequence) or len(words) != size:
        raise ValueError(f"{name} must be {size} numbers with commas between, got {value!r}")
    numbers = tuple(_number(name, word) for word in words)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, got {value!r}")
    return numbers


def _range(name: str, value: Any) -> tuple[float, float] | None:
    """Return a range given as one number or two."""
    if value is None:
        return None
    words = value.split(",") if isinstance(value, str) else value
    words = [words] if not isinstance(words, Sequence) else list(words)
    if len(words) not in (1, 2):
        raise ValueError(f"{name} must be one number or two with a comma, got {value!r}")
    return _number(name, words[0]), _number(name, words[-1])


def _masks_of_window(
    shape: Shape | LabelShape, canvas: Canvas, point_mm: Any, grid: WindowGrid
) -> np.ndarray:
    """Return the masks of a lesion on the grid of its window, ``(classes, *grid.size)``."""
    within = None
    if canvas.within is not None and isinstance(shape, Shape):
        within = cut_window(canvas.within, canvas.affine, grid) >= 0.5
    parts, box = shape.masks(grid.affine, grid.size, point_mm, within)
    drawn = np.zeros((len(parts), *grid.size), bool)
    drawn[(slice(None), *box)] = parts
    return drawn

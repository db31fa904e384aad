"""What placement knows about one scan: depth in the organ, distances, vessels."""

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from tools.organs.coarse_grid import (
    block_factors,
    block_mean,
    dilate,
    distance_mm,
    erode,
    voxel_spacing,
)
from tools.scans.changed import Converted

MARGIN_MM = 2.0  # an interior lesion keeps this far from the surface of the organ
SURFACE_DEPTH = (0.5, 0.95)  # centre of a sub-pleural lesion, in radii below the surface
VESSEL_HU = -500.0
LARGE_VESSEL_MM = 2.5  # radius
MAX_VESSEL_SHARE = 0.05
CORE = 0.7  # in radii: no large vessel may pass here
# of the organ from its lowest to its highest slice: middles of lesions anywhere, tried in turn
BANDS = ((0.3, 0.7), (0.2, 0.8), (0.1, 0.9), (0.0, 1.0))
LEAST_INSIDE = 0.5  # of the sphere of a lesion anywhere
CANDIDATES = 96

Taken = list[tuple[tuple[float, float, float], float]]  # middles of lesions, RAS mm, and radii


@dataclass(frozen=True)
class Site:
    """A place for one lesion.

    Args:
        index: continuous voxel index (i, j, k) of the centre.
        point_mm: the same point in RAS millimetres.
        mode: "interior", "subpleural", "anywhere" or "given" (the user's point).
        vessel_share: part of the sphere on vessels, 0 to 1; nan where vessels were not looked at.
        clean: False if no candidate was free of vessels and the best one was taken.
    """

    index: tuple[float, float, float]
    point_mm: tuple[float, float, float]
    mode: str
    vessel_share: float = float("nan")
    clean: bool = True


@dataclass(frozen=True)
class Limits:
    """Distances that candidates must keep.

    Args:
        gap_mm: between the surfaces of two lesions.
        erosion_mm: depth of the shell under the surface of the organ, see
            :func:`tools.synthesis.placement.choose_sites`; None: no shell.
    """

    gap_mm: float = 4.0
    erosion_mm: float | None = None


def triple(values: np.ndarray) -> tuple[float, float, float]:
    """Return three plain floats."""
    first, second, third = (float(v) for v in values)
    return first, second, third


class PlacementField:
    """Distances and vessels of one scan on blocks of about 2 mm, and candidates drawn from them."""

    def __init__(
        self,
        image_hu: np.ndarray,
        organ_mask: np.ndarray,
        affine: np.ndarray,
        lesion_mask: np.ndarray | None,
        limits: Limits,
        region_mask: np.ndarray | None = None,
    ) -> None:
        spacing = voxel_spacing(affine)
        self.factors = block_factors(spacing)
        self.block_mm = spacing * self.factors
        self.affine, self.limits = np.asarray(affine, float), limits
        organ = block_mean(_marked(organ_mask), self.factors) >= 0.5
        if not organ.any():
            raise ValueError("organ_mask must mark at least one block of 2 mm, got an empty mask")
        # Everything happens in the box round the organ.
        box = ndimage.find_objects(organ.astype(np.uint8))[0]
        box = tuple(
            slice(max(0, s.start - 1), min(n, s.stop + 1))
            for s, n in zip(box, organ.shape, strict=True)
        )
        self.origin = np.array([s.start for s in box])
        organ = organ[box]
        # Beyond the volume the organ goes on, so the cut face counts for nothing here ...
        self.depth = self._depth(organ)
        self.inside, self.region_depth = organ, self.depth
        if region_mask is not None:
            region = block_mean(_marked(region_mask), self.factors)[box]
            self.inside = organ & (region >= 0.5)
            if not self.inside.any():
                raise ValueError(
                    "region_mask must mark at least one block of 2 mm of the organ, got none"
                )
            self.region_depth = self._depth(self.inside)
        # ... but the whole lesion has to lie in the volume.
        middles = [
            (np.arange(s.start, s.stop) + 0.5) * f for s, f in zip(box, self.factors, strict=True)
        ]
        self.to_face = np.full(organ.shape, np.inf)
        for axis, (middle, size) in enumerate(zip(middles, image_hu.shape, strict=True)):
            line = np.minimum(middle, size - middle) * spacing[axis]
            self.to_face = np.minimum(self.to_face, np.expand_dims(line, _others(axis)))
        self.to_lesion = np.full(organ.shape, np.inf, np.float32)
        if lesion_mask is not None and lesion_mask.any():
            lesion = block_mean(_marked(lesion_mask), self.factors) > 0
            away = distance_mm(~lesion, self.block_mm)
            self.to_lesion = away[box] - 0.5 * self.block_mm.min()
        self._find_vessels(block_mean(image_hu, self.factors)[box])

    def _depth(self, mask: np.ndarray) -> np.ndarray:
        """Return the distance to the surface of a mask that goes on beyond the box, in mm."""
        if mask.all():
            return np.full(mask.shape, np.inf)
        padded = np.pad(mask, 1, mode="edge")
        depth = distance_mm(padded, self.block_mm)[1:-1, 1:-1, 1:-1]
        return depth - 0.5 * self.block_mm.min()  # to the face of the block, not its centre

    def _find_vessels(self, coarse: np.ndarray) -> None:
        self.vessel = self.large = None
        if np.median(coarse[self.inside]) >= VESSEL_HU:
            return  # a solid organ: the threshold says nothing
        # Blocks at the surface are bright by the partial-volume effect only.
        self.vessel = (coarse > VESSEL_HU) & (self.depth > 2.0)
        core = erode(self.vessel, LARGE_VESSEL_MM, self.block_mm)
        self.large = self.vessel & dilate(core, 2 * LARGE_VESSEL_MM, self.block_mm)

    def draw(
        self,
        radius: float,
        mode: str,
        taken: Taken,
        rng: np.random.Generator,
    ) -> Site | None:
        """Draw the first clean site of a random sample, else the cleanest; None if full."""
        if mode == "anywhere":
            return self._anywhere(radius, taken, rng)
        modes = [mode]
        if mode == "mixed":
            modes = list(rng.permutation(["interior", "subpleural"]))
        for name in modes:
            candidates = self._candidates(radius, str(name), taken, rng)
            if len(candidates) == 0:
                continue
            best = (np.inf, np.nan, candidates[0])
            for candidate in candidates:
                share, core_share = self._vessel_shares(candidate, radius)
                if not (share >= MAX_VESSEL_SHARE or core_share > 0):  # nan: not looked at
                    return self._site(candidate, str(name), share, clean=True)
                best = min(best, (share + core_share, share, candidate), key=lambda b: b[0])
            return self._site(best[2], str(name), best[1], clean=False)
        return None

    def _candidates(
        self,
        radius: float,
        mode: str,
        taken: Taken,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return up to CANDIDATES random block indices, shape (n, 3), that obey the hard rules."""
        shell = self.limits.erosion_mm
        if mode == "interior":
            allowed = self.region_depth >= radius + MARGIN_MM
            if shell is not None:
                allowed &= self.depth >= shell
        else:
            low, high = (share * radius for share in SURFACE_DEPTH)
            allowed = (self.depth >= low) & (self.depth <= max(high, low + self.block_mm.max()))
            allowed &= self.region_depth >= low
            if shell is not None:
                allowed &= self.depth < shell
        places = self._free(allowed, radius, taken)
        return places[rng.permutation(len(places))[:CANDIDATES]]

    def _anywhere(self, radius: float, taken: Taken, rng: np.random.Generator) -> Site | None:
        """Draw a site whose sphere is half in the organ, from the middle slices if they have one.

        Slices are drawn evenly, then places within them.
        """
        places = self._free(self.region_depth >= (self.limits.erosion_mm or 0), radius, taken)
        high = self._height(np.argwhere(self.inside))
        share = (self._height(places) - high.min()) / max(np.ptp(high), 1e-6)
        for lowest, highest in BANDS:
            near = np.flatnonzero((share >= lowest) & (share <= highest))
            if not len(near):
                continue
            _, slices, sizes = np.unique(
                share[near].round(3), return_inverse=True, return_counts=True
            )
            weight = 1 / sizes[slices]
            drawn = rng.choice(
                near, min(CANDIDATES, len(near)), replace=False, p=weight / weight.sum()
            )
            for place in places[drawn]:
                if self._share_inside(place, radius) >= LEAST_INSIDE:
                    return self._site(place, "anywhere", float("nan"), clean=True)
        return None

    def _height(self, places: np.ndarray) -> np.ndarray:
        """Return where blocks lie between feet and head, in mm."""
        return nib.affines.apply_affine(self.affine, self._index(places))[..., 2]

    def _share_inside(self, place: np.ndarray, radius: float) -> float:
        """Return the share of a sphere in the organ, or in its region."""
        reach = np.ceil(radius / self.block_mm).astype(int)
        steps = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
        ball = place + steps[np.linalg.norm(steps * self.block_mm, axis=-1) <= radius]
        known = ball[((ball >= 0) & (ball < self.inside.shape)).all(1)]
        return float(self.inside[tuple(known.T)].sum() / len(ball))

    def _free(self, allowed: np.ndarray, radius: float, taken: Taken) -> np.ndarray:
        """Return the places in the organ, shape (n, 3), that faces and other lesions leave."""
        allowed = allowed & self.inside & (self.to_face >= radius + 1.0)
        allowed &= self.to_lesion >= radius + self.limits.gap_mm
        places = np.argwhere(allowed)
        points = nib.affines.apply_affine(self.affine, self._index(places))
        free = np.ones(len(places), bool)
        for point, other in taken:
            apart = np.linalg.norm(points - np.array(point), axis=1)
            free &= apart >= radius + other + self.limits.gap_mm
        return places[free]

    def _vessel_shares(self, place: np.ndarray, radius: float) -> tuple[float, float]:
        """Return the share of the sphere on vessels (nan: unknown), of its core on large ones."""
        if self.vessel is None or self.large is None:
            return float("nan"), 0.0
        low = np.maximum(0, place - np.ceil(radius / self.block_mm).astype(int))
        high = place + np.ceil(radius / self.block_mm).astype(int) + 1
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        size = self.vessel[box].shape
        axes = [
            (np.arange(a, a + n) - p) * mm
            for a, n, p, mm in zip(low, size, place, self.block_mm, strict=True)
        ]
        distance = np.sqrt(sum(np.meshgrid(*[a**2 for a in axes], indexing="ij")))
        sphere, core = distance <= radius, distance <= CORE * radius
        return float(self.vessel[box][sphere].mean()), float(self.large[box][core].mean())

    def _index(self, places: np.ndarray) -> np.ndarray:
        """Return the voxel indices of the centres of blocks."""
        return (places + self.origin + 0.5) * self.factors - 0.5

    def _site(self, place: np.ndarray, mode: str, share: float, clean: bool) -> Site:
        index = self._index(place)
        point = nib.affines.apply_affine(self.affine, index)
        return Site(triple(index), triple(point), mode, share, clean)


def _marked(mask: np.ndarray) -> Any:
    return Converted(mask, lambda part: part > 0)


def _others(axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(3) if a != axis)

"""Real lesions copied to other places: plain with a soft edge, as CarveMix, as LesionMix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from tqdm import tqdm

from tools.files import listed_path, read_entries
from tools.metrics.radiomics import isotropic
from tools.scans.crops import Crop, lesion_crops
from tools.scans.scan import Scan
from tools.synthesis.lesion import WindowJob
from tools.synthesis.texturers import PlainTexturer
from tools.synthesis.view import View

__all__ = ["FORMS", "CopyPaste", "Source", "entries", "weights"]

FORMS = ("copy_paste", "carvemix", "lesionmix")
SOFT_EDGE_MM = 1.5
CANDIDATES = 5  # of about the same size and surroundings, one by chance
BRIGHTNESS = (0.9, 1.1)


class Source(NamedTuple):
    """A real lesion to copy: its values by place, and what it is matched by."""

    values: np.ndarray  # (V,)
    places: np.ndarray  # (V, 3), see _places
    log_volume: float
    around: float


class CopyPaste(PlainTexturer):
    """Fill a mask with what a real lesion of like size and surroundings holds at the same depth.

    Each voxel takes the value of the lesion's voxel in the same direction from the middle and as
    deep in it, so a mask that is the lesion's own gets its very texture (``--shape library:PATH``),
    and any other one a warped copy. Nothing outside of the mask changes.

    * ``copy_paste``: matched by size and surroundings; fades in over 1.5 mm.
    * ``carvemix``: any lesion of like size, a hard edge, carved smaller by a random depth. The
      original may carve wider too, over healthy tissue; a label leaves no room for that here.
    * ``lesionmix``: brightness changed by up to a tenth, mixed in by a softened mask.

    References:
        Zhang et al., CarveMix, MICCAI 2021. https://arxiv.org/abs/2108.06883
        Basaran et al., LesionMix, MICCAI workshops 2023. https://arxiv.org/abs/2308.09026

    Args:
        root: folder of the bundle whose window and bins are used.
        view: how it sees scans; cubes of 1 mm.
        library: folder with ``datalist.json``, or a datalist, of images with label maps; its
            training section where it has one.
        form: see above.
        values: of the label maps that are lesions; all above 0 if none are given, or no label map
            of the library holds one of them (masks of lesions alone).

    Raises:
        ValueError: if the form is unknown, or the library holds no lesion.
    """

    def __init__(
        self,
        root: str | Path,
        view: View,
        library: str | Path | None,
        form: str = "copy_paste",
        values: Sequence[int] = (),
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"method must be one of {', '.join(FORMS)}, got {form!r}")
        if not library:
            raise ValueError(f"library must name real lesions to copy, got none for {form}")
        self.form = form
        self.sources: list[Source] = []
        for chosen in dict.fromkeys((tuple(values), ())):
            for image, label in tqdm(list(entries(Path(library))), "lesions to copy", leave=False):
                self.sources += _sources(image, label, chosen)
            if self.sources:
                break
        if not self.sources:
            raise ValueError(f"library must hold at least one lesion, got none in {library}")
        super().__init__(form, root, view, {"lesions": len(self.sources)})

    def _fill(self, job: WindowJob) -> np.ndarray:
        rng = np.random.default_rng(job.seed)
        image = np.asarray(job.image, np.float64)
        mask = np.asarray(job.lesion_mask.reshape(-1, *image.shape).any(0))
        depth = ndimage.distance_transform_edt(mask)
        source = self._choose(mask, _around(image, mask), rng)
        nearest = KDTree(source.places).query(_places(mask, depth))[1]
        copied = source.values[nearest].astype(float)
        weight = weights(self.form, mask, depth, rng)
        if self.form == "lesionmix":
            copied = (copied - source.around) * rng.uniform(*BRIGHTNESS) + source.around
        result = image.copy()
        result[mask] = weight * copied + (1 - weight) * image[mask]
        return result

    def _choose(self, mask: np.ndarray, around: float, rng: np.random.Generator) -> Source:
        """Return one of the lesions that are nearest in size and, for copies, surroundings."""
        far = [abs(each.log_volume - np.log(mask.sum())) for each in self.sources]
        if self.form == "copy_paste":
            near = [abs(each.around - around) / 100 for each in self.sources]
            far = [a + b for a, b in zip(far, near, strict=True)]
        return self.sources[int(rng.choice(np.argsort(far)[:CANDIDATES]))]


def weights(
    form: str,
    mask: np.ndarray,
    depth: np.ndarray,
    rng: np.random.Generator,
    width: float | Sequence[float] = 1.0,
) -> np.ndarray:
    """Return how much a copy counts at each voxel of a mask.

    Args:
        form: see :class:`CopyPaste`.
        mask: True inside.
        depth: distance to the border in mm.
        rng: source of chance.
        width: of the softening of a mix in voxels.
    """
    if form == "copy_paste":
        return np.clip(depth[mask] / SOFT_EDGE_MM, 0, 1)
    if form == "carvemix":
        carved = depth.max() / 2 * rng.random() if rng.random() < 0.5 else 0.0
        return (depth[mask] > carved).astype(float)
    return ndimage.gaussian_filter(mask.astype(float), width)[mask]


def entries(library: Path) -> Iterator[tuple[Path, Path]]:
    """Yield image and label map of each real case of a library."""
    listed = library / "datalist.json" if library.is_dir() else library
    for entry in read_entries(listed, "library"):
        image, label = (
            listed_path(entry.get(key), key, listed.parent, listed) for key in ("image", "label")
        )
        yield image, label


def _sources(image: Path, label: Path, values: Sequence[int]) -> Iterator[Source]:
    scan = Scan(image)
    labels = scan.load_labels(label, "label")
    inside = np.isin(labels, list(values)) if values else labels > 0
    for crop in lesion_crops(scan, inside, image.name, ""):
        yield from _source(crop)


def _source(crop: Crop) -> Iterator[Source]:
    image, mask = isotropic(crop.image, crop.mask, crop.spacing_mm)
    if mask.any():
        places = _places(mask, ndimage.distance_transform_edt(mask))
        around = _around(image, mask)
        yield Source(image[mask], places.astype(np.float32), float(np.log(mask.sum())), around)


def _around(image: np.ndarray, mask: np.ndarray) -> float:
    """Return the median intensity 2 to 5 voxels round a mask."""
    outside = ndimage.distance_transform_edt(~mask)
    ring = (outside > 2) & (outside <= 5)
    return float(np.median(image[ring] if ring.any() else image[~mask]))


def _places(mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return where each voxel lies in its lesion: direction from the middle, times 0 to 1.

    0 in the middle, 1 at the border: the way from the middle as a share of that way and the depth.
    """
    way = np.argwhere(mask) - np.argwhere(mask).mean(0)
    length = np.linalg.norm(way, axis=1)
    share = length / np.maximum(length + depth[mask], 1e-6)
    return way / np.maximum(length, 1e-6)[:, None] * share[:, None]

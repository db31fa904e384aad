"""Real lesions of other walls copied into a wall: plain with a soft edge, CarveMix, LesionMix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage
from scipy.spatial import KDTree
from tqdm import tqdm

from tools.organs.organ import Organ
from tools.scans.scan import Scan
from tools.synthesis.copy_paste import BRIGHTNESS, CANDIDATES, FORMS, entries, weights
from tools.synthesis.lesion import WindowJob
from tools.synthesis.texturers import PlainTexturer
from tools.synthesis.view import SlicesView
from tools.transforms.wall import wall_coordinates, wall_points

__all__ = ["CopyWall"]

WALL_MM = (180.0, 10.0)  # round a wall and through it: what a step in angle or depth weighs
SLICE_MM = 10.0


class Charted(NamedTuple):
    """A lesion in the chart of its wall."""

    places: np.ndarray  # (V, 4): angle from the lesion's middle as two, depth, slice; in mm
    values: np.ndarray  # (V,), 0 at the level of the wall, 1 at that of the cavity
    kinds: np.ndarray  # (V,), number of the class


class CopyWall(PlainTexturer):
    """Fill a mask in a wall with what a real lesion of another wall holds at the same place of it.

    Each voxel takes the value of the lesion's voxel of its class that is nearest in angle from the
    middle of the lesion, depth through the wall and slice, moved from the levels of that scan's
    wall and cavity to those of the scan at hand, as scans of MR have no units. For the forms and
    their references see :class:`tools.synthesis.copy_paste.CopyPaste`; edges are those within
    slices, and the lesion is one of the five nearest in volume that have all of its classes.

    Args:
        root: folder of the bundle whose bins are used.
        view: how it sees scans.
        organ: its table.
        library: folder with ``datalist.json``, or a datalist, of images with label maps; its
            training section.
        form: see above.

    Raises:
        ValueError: if the form is unknown, or the library holds no lesion.
    """

    def __init__(
        self,
        root: str | Path,
        view: SlicesView,
        organ: Organ,
        library: str | Path | None,
        form: str = "copy_paste",
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"method must be one of {', '.join(FORMS)}, got {form!r}")
        if not library:
            raise ValueError(f"library must name real lesions to copy, got none for {form}")
        self.form, self.organ = form, organ
        self.sources: list[Charted] = []
        for image, label in tqdm(list(entries(Path(library))), "lesions to copy", leave=False):
            self.sources += self._source(view, image, label)
        if not self.sources:
            raise ValueError(f"library must hold at least one lesion, got none in {library}")
        super().__init__(form, root, view, {"lesions": len(self.sources)})

    def _source(self, view: SlicesView, image: Path, label: Path) -> Iterator[Charted]:
        scan = Scan(image)
        canvas = view.open(scan, scan.load_labels(label, "label"))
        assert canvas.grid is not None
        assert canvas.scale is not None
        assert canvas.seen is not None
        masks = np.stack([canvas.seen == value for value in self.organ.values])
        if not masks.any() or canvas.tissue is None:
            return
        places, kinds = self._charted(canvas.seen, canvas.grid.affine, masks)
        low, high = canvas.tissue
        values = (canvas.scale.scaled(canvas.image)[np.asarray(masks.any(0))] - low) / (high - low)
        yield Charted(places, values, kinds)

    def _charted(
        self, labels: np.ndarray, affine: np.ndarray, masks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return place and class of each voxel of a lesion."""
        inside = np.asarray(masks.any(0))
        wall = wall_coordinates(
            np.isin(labels, self.organ.wall) | inside, affine, np.isin(labels, self.organ.cavity)
        )
        mine = inside[tuple(wall.voxels.T)]
        order = np.lexsort(wall.voxels[mine].T[::-1])  # as a mask picks them
        angle, depth, voxels = (each[mine][order] for each in (wall.angle, wall.depth, wall.voxels))
        middle = np.angle(np.exp(1j * angle).mean())
        points = wall_points(angle - middle, depth, WALL_MM)
        height = (voxels[:, 2] - voxels[:, 2].mean()) * SLICE_MM
        return np.column_stack([points, height]), masks.argmax(0)[inside]

    def _fill(self, job: WindowJob) -> np.ndarray:
        rng = np.random.default_rng(job.seed)
        image = np.asarray(job.image, np.float64)
        masks = job.lesion_mask.reshape(-1, *image.shape).astype(bool)
        if job.labels is None or job.affine is None:
            raise ValueError("job must hold the label map of its organ, got none")
        inside = np.asarray(masks.any(0))
        places, kinds = self._charted(job.labels, job.affine, masks)
        source = self._choose(kinds, rng)
        copied = np.empty(len(places))
        for kind in np.unique(kinds):
            # a lesion without the class lends what it has
            known = source.kinds == kind if (source.kinds == kind).any() else source.kinds >= 0
            nearest = KDTree(source.places[known]).query(places[kinds == kind])[1]
            copied[kinds == kind] = source.values[known][nearest]
        healthy = image[np.isin(job.labels, self.organ.wall[:1]) & ~inside]
        low, high = (
            float(np.median(each))
            for each in (healthy, image[np.isin(job.labels, self.organ.cavity)])
        )
        if self.form == "lesionmix":
            copied *= rng.uniform(*BRIGHTNESS)
        spacing = voxel_sizes(job.affine)[:2]
        depth = np.zeros(image.shape)
        for k in np.flatnonzero(inside.any(axis=(0, 1))):
            depth[..., k] = ndimage.distance_transform_edt(inside[..., k], sampling=spacing)
        weight = weights(self.form, inside, depth, rng, (*1 / spacing, 0.0))
        result = image.copy()
        result[inside] = weight * (low + copied * (high - low)) + (1 - weight) * image[inside]
        return result

    def _choose(self, kinds: np.ndarray, rng: np.random.Generator) -> Charted:
        """Return one of the lesions nearest in volume, first of those with the same classes."""
        far = [
            abs(np.log(len(each.kinds) / len(kinds))) + 100 * len(set(kinds) - set(each.kinds))
            for each in self.sources
        ]
        return self.sources[int(rng.choice(np.argsort(far)[:CANDIDATES]))]

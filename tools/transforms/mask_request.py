"""Ask a shape model for another lesion within the sphere of a real one: what evaluation asks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from tools.transforms.shape_grid import FILL, half_voxel_mm
from tools.transforms.shape_request import ShapeRequestd
from tools.transforms.sphere import DIAMETER_MM, attribute_condition, enclosing_sphere, sphere_mask

__all__ = ["MaskRequestd"]


class MaskRequestd(MapTransform):
    """Turn a label map into a request with the sphere, the scores and the organ of its lesion.

    Beside the request itself (``image`` and ``label``: what the sampler starts from, and where)
    the sample gets what :class:`tools.transforms.shape_request.ShapeToScand` needs to bring the
    answer to the grid of the label map, and what it is compared with there.

    Args:
        keys: label maps ``(1, H, W, D)`` with an affine (MetaTensor).
        classes: labels of each lesion class, nested; the first holds all that is lesion.
        organ: labels of where a lesion may lie; None: everywhere.
        size: voxels per side of the window.
        fill: diameter of the sphere over the side of the window.
        spacing_mm: voxel size of the window instead of one that follows from ``fill``.
        range_mm: smallest and largest diameter that the model tells apart.
        rating_keys: entries of the sample with the scores of spiculation and lobulation; where they
            are missing, so is the score.
        target_key: where to write the real lesion, 1 inside, ``(1, H, W, D)``.
        region_key: where to write all voxels of the scan that the answer may take.

    Raises:
        ValueError: if a label map holds no lesion.

    Example:
        >>> mask = torch.zeros(1, 12, 12, 12)
        >>> mask[0, 3:7, 4:8, 5:9] = 1
        >>> sample = MaskRequestd("label", size=8)({"label": MetaTensor(mask)})
        >>> sample["image"].shape, sample["label"].shape, sample["condition"].shape
        (torch.Size([1, 8, 8, 8]), torch.Size([1, 8, 8, 8]), torch.Size([16]))
        >>> bool((sample["sphere_region"] >= sample["target"]).all())
        True
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[Sequence[int]] = ((1,),),
        organ: Sequence[int] | None = None,
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        range_mm: tuple[float, float] = DIAMETER_MM,
        rating_keys: tuple[str, str] = ("spiculation", "lobulation"),
        target_key: str = "target",
        region_key: str = "sphere_region",
    ) -> None:
        super().__init__(keys)
        self.classes, self.organ = [list(group) for group in classes], organ
        self.window = {"size": size, "fill": fill, "spacing_mm": spacing_mm}
        self.range_mm, self.rating_keys = (range_mm[0], range_mm[1]), tuple(rating_keys)
        self.target_key, self.region_key = target_key, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the request, and with the lesion it was taken from."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            label = sample[key]
            values, affine = np.asarray(label[0]), np.asarray(label.affine, float)
            lesion = np.isin(values, self.classes[0])
            organ = lesion | True if self.organ is None else np.isin(values, self.organ)
            sphere = enclosing_sphere(lesion, affine)
            # voxels reach half their width beyond their centres; rounding must not reject the least
            diameter = 2 * (sphere.radius_mm + half_voxel_mm(affine)) + 1e-6
            request = ShapeRequestd(
                "scan",
                diameter,
                sphere.centre_mm,
                channels=len(self.classes),
                **self.window,  # type: ignore[arg-type]
            )({"scan": label, "boundary": _mask(organ, label)})
            first, second = (sample.get(name) for name in self.rating_keys)
            condition = attribute_condition(
                diameter,
                None if first is None else float(first),
                None if second is None else float(second),
                self.range_mm,
            )
            window = torch.as_tensor(request["scan"]).as_subclass(torch.Tensor)
            sample |= {"image": window[:-1], "label": window[-1:]}
            sample |= {"condition": torch.from_numpy(condition)}
            sample |= {name: request[name] for name in ("boundary", "control")}
            allowed = organ & sphere_mask(sphere, affine, organ.shape)
            sample[self.target_key] = _mask(lesion, label)
            sample[self.region_key] = _mask(allowed, label)
        return sample


def _mask(inside: np.ndarray, like: MetaTensor) -> MetaTensor:
    """Return a mask with the place of another tensor."""
    return MetaTensor(torch.from_numpy(inside.astype(np.uint8))[None], meta=like.meta)

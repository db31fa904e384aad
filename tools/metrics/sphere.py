"""How well a lesion keeps to its control sphere: size, place, and what lies outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from tools.metrics.per_case import CaseMetric
from tools.transforms.spheres import enclosing_sphere


def mask_affine(mask: Tensor, spacing_mm: Sequence[float] | None = None) -> np.ndarray:
    """Return voxel index to mm of a mask, 4x4: from its voxel size, else its own (MetaTensor).

    Raises:
        ValueError: if the size is not three numbers above 0, or there is neither.
    """
    if spacing_mm is not None:
        if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
            raise ValueError(f"spacing_mm must be three numbers > 0, got {spacing_mm}")
        return np.diag([*map(float, spacing_mm), 1.0])
    if not isinstance(mask, MetaTensor):
        raise ValueError("spacing_mm must be given for masks without an affine, got None")
    return np.asarray(mask.affine, float).reshape(-1, 4, 4)[0]


class SphereError(CaseMetric):
    """Smallest enclosing sphere of a lesion against the one that was asked for, as a MONAI metric.

    The sphere asked for is that of the reference mask. Per case the difference of the diameters
    (above 0: too large) or the distance of the centres, in mm; ``aggregate`` is the median over the
    cases. An empty mask on either side has no sphere: NaN, and it does not count. ``spacing_mm`` is
    the size of the masks' voxels; None: each mask's own affine (MetaTensor).

    Example:
        >>> real, result = torch.zeros(2, 1, 1, 9, 9, 9)
        >>> real[..., 2:7, 4, 4], result[..., 4:7, 4, 4] = 1, 1
        >>> diameter, centre = SphereError("diameter", (1, 1, 1)), SphereError("centre", (1, 1, 1))
        >>> _ = diameter(result, real), centre(result, real)
        >>> diameter.aggregate().item(), centre.aggregate().item()
        (-2.0, 1.0)
    """

    of_masks = True

    def __init__(
        self, quantity: str = "diameter", spacing_mm: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if quantity not in ("diameter", "centre"):
            raise ValueError(f'quantity must be "diameter" or "centre", got {quantity!r}')
        self.quantity, self.spacing_mm = quantity, spacing_mm

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        affine = mask_affine(y, self.spacing_mm)
        errors = [self._error(p[0], r[0], affine) for p, r in zip(*_arrays(y_pred, y), strict=True)]
        return torch.tensor(errors, dtype=torch.float32)[:, None]

    def _error(self, result: np.ndarray, real: np.ndarray, affine: np.ndarray) -> float:
        if not (result.any() and real.any()):
            return float("nan")
        got, asked = enclosing_sphere(result, affine), enclosing_sphere(real, affine)
        if self.quantity == "diameter":
            return 2 * (got.radius_mm - asked.radius_mm)
        return float(np.linalg.norm(np.subtract(got.centre_mm, asked.centre_mm)))


class InsideShare(CaseMetric):
    """Share of a lesion's voxels that lie in the region it was asked for; must be 1.

    ``aggregate`` is the mean over the cases. An empty lesion leaves nothing outside, and nothing
    inside: NaN, and it does not count.

    Example:
        >>> lesion, region = torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
        >>> region[..., 0] = 1
        >>> InsideShare()(lesion, region).item()
        0.5
    """

    reduction = "mean"
    of_masks = True

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        lesion, region = _arrays(y_pred, y)
        voxels = lesion.reshape(len(lesion), -1).sum(1).astype(np.float32)
        inside = (lesion & region).reshape(len(lesion), -1).sum(1)
        shares = np.divide(inside, voxels, out=np.full_like(voxels, np.nan), where=voxels > 0)
        return torch.from_numpy(shares)[:, None]


def _arrays(*masks: Tensor) -> list[np.ndarray]:
    plain = (torch.as_tensor(mask).as_subclass(Tensor) for mask in masks)
    return [mask.detach().cpu().numpy() > 0 for mask in plain]

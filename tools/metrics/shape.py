"""Features of a lesion's shape, and the distance between two sets of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.utils import optional_import
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.stats import wasserstein_distance
from torch import Tensor

from tools.metrics.per_case import CaseMetric
from tools.metrics.sphere import mask_affine
from tools.transforms.spheres import enclosing_sphere

# MONAI's own way to the package: who computes no shapes does without it
marching_cubes, _ = optional_import("skimage.measure", name="marching_cubes")

SMOOTHING_VOXELS = 0.8  # takes the staircase of the grid away: a digital ball becomes a ball
SMALLEST_SPREAD = 0.1  # of the mean: the least spread by which a distance is divided
WORST = 10.0  # standard deviations


class ShapeFeatures(NamedTuple):
    """Numbers that :func:`shape_features` explains."""

    volume_mm3: float
    sphericity: float
    surface_to_volume: float
    components: float
    roughness: float
    filling: float
    elongation: float


def surface_mesh(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface of a mask between its voxels, as triangles.

    The mask (3-D, above 0 in the lesion) is smoothed by 0.8 voxels along each axis, and the surface
    lies where it encloses as many voxels as the mask has: small lesions neither shrink nor vanish.
    ``affine`` leads from voxel index to RAS mm; anisotropic, oblique and mirrored grids are right.

    Returns:
        Vertices in RAS mm, ``(n, 3)``, and the indices of each triangle's corners, ``(m, 3)``.

    Raises:
        ValueError: if the mask is empty.

    Example:
        >>> mask = np.zeros((9, 9, 9))
        >>> mask[3:6, 3:6, 3:6] = 1
        >>> vertices, triangles = surface_mesh(mask, np.eye(4))
        >>> vertices.mean(0).round(3).tolist()
        [4.0, 4.0, 4.0]
    """
    inside = np.asarray(mask) > 0
    if not inside.any():
        raise ValueError("mask must hold a lesion, got an empty mask")
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    margin = int(np.ceil(4 * SMOOTHING_VOXELS)) + 1
    smooth = np.pad(inside[box], margin).astype(np.float32)
    smooth = ndimage.gaussian_filter(smooth, SMOOTHING_VOXELS, mode="constant")
    count = int(inside.sum())
    ranked = np.partition(smooth, (-count - 1, -count), axis=None)
    vertices, triangles, _, _ = marching_cubes(smooth, (ranked[-count] + ranked[-count - 1]) / 2)
    start = np.array([part.start for part in box]) - margin
    return apply_affine(affine, vertices + start), triangles


def shape_features(mask: np.ndarray, affine: np.ndarray) -> ShapeFeatures:
    r"""Return size and shape of a lesion.

    * ``volume_mm3``: of the voxels.
    * ``sphericity``: :math:`\pi^{1/3} (6V)^{2/3} / A`, with volume and area of the surface that
      :func:`surface_mesh` draws; 1 for a ball, less for everything else.
    * ``surface_to_volume``: :math:`A / V` in 1/mm.
    * ``components``: number of pieces; voxels that share a corner belong together.
    * ``roughness``: lobes, spikes and dents. The surface is mapped by the linear map that turns
      the covariance of the volume into that of a ball; the roughness is the standard deviation
      of the distances of the mapped surface from its centre over their mean. It is 0 for every
      ellipsoid and does not change with scale. An excess of surface over a smoothed shape, which
      looks more obvious, grows with the number of voxels: small lesions seem smooth because
      their grid is coarse.
    * ``filling``: volume over that of the sphere about the surface whose centre is that of
      :func:`tools.transforms.spheres.enclosing_sphere`; at most 1, a ball.
    * ``elongation``: longest over shortest principal axis, at least 1.

    Mask, affine and error are those of :func:`surface_mesh`.

    Example:
        >>> grid = np.indices((25, 25, 25)) - 12
        >>> features = shape_features((grid**2).sum(0) <= 100, np.eye(4))
        >>> features.sphericity > 0.98, features.roughness < 0.02, features.filling > 0.93
        (True, True, True)
    """
    vertices, triangles = surface_mesh(mask, affine)
    inside = np.asarray(mask) > 0
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1) / 2
    # pyramids from a point inside: far from the origin of the scanner the sum would lose digits
    middles = corners.mean(1)
    volume = abs(float(((middles - middles.mean(0)) * normals).sum())) / 6
    area = float(areas.sum())
    centre, covariance = _moments(inside, affine)
    axes = np.linalg.eigvalsh(covariance)
    reach = np.linalg.norm(vertices - enclosing_sphere(inside, affine).centre_mm, axis=1).max()
    return ShapeFeatures(
        volume_mm3=float(inside.sum() * abs(np.linalg.det(np.asarray(affine)[:3, :3]))),
        sphericity=float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area),
        surface_to_volume=area / volume,
        components=float(ndimage.label(inside, np.ones((3, 3, 3)))[1]),
        roughness=_roughness(middles - centre, areas, covariance),
        filling=float(volume / (4 / 3 * np.pi * reach**3)),
        elongation=float(np.sqrt(axes[-1] / axes[0])),
    )


def _moments(inside: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centroid (RAS mm) and covariance (mm2) of a mask's volume."""
    voxels = np.argwhere(inside)
    matrix = np.asarray(affine, float)[:3, :3]
    # a voxel is a box of variance 1/12 along each axis, not a point: never flat
    spread = np.cov(voxels.T, bias=True).reshape(3, 3) if len(voxels) > 1 else np.zeros((3, 3))
    return apply_affine(affine, voxels.mean(0)), matrix @ (spread + np.eye(3) / 12) @ matrix.T


def _roughness(points: np.ndarray, areas: np.ndarray, covariance: np.ndarray) -> float:
    """Return the coefficient of variation of the distances, the volume taken as a ball's."""
    distances = np.linalg.norm(points @ np.linalg.inv(np.linalg.cholesky(covariance)).T, axis=1)
    mean = np.average(distances, weights=areas)
    return float(np.sqrt(np.average((distances - mean) ** 2, weights=areas)) / mean)


def feature_distances(predicted: np.ndarray, real: np.ndarray) -> np.ndarray:
    r"""Return how far the distribution of each feature lies from the real one.

    :math:`\min(10, W_1(p, q) / s)` with the 1-Wasserstein distance and the standard deviation
    :math:`s` of the real values, at least a tenth of their mean, so that a feature that is the same
    in all real lesions (one piece) does not decide alone. ``(n, features)`` and ``(m, features)``
    give ``(features,)``, 0 to 10. A predicted row of NaN stands for a prediction without a lesion:
    it counts as 10 standard deviations, whatever the other rows are.

    Raises:
        ValueError: if either set has no row, or the real one has NaN.

    Example:
        >>> feature_distances(np.array([[3.0], [5.0]]), np.array([[1.0], [3.0]])).tolist()
        [2.0]
    """
    for name, values in (("predicted", predicted), ("real", real)):
        if len(values) == 0:
            raise ValueError(f"{name} must have at least one row, got none")
    if np.isnan(real).any():
        raise ValueError("real must have a lesion in each mask, got an empty mask")
    found = predicted[~np.isnan(predicted).any(1)]
    empty = 1 - len(found) / len(predicted)
    spread = np.maximum(real.std(0), np.maximum(SMALLEST_SPREAD * np.abs(real.mean(0)), 1e-12))
    distances = np.full(real.shape[1], WORST)
    if len(found):
        pairs = zip(found.T, real.T, strict=True)
        distances = np.minimum([wasserstein_distance(p, r) for p, r in pairs] / spread, WORST)
    return (1 - empty) * distances + empty * WORST


class ShapeDistance(CaseMetric):
    """Distance between the shapes of predicted and real lesions, as a MONAI metric.

    ``aggregate`` returns the mean over the features of :func:`shape_features` of
    :func:`feature_distances`, 0 (equal distributions) to 10; less is better. Predictions are not
    compared with their own reference but all with all. An empty prediction counts as 10, and an
    empty reference is left out: there is no shape to compare with. ``spacing_mm`` is the size of
    the masks' voxels; None: each mask's own affine (MetaTensor).

    Example:
        >>> metric = ShapeDistance()
        >>> mask = torch.zeros(1, 1, 8, 8, 8)
        >>> mask[..., 2:6, 2:6, 2:5] = 1
        >>> _ = metric(mask, mask)
        >>> metric.aggregate().item()
        0.0
    """

    reference = "the real masks"
    of_masks = True

    def __init__(self, spacing_mm: Sequence[float] | None = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        if spacing_mm is not None:
            mask_affine(torch.empty(0), spacing_mm)
        self.spacing_mm = spacing_mm

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        affine, pairs = mask_affine(y, self.spacing_mm), zip(y_pred, y, strict=True)
        rows = [torch.stack([_features(p, affine), _features(r, affine)]) for p, r in pairs]
        return torch.stack(rows).to(y.device)

    def aggregate(self) -> Tensor:
        """Return one number over all cases since ``reset``."""
        predicted, real = self.measured().double().cpu().numpy().transpose(1, 0, 2)
        real = real[~np.isnan(real).any(1)]
        if len(real) == 0:
            raise ValueError("y must hold at least one lesion, got empty masks only")
        return torch.tensor(feature_distances(predicted, real).mean(), dtype=torch.float32)


def _features(mask: Tensor, affine: np.ndarray) -> Tensor:
    """Return the features of a mask ``(1, H, W, D)``, NaN where it is empty."""
    array = torch.as_tensor(mask).as_subclass(Tensor)[0].detach().cpu().numpy() > 0.5
    if not array.any():
        return torch.full((len(ShapeFeatures._fields),), torch.nan)
    return torch.tensor(shape_features(array, affine), dtype=torch.float32)

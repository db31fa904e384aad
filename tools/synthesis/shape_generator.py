"""A bundle as a generator of lesion shapes: its network and its sampler, loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tools.synthesis.bundles import choose_device, load_network, read_bundle, resolved
from tools.synthesis.generator import SEED_STEP
from tools.transforms.cleaning import clean_level
from tools.transforms.spheres import (
    ShapeWindow,
    Sphere,
    attribute_condition,
    fit_grid,
    shape_on_scan,
)

__all__ = ["ShapeGenerator"]

MAX_ATTEMPTS = 5


class ShapeGenerator:
    """Draw lesion masks with the ``inference.json`` of a bundle such as ``diffmask``.

    Args:
        bundle: name or folder.
        device: see :func:`tools.synthesis.generator.choose_device`.

    Raises:
        FileNotFoundError: if the bundle or its weights do not exist.
        ValueError: if the bundle makes no shapes.
    """

    def __init__(self, bundle: str = "diffmask", device: str = "auto") -> None:
        self.device = choose_device(device)
        self.weights, parser = read_bundle(bundle, self.device, "shape_window")
        self.network = load_network(parser, self.weights, self.device)
        self.inferer = resolved(parser, "inferer")
        arguments = parser.get_parsed_content("shape_window")
        self.window_arguments = {k: v for k, v in arguments.items() if not k.startswith("_")}

    def sample(
        self,
        sphere: Sphere,
        affine: np.ndarray,
        seed: int,
        within: np.ndarray | None = None,
        spiculation: float | None = None,
        lobulation: float | None = None,
    ) -> tuple[ShapeWindow, np.ndarray]:
        """Return a window round the sphere, and the lesion in it: above 0 inside, in [-1, 1].

        An empty prediction is drawn again with another seed, a few times.

        Args:
            sphere: that the centres of the lesion's voxels must not leave, RAS mm.
            affine: voxel index of the scan to RAS mm, 4x4.
            seed: the same seed gives the same lesion.
            within: above 0 where a lesion may lie (an organ), on the scan's grid; None: everywhere.
            spiculation: radiologists' score 1 (none) to 5 (marked); None leaves it to the model.
            lobulation: likewise.

        Raises:
            ValueError: if the boundary leaves no room, or all attempts are empty.
        """
        window = ShapeWindow.around(sphere, affine, within, **self.window_arguments)
        for level in self._attempts(window, seed, spiculation, lobulation):
            if (level > 0).any():
                return window, level
        raise _nothing_drawn(sphere)

    def _attempts(
        self, window: ShapeWindow, seed: int, spiculation: float | None, lobulation: float | None
    ) -> Iterator[np.ndarray]:
        """Yield clean levels of one window, each of another seed; some may be empty."""
        values = attribute_condition(2 * window.radius_mm, spiculation, lobulation)
        condition = torch.from_numpy(values)[None].to(self.device)
        inputs = torch.from_numpy(window.inputs())[None].to(self.device)
        for attempt in range(MAX_ATTEMPTS):
            with torch.inference_mode():
                seeds = [seed + attempt * SEED_STEP]
                result = self.inferer(inputs, self.network, condition, seeds=seeds)
            yield clean_level(result[0, 0].float().cpu().numpy())

    def draw(
        self,
        sphere: Sphere,
        affine: np.ndarray,
        shape: Sequence[int],
        seed: int,
        within: np.ndarray | None = None,
        spiculation: float | None = None,
        lobulation: float | None = None,
    ) -> np.ndarray:
        """Return a lesion mask on the grid of a scan, not empty; see :meth:`sample`.

        Args:
            sphere: that the centres of the lesion's voxels must not leave, RAS mm.
            affine: voxel index of the scan to RAS mm, 4x4.
            shape: voxels of the scan per axis.
            seed: the same seed gives the same mask.
            within: above 0 where a lesion may lie (an organ), on the scan's grid; None: everywhere.
            spiculation: radiologists' score 1 (none) to 5 (marked); None leaves it to the model.
            lobulation: likewise.

        Raises:
            ValueError: if the sphere does not touch the scan or holds no voxel of it, the boundary
                leaves no room, or all attempts are empty.
        """
        window = ShapeWindow.around(sphere, affine, within, **self.window_arguments)
        if not window.has_room(affine, shape, within):
            raise ValueError(f"sphere must hold a voxel of the scan, got none in {sphere}")
        mask = np.zeros(tuple(shape), bool)
        for level in self._attempts(window, seed, spiculation, lobulation):
            # little can fall between the voxels of a coarse scan
            grid = fit_grid(level, window.grid, sphere, affine, within)
            part, box = shape_on_scan(level, grid, sphere, affine, shape, within)
            if part.any():
                mask[box] = part
                return mask
        raise _nothing_drawn(sphere)


def _nothing_drawn(sphere: Sphere) -> ValueError:
    return ValueError(
        f"sphere must have room for a lesion, got none in {MAX_ATTEMPTS} attempts at {sphere}"
    )

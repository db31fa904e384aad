"""What a bundle that works in the latent space of an autoencoder says of its windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

__all__ = ["LatentSettings"]


@dataclass(frozen=True)
class LatentSettings:
    """How windows are cut and scaled for an autoencoder, and how wide the blend round a lesion is.

    Args:
        step: the size of a window is a multiple of this many voxels along each axis, so that all
            levels of autoencoder and denoiser divide it.
        context: voxels shown on each side of the box round the lesion, at least.
        spacing_mm: voxel size of the window, the same along all axes.
        margin_mm: voxels this far from the lesion, and farther, stay as they are; the context must
            be as wide at least.
        intensity_range: HU that the autoencoder sees as 0 and 1.
        smallest: voxels along each axis, at least.

    Raises:
        ValueError: naming the key that breaks its rule.

    Example:
        >>> settings = LatentSettings()
        >>> settings.size(20.0), settings.size(40.0)
        (64, 96)
    """

    step: int = 32
    context: int = 16
    spacing_mm: float = 1.0
    margin_mm: float = 3.0
    intensity_range: tuple[float, float] = (-1000.0, 1000.0)
    smallest: int = 64

    def __post_init__(self) -> None:
        for name in ("step", "spacing_mm", "smallest"):
            if not getattr(self, name) > 0:
                raise ValueError(f"latent_window {name} must be above 0, got {getattr(self, name)}")
        for name in ("context", "margin_mm"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"latent_window {name} must be at least 0, got {getattr(self, name)}"
                )
        if self.margin_mm > self.context * self.spacing_mm:
            raise ValueError(
                f"latent_window margin_mm must be at most the context of {self.context} voxels, "
                f"got {self.margin_mm} mm"
            )
        if not self.intensity_range[0] < self.intensity_range[1]:
            raise ValueError(
                f"intensity_range must be two HU, lowest first, got {self.intensity_range}"
            )

    @classmethod
    def from_config(cls, parser: ConfigParser) -> LatentSettings | None:
        """Return the settings of an ``inference.json``, None if it has no ``latent_window``.

        Raises:
            ValueError: if it has a key that is not known, or a value breaks its rule.
        """
        if parser.get("latent_window") is None:
            return None
        window: Mapping[str, Any] = parser.get_parsed_content("latent_window")
        low, high = parser.get_parsed_content("intensity_range")
        known = ("step", "context", "spacing_mm", "margin_mm", "smallest")
        unknown = sorted(set(window) - set(known))
        if unknown:
            raise ValueError(f"latent_window must have keys of {list(known)}, got {unknown}")
        return cls(**window, intensity_range=(float(low), float(high)))

    def size(self, extent_mm: float) -> int:
        """Return the voxels of a window along an axis on which the lesion is this long."""
        voxels = extent_mm / self.spacing_mm + 2 * self.context
        return int(self.step * np.ceil(max(self.smallest, voxels - 1e-6) / self.step))

    def scaled(self, image: np.ndarray) -> np.ndarray:
        """Return HU clipped to ``intensity_range`` and mapped to [0, 1]."""
        low, high = self.intensity_range
        return (np.clip(image, low, high) - low) / (high - low)

    def unscaled(self, values: np.ndarray) -> np.ndarray:
        """Return values of the autoencoder's scale in HU."""
        low, high = self.intensity_range
        return values * (high - low) + low

"""Blur and noise of a CT reconstruction."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["ct_noise"]


def ct_noise(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    pixel_mm: float = 0.7,
) -> NDArray[np.float32]:
    """Return unit-variance noise with the band-pass spectrum of filtered back-projection.

    In-plane the noise power follows ramp times apodisation, NPS(f) ~ f exp(-(f/f0)^2), with its
    peak near 0.3 cycles/mm for a standard kernel; between slices it is correlated over about one
    slice of 1.5 mm (Gaussian). On grids coarser than ``pixel_mm`` the spectrum is cut at their
    Nyquist frequency, so that coarse noise is closer to white, as after resampling.

    Args:
        shape: of the result ``(I, J, K)``.
        spacing_mm: voxel size.
        rng: source of randomness.
        pixel_mm: native in-plane pixel of the imagined scanner, which bounds the spectrum.

    Example:
        >>> field = ct_noise((16, 16, 16), (1.0, 1.0, 1.0), np.random.default_rng(0))
        >>> field.shape, round(float(field.std()), 3)
        ((16, 16, 16), 1.0)
    """
    white = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    fx = torch.fft.fftfreq(shape[0], spacing_mm[0])[:, None, None]
    fy = torch.fft.fftfreq(shape[1], spacing_mm[1])[None, :, None]
    fz = torch.fft.rfftfreq(shape[2], spacing_mm[2])[None, None, :]
    radial = torch.sqrt(fx**2 + fy**2)
    amplitude = torch.sqrt(radial + 0.02) * torch.exp(-0.5 * (radial / (0.30 / pixel_mm)) ** 2)
    amplitude = amplitude * torch.exp(-2 * (np.pi * 0.6 * fz) ** 2)
    field = torch.fft.irfftn(torch.fft.rfftn(white) * amplitude, s=shape)
    field = field - field.mean()
    return (field / field.std()).numpy().astype(np.float32)

"""A computed heart in late-enhancement MRI: the embedded scan for lesions of the myocardium."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.heart_anatomy import TERRITORIES, HeartBuild, Infarct, Volume
from tools.phantoms.heart_painter import HeartPainter

__all__ = ["HeartPhantom", "heart_mr"]

_SUBSLICES = 3
_ZERO, _UNIT = 2048.0, 1000.0  # stored value of no signal, and of signal 1


class HeartPhantom(NamedTuple):
    """A short-axis stack with everything known about it.

    Attributes:
        image: int16 from 0 to 4095, ``(I, J, K)``, axes to the patient's left, to the back and
            from the apex to the base. Phase-sensitive images have no signal at 2048, others at 0.
        label: uint8, 0 outside and 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow; papillary
            muscles belong to the cavity, the right ventricle to nothing.
        affine: ``(4, 4)``, voxel indices to RAS mm.
        infarct: where the infarct lies, or None; see
            :class:`tools.phantoms.heart_anatomy.Infarct`.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    infarct: dict[str, Any] | None


def heart_mr(
    shape: tuple[int, int, int] = (160, 160, 10),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 10.0),
    seed: int = 0,
    infarct: bool = True,
    no_reflow: bool = True,
    territory: str | None = None,
    noise: float = 0.03,
    phase_sensitive: bool = True,
) -> HeartPhantom:
    """Compute an inversion-recovery MRI of a heart some minutes after contrast, in short axis.

    Thorax with chest wall, lung, liver, stomach and spleen; right and left ventricle with
    trabeculae and papillary muscles, the left one tapering to the apex. Healthy myocardium is
    nulled and dark, blood brighter, an infarct brighter than that, and dark again in it where no
    blood flows. The infarct spreads from the inner layer outwards within the territory of one
    artery. Voxels average what they cover, fat lies aside of water by the chemical shift, surface
    coils in front make the front brighter, and noise is complex: the phase-sensitive image shows
    its real part (Gaussian), the magnitude image is Rician.

    Args:
        shape: voxels per axis, at least (64, 64, 3); the left ventricle fills the slices.
        spacing_mm: voxel size.
        seed: of anatomy, infarct and noise.
        infarct: whether there is one.
        no_reflow: whether it has a core without flow; without an infarct there is none.
        territory: of "left_anterior_descending", "right_coronary", "left_circumflex"; None draws.
        noise: standard deviation per channel; 0.42 is about the signal of blood.
        phase_sensitive: False gives the magnitude, in which nulled tissue and air are black.

    Raises:
        ValueError: if ``shape`` is too small, the spacing not positive, ``noise`` negative, or
            the territory unknown.

    Example:
        >>> phantom = heart_mr((64, 64, 4), (2.0, 2.0, 20.0), infarct=False)
        >>> phantom.image.shape, sorted(set(phantom.label.ravel().tolist()))
        ((64, 64, 4), [0, 1, 2])
    """
    if len(shape) != 3 or min(shape[:2]) < 64 or shape[2] < 3:
        raise ValueError(f"shape must be at least (64, 64, 3), got {tuple(shape)}")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be three numbers > 0, got {spacing_mm}")
    if noise < 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    if territory is not None and territory not in TERRITORIES:
        raise ValueError(f"territory must be one of {sorted(TERRITORIES)}, got {territory!r}")
    rng = np.random.default_rng([seed, 11])
    build = HeartBuild.draw(rng, shape[2] * spacing_mm[2])
    lesion = Infarct.draw(rng, no_reflow, territory) if infarct else None
    painter = HeartPainter(_axes(shape, spacing_mm, build.length_mm), build, rng)
    parts = {name: _slices(part) for name, part in painter.paint(lesion).items()}
    signal = _signal(painter, spacing_mm)
    image = _acquire(signal, spacing_mm, noise, phase_sensitive, rng)
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return HeartPhantom(image, _label(parts), affine, asdict(lesion) if lesion else None)


def _axes(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], length_mm: float
) -> tuple[NDArray[np.float64], ...]:
    """Return mm from the axis of the left ventricle and from its tip; each slice in sheets.

    The last slice ends at the base, the first begins a little above the tip, as stacks do.
    """
    middles = (np.array(shape) - 1) / 2
    x, y = ((np.arange(shape[a], dtype=np.float64) - middles[a]) * spacing_mm[a] for a in (0, 1))
    z = (np.arange(shape[2] * _SUBSLICES, dtype=np.float64) + 0.5) * spacing_mm[2] / _SUBSLICES
    return x, y, z + length_mm - shape[2] * spacing_mm[2]


def _slices(sheets: Volume) -> Volume:
    """Average the sheets of each slice."""
    return sheets.reshape(*sheets.shape[:2], -1, _SUBSLICES).mean(-1)


def _label(parts: dict[str, Volume]) -> NDArray[np.uint8]:
    wall = (parts["epicardium"] > 0.5) & (parts["cavity"] <= 0.5)
    dead = wall & (parts["infarct"] > 0.5)
    label = np.where(parts["cavity"] > 0.5, 1, 0)
    label[wall] = 2
    label[dead] = 3
    label[dead & (parts["no_reflow"] > 0.5)] = 4
    return label.astype(np.uint8)


def _signal(painter: HeartPainter, spacing_mm: tuple[float, float, float]) -> Volume:
    """Put fat where its frequency puts it, and weigh with the sensitivity of the coils."""
    water, fat = _slices(painter.water), _slices(painter.fat)
    fat = ndimage.shift(fat, (1.6 / spacing_mm[0], 0, 0), order=1, mode="nearest")
    frame = painter.frame
    front = np.hypot(frame.x[..., :1] + 60, frame.y[..., :1] + 85)
    sensitivity = 0.78 + 0.75 * np.exp(-front / 55)
    return ((water + fat) * sensitivity).astype(np.float32)


def _acquire(
    signal: Volume,
    spacing_mm: tuple[float, float, float],
    noise: float,
    phase_sensitive: bool,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Blur, add complex noise and store as integers of 12 bits."""
    blur = (0.85 / spacing_mm[0], 0.85 / spacing_mm[1], 0.0)
    channels = rng.standard_normal((2, *signal.shape), dtype=np.float32)
    # measured on a coarser grid than shown: neighbours share noise
    channels = ndimage.gaussian_filter(channels, (0.0, 0.55, 0.55, 0.0))
    channels *= np.float32(noise) / channels.std()
    real = ndimage.gaussian_filter(signal, blur) + channels[0]
    shown = _ZERO + _UNIT * real if phase_sensitive else 2 * _UNIT * np.hypot(real, channels[1])
    return np.clip(np.round(shown), 0, 4095).astype(np.int16)

"""An oblique grid for the tests of windows."""

import numpy as np


def turned(spacing: tuple[float, float, float], degrees: float = 25.0) -> np.ndarray:
    """Axes turned about two of them, one flipped."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-1.0, 1, 1]) @ np.diag(spacing)
    affine[:3, 3] = (12.0, -7.0, 90.0)
    return affine

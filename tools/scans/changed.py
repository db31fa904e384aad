"""Arrays as large as a scan of which no copy is made: seen in other units, or changed in places."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation

__all__ = ["Changed", "Converted", "PackedMask", "give_back_memory", "packed"]


class Converted:
    """What a function makes of an array, computed for the part that is asked for.

    Args:
        source: the array.
        convert: from values to values, one by one.
    """

    def __init__(self, source: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        self._source, self._convert = source, convert
        self.shape, self.ndim, self.size = source.shape, source.ndim, source.size
        self.dtype = convert(source[(slice(0, 1),) * source.ndim]).dtype

    def __getitem__(self, key: Any) -> Any:
        return self._convert(self._source[key])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[..., k] for k in range(self.shape[-1]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._convert(self._source), dtype)

    def transpose(self, *axes: Any) -> Converted:
        """Return it in another order of its axes."""
        return Converted(self._source.transpose(*axes), self._convert)

    def min(self) -> Any:
        """Return the smallest value."""
        return min(part.min() for part in self)

    def max(self) -> Any:
        """Return the largest value."""
        return max(part.max() for part in self)


@dataclass(frozen=True)
class Changed:
    """An array with other values at some of its places.

    Args:
        base: the array.
        index: of the places, ``(n, 3)``, none twice.
        values: there.

    Example:
        >>> changed = Changed(np.zeros((2, 2, 2), int), np.array([[0, 1, 1]]), np.array([7]))
        >>> changed[..., 1].tolist(), int(np.asarray(changed).sum())
        ([[0, 7], [0, 0]], 7)
    """

    base: np.ndarray
    index: np.ndarray
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.base.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the array."""
        return self.base.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a part: slices and whole numbers, one for each axis or an ellipsis."""
        keys = _keys(key, len(self.shape))
        whole = _whole(keys)
        part = self.base[whole].copy(order="K")
        inside = np.ones(len(self.index), bool)
        at: list[np.ndarray] = []
        for axis, wanted in enumerate(whole):
            first, last, step = wanted.indices(self.shape[axis])
            offset = self.index[:, axis] - first
            inside &= (offset >= 0) & (self.index[:, axis] < last) & (offset % step == 0)
            at.append(offset // step)
        part[tuple(axis[inside] for axis in at)] = self.values[inside]
        return part[_without(keys)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self.base.copy(order="K")
        whole[tuple(self.index.T)] = self.values
        return np.asarray(whole, dtype)

    def oriented(self, orientation: np.ndarray) -> Changed:
        """Return it with its axes in another order and direction, see nibabel."""
        index = np.empty_like(self.index)
        for axis, (to, direction) in enumerate(orientation.astype(int)):
            column = self.index[:, axis]
            index[:, to] = column if direction > 0 else self.shape[axis] - 1 - column
        return Changed(apply_orientation(self.base, orientation), index, self.values)


def _keys(key: Any, axes: int) -> list[Any]:
    """Return what is asked of each axis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    place = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys[place : place + 1] = [slice(None)] * (axes - len(keys[:place]) - len(keys[place + 1 :]))
    return keys


def _whole(keys: Sequence[Any]) -> tuple[slice, ...]:
    """Return a slice for each axis; a whole number takes one."""
    return tuple(k if isinstance(k, slice) else slice(int(k), int(k) + 1) for k in keys)


def _without(keys: Sequence[Any]) -> tuple[Any, ...]:
    """Return what takes the axes of whole numbers from a part that has them."""
    return tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)


class PackedMask:
    """A mask as large as a scan, of which each voxel takes one bit.

    Args:
        shape: of the mask.
        planes: of its first two axes, one after the other.

    Example:
        >>> mask = PackedMask((2, 3, 1), [np.array([[0, 1, 0], [0, 0, 1]], bool)])
        >>> mask[..., 0].tolist(), mask.any()
        ([[False, True, False], [False, False, True]], True)
    """

    dtype = np.dtype(bool)
    ndim = 3

    def __init__(self, shape: tuple[int, ...], planes: Iterable[np.ndarray]) -> None:
        self.shape, self.size = shape, int(np.prod(shape))
        # in one piece: small ones would lie between what else is freed, and keep it
        self._planes = np.zeros((shape[2], -(-shape[0] * shape[1] // 8)), np.uint8)
        for row, plane in zip(self._planes, planes, strict=True):
            row[:] = np.packbits(plane.ravel(order="F"))

    def __getitem__(self, key: Any) -> np.ndarray:
        if not _is_basic(key):
            return np.asarray(self)[key]
        keys = _keys(key, 3)
        rows, columns, levels = _whole(keys)
        parts = [self._plane(k)[rows, columns] for k in range(*levels.indices(self.shape[2]))]
        return np.stack(parts, -1)[_without(keys)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:, :, :], dtype)

    def any(self) -> bool:
        """Return whether a voxel is marked."""
        return bool(self._planes.any())

    def sum(self) -> int:
        """Return how many voxels are marked."""
        return sum(int(self._plane(k).sum()) for k in range(self.shape[2]))

    def _plane(self, k: int) -> np.ndarray:
        count = self.shape[0] * self.shape[1]
        bits = np.unpackbits(self._planes[k], count=count).view(bool)
        return bits.reshape(self.shape[:2], order="F")


def packed(mask: Any) -> Any:
    """Return a mask with a bit for each voxel; what is none, or packed already, as it is."""
    if not isinstance(mask, np.ndarray):
        return mask
    return PackedMask(mask.shape, (mask[..., k] > 0 for k in range(mask.shape[2])))


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library keeps it and can.

    It keeps what arrays of up to 32 MiB took, of which work on a coarse copy of a scan frees many.
    """
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _is_basic(key: Any) -> bool:
    keys = key if isinstance(key, tuple) else (key,)
    return all(k is Ellipsis or isinstance(k, slice | int | np.integer) for k in keys)

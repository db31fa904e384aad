"""Scans and masks for MONAI's transforms, through the one door; names of what is made of them."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelReader
from monai.data.folder_layout import default_name_formatter
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple

from tools.files import different_names
from tools.scans.grid import on_grid, require_place, whole_numbers
from tools.scans.reader import (
    bare_name,
    open_image,
    read_values,
    require_finite,
    require_hu,
    scaling,
)
from tools.transforms import EachKey

__all__ = ["LoadMaskd", "LoadScansd", "OutputNames"]

logger = logging.getLogger(__name__)


class _Reader(NibabelReader):
    """Gives MONAI images that :func:`tools.scans.reader.open_image` finds fit, values scaled."""

    def verify_suffix(self, filename: Any) -> bool:
        return True  # what is no image is refused on reading, in one sentence

    def read(self, data: Any, **kwargs: Any) -> Any:
        self.filenames = [data] if isinstance(data, str | Path) else list(data)
        images = [_loaded(Path(path)) for path in self.filenames]
        return images if len(images) > 1 else images[0]


def _loaded(path: Path) -> nib.Nifti1Image:
    image = open_image(path, "image")
    values = read_values(image, path, "image")
    slope, inter = scaling(image)
    if (slope, inter) != (1.0, 0.0):
        values = values * np.float32(slope) + np.float32(inter)
    if values.dtype.byteorder not in "=|":
        values = values.astype(values.dtype.newbyteorder("="))
    return nib.Nifti1Image(values, image.affine, dtype=values.dtype)


class LoadScansd(LoadImaged):
    """MONAI's ``LoadImaged`` with the rules of ``python -m tools``.

    Files are read whole or refused (:mod:`tools.scans.reader`); images hold finite values; masks
    hold whole numbers and lie on the grid of the first key (:mod:`tools.scans.grid`). Entries that
    are no paths are left alone, so a sample may lack a mask.

    Args:
        keys: entries with a path; they become MetaTensors ``(H, W, D)``.
        mask_keys: those of them that are masks or label maps.
        in_hu: whether images must be CT in HU.
        dtype: of the tensors; None: as stored.

    Raises:
        ValueError: if a file breaks a rule.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_keys: KeysCollection = (),
        in_hu: bool = False,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(keys, dtype=dtype, allow_missing_keys=True)
        self.in_hu = in_hu
        self._loader.register(_Reader())  # the last that is registered is asked first
        self.mask_keys = ensure_tuple(mask_keys)

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Return the sample with its files loaded."""
        given = dict(data)
        paths = {k: v for k, v in given.items() if k in self.keys and isinstance(v, str | Path)}
        loaded = {**given, **super().__call__(paths, reader)}
        first = loaded.get(self.keys[0])
        for key, path in paths.items():
            if key in self.mask_keys:
                loaded[key] = _as_mask(loaded[key], first, str(key), path)
                continue
            values = loaded[key].numpy()
            require_finite(values, str(key), path)
            if self.in_hu:
                require_hu(values, str(key), path)
        return loaded


class LoadMaskd(EachKey):
    """Load masks ``(1, H, W, D)`` from paths, onto the grid of the sample's image if it has one.

    Anything else, and a missing entry, is left alone. :class:`LoadScansd` does the same, but MONAI
    Label replaces ``LoadImaged`` and what derives from it by a loader that wants all of its keys.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key = image_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        path = sample[key]
        if isinstance(path, str | Path):
            mask = LoadScansd(key, mask_keys=key)({key: path})[key]
            sample[key] = _as_mask(mask, sample.get(self.image_key), str(key), path)[None]


def _as_mask(mask: MetaTensor, like: Any, key: str, path: str | Path) -> MetaTensor:
    try:
        values = whole_numbers(mask.numpy(), key)
        if isinstance(like, MetaTensor) and like is not mask:
            values = _beside(values, mask, like, key, path)
    except ValueError as error:
        raise ValueError(f"{error} ({path})") from error
    result = mask.new_tensor(np.ascontiguousarray(values), dtype=mask.dtype)
    meta = dict(mask.meta)
    if isinstance(like, MetaTensor):
        meta["affine"], meta["spatial_shape"] = like.affine.clone(), np.array(like.shape[-3:])
    return MetaTensor(result, meta=meta, applied_operations=mask.applied_operations)


def _beside(
    values: np.ndarray, mask: MetaTensor, like: MetaTensor, key: str, path: str | Path
) -> np.ndarray:
    """Return labels on the grid of an image."""
    affine, target = (np.asarray(image.affine, np.float64) for image in (mask, like))
    shape = tuple(like.shape[-3:])
    if values.shape != shape or not np.allclose(affine, target, atol=1e-2):
        require_place(open_image(path, key), key)
    found, note = on_grid(values, affine, shape, target, key)
    if note:
        logger.warning("%s (%s)", note, path)
    return found


class OutputNames:
    """Names for MONAI's ``SaveImage`` (``output_name_formatter``), a different one for each entry.

    A result is named by the file that it was made of, by its folders too where that does not tell
    the entries apart, and by a number where that does not either, as cases of ``synthesize`` are.

    Args:
        files: the entries of a data set, in the order in which their results are saved.

    Example:
        >>> names = OutputNames([{"image": "P1/image.nii.gz"}, {"image": "P2/image.nii.gz"}])
        >>> names({"filename_or_obj": "P2/image.nii.gz"}, None)
        {'subject': 'P2.nii.gz'}
    """

    def __init__(self, files: Sequence[Mapping[str, Any]]) -> None:
        self._names: dict[str, deque[str]] = defaultdict(deque)
        for key in ("image", "label"):  # of which results are made
            paths = [os.path.abspath(e[key]) for e in files if isinstance(e.get(key), str | Path)]
            for path, name in zip(paths, different_names(_names(paths)), strict=True):
                self._names[path].append(name)

    def __call__(self, meta: Mapping[str, Any], saver: Any) -> dict[str, Any]:
        """Return the next name of the file that an image came from."""
        names = self._names.get(os.path.abspath(str(meta["filename_or_obj"])))
        if not names:  # not of these entries
            return default_name_formatter(dict(meta), saver)
        names.rotate(-1)
        return {"subject": f"{names[-1]}.nii.gz"}  # MONAI takes an ending off


def _names(paths: Sequence[str]) -> Iterator[str]:
    places = [Path(path) for path in paths]
    count = Counter(bare_name(place.name) for place in set(places))
    base = os.path.commonpath([place.parent for place in places]) if places else ""
    for place in places:
        name = bare_name(place.name)
        if count[name] > 1:
            above = place.relative_to(base).parent.parts
            name = "_".join([*above, name]).removesuffix("_image")
        yield name

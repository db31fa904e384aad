"""Dictionary transforms of the bundles' configs: names end in d."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform
from torch import Tensor

__all__ = ["EachKey", "as_dtype"]


class EachKey(MapTransform):
    """A dictionary transform that changes a copy of the sample, one key after the other."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the changed sample."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            self._change(sample, key)
        return sample

    @abstractmethod
    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None: ...


def as_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return intensities in the scan's type; integers must not wrap round at its ends."""
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        values = values.double().round().clamp(limits.min, limits.max)
    return values.to(dtype)

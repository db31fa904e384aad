"""Dictionary transforms of the bundles' configs: names end in d."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import MapTransform

__all__ = ["EachKey"]


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

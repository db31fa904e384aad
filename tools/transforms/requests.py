"""What an evaluation asks for: a lesion's own histogram, another lesion's, none, and presets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from tools.transforms.histogram import histogram_preset

__all__ = ["StackRequestsd", "derangement", "with_other_case"]


def derangement(count: int, seed: int = 0) -> list[int]:
    """Return a random permutation that leaves nothing in its place, all of them equally likely.

    Args:
        count: at least 2.
        seed: of the choice.

    Raises:
        ValueError: if ``count`` is below 2, where there is none.
    """
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")
    rng = np.random.default_rng(seed)
    while True:  # about e attempts
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order.tolist()


def with_other_case(
    files: Sequence[Mapping[str, Any]],
    keys: Sequence[str] = ("image", "label"),
    prefix: str = "other_",
    every_nth: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Give each case of a datalist the files of another one, drawn at random.

    Args:
        files: at least 2 cases after thinning.
        keys: entries to take over from the other case.
        prefix: in front of their names.
        every_nth: 1 keeps all cases, 2 every second one.
        seed: of the choice.

    Raises:
        ValueError: if fewer than 2 cases are left.

    Example:
        >>> with_other_case([{"image": "a"}, {"image": "b"}], keys=["image"])
        [{'image': 'a', 'other_image': 'b'}, {'image': 'b', 'other_image': 'a'}]
    """
    cases = files[::every_nth]
    order = derangement(len(cases), seed)
    return [
        {**case, **{f"{prefix}{key}": cases[i][key] for key in keys}}
        for case, i in zip(cases, order, strict=True)
    ]


class StackRequestsd(MapTransform):
    """Stack histograms, a row of -1 (no control) and presets: the requests made of one case.

    Args:
        keys: histograms, each ``(bins,)``.
        path: presets file, see :func:`tools.transforms.histogram.load_presets`.
        presets: names in it.
        name: key of the result, ``(len(keys) + 1 + len(presets), bins)``.
        allow_missing_keys: skip histograms that are absent.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | Path,
        presets: Sequence[str] = (),
        name: str = "requests",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.presets = [torch.tensor(histogram_preset(path, preset)) for preset in presets]
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the requests added, in the order keys, no control, presets."""
        sample = dict(data)
        rows = [
            torch.as_tensor(sample[key]).as_subclass(Tensor) for key in self.key_iterator(sample)
        ]
        rows = [*rows, torch.full_like(rows[0], -1), *self.presets]
        sample[self.name] = torch.stack([row.float() for row in rows])
        return sample

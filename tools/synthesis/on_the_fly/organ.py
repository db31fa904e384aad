"""The organ of each sample of a training loop, found once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from tools.bundle import choose_device
from tools.organs import load_organ
from tools.organs.sources import make_organ_source
from tools.synthesis.on_the_fly.tensors import as_scan

__all__ = ["OrganMaskd"]


class OrganMaskd(MapTransform):
    """Add the mask of an organ to a sample, for :class:`SynthesizeLesiond`.

    It is not random: before the first random transform, ``CacheDataset`` and ``PersistentDataset``
    keep what it finds. It needs the whole scan, so it goes before any cropping.

    Args:
        keys: the one image, ``(1, H, W, D)``, a MetaTensor in HU.
        organ_key: where the mask goes: uint8, 1 inside.
        organ: name of its table, or a JSON file.
        organ_source: totalsegmentator, bundle, recipe or auto, as of ``python -m tools
            synthesize``.
        organ_bundle: folder of the bundle, if it is that.
        device: of a source that has a network.
        allow_missing_keys: leave samples without the image as they are.

    Raises:
        ValueError: if the source is unknown or not there; when called, if the organ is not found.

    Example:
        >>> from tools.phantoms.chest_ct import chest_ct
        >>> chest = chest_ct(seed=0)
        >>> image = MetaTensor(torch.as_tensor(chest.image)[None], affine=chest.affine)
        >>> lung = OrganMaskd(organ_source="recipe")({"image": image})["organ_mask"]
        >>> lung.shape == image.shape, bool(lung.any())
        (True, True)
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        organ_key: str = "organ_mask",
        organ: str = "lung",
        organ_source: str = "auto",
        organ_bundle: str | None = None,
        device: str = "auto",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.organ_key = organ_key
        self.source = make_organ_source(
            load_organ(organ), organ_source, organ_bundle, choose_device(device)
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the mask."""
        output = dict(data)
        for key in self.key_iterator(output):
            image = output[key]
            mask = self.source(as_scan(image, str(key), in_hu=True))
            values = torch.as_tensor(np.asarray(mask), dtype=torch.uint8, device=image.device)[None]
            output[self.organ_key] = MetaTensor(values, affine=image.affine)
        return output

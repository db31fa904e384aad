"""A sample of a training loop, and the transform that puts lesions into it, for the tests."""

from typing import Any

import torch
from monai.data import MetaTensor

from tools.synthesis.on_the_fly import SynthesizeLesiond

SIZE = (48, 44, 40)
AFFINE = torch.diag(torch.tensor([1.2, 1.2, 1.5, 1.0], dtype=torch.float64))


def sample(dtype: torch.dtype = torch.float32, **more: Any) -> dict[str, Any]:
    """A piece of lung: noise, all of it organ but a rim."""
    noise = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    organ = torch.zeros(1, *SIZE)
    organ[:, 3:-3, 3:-3, 3:-3] = 1
    image = MetaTensor((-850 + 30 * noise).to(dtype), affine=AFFINE, meta={"name": "piece"})
    return {"image": image, "lung": MetaTensor(organ, affine=AFFINE), **more}


def transform(seed: int = 0, **options: Any) -> SynthesizeLesiond:
    arguments: dict[str, Any] = {"organ_key": "lung", "prob": 1.0, "diameter_mm": (7, 9)}
    arguments |= {"shape": "ellipsoid", "steps": 2, "device": "cpu", **options}
    return SynthesizeLesiond(**arguments).set_random_state(seed)

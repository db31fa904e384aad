"""Half precision is for those that are faster with it."""

import pytest
import torch

from tools.networks import half_precision
from tools.networks.half_precision import autocast


@pytest.mark.parametrize("there", [True, False])
def test_a_cpu_works_in_the_precision_that_it_has(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_precision, "_cpu_has", lambda dtype: there)
    layer = torch.nn.Linear(4, 4)
    with autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 4)).dtype == (torch.bfloat16 if there else torch.float32)
    with autocast("cpu", None):
        assert layer(torch.ones(1, 4)).dtype == torch.float32

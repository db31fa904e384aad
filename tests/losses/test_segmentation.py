"""Deep supervision: what MONAI's DynUNet gives while it is trained, and what it gives after."""

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet

from tools.losses import StackedSupervisionLoss

OPTIONS = {"to_onehot_y": True, "softmax": True}


def test_levels_are_weighted_by_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randn(2, 3, 2, 4, 4, 4, generator=generator)
    label = torch.randint(0, 2, (2, 1, 4, 4, 4), generator=generator).float()
    plain = DiceCELoss(**OPTIONS)  # type: ignore[arg-type]
    one, two, three = (plain(levels[:, k], label) for k in range(3))
    found = StackedSupervisionLoss(plain)(levels, label)
    torch.testing.assert_close(found, one + two / 2 + three / 4)
    assert torch.equal(StackedSupervisionLoss(plain)(levels[:, 0], label), one)


def test_every_level_of_a_network_is_trained() -> None:
    network = DynUNet(
        3, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], [4, 8, 8, 8],
        norm_name="instance", deep_supervision=True, deep_supr_num=2,
    )  # fmt: skip
    label = torch.zeros(1, 1, 16, 16, 16)
    label[..., 4:9, 4:9, 4:9] = 1
    output = network(torch.rand(1, 1, 16, 16, 16))
    StackedSupervisionLoss(DiceCELoss(**OPTIONS))(output, label).backward()  # type: ignore[arg-type]
    heads = [p for name, p in network.named_parameters() if "deep_supervision_heads" in name]
    assert heads
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads)

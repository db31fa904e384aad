"""One judge of volumes and one of slices, the same ones of real and of forged images."""

import torch
from ignite.engine import Engine

from tools.networks.slice_volume_discriminator import SliceVolumeDiscriminator


def test_slice_is_axial_one_for_each_sample_and_changes_with_the_iteration() -> None:
    torch.manual_seed(0)
    discriminator = SliceVolumeDiscriminator(channels=4, num_layers_d=1, norm="INSTANCE")
    seen: list[torch.Tensor] = []
    discriminator.slice.register_forward_pre_hook(lambda _, arguments: seen.append(*arguments))
    image = torch.arange(16.0).expand(3, 1, 8, 6, 16)  # each axial slice holds its number
    chosen: list[list[float]] = []

    def iteration(*_: object) -> None:
        seen.clear()
        judged = discriminator(image)
        discriminator(image)
        assert torch.equal(*seen)
        assert seen[0].shape == (3, 1, 8, 6)
        chosen.append(seen[0].amax((1, 2, 3)).tolist())
        assert all(
            torch.equal(a, b) for a, b in zip(judged[1], discriminator.volume(image), strict=True)
        )

    for _ in range(2):  # a second run sees what the first saw
        trainer = Engine(iteration)
        discriminator.attach(trainer)
        trainer.run([0] * 6)
    assert chosen[:6] == chosen[6:]
    assert len({number for numbers in chosen for number in numbers}) > 6
    assert any(len(set(numbers)) > 1 for numbers in chosen)

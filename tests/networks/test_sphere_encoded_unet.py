"""The network of lesion masks: size as published, encoding of the sphere, use in the sampler."""

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from tools.inferers import LesionInpaintInferer
from tools.networks.sphere_encoded_unet import SphereEncodedUNet

SMALL = {"base_channels": 8, "channel_multipliers": (1, 2)}


def test_size_is_the_published_one() -> None:
    with torch.device("meta"):
        network = SphereEncodedUNet(base_channels=64)
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_711_041


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inside", "outside"), [(1, 255), (1, -1)])
def test_region_becomes_what_the_weights_know(
    inside: float, outside: float, dtype: torch.dtype
) -> None:
    network = SphereEncodedUNet(**SMALL, sphere_inside=inside, sphere_outside=outside).eval()
    seen: list[torch.Tensor] = []
    network.init_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_t = torch.randn(2, 1, 8, 8, 3)
    region = torch.rand(2, 1, 8, 8, 3) > 0.5
    with torch.no_grad():
        network.to(dtype)(torch.cat([x_t, region], 1).to(dtype), torch.tensor([1, 2]))
    tokens = seen[0].permute(0, 4, 2, 3, 1)
    assert torch.equal(tokens[:, :1], x_t.to(dtype))
    assert torch.equal(tokens[:, 1:], torch.where(region, inside, outside).to(dtype))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"in_channels must be above out_channels \(1\).* got 1"):
        SphereEncodedUNet(1, 1)
    with pytest.raises(ValueError, match="sphere_outside must differ from sphere_inside, got 1"):
        SphereEncodedUNet(sphere_outside=1)
    with pytest.raises(ValueError, match=r"x must be \(B, 2, H, W, D\), got \(1, 1, 8, 8, 3\)"):
        SphereEncodedUNet(**SMALL)(torch.zeros(1, 1, 8, 8, 3), torch.tensor([0]))


def test_sampler_runs_it_within_a_cut_sphere() -> None:
    region = torch.zeros(1, 1, 8, 8, 4)
    region[..., 2:6, 2:5, 1:3] = 1
    inputs = torch.cat([torch.full_like(region, -1), region], 1)
    inferer = LesionInpaintInferer(DDPMScheduler(3, "cosine"), mask_input=True)
    network = SphereEncodedUNet(**SMALL).eval()
    for parameter in network.final_conv[1].parameters():  # chance alone decides the result
        parameter.data.zero_()
    mask = inferer(inputs, network, condition=torch.rand(1, 16))
    assert mask.shape == region.shape
    assert (mask[region == 0] == -1).all()
    assert (mask[region == 1] > 0).any()

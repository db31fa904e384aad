"""The autoencoder with a codebook: published size, shapes, borders, axes, scale of latents."""

import pytest
import torch
from torch import Tensor, nn

from tools.networks.slice_volume_discriminator import SliceVolumeDiscriminator
from tools.networks.vq_autoencoder import VqAutoencoder


@pytest.fixture(scope="module")
def network() -> VqAutoencoder:
    torch.manual_seed(0)
    network = VqAutoencoder(num_embeddings=64).eval()
    for parameter in network.parameters():  # gains of 1 and offsets of 0 would hide mistakes
        if parameter.ndim == 1:
            parameter.data += 0.15 * torch.randn_like(parameter)
    return network


@pytest.fixture
def image() -> Tensor:
    return 2 * torch.rand(2, 1, 8, 12, 4, generator=torch.Generator().manual_seed(1)) - 1


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        network, discriminator = VqAutoencoder(), SliceVolumeDiscriminator()
    assert count(network.encoder) == 441_568
    assert count(network.pre_vq_conv) == 520
    assert count(network.post_vq_conv) == 576
    assert count(network.decoder) == 948_417
    assert tuple(network.codebook.embedding.weight.shape) == (16_384, 8)
    assert [count(discriminator.slice), count(discriminator.volume)] == [2_764_481, 11_049_665]


@torch.no_grad()
def test_latents_are_a_quarter_of_the_size(network: VqAutoencoder, image: Tensor) -> None:
    latents = network.encode(image)
    assert latents.shape == (2, 8, 2, 3, 1)
    assert network.decode(latents).shape == image.shape


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 8, 10, 4), r"have sizes divisible by 4, got \(8, 10, 4\)"),
        ((1, 2, 8, 8, 4), r"be \(B, 1, H, W, D\), got \(1, 2, 8, 8, 4\)"),
        ((1, 8, 8, 4), r"be \(B, 1, H, W, D\), got \(1, 8, 8, 4\)"),
    ],
)
def test_other_images_are_refused(
    network: VqAutoencoder, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"image must {message}"):
        network.encode(torch.zeros(shape))


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="base_channels must be divisible by 16, got 24"):
        VqAutoencoder(base_channels=24)
    with pytest.raises(ValueError, match="base_channels must be divisible by 8, got 4"):
        VqAutoencoder(base_channels=4, num_groups=16)
    with pytest.raises(ValueError, match="num_groups must be even and at least 2, got 3"):
        VqAutoencoder(num_groups=3)


@torch.no_grad()
def test_network_works_depth_first(network: VqAutoencoder, image: Tensor) -> None:
    inside = network.pre_vq_conv(network.encoder(image.permute(0, 1, 4, 2, 3)))
    latents = network.encode(image)
    assert torch.equal(latents, inside.permute(0, 1, 3, 4, 2))
    decoded = network.decoder(network.post_vq_conv(inside))
    torch.testing.assert_close(network.decode(latents), decoded.permute(0, 1, 3, 4, 2))


@torch.no_grad()
def test_borders_of_an_even_image_are_like_its_middle(network: VqAutoencoder) -> None:
    latents = network.encode(torch.full((1, 1, 16, 16, 16), 0.3))
    assert torch.allclose(latents, latents[..., 1:2, 1:2, 1:2].expand_as(latents), atol=1e-5)
    up = network.decoder.conv_blocks[0].up
    weights = up.convt.weight.sum((0, 2, 3, 4))  # each voxel gets every other tap of each axis
    up_of_ones = up(torch.ones(1, 64, 3, 2, 4))
    assert up_of_ones.shape == (1, 64, 6, 4, 8)
    blocks = up_of_ones.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2)
    assert torch.allclose(blocks, blocks[:, :, :1, :1, :1].expand_as(blocks), atol=1e-5)
    of_all_taps = blocks[0, :, 0, 0, 0].sum((1, 2, 3)) - 8 * up.convt.bias
    assert torch.allclose(of_all_taps, weights, atol=1e-4)


@torch.no_grad()
def test_second_stage_sees_latents_scaled_by_the_codebook(image: Tensor) -> None:
    torch.manual_seed(0)
    network = VqAutoencoder(num_embeddings=16).eval()
    codes = network.codebook.embedding.weight
    codes.clamp_(-1.5, 2.5)
    codes[3, 2], codes[5, 0] = -2, 3
    latents = network.encode(image)
    scaled = network.encode_stage_2_inputs((image + 1) / 2)
    torch.testing.assert_close(scaled, 2 * (latents + 2) / 5 - 1)
    indices = torch.randint(16, (2, 2, 3, 1))
    exact = network.codebook.embed(indices)
    drawn = 2 * (exact + 0.01 * torch.randn_like(exact) + 2) / 5 - 1
    expected = (network.decode(exact) + 1) / 2
    torch.testing.assert_close(network.decode_stage_2_outputs(drawn), expected)


def test_training_reaches_all_but_the_codes(image: Tensor) -> None:
    torch.manual_seed(0)
    network = VqAutoencoder(num_embeddings=8)
    before = network.codebook.embedding.weight.clone()
    reconstruction, loss = network(image)
    ((reconstruction - image).abs().mean() + loss).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["codebook.embedding.weight"]
    assert not torch.equal(network.codebook.embedding.weight, before)


@torch.no_grad()
def test_use_is_the_evaluation_of_the_training_pass(network: VqAutoencoder, image: Tensor) -> None:
    reconstruction, _ = network(image)
    torch.testing.assert_close(network.reconstruct(image), reconstruction)
    single = torch.cat([network.reconstruct(image[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(single, reconstruction)

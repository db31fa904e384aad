"""DiffTumor's checkpoints: files of the published layout, written here name by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tools.cli import main
from tools.convert.difftumor import convert
from tools.networks.factorised_unet import FactorisedUNet
from tools.networks.frozen_autoencoder import frozen_autoencoder
from tools.networks.vq_autoencoder import VqAutoencoder
from tools.schedules import cosine_scheduler

CODES = 32
SMALL = {"in_channels": 1, "base_channels": 16, "num_embeddings": CODES, "embedding_dim": 8}
UNET: dict[str, Any] = {
    "in_channels": 17,
    "out_channels": 8,
    "base_channels": 8,
    "channel_multipliers": [1, 2],
    "condition_size": None,
    "attention_heads": 8,
    "attention_head_size": 32,
}
SCHEDULE = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
]


def autoencoder_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 71 tensors of the autoencoder that are needed."""
    kernels: dict[str, tuple[int, ...]] = {
        "encoder.conv_first.conv": (16, 1, 3, 3, 3),
        "encoder.conv_blocks.0.down.conv": (32, 16, 4, 4, 4),
        "encoder.conv_blocks.1.down.conv": (64, 32, 4, 4, 4),
        "decoder.conv_blocks.0.up.convt": (64, 64, 4, 4, 4),
        "decoder.conv_blocks.1.up.convt": (64, 32, 4, 4, 4),
        "decoder.conv_last.conv": (1, 32, 3, 3, 3),
        "pre_vq_conv.conv": (8, 64, 1, 1, 1),
        "post_vq_conv.conv": (64, 8, 1, 1, 1),
        "encoder.final_block.0": (64,),
        "decoder.final_block.0": (64,),
    }
    blocks = {"encoder.conv_blocks.0.res": 32, "encoder.conv_blocks.1.res": 64}
    for block in ("res1", "res2"):
        blocks |= {f"decoder.conv_blocks.0.{block}": 64, f"decoder.conv_blocks.1.{block}": 32}
    for block, width in blocks.items():
        for number in "12":
            kernels[f"{block}.conv{number}.conv"] = (width, width, 3, 3, 3)
            kernels[f"{block}.norm{number}"] = (width,)
    shapes = {f"{name}.weight": shape for name, shape in kernels.items()}
    for name, shape in kernels.items():
        transposed = name.endswith("convt")
        shapes[f"{name}.bias"] = shape[1:2] if transposed else shape[:1]
    codes = {"embeddings": (CODES, 8), "N": (CODES,), "z_avg": (CODES, 8)}
    return shapes | {f"codebook.{name}": shape for name, shape in codes.items()}


def released_autoencoder() -> dict[str, Tensor]:
    """A whole state dict of 154 tensors; those that only training needs are empty."""
    generator = torch.Generator().manual_seed(0)
    state = {k: 0.1 * torch.randn(v, generator=generator) for k, v in autoencoder_shapes().items()}
    dropped = []
    for judge in ("image_discriminator", "video_discriminator"):
        dropped += [f"{judge}.model{i}.0.{kind}" for i in range(5) for kind in ("weight", "bias")]
        norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        dropped += [f"{judge}.model{i}.1.{kind}" for i in (1, 2, 3) for kind in norms]
    dropped += [f"perceptual_model.net.slice.{i}.{k}" for i in range(13) for k in ("w", "b")]
    dropped += [f"perceptual_model.lin{i}.model.1.weight" for i in range(5)]
    dropped += [f"perceptual_model.scaling_layer.{kind}" for kind in ("shift", "scale")]
    state |= {name: torch.zeros(1) for name in dropped}
    assert len(state) == 154
    return state


def released_denoiser(steps: int = 4) -> tuple[dict[str, Any], FactorisedUNet]:
    """A diffusion model: schedule, U-Net with copies of its rotary constants, autoencoder."""
    torch.manual_seed(1)
    network = FactorisedUNet(**UNET)
    state = {f"denoise_fn.{name}": value for name, value in network.state_dict().items()}
    frequencies = 10000.0 ** (-torch.arange(16) / 16)
    for block in ("init_temporal_attn.fn", "downs.0.3.fn", "mid_temporal_attn.fn"):
        state[f"denoise_fn.{block}.fn.fn.rotary_emb.freqs"] = frequencies
    state |= {name: torch.zeros(steps) for name in SCHEDULE}
    state["betas"] = cosine_scheduler(steps).betas.clone()
    state |= {f"vqgan.{name}": value for name, value in released_autoencoder().items()}
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    return {"step": 60000, "model": other, "ema": state, "scaler": {"scale": 1.0}}, network


def save(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Make an object of a package that is gone when the file is read, and that runs code then."""

    def make(package: str) -> Any:
        name = f"{package}.dictconfig"

        class DictConfig:
            def __setstate__(self, state: Any) -> None:
                raise AssertionError("code of the file was run")

        DictConfig.__module__, DictConfig.__qualname__ = name, "DictConfig"
        for part in (package, name):
            monkeypatch.setitem(sys.modules, part, ModuleType(part))
        sys.modules[name].DictConfig = DictConfig  # type: ignore[attr-defined]
        config = DictConfig()
        config.__dict__.update(kind=Any, of=dict, flags={"downsample": [4, 4, 4]})
        return config

    return make


def lightning(state: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    return {"epoch": 3, "global_step": 80000, "state_dict": state, "loops": {}, **more}


def test_autoencoder_arrives_by_name(
    tmp_path: Path, configured: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    state = released_autoencoder()
    parameters = {"cfg": configured("omegaconf")}
    src = save(tmp_path / "a.ckpt", lightning(state, hyper_parameters=parameters))
    for name in ("omegaconf", "omegaconf.dictconfig"):
        del sys.modules[name]
    dst = tmp_path / "new" / "b.pt"
    assert main(["convert", "difftumor", src, str(dst)]) == 0
    assert capsys.readouterr().out.strip() == f"wrote {dst}, the autoencoder"
    written = torch.load(dst, weights_only=True)
    assert written["network_def"] == SMALL
    network = frozen_autoencoder(VqAutoencoder(**SMALL), dst)
    found = network.state_dict()
    assert torch.equal(found["codebook.embedding.weight"], state["codebook.embeddings"])
    assert torch.equal(found["codebook.ema_cluster_size"], state["codebook.N"])
    assert torch.equal(found["codebook.ema_w"], state["codebook.z_avg"])
    same = [name for name in autoencoder_shapes() if not name.startswith("codebook.")]
    assert len(same) == 68
    assert all(torch.equal(found[name], state[name]) for name in same)
    assert network.encode_stage_2_inputs(torch.zeros(1, 1, 8, 8, 8)).isfinite().all()


@pytest.mark.parametrize("steps", [4, 200])
def test_averaged_denoiser_arrives_with_its_steps(
    tmp_path: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    content, network = released_denoiser(steps)
    src, dst = save(tmp_path / "liver_early.pt", content), tmp_path / "b.pt"
    autoencoder = save(tmp_path / "a.ckpt", lightning(released_autoencoder()))
    convert(autoencoder, tmp_path / "a.pt")
    for known in (autoencoder, str(tmp_path / "a.pt")):
        dst.unlink(missing_ok=True)
        assert main(["convert", "difftumor", src, str(dst), "--autoencoder", known]) == 0
        assert f"wrote {dst}, a denoiser of {steps} steps" in capsys.readouterr().out
    written = torch.load(dst, weights_only=True)
    assert written["network_def"] == UNET
    assert written["model"].keys() == network.state_dict().keys()
    assert all(torch.equal(written["model"][k], v) for k, v in network.state_dict().items())


def test_published_denoiser_has_the_published_tensors() -> None:
    with torch.device("meta"):
        network = FactorisedUNet(17, 8, 24, condition_size=None)
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_018_576
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert len(shapes) == 300 - 10  # the rotary constants are stored ten times
    published = {
        "init_conv.weight": (24, 17, 1, 7, 7),
        "time_rel_pos_bias.relative_attention_bias.weight": (32, 8),
        "init_temporal_attn.fn.norm.gamma": (1, 24, 1, 1, 1),
        "time_mlp.1.weight": (96, 24),
        "downs.3.2.fn.fn.to_qkv.weight": (768, 192, 1, 1),
        "downs.3.3.fn.fn.fn.to_out.weight": (192, 256),
        "mid_spatial_attn.fn.fn.fn.to_qkv.weight": (768, 192),
        "final_conv.1.weight": (8, 24, 1, 1, 1),
    }
    assert {name: shapes.get(name) for name in published} == published


def changed(
    part: str, name: str, value: Tensor | None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what puts a tensor in a checkpoint, or takes it out."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        if value is None:
            del content[part][name]
        else:
            content[part][name] = value
        return content

    return change


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("decoder.conv_last.conv.bias", None, r"missing 1: decoder\.conv_last\.conv\.bias$"),
        ("encoder.conv_blocks.2.down.conv.bias", torch.zeros(1), "unknown 1: encoder.conv_blocks"),
        ("codebook.N", torch.zeros(3), r"ema_cluster_size must have shape \(32,\), got \(3,\)"),
        ("pre_vq_conv.conv.bias", torch.full((8,), torch.nan), "finite numbers, got others in 1"),
        ("codebook.embeddings", None, r"must be DiffTumor's, got no autoencoder in .*a\.ckpt"),
        ("encoder.conv_first.conv.weight", torch.zeros(24, 1, 3, 3, 3), "divisible by 16, got 24"),
    ],
)
def test_other_autoencoders_are_refused(
    tmp_path: Path, name: str, value: Tensor | None, message: str
) -> None:
    content = changed("state_dict", name, value)(lightning(released_autoencoder()))
    src = save(tmp_path / "a.ckpt", content)
    with pytest.raises(ValueError, match=message):
        convert(src, tmp_path / "b.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("denoise_fn.final_conv.1.bias", None, r"missing 1: final_conv\.1\.bias"),
        ("denoise_fn.other.weight", torch.zeros(1), "unknown 1: other.weight"),
        ("denoise_fn.init_conv.weight", torch.zeros(8, 9, 1, 7, 7), "n outputs, got 9 and 8"),
        ("denoise_fn.init_conv.bias", torch.full((8,), torch.inf), "finite numbers"),
        ("betas", torch.linspace(1e-4, 0.02, 4), "the cosine schedule of 4 steps, got others"),
        ("posterior_variance", None, "12 tensors of a schedule, wrong are 1: posterior_variance"),
        ("snr", torch.zeros(4), "12 tensors of a schedule, wrong are 1: snr"),
        ("vqgan.codebook.z_avg", None, r"missing 1: codebook\.ema_w"),
    ],
)
def test_other_denoisers_are_refused(
    tmp_path: Path, name: str, value: Tensor | None, message: str
) -> None:
    src = save(tmp_path / "a.pt", changed("ema", name, value)(released_denoiser()[0]))
    with pytest.raises(ValueError, match=message):
        convert(src, tmp_path / "b.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_autoencoder_must_be_that_of_the_denoiser(tmp_path: Path) -> None:
    src = save(tmp_path / "a.pt", released_denoiser()[0])
    state = released_autoencoder()
    state["codebook.embeddings"] = state["codebook.embeddings"] + 1e-3
    other = save(tmp_path / "other.ckpt", lightning(state))
    with pytest.raises(ValueError, match=r"autoencoder must be the one .* in 1: codebook\.embeddi"):
        convert(src, tmp_path / "b.pt", other)
    with pytest.raises(FileNotFoundError, match="must be an existing file, got absent"):
        convert(src, tmp_path / "b.pt", "absent.ckpt")
    with pytest.raises(ValueError, match="autoencoder must be left out for an autoencoder"):
        convert(other, tmp_path / "b.pt", other)
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "must be a PyTorch file of plain tensors"),
        ([1, 2], "must hold a dict, got list"),
        ({"state_dict": 3}, "must be a state dict of an autoencoder"),
        ({"step": 1}, r"must hold a state dict under 'ema', got keys \['step'\]"),
        ({"ema": {"betas": torch.zeros(4)}}, r"must hold keys 'denoise_fn\.\*'"),
    ],
)
def test_wrong_content_is_one_sentence(tmp_path: Path, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "a.pt").write_bytes(content)
    else:
        save(tmp_path / "a.pt", content)
    with pytest.raises(ValueError, match=f"checkpoint {message}"):
        convert(tmp_path / "a.pt", tmp_path / "b.pt")


def test_objects_of_other_packages_are_refused(
    tmp_path: Path, configured: Callable[[str], Any]
) -> None:
    content = lightning(released_autoencoder(), callbacks=configured("somewhere"))
    with pytest.raises(ValueError, match="must be a PyTorch file of plain tensors"):
        convert(save(tmp_path / "a.ckpt", content), tmp_path / "b.pt")

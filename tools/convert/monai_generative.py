"""Weights of the archived package monai-generative to the networks of MONAI itself.

MONAI's ``load_old_state_dict`` renames the tensors, but in some cases it returns quietly with a
network that computes something else. Here each of these cases is an error, and every parameter is
proved to come from the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import (
    AutoencoderKL,
    ControlNet,
    DecoderOnlyTransformer,
    DiffusionModelUNet,
)
from torch import Tensor, nn
from yaml import YAMLError

from tools.convert.weights import named, plain_state_dict, read_checkpoint, require_finite
from tools.files import new_file, read_object
from tools.sentences import short

__all__ = ["convert", "load_old_weights"]

NETWORKS = (AutoencoderKL, ControlNet, DecoderOnlyTransformer, DiffusionModelUNet)
# the old package made this layer in self-attention and never called it
NEVER_APPLIED = (".proj_attn.weight", ".proj_attn.bias")


def convert(
    src: str, dst: str, config: str, net_id: str = "network_def", key_in_ckpt: str = ""
) -> None:
    """Write the state dict that the network of a config loads strictly, all or nothing.

    The config must repeat the arguments of the training. Those that leave no trace in the shapes
    (``num_head_channels``, ``norm_num_groups``, ``norm_eps``) cannot be checked against the file.

    Raises:
        FileNotFoundError: if ``src`` or ``config`` does not exist.
        ValueError: if the config names no network that MONAI can load old weights into, or the
            weights and the network do not belong together.
    """
    network = _network(config, net_id)
    load_old_weights(network, _state(src, key_in_ckpt))
    with new_file(Path(dst)) as partial:
        torch.save(network.state_dict(), partial)


def load_old_weights(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights of the old package by MONAI's own method, or say why that would go wrong.

    The network is overwritten also where this raises; the state dict is left as it is.

    Raises:
        ValueError: if an argument of the network contradicts the weights, a tensor is missing, left
            over, misshapen or not finite, or a parameter would keep its random initial value.

    Example:
        >>> network = DiffusionModelUNet(
        ...     spatial_dims=2, in_channels=1, out_channels=1, channels=(8,), num_res_blocks=1,
        ...     attention_levels=(False,), norm_num_groups=8, num_head_channels=8)
        >>> load_old_weights(network, {})
        Traceback (most recent call last):
        ValueError: checkpoint must have every tensor of the network, missing ...
    """
    expected = network.state_dict()
    same_names = state.keys() <= expected.keys()
    if same_names and (missing := expected.keys() - state.keys()):
        raise ValueError(
            f"checkpoint must have every tensor of the network, missing {named(missing)}"
        )
    _check_arguments(state, expected)
    require_finite(state)
    # a value that no checkpoint holds shows afterwards which parameters were never written
    for tensor in expected.values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    rest = dict(state)
    try:
        network.load_old_state_dict(rest)  # type: ignore[operator]
    except KeyError as error:
        raise ValueError(
            f"checkpoint must have every tensor that the config asks for, missing {error}"
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")
        raise ValueError(f"config must describe the network of the checkpoint, got {reason}") from (
            error
        )
    unused = set() if same_names else set(rest)
    _check_complete(network, {name for name in unused if not name.endswith(NEVER_APPLIED)})


def _network(config: str, net_id: str) -> nn.Module:
    """Return the network of a config."""
    if not Path(config).is_file():
        raise FileNotFoundError(f"config must be an existing file, got {config}")
    content = _content(Path(config))
    parser = ConfigParser({net_id: content} if "_target_" in content else content)
    definition = parser.get(net_id)
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise ValueError(f"net_id must be the key of a network in {config}, got {net_id!r}")
    try:
        network = parser.get_parsed_content(net_id)
    except (RuntimeError, ModuleNotFoundError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"config must make a network of {net_id}, got: {reason}") from error
    if not isinstance(network, NETWORKS):
        names = ", ".join(sorted(kind.__name__ for kind in NETWORKS))
        raise ValueError(f"config must name one of {names}, got {type(network).__name__}")
    _check_upsampling_is_stated(network, definition)
    return network


def _content(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_object(path, "config")
    try:
        content = ConfigParser.load_config_file(path)
    except (ValueError, YAMLError) as error:
        raise ValueError(f"config must be JSON or YAML, got {path}") from error
    if not isinstance(content, dict):
        raise ValueError(f"config must name a network, got {short(content)} in {path}")
    return content


def _check_upsampling_is_stated(network: nn.Module, definition: dict[str, Any]) -> None:
    """Raise ValueError where an autoencoder's config is silent on its upsampling.

    A transposed 3^3 convolution and a plain one share name and shape in the old package, so the
    weights cannot tell which they are; the person who has the training config can.
    """
    stated = definition.get("use_convtranspose")
    if isinstance(network, AutoencoderKL) and stated is not False:
        raise ValueError(
            "use_convtranspose must be stated as false in the config (weights of the old package's "
            f"transposed convolutions cannot be converted, nor told from others), got {stated}"
        )


def _state(src: str, key_in_ckpt: str) -> dict[str, Tensor]:
    """Return the state dict in a file."""
    content: Any = read_checkpoint(src)
    if key_in_ckpt:
        if key_in_ckpt not in content:
            keys = sorted(map(str, content))[:6]
            raise ValueError(
                f"key_in_ckpt must be a key of the checkpoint {keys}, got {key_in_ckpt}"
            )
        content = content[key_in_ckpt]
    if content == {}:
        raise ValueError(f"checkpoint must hold tensors, got none in {src}")
    return plain_state_dict(content, "(else give key_in_ckpt)")


def _check_arguments(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError where an argument of the network makes it another one than the old."""
    if any(".deconv." in name for name in expected):
        raise ValueError(
            "use_convtranspose must be false (the old package's transposed convolutions have "
            "kernels of 3, MONAI's of 2), got true"
        )
    fully_connected = ".attn.out_proj.weight"
    blocks = [n.removesuffix(fully_connected) for n in expected if n.endswith(fully_connected)]
    if any(f"{block}.to_q.weight" in state for block in blocks):
        raise ValueError(
            "include_fc must be false for a network with self-attention (the old package never "
            "applied that layer), got true, which is MONAI's default"
        )
    suffix = ".to_out.0.weight"
    blocks = [name.removesuffix(suffix) for name in state if name.endswith(suffix)]
    without = [name for name in blocks if f"{name}.out_proj.weight" not in expected]
    if any(f"{name}.to_q.weight" in expected for name in without):
        raise ValueError(
            "include_fc must be true for a network with conditioning (the old package applied "
            "to_out), got false"
        )


def _check_complete(network: nn.Module, unused: set[str]) -> None:
    """Raise ValueError if a parameter was never written or a tensor of the file never read."""
    random = {name for name, value in network.state_dict().items() if value.isnan().any()}
    if random:
        raise ValueError(
            "config must describe the network of the checkpoint, got parameters without weights, "
            f"{named(random)}"
        )
    if unused:
        raise ValueError(
            "config must describe the network of the checkpoint, got weights without a place, "
            f"{named(unused)}"
        )

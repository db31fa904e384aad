"""Features of pictures by the ResNet-50 of RadImageNet, whose weights users bring themselves."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import resnet50
from monai.networks.nets.resnet import ResNetBottleneck
from torch import nn
from torch.nn import functional

__all__ = ["radimagenet_features", "radimagenet_network"]

SIDE = 224  # pixels that it was trained on
MEANS = (0.406, 0.456, 0.485)  # blue, green, red
EPSILON = 1.001e-5


def radimagenet_network(path: str | Path | None = None) -> nn.Module:
    """Return the network, which gives 2048 features of pictures ``(B, 3, H, W)``.

    RadImageNet's ResNet-50 comes from Keras, and so differs from MONAI's and torchvision's, though
    names and shapes fit: convolutions have a bias, strides stand at the first one of a block (1 x
    1), not at the second, and batch normalisation adds 1.001e-5.

    References:
        Mei et al., RadImageNet, Radiology: Artificial Intelligence 2022.

    Args:
        path: ``RadImageNet-ResNet50_notop.pth``, a state dict; None: random weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
    """
    network = resnet50(spatial_dims=2, n_input_channels=3, feed_forward=False)
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = EPSILON
        elif isinstance(module, ResNetBottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    if path is not None:
        network.load_state_dict(_weights(Path(path), network))
    return network.eval()


def _weights(path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"radimagenet must be a file of weights, got {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"radimagenet must be a state dict of torch, got {path}") from error
    wanted = network.state_dict()
    kept = state if isinstance(state, dict) else {}
    wrong = [
        name
        for name in [*wanted, *kept]
        if getattr(kept.get(name), "shape", None) != getattr(wanted.get(name), "shape", None)
        and not name.endswith("num_batches_tracked")
    ]
    if wrong:
        raise ValueError(
            f"radimagenet must hold the {len(wanted)} tensors of RadImageNet's ResNet-50, got "
            f"{len(kept)} in {path}, of which {wrong[0]} is missing, too many or of another shape"
        )
    return {name: kept.get(name, value) for name, value in wanted.items()}


@torch.inference_mode()
def radimagenet_features(network: nn.Module, pictures: np.ndarray, batch: int = 16) -> np.ndarray:
    """Return the features of grey pictures, ``(N, 2048)``.

    Args:
        network: see :func:`radimagenet_network`.
        pictures: ``(N, H, W)`` in [-1, 1]: both ends are those of one window for all pictures, not
            of each.
        batch: pictures at a time.
    """
    grey = (torch.from_numpy(np.ascontiguousarray(pictures)).float()[:, None] + 1) / 2
    rows = []
    for part in grey.split(batch):
        large = functional.interpolate(part, (SIDE, SIDE), mode="bilinear", align_corners=False)
        rows.append(network(large - torch.tensor(MEANS)[:, None, None]))
    return torch.cat(rows).double().numpy()

"""A bundle: a folder of configs and weights, by path or by name, read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import Tensor, nn

from tools.files import read_object

__all__ = [
    "Bundle",
    "WeightsLoader",
    "bundle_folders",
    "choose_device",
    "find_bundle",
    "load_weights",
    "read_configs",
    "read_weights",
    "require_no_code",
    "require_weights_of",
    "resolved",
    "sha256_file",
    "start_network",
]

# where checkpoints keep the weights of the network, best first: averaged, shipped, plain
WEIGHTS_KEYS = ("ema", "model", "network")
INFERENCE, SYNTHESIZE = "inference.json", "synthesize.json"


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda``, ``cuda:1``..., which must be present."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    there = ["cpu", *["cuda"][:count], *(f"cuda:{number}" for number in range(count))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if str(name) not in there:
        raise ValueError(f"device must be auto or one of {there} on this machine, got {name!r}")
    return torch.device(name)


def bundle_folders() -> list[Path]:
    """Return where bundles lie: ``./bundles``, in an installed package, beside ``tools``."""
    tools = Path(__file__).resolve().parent
    return [Path("bundles"), tools / "_bundles", tools.parent / "bundles"]


def find_bundle(name_or_path: str | Path) -> Path:
    """Return the folder of a bundle: a path, or the name of one in :func:`bundle_folders`."""
    for folder in (Path(), *bundle_folders()):
        if (folder / name_or_path / "configs" / INFERENCE).is_file():
            return folder / name_or_path
    found = [path for folder in bundle_folders() for path in folder.glob("*/configs")]
    known = sorted({path.parent.name for path in found})
    raise FileNotFoundError(
        f"bundle must be a bundle folder or one of {known}, got {str(name_or_path)!r}"
    )


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and files of a folder (DICOM series)."""
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for item in sorted(entry for entry in path.iterdir() if entry.is_file()):
            digest.update(item.name.encode() + b"\0" + sha256_file(item).encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_weights(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict:
    """Return the state dict in a file of weights, whoever wrote it.

    Shipped weights and MONAI's are a state dict; checkpoints of a training hold the averaged
    network under ``ema``; converted files hold it under ``model``, beside its arguments. Weights
    that several processes saved lose their prefix ``module.``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read safely (``weights_only``), or holds no weights.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights must be an existing file, got {path}")
    if not Path(path).stat().st_size:
        raise ValueError(f"weights must be a file of tensors, got {path}, which is empty")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # pickle, zip and torch fail in many ways
        raise ValueError(
            f"weights must be a file of tensors that torch.save wrote, whole, got {path}"
        ) from error
    state = content
    if isinstance(content, Mapping):
        found = (content.get(key) for key in WEIGHTS_KEYS)
        state = next((part for part in found if isinstance(part, Mapping)), content)
    tensors = list(state.values()) if isinstance(state, Mapping) else []
    if not tensors or not all(isinstance(value, Tensor) for value in tensors):
        held = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"weights must hold the tensors of a network, got {held} in {path}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_weights(
    network: nn.Module, path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> nn.Module:
    """Put the weights of a file into a network, in place, and return it for inference.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no weights (see :func:`read_weights`) or others, see
            :func:`require_weights_of`.
    """
    state = read_weights(path, device)
    require_weights_of(network, state, path)
    network.load_state_dict(state)
    return network.eval()


def start_network(
    network: nn.Module,
    weights: str | None,
    device: str | torch.device = "cpu",
    anew: Sequence[str] = (),
) -> nn.Module:
    """Return a network to be trained on the device: anew, or from the weights of a file.

    Layers whose names begin with one of ``anew`` keep the weights that they have, such as the last
    one where the classes are others.

    Raises:
        ValueError: if the network has no such layer, or the others are not in the file.
    """
    if weights:
        own, state = network.state_dict(), read_weights(weights)
        kept = {name: own[name] for name in own if name.startswith(tuple(anew))} if anew else {}
        if anew and not kept:
            raise ValueError(f"anew must name layers of the network, got {list(anew)}")
        state |= kept
        require_weights_of(network, state, weights)
        network.load_state_dict(state)
    return network.to(device).train()


def require_weights_of(
    network: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Refuse weights of another network, and weights that are not finite.

    Raises:
        ValueError: naming the file and the first tensor that does not fit.
    """
    own = network.state_dict()
    for name in sorted(own.keys() | state.keys()):
        there, wanted = (
            tuple(part[name].shape) if isinstance(part.get(name), Tensor) else "none"
            for part in (state, own)
        )
        if there != wanted:
            raise ValueError(
                f"weights must be those of this network, got {name} of shape {there} where "
                f"{wanted} is expected, in {path}"
            )
        if there != "none" and not state[name].isfinite().all():
            raise ValueError(f"weights must be finite, got NaN or infinity in {name} of {path}")


class WeightsLoader:
    """Handler that puts weights into a network when an engine starts, see :func:`load_weights`."""

    def __init__(
        self, load_path: str, network: nn.Module, map_location: str | torch.device = "cpu"
    ) -> None:
        self._load_path, self._map_location = load_path, map_location
        # as MONAI saves one that several processes train
        parallel = isinstance(network, nn.parallel.DistributedDataParallel)
        self._network: nn.Module = network.module if parallel else network  # type: ignore[assignment]

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights."""
        load_weights(self._network, self._load_path, self._map_location)
        engine.logger.info("weights: %s", self._load_path)


def resolved(parser: ConfigParser, key: str) -> Any:
    """Return what a key of a config stands for, objects built.

    MONAI wraps errors of what a config builds, and the sentence that names the argument would be
    lost: a ValueError or FileNotFoundError is raised as the object's own class puts it.
    """
    try:
        return parser.get_parsed_content(key)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ValueError | FileNotFoundError):
                raise cause from None
            cause = cause.__cause__
        raise


class Bundle:
    """The configs of a bundle for inference and for its main job, with its weights.

    Args:
        bundle: name or folder.
        device: see :func:`choose_device`.
        overlays: configs of the bundle on top of ``inference.json`` and ``synthesize.json``.
        weights: others than those that ``weights_key`` of the config names.
        required: keys of the config, one of which the bundle must have to fit the purpose.
        changes: keys to set, such as ``{"displayable_configs#seed": 1}``.
        weights_key: see above.

    Raises:
        FileNotFoundError: if the bundle, a config or its weights do not exist.
        ValueError: if all of the required keys are missing.
    """

    def __init__(
        self,
        bundle: str | Path,
        device: str | torch.device = "auto",
        overlays: Sequence[str] = (),
        weights: str | Path | None = None,
        required: Sequence[str] = (),
        changes: Mapping[str, Any] | None = None,
        weights_key: str = "ckpt_path",
    ) -> None:
        self.folder, self.device = find_bundle(bundle), choose_device(device)
        configs = self.folder / "configs"
        names = [INFERENCE, *([SYNTHESIZE] if (configs / SYNTHESIZE).is_file() else [])]
        for name in overlays:
            if not (configs / name).is_file():
                raise FileNotFoundError(f"bundle must have {name}, got none in {bundle}")
        self.parser = read_configs(configs, [*names, *overlays])
        if required and all(self.parser.get(key) is None for key in required):
            raise ValueError(
                f"bundle must have {' or '.join(required)} in {INFERENCE}, got none in {bundle}"
            )
        self.parser["bundle_root"], self.parser["device"] = str(self.folder), self.device
        for key, value in (changes or {}).items():
            self.parser[key] = value
        if weights is not None:
            require_no_code("weights", str(weights))
            self.parser[weights_key] = str(weights)
        self.weights = Path(self.parser.get_parsed_content(weights_key))
        if weights is not None and not self.weights.is_file():
            raise FileNotFoundError(f"weights must be an existing file, got {weights}")
        if not self.weights.is_file():
            raise FileNotFoundError(f"bundle must have trained weights, got none at {self.weights}")

    def get(self, key: str) -> Any:
        """Return what a key of the configs stands for, see :func:`resolved`."""
        return resolved(self.parser, key)

    def network(self, key: str = "network") -> nn.Module:
        """Return a network of the bundle with its weights, for inference."""
        return load_weights(self.get(key), self.weights, self.device)

    @property
    def record(self) -> dict[str, Any]:
        """What ``lesions.json`` says of the bundle."""
        return bundle_record(self.folder, self.weights)


def require_no_code(name: str, value: object) -> None:
    """Refuse text that a config would run, or take for a reference."""
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise ValueError(f"{name} must not begin with $, @ or %, got {value!r} (./ before a path)")


def read_configs(folder: Path, names: Sequence[str]) -> ConfigParser:
    """Return configs of a bundle, one on top of the other.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if one is no JSON object; MONAI would not say which.
    """
    parser = ConfigParser()
    for name in names:
        read_object(folder / name, "config of the bundle")
    parser.read_config([folder / name for name in names])
    return parser


def bundle_record(folder: str | Path, weights: str | Path) -> dict[str, Any]:
    """Return name, version and hash of the weights of a bundle."""
    folder = Path(folder)
    version = read_object(folder / "configs" / "metadata.json", "metadata").get("version")
    if not isinstance(version, str):
        raise ValueError(f"metadata of the bundle must have a version, got {version!r} in {folder}")
    # the folder of an unpacked bundle is its name
    name = folder.resolve().name
    return {"name": name, "version": version, "weights_sha256": sha256_file(weights)}

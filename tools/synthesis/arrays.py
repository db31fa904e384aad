"""Lesions for an image in memory, in one call."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from tools.bundle import Bundle, find_bundle, require_no_code
from tools.scans.scan import Scan
from tools.synthesis.cases import Case
from tools.synthesis.texturers import Texturer, load_texturer

__all__ = ["methods_of", "open_synthesizer", "synthesize"]

NAME = "image"
METHODS = ("hand_crafted", "copy_paste", "carvemix", "lesionmix")  # without a network
LEARNED = ("repaint", "cond_diffusion", "cond_diffusion_latent")  # with another network
SAMPLER = {"steps": "num_inference_steps", "jump_length": "jump_length"}
SAMPLER |= {"jump_n_sample": "jump_n_sample"}


def synthesize(
    image: Any,
    affine: Any = None,
    mask: Any = None,
    organ: Any = None,
    organ_name: str | None = None,
    texture: str | None = None,
    diameter_mm: Any = None,
    bundle: str | Path = "lefusion_lidc",
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = None,
    **options: Any,
) -> tuple[Any, Any, dict[str, Any]]:
    """Put lesions into an image in memory, by the same path as ``python -m tools synthesize``.

    Args:
        image: in its own units (HU of CT), ``(H, W, D)`` or ``(1, H, W, D)``: numpy, torch or
            MetaTensor.
        affine: voxel index to RAS mm, 4x4; None: that of the MetaTensor.
        mask: where the lesion is, on the image's grid, in place of a drawn shape; None: one is
            drawn.
        organ: where lesions may lie (of a heart its label map), on the image's grid; None: it is
            found, if the organ of the bundle can be.
        organ_name: of a bundle for several organs, ``organ`` of the command; None: the bundle's.
        texture: as of the command; None: the bundle's default.
        diameter_mm: likewise.
        bundle: name or folder.
        seed: the same seed gives the same voxels.
        device: auto, cpu, cuda or cuda:N.
        weights: others than the bundle's.
        options: more of the command's, such as ``count=2`` or ``shape="ellipsoid"``.

    Returns:
        The image with lesions, of the type and shape of the input; the label, alike (uint8); and
        the record, as in ``lesions.json``.

    Raises:
        ValueError: naming the argument that breaks its rule, or that the bundle does not take.

    Example:
        >>> from tools.phantoms.chest_ct import chest_ct
        >>> chest = chest_ct(seed=0)
        >>> found, label, record = synthesize(
        ...     chest.image, chest.affine, organ=chest.lung_mask, count=1, diameter_mm=10,
        ...     shape="ellipsoid", texture="solid", steps=2, device="cpu",
        ... )
        >>> bool((found[label == 0] == chest.image[label == 0]).all()), len(record["lesions"])
        (True, 1)
    """
    plain, affine = _plain(image, affine)
    method = options.pop("method", None)
    wanted = {"organ": organ_name, "texture": texture, "diameter_mm": diameter_mm, "seed": seed}
    wanted |= options
    opened = open_synthesizer(bundle, device, weights, wanted, shared=True, method=method)
    if mask is not None:
        opened.parser["shapes"] = _mask_source(opened, _on_grid("mask", mask, plain), affine)
        opened.parser["count"] = 1
    job = opened.get("synthesizer")
    given = None if organ is None else _as_nifti(_on_grid("organ", organ, plain), affine)
    in_hu = job.organ.modality == "CT"
    scan = Scan(_as_nifti(plain, affine), None, in_hu, job.hu_offset, job.fill_nan)
    case = Case(NAME, Path(NAME), organ_mask=given)
    rng = np.random.default_rng([job.seed, zlib.crc32(NAME.encode())])
    plan = job.plan(scan, case, rng, "error")
    (result,) = job.finish([plan])
    record = replace(job.record(plan, result), name=NAME)
    return _like(image, result.stored), _like(image, result.label, np.uint8), record.to_dict()


def open_synthesizer(
    bundle: str | Path,
    device: str | torch.device = "auto",
    weights: str | Path | None = None,
    options: dict[str, Any] | None = None,
    shared: bool = False,
    method: str | None = None,
) -> Bundle:
    """Return a bundle with options set as keys of its ``synthesize.json``.

    Args:
        bundle: name or folder.
        device: see :func:`tools.bundle.choose_device`.
        weights: others than the bundle's.
        options: of the command; None keeps the bundle's value.
        shared: keep the network for the next call.
        method: what a config of the bundle puts in place of the network.

    Raises:
        ValueError: if an option is none of the bundle's, or it has no such method.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    changes = {f"displayable_configs#{SAMPLER[k]}": given.pop(k) for k in SAMPLER if k in given}
    overlays = [] if method is None else [_method_file(bundle, method)]
    opened = Bundle(bundle, device, overlays, weights, required=("synthesizer",))
    known = opened.parser.get("displayable_configs", {})
    for key, value in [*given.items(), *changes.items()]:
        name = key.rpartition("#")[2]
        require_no_code(name, value)
        if name not in (known if "#" in key else opened.parser.get()):
            option = next((k for k, v in SAMPLER.items() if v == name), name)
            raise ValueError(
                f"{option} does not go with bundle {opened.folder.name}, got {value!r}"
            )
        opened.parser[key] = value
    shape = opened.parser.get("shape", "")
    if "diameter_mm" in given and str(shape).startswith("ellipsoid:"):
        raise ValueError(
            f"diameter_mm must be left out with shape {shape}, whose classes have sizes of their "
            f"own (ellipsoid takes any), got {given['diameter_mm']}"
        )
    opened.parser["displayable_configs#texture"] = "none"
    if shared and opened.parser.get("texturer", {}).get("network"):
        overrides = tuple((key.rpartition("#")[2], value) for key, value in changes.items())
        opened.parser["texturer"] = _texturer(
            str(opened.folder), str(opened.device), str(opened.weights), overrides
        )
    return opened


def methods_of(bundle: str | Path) -> dict[str, str]:
    """Return what can stand in place of a bundle's network, and the config that puts it there."""
    configs = find_bundle(bundle) / "configs"
    files = {name: f"{name}.json" for name in METHODS}
    files |= {name: f"{name}_inference.json" for name in LEARNED}
    return {name: file for name, file in files.items() if (configs / file).is_file()}


def _method_file(bundle: str | Path, method: str) -> str:
    """Return the name of the config that holds a method."""
    known = methods_of(bundle)
    if method not in known:
        raise ValueError(
            f"method must be one of {', '.join(sorted(known)) or 'none here'} for bundle "
            f"{find_bundle(bundle).name}, got {method!r}"
        )
    return known[method]


@lru_cache(maxsize=4)
def _texturer(bundle: str, device: str, weights: str, overrides: tuple) -> Texturer:
    return load_texturer(bundle, device, dict(overrides), weights)


def _mask_source(opened: Bundle, mask: np.ndarray, affine: np.ndarray) -> Any:
    from tools.shapes import MaskFileShape, MaskFileWallShape

    organ = opened.get("organ_table")
    if organ.chart == "wall":
        return MaskFileWallShape(NAME, organ, (mask.astype(np.uint8), affine))
    return MaskFileShape(NAME, (mask.astype(np.uint8), affine), organ.diameter_range_mm[1])


def _plain(image: Any, affine: Any) -> tuple[np.ndarray, np.ndarray]:
    if affine is None:
        if not isinstance(image, MetaTensor):
            raise ValueError(
                "affine must be given where the image is no MetaTensor, got none with a "
                f"{type(image).__name__}"
            )
        affine = image.affine
    values = torch.as_tensor(image).detach().cpu()
    array = (values.as_tensor() if isinstance(values, MetaTensor) else values).numpy()
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"image must have shape (H, W, D) or (1, H, W, D), got {array.shape}")
    return array, np.asarray(affine, np.float64)


def _on_grid(name: str, mask: Any, image: np.ndarray) -> np.ndarray:
    array = np.asarray(torch.as_tensor(mask).detach().cpu())
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.shape != image.shape:
        raise ValueError(f"{name} must have the image's shape {image.shape}, got {array.shape}")
    return array.astype(np.uint8) if array.dtype == bool else array


def _as_nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    if array.dtype in (np.int64, np.float16):
        array = array.astype(np.int32 if array.dtype == np.int64 else np.float32)
    return nib.Nifti1Image(array, affine, dtype=array.dtype)


def _like(image: Any, values: np.ndarray, dtype: Any = None) -> Any:
    """Return values as an array or tensor of the kind, shape, type and device of another."""
    if not isinstance(image, torch.Tensor):
        array = np.asarray(image)
        return values.reshape(array.shape).astype(array.dtype if dtype is None else dtype)
    tensor = torch.from_numpy(np.ascontiguousarray(values)).reshape(image.shape).to(image.device)
    tensor = tensor.to(image.dtype if dtype is None else torch.uint8)
    return MetaTensor(tensor, affine=image.affine) if isinstance(image, MetaTensor) else tensor

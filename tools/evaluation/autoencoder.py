"""Measure what an autoencoder loses of real CT (``evaluate --stage autoencoder``)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import DivisiblePad
from torch import Tensor, nn
from tqdm import tqdm

from tools.evaluation.autoencoder_figure import write_examples
from tools.evaluation.reconstruction import MEASURES, REGIONS, compare, summarize_regions
from tools.evaluation.results import write_results
from tools.networks.frozen_autoencoder import decode_latents, encode_latents
from tools.phantoms.datasets import lesion_datalist
from tools.synthesis.bundles import choose_device, find_bundle
from tools.synthesis.records import sha256_file

__all__ = ["evaluate_autoencoder"]

CONFIGS = ("train_autoencoder.json", "inference.json")
SECTIONS = ("training", "validation")
# in a checkpoint of the training the averaged weights come before the last ones
STATE_KEYS = ("model", "ema", "network")
EXAMPLES = 6
HEADERS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae_hu": "MAE (HU)", "bias_hu": "bias (HU)"}


class AutoencoderUnderTest(NamedTuple):
    """An autoencoder with its weights.

    Attributes:
        network: in evaluation mode.
        weights: file that they came from.
        intensity_range: HU that are 0 and 1.
        factor: voxels per latent along an axis.
    """

    network: nn.Module
    weights: Path
    intensity_range: tuple[float, float]
    factor: int


def evaluate_autoencoder(
    bundle: str = "bundles/hr_ldm",
    dataset_dir: str = "",
    out: str = "out/evaluate",
    weights: str | None = None,
    overlay: str | None = None,
    limit: int | None = None,
    sections: Sequence[str] = SECTIONS,
    device: str = "auto",
) -> dict[str, Any]:
    """Reconstruct patches and measure the error over patches, in lung and in lesions.

    Writes ``results.json`` (every patch), ``results.md`` (a table by section and kind of patch) and
    ``results.png`` (examples) into ``out``. The training section is measured for comparison only:
    the difference to validation says whether the autoencoder learnt its patches by heart.

    Args:
        bundle: folder of the bundle, or its name.
        dataset_dir: folder with ``datalist.json``, as ``prepare scans`` makes it; "" is the
            embedded phantom.
        out: folder for the results.
        weights: state dict, or a checkpoint of the training; None takes the bundle's.
        overlay: a config of the bundle with another ``autoencoder_def``.
        limit: patches per section, evenly spread over the list; None takes all of validation and
            as many of training.
        sections: of the datalist.
        device: ``auto``, ``cpu``, ``cuda``.

    Returns:
        The content of ``results.json``.

    Raises:
        FileNotFoundError: if the bundle, a config, weights or the dataset do not exist.
        ValueError: if the config has no ``autoencoder_def`` or a patch is too small.
    """
    target = choose_device(device)
    tested = load_autoencoder(find_bundle(bundle), weights, overlay, target)
    files = {section: lesion_datalist(dataset_dir, section) for section in sections}
    if limit is None:
        limit = len(files.get("validation", files[sections[-1]]))
    rows, examples, start = [], [], time.perf_counter()
    for section, entries in files.items():
        chosen = _spread(entries, limit)
        shown = {id(entry) for entry in _spread(_with_lesion(chosen), EXAMPLES)}
        for entry in tqdm(chosen, desc=f"reconstructing {section}"):
            image, mask = _read(entry, tested.intensity_range)
            reconstruction = reconstruct(tested, image.to(target)).cpu()
            measured = compare(image, reconstruction, mask, tested.intensity_range)
            rows.append({"section": section, "kind": _kind(entry), **_names(entry), **measured})
            if section == sections[-1] and id(entry) in shown:
                examples.append((image, reconstruction, mask))
    results = {
        "settings": {
            "dataset": dataset_dir or "embedded phantom",
            "weights_sha256": sha256_file(tested.weights)[:16],
            "parameters": sum(p.numel() for p in tested.network.parameters()),
            "intensity_range": list(tested.intensity_range),
            "seconds_per_patch": round((time.perf_counter() - start) / len(rows), 3),
        },
        "summary": _summary(rows),
        "patches": rows,
    }
    write_results(Path(out), results, _page(results))
    write_examples(Path(out) / "results.png", examples, tested.intensity_range)
    return results


def load_autoencoder(
    bundle: Path, weights: str | None, overlay: str | None, device: torch.device
) -> AutoencoderUnderTest:
    """Return the autoencoder of a bundle.

    Args:
        bundle: folder.
        weights: see :func:`evaluate_autoencoder`.
        overlay: see :func:`evaluate_autoencoder`.
        device: of the network.

    Raises:
        FileNotFoundError: if a config or the weights do not exist.
        ValueError: if there is no ``autoencoder_def``.
    """
    found = [bundle / "configs" / name for name in CONFIGS]
    paths = [path for path in found if path.is_file()][:1]
    if overlay is not None:
        paths.append(bundle / "configs" / overlay)
    if not paths or not paths[-1].is_file():
        raise FileNotFoundError(f"overlay must be a config of the bundle, got {overlay}")
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in paths]))
    if "autoencoder_def" not in parser:
        raise ValueError(f"bundle must have autoencoder_def in {paths[0].name}, got none")
    default = str(bundle / "models" / "autoencoder.pt")
    parser["bundle_root"] = str(bundle)
    if overlay is not None and "autoencoder_path" in parser:
        default = parser.get_parsed_content("autoencoder_path")
    path = Path(default if weights is None else weights)
    if not path.is_file():
        raise FileNotFoundError(f"weights must lead to an existing file, got {path}")
    network = parser.get_parsed_content("autoencoder_def")
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(next((state[key] for key in STATE_KEYS if key in state), state))
    low, high = parser.get_parsed_content("intensity_range")
    levels = len(parser.get_parsed_content("autoencoder_def#num_channels"))
    network = network.to(device).eval()
    return AutoencoderUnderTest(network, path, (float(low), float(high)), 2 ** (levels - 1))


@torch.no_grad()
def reconstruct(tested: AutoencoderUnderTest, image: Tensor) -> Tensor:
    """Return the decoded mean of the latents, same shape as the image.

    Args:
        tested: the autoencoder.
        image: in [0, 1], shape ``(1, 1, H, W, D)``; sizes that the latents do not divide go on as
            their mirror image.
    """
    pad = DivisiblePad(k=tested.factor, mode="symmetric", method="end")
    padded = torch.as_tensor(pad(image[0])).as_subclass(Tensor)[None]
    whole = decode_latents(tested.network, encode_latents(tested.network, padded))
    height, width, depth = image.shape[2:]
    return whole[:, :, :height, :width, :depth]


def _read(
    entry: Mapping[str, Any], intensity_range: tuple[float, float]
) -> tuple[Tensor, Tensor | None]:
    """Return image in [0, 1] and mask of a patch, ``(1, 1, H, W, D)``."""
    low, high = intensity_range
    values = np.asarray(nib.load(entry["image"]).dataobj, np.float32)
    image = torch.from_numpy((np.clip(values, low, high) - low) / (high - low))[None, None]
    if "label" not in entry:
        return image, None
    mask = np.asarray(nib.load(entry["label"]).dataobj) > 0
    return image, torch.from_numpy(mask)[None, None]


def _spread(entries: Sequence[Any], count: int) -> list[Any]:
    places = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
    return [entries[i] for i in places]


def _with_lesion(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the windows round nodules, or all where there are none."""
    return [entry for entry in entries if _kind(entry) == "nodule"] or list(entries)


def _kind(entry: Mapping[str, Any]) -> str:
    if entry.get("phantom"):
        return "phantom"
    return "nodule" if "diameter_mm" in entry else "scan"


def _names(entry: Mapping[str, Any]) -> dict[str, str]:
    name = entry.get("name", Path(entry["image"]).name)
    return {"name": str(name), "patient": str(entry.get("patient", ""))}


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return summaries by section, of all patches and of each kind."""
    summary: dict[str, Any] = {}
    for section in dict.fromkeys(row["section"] for row in rows):
        mine = [row for row in rows if row["section"] == section]
        groups = {"all": mine}
        for kind in sorted({row["kind"] for row in mine}):
            groups[kind] = [row for row in mine if row["kind"] == kind]
        summary[section] = {name: summarize_regions(group) for name, group in groups.items()}
    return summary


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    for section, groups in summary.items():
        # one kind only: the line of all says the same
        for group, regions in islice(groups.items(), 1 if len(groups) == 2 else None):
            for region in REGIONS:
                if region not in regions:
                    continue
                row = regions[region]
                cells = [_cell(row.get(measure), measure) for measure in MEASURES]
                words = [section, group, region, str(row["n"]), *cells]
                yield "| " + " | ".join(words) + " |"


def _cell(value: Mapping[str, float] | None, measure: str) -> str:
    digits = 3 if measure == "ssim" else 1
    return "" if value is None else f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}"


def _page(results: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    headers = ["section", "patches", "region", "n", *[HEADERS[measure] for measure in MEASURES]]
    lines = [
        "# Reconstruction",
        "",
        settings,
        "",
        "Mean ± standard deviation over patches. Peak of PSNR: the whole intensity range. Lung: "
        "voxels of the patch below -400 HU. Lesion: voxels of the label.",
        "",
        "| " + " | ".join(headers) + " |",
        "|" + "---|" * len(headers),
        *_lines(results["summary"]),
    ]
    return "\n".join(lines) + "\n"

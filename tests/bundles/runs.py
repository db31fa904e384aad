"""Runs of the bundles: sizes that take seconds, in this process or one of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import run
from torch import nn

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/metadata.json"))
# those that draw, and those that answer another question about a scan
SYNTHESIZING = [name for name in NAMES if (BUNDLES / name / "configs/synthesize.json").is_file()]
TINY = [8, 16, 16]
TINY_MAISI: dict[str, Any] = {
    "network_def#network#num_channels": TINY,
    "network_def#network#norm_num_groups": 8,
    "network_def#network#num_head_channels": [0, 8, 8],
}
TINY_LATENT = TINY_MAISI | {"autoencoder_path": "", "autoencoder_def#num_channels": [8, 8, 16]}
# bfloat16 convolutions of 2^3 voxels, as crops of 32 would need, have NaN gradients on some CPUs
CROPS: dict[str, Any] = {"window_size": [48, 48, 48], "variants": 1}
FEW_STEPS = {"validate#inferer#num_inference_steps": 2}
FEW_LATENT_STEPS = {"validate#inferer#sampler#num_inference_steps": 2}
FEW_LATENT_STEPS |= {"validate#inferer#fewest_steps": 2}
SHORT: dict[str, Any] = {"train#trainer#epoch_length": 2, "max_epochs": 1}
SHORT |= {"batch_size": 2, "val_interval": 1}

UNET = {"network_def#channels": TINY} | FEW_STEPS
# crops are encoded when they are drawn: a few of them
UNREAD: dict[str, Any] = {"ruler_lesions": 2, "train#dataset#cache_num": 0}
LATENT = TINY_LATENT | CROPS | FEW_LATENT_STEPS | UNREAD
AUTOENCODER = {"window_size": [16, 16, 16], "autoencoder_def#num_channels": [8, 8, 16]}
SEGMENTATION: dict[str, Any] = {"network_def#channels": [4, 8, 8], "network_def#strides": [2, 2]}
CLASSIFICATION: dict[str, Any] = {
    "network_def#init_features": 8,
    "network_def#block_config": [1, 1, 1, 1],
}
TINY_TUMOUR: dict[str, Any] = {
    "network_def#base_channels": 8,
    "network_def#channel_multipliers": [1, 2],
    "autoencoder_path": "",
    "autoencoder_def#num_embeddings": 16,
    "variants": 1,
}
TUMOUR_AUTOENCODER = {
    "window_size": [16, 16, 16],
    "autoencoder_def#num_embeddings": 16,
    "discriminator_def#channels": 4,
    "adversarial_from_step": 2,
}
TRAININGS = {
    "lefusion_lidc/configs/train.json": UNET,
    "lefusion_emidec/configs/train.json": UNET,
    "diffmask/configs/train.json": UNET,
    "hr_ldm/configs/train.json": LATENT,
    "hr_ldm/configs/train_autoencoder.json": AUTOENCODER,
    "lesion_segmentation/configs/train.json": SEGMENTATION,
    "nodule_classification/configs/train.json": CLASSIFICATION,
    "difftumor/configs/train.json": TINY_TUMOUR,
    "difftumor/configs/train_autoencoder.json": TUMOUR_AUTOENCODER,
}
# of inference: two steps, where there is a sampler
STEPS: dict[str, Any] = {"displayable_configs#num_inference_steps": 2}
QUICK = {name: STEPS if name in SYNTHESIZING else {} for name in NAMES}
QUICK["hr_ldm"] = STEPS | {"inferer#inferer#fewest_steps": 2}
QUICK["difftumor"] = {"displayable_configs#num_inference_steps": 4}
POSTFIX = dict.fromkeys(SYNTHESIZING, "synthetic") | dict.fromkeys(
    ("diffmask", "lesion_segmentation"), "lesion"
)
# what inference writes: an image of each scan, or a table of all
RESULTS = {
    name: f"*_{POSTFIX[name]}.nii.gz" if name in POSTFIX else "predictions.csv" for name in NAMES
}


def run_module(repository: Path, *words: str) -> str:
    """Run ``python -m`` at the root of the repository, on CPUs, and return what it printed."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    environment = {**given, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def words(options: dict[str, Any]) -> list[str]:
    """Options as a person types them."""
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def run_configs(bundle: str, run_id: str, names: str, output_dir: Path, **options: Any) -> None:
    """Do what ``python -m monai.bundle run`` does, without a new interpreter each time."""
    files = [f"bundles/{bundle}/configs/{name}.json" for name in names.split()]
    run(run_id, config_file=files, logging_file=False, output_dir=str(output_dir), **options)


def run_example(bundle: str, **options: Any) -> dict[str, Any]:
    """Run the Python example of a bundle's README with a few options; return what it names."""
    text = Path(f"bundles/{bundle}/docs/README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    closing = ",\n)\nworkflow.initialize()"
    assert example.count(closing) == 1
    names: dict[str, Any] = {}
    exec(example.replace(closing, f",\n    **{options}{closing}"), names)
    return names


def random_weights(network: nn.Module, path: Path) -> nn.Module:
    """Write a network with random weights everywhere, the last ones too, which start at 0."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    torch.save(network.state_dict(), path)
    return network


def raw_values(folder: Path, name: str) -> np.ndarray:
    """The values of a metric, case by case, as an evaluation writes them."""
    return np.genfromtxt(folder / f"{name}_raw.csv", delimiter=",", skip_header=1, usecols=1)


def written(entry: dict[str, Any], folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scan, label and result of an entry, the last on the grid of the first."""
    name = Path(entry["image"]).name.removesuffix(".nii.gz")
    before, after = nib.load(entry["image"]), nib.load(folder / f"{name}_synthetic.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    label = np.asarray(nib.load(entry["label"]).dataobj)
    return np.asarray(before.dataobj), label, np.asarray(after.dataobj)

"""What lies where a lesion shall be, and its halo, tells a bundle nothing: trained, drawn, judged.

A marker stands at the lesion's place, once as the phantom has it and once with other values.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from scipy import ndimage
from torch import Tensor

from tests.bundles.runs import TINY_LATENT
from tools.phantoms.datasets import lesion_datalist
from tools.phantoms.heart_datasets import heart_datalist
from tools.transforms.latents import latent_mask

BUNDLES = ("lefusion_lidc", "lefusion_emidec", "hr_ldm")
HALO_MM = 1.2  # below every margin, and with a voxel of interpolation below what is healed
LATENT = TINY_LATENT | {"amp_dtype": None, "inferer#inferer#fewest_steps": 2}
QUICK = {"displayable_configs#num_inference_steps": 2}
# the scale of a heart is that of the whole scan; the marker stays between its ends
OPTIONS: dict[str, dict[str, Any]] = {
    "lefusion_lidc": {"amp_dtype": None},
    "lefusion_emidec": {"percentiles": [0, 100], "amp_dtype": None, "margin_mm": 2.0},
    "hr_ldm": LATENT,
}


def config(bundle: str, name: str, **options: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(f"bundles/{bundle}/configs/{name}.json")
    for key, value in (OPTIONS[bundle] | options).items():
        if key.split("#")[0] in parser.config:
            parser[key] = value
    parser["bundle_root"], parser["device"] = f"bundles/{bundle}", "cpu"
    return parser


@pytest.fixture(params=BUNDLES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[dict[str, Any]]]:
    """A bundle, and the same case twice: as it is, and with other values in lesion and halo."""
    heart = request.param == "lefusion_emidec"
    entry = (heart_datalist if heart else lesion_datalist)("", "validation")[0]
    image = nib.load(entry["image"])
    label = np.asarray(nib.load(entry["label"]).dataobj)
    lesion = np.isin(label, (3, 4)) if heart else label > 0
    spacing = image.header.get_zooms()[:3]
    marked = ndimage.distance_transform_edt(~lesion, sampling=spacing) <= HALO_MM
    if heart:
        marked &= np.isin(label, (2, 3, 4))  # what lies beyond the wall is no trace of a lesion
    values = np.asarray(image.dataobj)
    low, high = np.percentile(values[~marked], (40, 60))
    checks = np.indices(values.shape).sum(0) % 2
    other = np.where(marked, np.where(checks, low, high), values).astype(values.dtype)
    path = tmp_path / Path(entry["image"]).name
    nib.save(nib.Nifti1Image(other, image.affine, dtype=values.dtype), path)
    return request.param, [dict(entry), {**entry, "image": str(path)}]


def test_a_training_sample_shows_nothing_of_it(case: tuple[str, list[dict[str, Any]]]) -> None:
    bundle, entries = case
    parser = config(bundle, "train", healed_share=1.0, histogram_transfer=0.0)
    transforms: Compose = parser.get_parsed_content("train#preprocessing")
    shown = []
    for entry in entries:
        transforms.set_random_state(1)
        sample = transforms({**entry, "variant": 0, "name": "one"})
        sample = sample[0] if isinstance(sample, list) else sample
        if bundle == "hr_ldm":
            inside = latent_mask(sample["label"][None].float()).amax(1) > 0
            shown.append(sample["latents"].masked_fill(inside, 0))
        else:
            inside = (sample["label"] > 0).any(0)
            shown.append(torch.as_tensor(sample["image"]).masked_fill(inside, 0))
        assert bool(inside.any())
        assert not bool(inside.all())
    assert torch.equal(*shown)


def blurred(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
    """A network whose answer depends on all that lies within 4 voxels."""
    channels = {4: 2, 68: 4}.get(x.shape[1], 1)
    size = [min(9, n - 1 + n % 2) for n in x.shape[2:]]
    mean = torch.nn.functional.avg_pool3d(x, size, 1, [n // 2 for n in size])
    return mean[:, :channels] - 0.5 * x[:, :channels]


def test_what_is_drawn_does_not_hang_on_it(case: tuple[str, list[dict[str, Any]]]) -> None:
    bundle, entries = case
    parser = config(bundle, "inference", **QUICK)
    before = parser.get_parsed_content("preprocessing")
    inferer = parser.get_parsed_content("inferer")
    paste = parser.get_parsed_content("postprocessing#transforms#0")
    drawn = []
    for entry in entries:
        sample = before(entry)
        parts = (
            [sample["image"]]
            if bundle != "lefusion_emidec"
            else [torch.as_tensor(sample["image"]), sample["label"]]
        )
        inputs = torch.cat(parts)[None]
        output = inferer(
            inputs,
            blurred,
            sample.get("histogram", torch.zeros(1))[None] if bundle == "lefusion_emidec" else None,
        )
        drawn.append(torch.as_tensor(paste({**sample, "pred": output[0]})["pred"]))
        assert not torch.equal(
            drawn[-1],
            torch.as_tensor(np.asarray(nib.load(entry["image"]).dataobj))[None].to(drawn[-1]),
        )
    assert torch.equal(*drawn)


def test_evaluation_draws_on_nothing_of_it(case: tuple[str, list[dict[str, Any]]]) -> None:
    bundle, entries = case
    for name in ("train", "evaluate"):
        parser = config(bundle, "train")
        if name == "evaluate":
            parser.read_config([f"bundles/{bundle}/configs/{n}.json" for n in ("train", name)])
            for key, value in OPTIONS[bundle].items():
                if key.split("#")[0] in parser.config:
                    parser[key] = value
            parser["bundle_root"] = f"bundles/{bundle}"
        transforms = parser.get_parsed_content("validate#preprocessing")
        others = {"other_image": entries[0]["image"], "other_label": entries[0]["label"]}
        extra = others if bundle == "lefusion_lidc" and name == "evaluate" else {}
        first, second = (transforms({**entry, **extra}) for entry in entries)
        assert torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(second["image"]))
        # and what is asked for is the real lesion's own
        key = "histogram_own" if extra else "histogram"
        assert not torch.equal(first[key], second[key])

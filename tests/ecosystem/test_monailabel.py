"""What judges the answers of a MONAI Label server must be able to fail; no server is needed."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from ecosystem import monailabel_checks as checks
from ecosystem.monailabel import differ
from ecosystem.monailabel_server import MODELS, Client

AFFINE = np.diag([0.7, 0.7, 1.25, 1.0])


def volume(values: np.ndarray, affine: np.ndarray = AFFINE) -> nib.Nifti1Image:
    return nib.Nifti1Image(values.astype(np.float32), affine)


@pytest.fixture
def scan() -> nib.Nifti1Image:
    return volume(np.random.default_rng(0).integers(-900, 100, (20, 20, 14)))


@pytest.fixture
def lesion() -> np.ndarray:
    mask = np.zeros((20, 20, 14), bool)
    mask[8:13, 8:13, 5:9] = True
    return mask


def test_images_may_change_in_the_mask_only(scan: nib.Nifti1Image, lesion: np.ndarray) -> None:
    values = np.array(scan.dataobj)
    values[lesion] += 500
    assert not checks.changed_only_near(volume(values), scan, lesion)
    assert "90 %" in checks.changed_only_near(scan, scan, lesion)[0]
    values[14, 10, 7] += 1  # 1.4 mm from the mask
    assert "1 voxels outside" in checks.changed_only_near(volume(values), scan, lesion)[0]
    assert not checks.changed_only_near(volume(values), scan, lesion, margin_mm=3.0)
    values[18, 10, 7] += 1
    assert "1 voxels outside" in checks.changed_only_near(volume(values), scan, lesion, 3.0)[0]
    moved = AFFINE.copy()
    moved[0, 3] = 1
    assert "affine" in checks.changed_only_near(volume(values, moved), scan, lesion)[0]
    assert "shape" in checks.same_grid(volume(values[:-1]), scan)[0]


def test_masks_must_fill_their_sphere_and_stay_in_it(lesion: np.ndarray) -> None:
    centre = (10 * 0.7, 10 * 0.7, 6.5 * 1.25)
    assert not checks.in_sphere(volume(lesion), centre, 6.5)
    assert "stay within 2.0 mm" in checks.in_sphere(volume(lesion), centre, 4.0)[0]
    assert "9.8 mm at least, got 5.0" in checks.in_sphere(volume(lesion), centre, 14.0)[0]
    assert "got none" in checks.in_sphere(volume(lesion * 0), centre, 6.0)[0]
    assert "0 and 1" in checks.in_sphere(volume(lesion * 0.5), centre, 6.0)[0]


def test_textures_must_be_ordered() -> None:
    assert not checks.ordered({"ground_glass": -400, "part_solid": -160, "solid": -40})
    assert len(checks.ordered({"a": 0, "b": 5, "c": -50})) == 2
    assert len(checks.ordered({"a": 0, "b": np.nan})) == 1


def test_answers_that_are_no_volumes_are_named(scan: nib.Nifti1Image) -> None:
    body = gzip.compress(scan.to_bytes())
    assert np.array_equal(checks.read_volume(body).dataobj, scan.dataobj)
    for wrong in (b"Internal Server Error", gzip.compress(b"not a volume")):
        with pytest.raises(ValueError, match="answer must be a volume"):
            checks.read_volume(wrong)


def test_seeds_must_matter_and_repeat() -> None:
    one, two = np.zeros(3), np.ones(3)
    assert differ(one, one, False) == differ(one, two, True) == differ(one, None, True) == []
    assert "another seed" in differ(one, one, True)[0]
    assert "the same seed" in differ(one, two, False)[0]


def test_missing_options_and_models_are_listed(repository: Path) -> None:
    models = {}
    for model, bundle in MODELS.items():
        config = ConfigParser.load_config_file(
            f"{repository}/bundles/{bundle}/configs/inference.json"
        )
        kind = "deepgrow" if "deepgrow" in model else "segmentation"
        models[model] = {"type": kind, "config": config["displayable_configs"]}
    # the options that the server shows are those of the configs
    assert not checks.options_missing(json.dumps({"models": models}).encode())
    del models["hr_ldm"]
    del models["lefusion_lidc"]["config"]["seed"]
    models["diffmask_deepgrow"]["type"] = "segmentation"
    faults = checks.options_missing(json.dumps({"models": models}).encode())
    assert {"no model hr_ldm", "lefusion_lidc shows no seed"} <= set(faults)
    assert any("sends no clicks" in fault for fault in faults)


def test_forms_carry_parameters_and_files(tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen["type"] = self.headers["Content-Type"].encode()
            seen["body"] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"no")

        def log_message(self, *_: object) -> None: ...

    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"\x00\xffvoxels")
    server = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.handle_request, daemon=True).start()
    answer = Client(f"http://127.0.0.1:{server.server_port}").infer("m", {"seed": 3}, file=path)
    server.server_close()
    assert (answer.status, bytes(answer)) == (500, b"no")
    boundary = seen["type"].split(b"boundary=")[1]
    parts = seen["body"].split(b"--" + boundary)
    assert parts[1].endswith(b'name="params"\r\n\r\n{"seed": 3}\r\n')
    assert parts[2].endswith(b'filename="scan.nii.gz"\r\n\r\n\x00\xffvoxels\r\n')
    assert parts[3] == b"--\r\n"


def test_no_bundle_uses_what_monai_label_breaks(repository: Path) -> None:
    """Its server adds entries to the sample on which MONAI 1.6's own Spacingd stumbles."""
    configs = sorted(repository.glob("bundles/*/configs/inference.json"))
    assert len(configs) >= 4
    for path in configs:
        assert not re.search(r'"(monai\.transforms\.)?Spacingd?"', path.read_text()), path


def test_the_function_for_the_console_of_slicer_compiles(repository: Path) -> None:
    page = (repository / "docs" / "slicer.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "def nodule(" in code
    compile(code, "slicer.md", "exec")


@pytest.mark.parametrize(
    ("bundle", "seed"),
    [
        ("diffmask", "inferer#seed"),
        ("lefusion_lidc", "inferer#inferer#seed"),
        ("hr_ldm", "inferer#inferer#sampler#seed"),
        ("lefusion_emidec", "inferer#seed"),
    ],
)
def test_options_and_command_line_both_reach_the_sampler(
    repository: Path, bundle: str, seed: str
) -> None:
    def parsed(key: str, changes: dict) -> object:
        parser = ConfigParser()
        parser.read_config(repository / "bundles" / bundle / "configs" / "inference.json")
        for name, value in changes.items():
            parser[name] = value
        return parser.get_parsed_content(key)

    assert parsed(seed, {}) == 0
    assert parsed(seed, {"seed": 7}) == 7
    assert parsed(seed, {"displayable_configs#seed": 5}) == 5
    if bundle == "diffmask":
        key = "preprocessing#transforms#3#centre_mm"
        assert parsed(key, {}) is None
        assert parsed(key, {"centre_mm": [1, 2, 3]}) == [1, 2, 3]
        assert parsed(key, {"displayable_configs#centre_mm": "4 5 6"}) == "4 5 6"

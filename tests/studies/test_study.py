"""A bundle is measured from its files alone, whatever its organ; results are written whole."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from tests.studies.conftest import ball
from tools.cli import main
from tools.networks.lesion_unet import LesionUNet
from tools.studies import classify, shapes, statistics, study, textures
from tools.studies.methods import TextureModel
from tools.studies.study import Options, Study
from tools.synthesis.catalogue import Subtype, SubtypeLibrary
from tools.synthesis.lesion import WindowJob
from tools.synthesis.view import CropView
from tools.transforms.conditions import SUBTYPES
from tools.transforms.spheres import Sphere

Shrunk = Callable[[str], tuple[Path, dict[str, torch.Tensor]]]
TEXTURES = ("lefusion_lidc", "lefusion_emidec")
ALL = (*TEXTURES, "diffmask", "hr_ldm")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "TREES", 20)
    monkeypatch.setattr(textures, "network_test", partial(classify.network_test, epochs=1))
    monkeypatch.setattr(shapes, "MASK_EPOCHS", 1)
    monkeypatch.setattr(shapes, "SWEPT_MM", (6.0,))
    monkeypatch.setattr(statistics, "ERROR_DRAWS", 4)


def evaluated(out: Path, *words: object) -> dict[str, Any]:
    """What the command writes; the page and the figure are looked at in passing."""
    given = [str(word) for word in ("evaluate", "--dataset_dir", "", "--out", out, *words)]
    assert main(given) == 0
    names = ["results.json", "results.md", "results.png"]
    assert sorted(path.name for path in out.glob("[!.]*")) == names
    assert matplotlib.image.imread(out / "results.png").shape[0] > 200
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_of_every_organ_are_measured_alike(
    shrunk: Shrunk, name: str, tmp_path: Path
) -> None:
    folder, _ = shrunk(name)
    options = ["--bundle", folder, "--steps", 2, "--limit", 3, "--samples", 1]
    results = evaluated(tmp_path / "out", *options)
    methods = results["methods"]
    classes = methods["own"]["histograms"]["own"]
    for row in classes.values():
        assert 0 <= row["divergence"]["median"] <= np.log(2) + 1e-6
    # with no request, the same image is compared with what both others asked for
    assert set(methods["none"]["histograms"]) == {"own", "other"}
    for method in methods.values():
        assert method["background"]["outside"] == 0
        assert method["background"].get("scan_outside", 0) == 0
        assert method["background"]["inside"] > 0
    assert len(results["cases"]) == 3
    values = [case["histograms"]["own"]["own"]["divergence"] for case in results["cases"]]
    for label, row in classes.items():
        known = [value[label] for value in values if value[label] is not None]
        assert row["divergence"]["median"] == pytest.approx(np.median(known))
    page = (tmp_path / "out" / "results.md").read_text()
    assert "## Asked and drawn" in page
    assert "## Changes outside the lesions" in page


def test_a_sampler_that_obeys_meets_every_request_and_order(shrunk: Shrunk, tmp_path: Path) -> None:
    folder, _ = shrunk("lefusion_lidc")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text()) | {"histogram_strength": 1.0}
    path.write_text(json.dumps(config))
    weights = tmp_path / "repaint.pt"
    baseline = LesionUNet(channels=[8, 16], condition_size=None)
    torch.save(baseline.state_dict(), weights)
    words = ["--bundle", folder, "--steps", 2, "--limit", 3, "--repaint_weights", weights]
    results = evaluated(tmp_path / "out", *words, "--discriminator")
    methods = results["methods"]
    for name in ("own", "other"):
        asked = methods[name]["histograms"][name]["all"]["divergence"]
        free = methods["none"]["histograms"][name]["all"]["divergence"]
        assert asked["median"] < 0.2 * free["median"]
    baseline_own = methods["repaint"]["histograms"]["own"]["all"]["divergence"]
    assert (
        baseline_own["median"] > methods["own"]["histograms"]["own"]["all"]["divergence"]["median"]
    )
    assert results["together"]["order"]["ordered_fraction"] == 1
    assert methods["repaint"]["facts"]["jump_n_sample"] == 2
    assert [name for name in methods if "realism" in methods[name]] == [
        "own",
        "repaint",
        "constant",
    ]
    page = (tmp_path / "out" / "results.md").read_text()
    assert "rises ground_glass < part_solid < solid in 100.0% of 3" in page


def test_variants_and_samples_of_hearts(shrunk: Shrunk, tmp_path: Path) -> None:
    folder, _ = shrunk("lefusion_emidec")
    free = LesionUNet(in_channels=4, out_channels=2, channels=[8, 16], condition_size=None)
    checkpoint = {"network": {}, "ema": free.state_dict(), "trainer": {"epoch": 1}}
    torch.save(checkpoint, tmp_path / "joint.pt")
    joint = f"J:joint.json:{tmp_path / 'joint.pt'}"
    options = ["--bundle", folder, "--steps", 2, "--limit", 3, "--samples", 2, "--variants", joint]
    results = evaluated(tmp_path / "out", *options)
    assert set(results["methods"]) == {"own", "other", "none", "end", "constant", "J"}
    assert results["methods"]["end"]["histograms"] != results["methods"]["own"]["histograms"]
    # two of three phantom hearts have a core; the one without has no other to ask from
    assert [case["voxels"]["no_reflow"] > 0 for case in results["cases"]] == [True, True, False]
    last = results["cases"][2]["histograms"]["other"]["other"]
    assert last["divergence"] == {"infarct": None, "no_reflow": None}
    assert [len(case["contrast"]["J"]) for case in results["cases"]] == [2] * 3
    own = results["methods"]["own"]["histograms"]["own"]
    assert (own["infarct"]["divergence"]["n"], own["no_reflow"]["divergence"]["n"]) == (3, 2)
    contrasts = ["infarct", "no_reflow", "ratio", "fall", "step"]
    assert list(results["methods"]["J"]["contrast"]) == contrasts


@pytest.mark.parametrize("name", TEXTURES)
def test_weights_of_the_option_are_those_measured(
    shrunk: Shrunk, name: str, tmp_path: Path
) -> None:
    folder, state = shrunk(name)
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"network": {}, "ema": other, "trainer": {"epoch": 3}}, tmp_path / "w.pt")
    options = Options(str(folder), limit=2, weights=str(tmp_path / "w.pt"))
    loaded = Study(options).model.texturer.network.state_dict()
    assert all(torch.equal(loaded[key], other[key]) for key in other)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--limit", "1"], "limit must leave at least 2 lesions, got 1"),
        (["--limit", "0"], "limit must be a whole number from 1 to 1000, got '0'"),
        (["--samples", "0"], "samples must be a whole number from 1 to 1000, got '0'"),
        (["--stage", "unet"], "stage must be in study.json, got unet"),
        (["--dataset_dir", "absent"], "dataset_dir must be an existing folder, got absent"),
        (["--weights", "absent.pt"], "weights must be an existing file, got absent.pt"),
        (["--variants", "J::"], "variants must be a list of NAME:OVERLAY:WEIGHTS, got 'J::'"),
        (["--bundle", "diffmask", "--weights", "w.pt"], "weights and variants must be left out"),
        (
            ["--bundle", "hr_ldm", "--stage", "autoencoder", "--overlay", "absent.json"],
            "bundle must have absent.json, got none",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--dataset_dir": "", "--bundle": "lefusion_lidc"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    flat = [word for pair in given.items() for word in pair]
    assert main(["evaluate", *flat, "--out", str(tmp_path / "out")]) == 1
    assert f"error: {sentence}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ALL)
def test_studies_name_what_there_is(repository: Path, name: str) -> None:
    configs = repository / "bundles" / name / "configs"
    for part in json.loads((configs / "study.json").read_text())["study"].values():
        assert set(part["measures"]) <= set(study.MEASURES)
        used = [m for given in part["measures"].values() for m in given.get("methods", [])]
        used += [*part.get("variants", []), *part["figure"]["columns"]]
        assert set(used) <= set(part["methods"])
        for method in part["methods"].values():
            assert all((configs / overlay).is_file() for overlay in method.get("overlays", []))


class Painter:
    """Stands in for a generator of subtypes: fills the mask with the mean of what is asked."""

    view = CropView((-1000, 400), (-1000, 1000), step=16, smallest=32, context=4)
    settings = {"num_inference_steps": 1}  # noqa: RUF012
    network = torch.nn.Identity()

    def __init__(self) -> None:
        self.jobs: list[WindowJob] = []
        rows = [np.eye(40)[[k]] for k in (28, 19, 10)]
        self.library = SubtypeLibrary(
            {
                name: Subtype(i, 1 / 3, np.array([8.0]), rows[i], rows[i][0].tolist())
                for i, name in enumerate(SUBTYPES)
            }
        )
        self.presets = self.library.presets

    def sample(self, jobs: list[WindowJob]) -> list[np.ndarray]:
        self.jobs += jobs
        images = []
        for job in jobs:
            # as a sampler leaves what it does not change
            seen = self.view.range.unscaled(self.view.range.scaled(job.image).astype(np.float32))
            centres = -1000 + 35 * (np.arange(40) + 0.5)
            level = 0.0 if job.histogram is None else np.dot(job.histogram, centres)
            images.append(np.where(job.lesion_mask[0], level, seen))
        return images


def test_subtypes_are_asked_in_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painters: list[Painter] = []

    class Stand(TextureModel):
        def __init__(self, *_: Any) -> None:
            painters.append(Painter())
            self.texturer = painters[-1]  # type: ignore[assignment]
            self.view, self.margin_mm = Painter.view, 3.0
            self.values, self.controlled = 40, True

        @property
        def facts(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(study, "TextureModel", Stand)
    options = ["--bundle", "hr_ldm", "--limit", 6, "--variants", "plain::w.pt"]
    results = evaluated(tmp_path / "out", *options)
    methods = results["methods"]
    assert [name for name in methods if name.startswith("plain")] == [
        f"plain: {name}" for name in ("own", *SUBTYPES)
    ]
    # asked for one bin, painted with its centre: nothing is missed
    row = methods["ground_glass"]["histograms"]["ground_glass"]["ground_glass"]
    assert row["divergence"]["median"] < 1e-6
    assert row["wasserstein"]["median"] == pytest.approx(0, abs=1e-3)
    assert methods["own"]["background"]["outside"] == 0
    assert set(results["together"]["subtype"]) == {"hr_ldm", "plain"}
    parts = {(job.histogram is None, job.subtype < 0) for job in painters[0].jobs}
    assert parts == {(a, b) for a in (True, False) for b in (True, False)}


def test_shapes_are_measured_against_simple_and_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Balls:
        weights = Path(__file__)

        def __init__(self, *_: Any) -> None:
            pass

        def draw(
            self, sphere: Sphere, *grid: Any, within: Any = None, spiculation: float = 1.0
        ) -> np.ndarray:
            radius = sphere.radius_mm - (0.5 if spiculation == 5 else 0)
            return ball(Sphere(sphere.centre_mm, radius), *grid, within=within)

    monkeypatch.setattr(study, "ShapeGenerator", Balls)
    results = evaluated(tmp_path / "out", "--bundle", "diffmask", "--limit", 5)
    methods = results["methods"]
    assert set(methods) == {"model", "ellipsoid", "real_training", "boundary"}
    assert methods["model"]["sphere"]["diameter"]["p95"] < 0.5
    assert methods["boundary"]["sphere"]["inside"]["least"] == 1.0
    assert methods["model"]["diversity"]["mean"] == pytest.approx(1)  # a ball is always the same
    assert set(methods["model"]["steering"]) == {"spiculation"}  # all that this source knows of
    near, far = (methods[k]["features"]["mean"]["distance"] for k in ("real_training", "model"))
    assert near < far
    page = (tmp_path / "out" / "results.md").read_text()
    for title in ("sphere", "Sizes", "Features", "Real or drawn", "Diversity", "Ratings"):
        assert title in page

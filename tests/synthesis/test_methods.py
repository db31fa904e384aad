"""What stands in place of a network: hand-crafted lesions and copied ones."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.studies.test_judge import write_lesion
from tools.cli import main
from tools.synthesis.copy_paste import FORMS, CopyPaste
from tools.synthesis.hand_crafted import HandCrafted, salt_texture
from tools.synthesis.lesion import WindowJob
from tools.synthesis.view import CubeView

WINDOW = (-1000.0, 400.0)
GRID = np.indices((28, 28, 28)) - 13.5
BALL = np.sqrt((GRID**2).sum(0)) < 7
LUNG = np.random.default_rng(0).normal(-850, 20, BALL.shape)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    entries = [write_lesion(folder, f"n{n}", n) for n in range(8)]
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))
    return folder


@pytest.fixture
def bundle(repository: Path) -> Path:
    return repository / "bundles" / "lefusion_lidc"


def job(seed: int = 0, histogram: list[float] | None = None) -> WindowJob:
    return WindowJob(LUNG, BALL, histogram, seed, WINDOW)


def test_salt_is_soft_and_of_the_level_of_the_paper() -> None:
    for seed in range(3):
        texture = salt_texture((64, 64, 64), np.random.default_rng(seed))
        assert texture.min() >= 0
        assert texture.max() <= 1
        assert 0.3 < texture.mean() < 0.6
        assert np.abs(np.diff(texture, axis=0)).max() < 0.1


@pytest.mark.parametrize("mean_bin", [3, 8, 13])
def test_hand_crafted_has_the_mean_asked_for(bundle: Path, mean_bin: int) -> None:
    texturer = HandCrafted(bundle, CubeView(WINDOW), [[0.6, 1.2]])
    histogram = [float(k == mean_bin) for k in range(16)]
    (result,) = texturer.sample([job(0, histogram)])
    wanted = -1000 + 1400 * (mean_bin + 0.5) / 16
    assert result[BALL].mean() == pytest.approx(wanted, abs=1)
    (again,) = texturer.sample([job(0, histogram)])
    assert np.array_equal(result, again)


@pytest.mark.parametrize("contrast", [(0.5, 0.5), (-0.1, -0.1)])
def test_hand_crafted_is_brighter_or_darker_by_its_argument(
    bundle: Path, contrast: tuple[float, float]
) -> None:
    (result,) = HandCrafted(bundle, CubeView(WINDOW), [contrast]).sample([job()])
    change = (result - LUNG)[BALL]
    assert (change * np.sign(contrast[0]) >= 0).all()
    assert abs(change).max() <= 1400 * abs(contrast[0])


def test_a_mask_that_is_the_lesions_own_gets_its_very_texture(tmp_path: Path, bundle: Path) -> None:
    values = np.where(BALL, np.random.default_rng(1).normal(0, 90, BALL.shape), LUNG)
    for name, array in (("image", values.astype(np.float32)), ("label", BALL.astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    entry = {"image": "image.nii.gz", "label": "label.nii.gz"}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry]}))
    texturer = CopyPaste(bundle, CubeView(WINDOW), tmp_path, "carvemix")
    found = texturer.sample([job(seed) for seed in range(12)])
    same = [np.allclose(each[BALL], values[BALL], atol=1e-3) for each in found]
    assert any(same)
    assert not all(same)  # carved smaller, by chance


@pytest.mark.parametrize("form", FORMS)
def test_copies_are_of_the_lesion_and_change_nothing_beside(
    library: Path, bundle: Path, form: str
) -> None:
    texturer = CopyPaste(bundle, CubeView(WINDOW), library, form)
    assert len(texturer.sources) == 8
    first, second = texturer.sample([job(1), job(2)])
    assert np.array_equal(first[~BALL], LUNG[~BALL])
    assert first[np.sqrt((GRID**2).sum(0)) < 3].mean() > -150  # as real ones, which are of 50 HU
    assert not np.array_equal(first, second)
    if form == "copy_paste":  # fades in
        edge = BALL & (np.sqrt((GRID**2).sum(0)) > 6)
        assert first[edge].mean() < -400


@pytest.mark.parametrize("method", ["hand_crafted", *FORMS])
def test_methods_are_options_of_synthesize(tmp_path: Path, library: Path, method: str) -> None:
    from tests.synthesis.test_run import write_scans

    scans = write_scans(tmp_path / "scans", ("a",))
    words = ["--scan", str(scans), "--out", str(tmp_path / "out"), "--method", method]
    words += ["--count", "1", "--diameter_mm", "6", "--shape", "ellipsoid", "--texture", "solid"]
    if method != "hand_crafted":
        words += ["--library", str(library)]
    assert main(["synthesize", *words]) == 0
    record = json.loads((tmp_path / "out" / "a" / "lesions.json").read_text())
    assert record["bundle"] == {"name": method, "version": record["bundle"]["version"],
                                "weights_sha256": None}  # fmt: skip
    assert record["lesions"][0]["sampler"]["method"] == method


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "magic"], "method must be one of carvemix, cond_diffusion, copy_paste"),
        (["--method", "copy_paste"], "library must name real lesions to copy, got none"),
        (["--library", "x"], "library does not go with bundle lefusion_lidc, got 'x'"),
        (
            ["--method", "copy_paste", "--bundle", "hr_ldm"],
            "method must be one of cond_diffusion_latent for bundle hr_ldm, got 'copy_paste'",
        ),
    ],
)
def test_wrong_methods_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    from tests.synthesis.test_run import write_scans

    scans = write_scans(tmp_path / "scans", ("a",))
    assert main(["synthesize", "--scan", str(scans), "--out", str(tmp_path / "out"), *words]) == 1
    assert sentence in capsys.readouterr().err

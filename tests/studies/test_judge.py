"""Two folders of lesions: what is alike lies within the band, what is not is told apart."""

import csv
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from tools.cli import main
from tools.kinds import without_nan
from tools.metrics.radimagenet import radimagenet_network
from tools.studies.judge import judge, measure, read_crops
from tools.studies.two_sample import auc_interval, forest_auc, network_auc
from tools.studies.verdict import MAIN

GRID = (np.indices((30, 30, 30)) - 14.5) * 0.9
COUNT = 14  # lesions of each set


def write_lesion(folder: Path, name: str, seed: int, sharp: bool = False) -> dict[str, str]:
    """A nodule in lung; a sharp one ends at its label and has no noise."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(3.5, 6.5)
    ball = np.sqrt((GRID**2).sum(0)) < radius
    soft = ball * 1.0 if sharp else ndimage.gaussian_filter(ball * 1.0, 1.2)
    grain = rng.normal(0, 25, ball.shape)
    image = -850 + 900 * soft + np.where(ball & sharp, 0, grain)
    affine = np.diag([0.9, 0.9, 0.9, 1])
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / f"{name}_image.nii.gz")
    nib.save(nib.Nifti1Image(ball.astype(np.uint8), affine), folder / f"{name}_label.nii.gz")
    return {"image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz", "patient": name}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judge")
    entries = [write_lesion(root / "real", f"r{n}", n) for n in range(COUNT)]
    (root / "real" / "datalist.json").write_text(json.dumps({"validation": entries}))
    for n in range(COUNT):
        write_lesion(root / "alike", f"a{n}", 100 + n)
        write_lesion(root / "sharp", f"s{n}", 200 + n, sharp=True)
    return root


@pytest.fixture(scope="module")
def verdicts(
    folders: Path, tmp_path_factory: pytest.TempPathFactory, small_forests: None
) -> Callable[[str], Path]:
    """What ``evaluate`` writes of a folder; of the one that is alike with all there is."""
    out = tmp_path_factory.mktemp("verdicts")
    torch.save(radimagenet_network().state_dict(), out / "weights.pth")
    sets = {name: str(folders / name) for name in ("real", "alike", "sharp")}
    more = ["--training", f"{sets['real']}:validation", "--other_seeds", sets["alike"]]
    more += ["--radimagenet", str(out / "weights.pth"), "--network_test"]

    @cache
    def verdict(kind: str) -> Path:
        words = ["--real", sets["real"], "--synthetic", sets[kind], "--out", str(out / kind)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tools.metrics.radimagenet.SIDE", 32)
            patch.setattr("tools.studies.folders.SIDE", 8)
            patch.setattr("tools.studies.folders.network_auc", partial(network_auc, epochs=1))
            assert main(["evaluate", *words, *(more if kind == "alike" else [])]) == 0
        return out / kind

    return verdict


@pytest.mark.parametrize("kind", ["alike", "sharp"])
def test_what_differs_is_told_apart(verdicts: Callable[[str], Path], kind: str) -> None:
    out = verdicts(kind)
    result = json.loads((out / "judge.json").read_text())
    assert result["counts"]["synthetic"] == {"lesions": COUNT, "patients": COUNT}
    rows = list(csv.reader((out / "judge.csv").open()))
    said = {row[0]: row[3] for row in rows[1:]}
    border = result["told_apart"]["border"]
    assert result["told_apart"]["shape"]["low"] < 0.6
    if kind == "alike":
        assert border["low"] < 0.6
        assert said["frechet_radiomics_border"] == said["swd_axial"] == "yes"
    else:
        assert border["low"] > 0.9
        assert said["frechet_radiomics_border"] == said["border: noise_ratio"] == "no"
        assert result["border"]["step"]["synthetic"]["median"] > 800
    page = (out / "judge.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "| frechet_radiomics_all |" in (out / "judge.md").read_text()


def test_options_add_their_rows_and_the_main_ones_come_first(
    verdicts: Callable[[str], Path],
) -> None:
    out = verdicts("alike")
    rows = [row[0] for row in csv.reader((out / "judge.csv").open())][1:]
    first = [name for name in MAIN if name in rows]
    assert rows[: len(first)] == first == list(MAIN)
    assert {"kid_radimagenet_axial", "difference of seeds, against noise alone"} <= set(rows)
    result = json.loads((out / "judge.json").read_text())
    assert result["seeds"]["difference"]["median"] == 0
    assert result["memory"]["lesions"] == COUNT
    assert result["subtypes"] is result["asked"] is None
    text = (out / "judge.md").read_text()
    assert text.index("| precision |") < text.index("## All else") < text.index("| mmd_inside |")


def test_what_is_of_real_lesions_alone_is_measured_once(
    folders: Path, monkeypatch: pytest.MonkeyPatch, small_forests: None
) -> None:
    real, one, other = (
        measure(read_crops(folders / name, limit=6), (-1000, 400))
        for name in ("real", "sharp", "alike")
    )
    first, plain = judge(real, one), judge(real, other)

    def never(*args: object) -> None:
        raise AssertionError("real halves were compared anew")

    monkeypatch.setattr("tools.studies.judge.distances_of_halves", never)
    assert without_nan(judge(real, other, earlier=first)) == without_nan(plain)


def test_folders_of_others_and_of_ours_are_read_alike(folders: Path) -> None:
    crops = read_crops(folders / "real", limit=5)
    assert [crop.patient for crop in crops] == ["r0", "r1", "r2", "r3", "r4"]
    assert crops[0].mask.any()
    assert min(crops[0].image.shape) > 20  # 10 mm round it
    assert len(read_crops(folders / "alike")) == COUNT
    with pytest.raises(ValueError, match="at least 2 lesions, got 0"):
        read_crops(folders / "real", section="training")


def test_cases_of_one_file_name_are_two(tmp_path: Path) -> None:
    entries = []
    for patient in ("P1", "P2"):
        entry = write_lesion(tmp_path / patient, "scan", len(entries))
        entries.append({key: f"{patient}/{entry[key]}" for key in ("image", "label")})
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries}))
    assert [crop.name for crop in read_crops(tmp_path)] == ["scan_1", "scan_2_1"]
    assert len({crop.patient for crop in read_crops(tmp_path)}) == 2


def test_patients_are_never_in_both_halves_of_a_forest() -> None:
    # each patient has a number of his own, which alone would tell his two lesions apart
    rng = np.random.default_rng(0)
    names = np.arange(40)
    marks = rng.normal(size=(40, 1)) * 10
    found = forest_auc(marks, marks + 0.01, names, names)
    assert 0.3 < found.value < 0.7
    assert np.isnan(forest_auc(marks, marks, ["p"] * 40, names).value)


def test_an_interval_is_of_patients_not_of_lesions() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 200)
    scores = target + rng.normal(0, 1, 200)
    alone = auc_interval(scores, target, np.arange(200))
    grouped = auc_interval(scores, target, np.arange(200) // 20)
    assert alone.low < alone.value < alone.high
    assert alone.value == grouped.value

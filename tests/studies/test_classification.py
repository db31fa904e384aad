"""The study of classification: areas under curves, filled up classes, a study from end to end."""

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from tools.cli import main
from tools.studies.downstream import classification
from tools.studies.downstream.cases import Case
from tools.studies.downstream.classification import area_under_roc, average_precision
from tools.studies.downstream.design import presets, read_design
from tools.studies.downstream.effects import Measure, compared
from tools.studies.downstream.runs import repeated

SIZE = 16
CLASSES = {"solid": [4.5, 5], "part_solid": [2.5, 4.5], "ground_glass": [1, 2.5]}
SETTINGS = {
    "bundle": "nodule_classification",
    "steps": 4,
    "rating": "texture",
    "changes": {
        "batch_size": 4,
        "patch_size": [16, 16, 16],
        "learning_rate": 0.01,
        "network_def#init_features": 8,
        "network_def#growth_rate": 4,
        "network_def#block_config": [1, 1],
    },
}


def nodule(rating: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A ball in dark noise, the brighter the higher its rating."""
    rng = np.random.default_rng(seed)
    grid = np.indices((SIZE,) * 3) - rng.uniform(6.5, 8.5, 3)[:, None, None, None]
    ball = (grid**2).sum(0) < rng.uniform(2, 4) ** 2
    values = np.where(ball, -800 + 160 * rating, -850) + rng.normal(0, 30, ball.shape)
    return values.astype(np.int16), ball.astype(np.uint8)


def cases(ratings: list[float]) -> list[Case]:
    made = []
    for number, rating in enumerate(ratings):
        image, label = nodule(rating, number)
        facts = {"texture": rating}
        known = np.ones(label.shape, bool)
        made.append(Case(f"n{number}", f"p{number}", image, label, np.eye(4), known, facts))
    return made


@pytest.mark.parametrize("name", ["small", "full"])
def test_presets_are_whole(name: str) -> None:
    design = read_design("classification", name)
    assert {design.base(arm) for arm in design.arms} <= set(design.arms)
    for arm in design.arms:
        for pool in design.pools(arm):
            texture = design.preset["pools"][pool]["facts"]["texture"]
            assert design.preset["pools"][pool]["options"]["texture"] == texture
    table = design.preset["published"]
    assert {len(row) for row in table["arms"].values()} == {len(table["measures"])}


def test_areas_are_those_of_scikit_learn_for_any_weights_and_ties() -> None:
    rng = np.random.default_rng(0)
    positive, scores = rng.random(40) < 0.3, rng.integers(0, 12, 40) / 12
    weights = np.concatenate([np.ones((1, 40)), rng.integers(0, 4, (5, 40))])
    for mine, theirs in (
        (area_under_roc, roc_auc_score),
        (average_precision, average_precision_score),
    ):
        wanted = [theirs(positive, scores, sample_weight=row) for row in weights]
        assert mine(positive, scores, weights) == pytest.approx(wanted)
        assert np.isnan(mine(np.zeros(40, bool), scores, weights)).all()


def rows(scores: np.ndarray, positive: np.ndarray) -> list[dict]:
    return [
        {
            "patient": f"p{k // 2}",
            "class": "b" if yes else "a",
            "diameter_mm": 5.0 + k % 2 * 10,
            "scores": {"a": 1 - score, "b": score},
        }
        for k, (score, yes) in enumerate(zip(scores.tolist(), positive.tolist(), strict=True))
    ]


def test_differences_of_areas_are_paired_by_seed_and_patient() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(80) < 0.5
    worse = [rows(positive * 0.5 + rng.normal(0, 1, 80), positive) for _ in range(6)]
    better = [rows(positive * 1.5 + rng.normal(0, 1, 80), positive) for _ in range(6)]
    measure = classification.AREAS["auroc"]
    found = compared(measure, worse, better, "b")
    assert found["verdict"] == "helps"
    assert found["low"] < found["effect"] < found["high"]
    means = [np.mean([measure.of_run(run, "b") for run in runs]) for runs in (worse, better)]
    assert found["effect"] == pytest.approx(means[1] - means[0])
    assert found["p_mann_whitney"] == pytest.approx(2 / 924, rel=0.5)
    assert compared(measure, worse, worse, "b")["verdict"] == "no difference"
    assert (found["seeds"], found["patients"]) == (6, 40)
    constant = Measure("one", whole=lambda rows, name, weights: weights.sum(1) / len(rows))
    same = compared(constant, worse, better, "b")
    assert (same["effect"], same["low"], same["high"]) == (0, 0, 0)


def test_rows_of_a_size_and_the_mean_over_classes() -> None:
    report = classification.REPORT
    some = rows(np.array([0.1, 0.9, 0.6, 0.7]), np.array([False, True, True, False]))
    few, count = report.sized(some, "b", (10, 20))
    assert [row["scores"]["b"] for row in few] == [0.9, 0.7]
    assert count == 1
    assert report.names({"a": 0, "b": 0, "c": 0}) == ["macro", "a", "b", "c"]
    assert report.names({"a": 0, "b": 0}) == ["a", "b"]
    auroc = report.measures["auroc"]
    assert auroc.of_run(some, "macro") == auroc.of_run(some, "b") == 0.75
    curve = report.curves["precision and recall"].values(some, "b")
    assert curve[0] == 1
    assert curve[-1] == pytest.approx(2 / 3)
    assert np.isnan(auroc.of_run([], "b"))


def test_minority_classes_are_kept_by_share_and_filled_up() -> None:
    real = cases([5.0] * 10 + [3.0] * 4 + [1.0] * 2 + [0.0])  # the last was not rated
    given = (real, CLASSES)
    whole = classification.kept(*given, SETTINGS, 0)
    assert len(whole) == 16
    half = SETTINGS | {"keep": {"part_solid": 0.5, "ground_glass": 0}}
    few = classification.kept(*given, half, 0)
    assert [case.facts["texture"] for case in few] == [5.0] * 10 + [3.0] * 2
    fewer = classification.kept(*given, SETTINGS | {"keep": {"part_solid": 0.25}}, 0)
    kept = {case.name for case in few if case.facts["texture"] == 3}
    assert {case.name for case in fewer if case.facts["texture"] == 3} < kept

    def count(texture: str, ratio: float, taken: list[Case], **more: bool) -> int:
        rule = {"facts": {"texture": texture}, **more}
        return classification.synthetic_cases(rule, ratio, real, taken, CLASSES, SETTINGS)

    assert count("part_solid", 1, whole) == 6
    assert count("ground_glass", 0.5, whole) == 4
    assert count("part_solid", 1, few) == 8
    assert count("solid", 1, whole) == 0
    assert count("part_solid", 0.5, few, per_real=True) == 2
    assert count("ground_glass", 1, []) == 10  # where no real case is kept
    with pytest.raises(ValueError, match="facts of a pool must hold texture"):
        count("metal", 1, whole)


def test_real_cases_are_repeated_within_their_class() -> None:
    real, synthetic = cases([5.0] * 4 + [3.0]), cases([5.0] * 4 + [3.0] * 3)
    group = partial(classification.group, classes=CLASSES, settings=SETTINGS)
    often = repeated(real, synthetic, 0.5, group)
    assert [case.facts["texture"] for case in often] == [5.0] * 4 + [3.0] * 3
    assert repeated(real, synthetic, None, group) == real
    assert repeated([], synthetic, 0.5, group) == []


def test_what_can_be_told_is_learnt_and_measured() -> None:
    training, tested = cases([5.0, 3.0, 1.0] * 4), cases([4.75, 3.5, 1.5, float("nan")] * 2)
    settings = SETTINGS | {"steps": 80, "balanced": True}
    network, losses = classification.train(training, CLASSES, settings, 0, torch.device("cpu"))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    found = list(classification.measure(network, tested, CLASSES, settings, torch.device("cpu")))
    assert [row["class"] for row in found] == list(CLASSES) * 2
    assert classification.REPORT.measures["auroc"].of_run(found, "macro") > 0.9
    voxels = tested[0].label.sum()
    assert found[0]["diameter_mm"] == pytest.approx((6 / np.pi * voxels) ** (1 / 3), abs=0.01)
    assert sum(found[0]["scores"].values()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="cases must have a rating of texture"):
        classification.train(cases([0.0]), CLASSES, settings, 0, torch.device("cpu"))


def write_rated(folder: Path) -> Path:
    folder.mkdir()
    parts: dict[str, list] = {"training": [], "validation": []}
    ratings = (5, 5, 5, 5, 3, 1, 5, 5, 3, 3, 1, 1)
    for number, rating in enumerate(ratings):
        entry = {"name": f"n{number}", "patient": f"p{number}", "ratings": {"texture": rating}}
        for key, array in zip(("image", "label"), nodule(rating, number), strict=True):
            entry[key] = f"n{number}_{key}.nii.gz"
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / entry[key])
        parts["training" if number < 6 else "validation"].append(entry)
    (folder / "datalist.json").write_text(json.dumps(parts))
    return folder


def test_a_study_fills_up_classes_and_tells_areas(tmp_path: Path) -> None:
    preset = json.loads(presets("classification")["small"].read_text())
    pool = {"sites": "normal", "bundle": "lefusion_lidc", "method": "hand_crafted", "near_mm": 3}
    options = {"shape": "ellipsoid", "diameter_mm": [5, 6]}
    pools = {
        name: pool
        | {"count": 3, "facts": {"texture": name}, "options": options | {"texture": name}}
        for name in ("part_solid", "ground_glass")
    }
    keep = {"keep": {"part_solid": 0, "ground_glass": 0}}
    preset |= {
        "prepare": None,
        "fractions": [1.0],
        "seeds": 2,
        "pools": pools,
        "arms": {
            "P": {},
            "F": {"pools": {"part_solid": 1, "ground_glass": 1}},
            "K": {"training": keep},
            "KF": {"base": "K", "training": keep, "pools": {"part_solid": 0.75}},
        },
        "training": SETTINGS,
        "learnt_from": {"lefusion_lidc": [], "diffmask": []},
    }
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    real, out = write_rated(tmp_path / "real"), tmp_path / "out"
    words = ["study", "classification", "--real", str(real), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--preset", str(tmp_path / "preset.json")]) == 0
    found = json.loads((out / "results.json").read_text())
    groups = {group["arm"]: group for group in found["groups"]}
    assert {arm: (group["real"], group["synthetic"]) for arm, group in groups.items()} == {
        "P": (6, 0),
        "F": (6, 6),
        "K": (4, 0),
        "KF": (4, 3),
    }
    assert set(groups["F"]["classes"]) == {"macro", *CLASSES}
    assert groups["KF"]["classes"]["macro"]["auroc"]["effect"]["seeds"] == 2
    text = (out / "results.md").read_text()
    assert "KF (to K)" in text
    assert "takes 6 runs of each arm" in text
    assert "HR-LDM" in text

"""The study of detection: candidates, FROC as MONAI has it, a study from end to end."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score

from tools.cli import main
from tools.metrics.segmentation import FALSE_PER_CASE, average_precision
from tools.studies.downstream import detection
from tools.studies.downstream.cases import Case
from tools.studies.downstream.design import presets, read_design
from tools.studies.downstream.detection import candidates, froc

SIZE, PATCH = 32, (8, 8, 8)
SETTINGS = {
    "bundle": "nodule_classification",
    "steps": 60,
    "per_case": 20,
    "changes": {
        "batch_size": 8,
        "patch_size": PATCH,
        "learning_rate": 0.01,
        "network_def#init_features": 8,
        "network_def#growth_rate": 4,
        "network_def#block_config": [1, 1],
    },
}
CPU = torch.device("cpu")


def lung(seed: int, nodules: int = 1, wall: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Dark noise with bright balls, which are the nodules, and faint ones, which are not."""
    rng = np.random.default_rng(seed)
    grid, image = np.indices((SIZE,) * 3), rng.normal(-860, 10, (SIZE,) * 3)
    places = rng.permutation([(a, b, c) for a in (9, 22) for b in (9, 22) for c in (9, 22)])
    label = np.zeros(image.shape, np.uint8)
    for number, place in enumerate(places[:5]):
        ball = ((grid - place[:, None, None, None]) ** 2).sum(0) <= 2.5**2
        image[ball] = 0 if number < nodules else -500
        label[ball] = number < nodules
    if wall:
        image[:, :, 26:] = 40
    return image.astype(np.int16), label


def cases(count: int, first: int = 0, **given: bool) -> list[Case]:
    made = []
    for number in range(first, first + count):
        image, label = lung(number, **given)
        known = np.ones(label.shape, bool)
        made.append(Case(f"n{number}", f"p{number}", image, label, np.eye(4), known))
    return made


@pytest.mark.parametrize("name", ["small", "full"])
def test_presets_are_whole(name: str) -> None:
    design = read_design("detection", name)
    assert design.preset["training"]["per_case"] > 0
    assert all(design.preset["pools"][pool] for arm in design.arms for pool in design.pools(arm))


def test_candidates_are_blobs_in_the_lung_and_know_their_lesion() -> None:
    (case,) = cases(1, wall=True)
    found = candidates(case, {"nodule": 1}, PATCH, 20)
    assert (found.lesions == 0).sum() == 1
    (point,) = found.points[found.lesions == 0]
    assert case.label[tuple(point)] == 1
    assert len(found.points) == 5  # each ball; nothing on the wall
    assert found.points[:, 2].max() < 26
    voxels = int(case.label.sum())
    assert found.diameters_mm == pytest.approx([(6 / np.pi * voxels) ** (1 / 3)])
    assert len(candidates(case, {"nodule": 1}, PATCH, 3).points) == 3
    # where no whole patch was scanned, nothing is searched, and no lesion counts
    few = case._replace(known=case.known & (np.indices(case.known.shape)[0] < 12))
    near = candidates(few, {"nodule": 1}, PATCH, 20)
    assert near.points[:, 0].max(initial=0) <= 8
    assert len(near.diameters_mm) == 0
    air = case._replace(image=np.full((SIZE,) * 3, 40, np.int16))
    assert len(candidates(air, {"nodule": 1}, PATCH, 20).points) == 0


def rows(seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "patient": f"p{k}",
            "lesions": [[5.0 + 10 * (k % 2), score] for score in rng.random(k % 3).tolist()],
            "false": (rng.random(4) * 0.9).tolist(),
        }
        for k in range(12)
    ]


def test_froc_and_precision_are_those_of_the_metrics() -> None:
    some = rows(0)
    some[4]["lesions"][0][1] = None
    scores = np.array([s or 0.0 for row in some for _, s in row["lesions"]])
    false = np.array([s for row in some for s in row["false"]])
    # MONAI drops the lowest threshold, taking it for that of missed lesions
    curve = compute_froc_curve_data(np.append(false, 0.0), scores, len(scores), len(some))
    ones = np.ones((1, len(some)))
    measures = detection.REPORT.measures
    wanted = compute_froc_score(*curve, FALSE_PER_CASE)
    assert measures["cpm"].of_run(some, "nodule") == pytest.approx(wanted, abs=1e-6)
    assert froc(some, ones)[0].mean() == pytest.approx(wanted)
    assert measures["ap"].of_run(some, "nodule") == pytest.approx(average_precision(scores, false))
    # a case that is drawn twice is there twice
    weights = np.ones((1, len(some)))
    weights[0, 5] = 2
    assert froc(some, weights) == pytest.approx(froc([*some, some[5]], np.ones((1, 13))))
    none = [{"lesions": [], "false": [0.5]}]
    assert np.isnan(froc(none, np.ones((1, 1)))).all()
    few, count = detection.REPORT.sized(some, "nodule", (10, 20))
    assert count == sum(len(row["lesions"]) for row in some[1::2])
    assert [row["false"] for row in few] == [row["false"] for row in some]


def test_curves_end_where_the_measures_say() -> None:
    some = rows(1)
    curves = detection.REPORT.curves
    share = curves["FROC"].values(some, "nodule")
    assert (np.diff(share) >= 0).all()
    assert share[-1] == froc(some, np.ones((1, 12)))[0][-1] == 1
    precision = curves["precision and recall"].values(some, "nodule")
    assert (np.diff(precision) <= 0).all()
    assert precision[0] <= 1


def test_bright_balls_are_told_from_faint_ones() -> None:
    network, losses = detection.train(cases(6), {"nodule": 1}, SETTINGS, 0, CPU)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    found = list(detection.measure(network, cases(4, first=20), {"nodule": 1}, SETTINGS, CPU))
    assert [len(row["false"]) for row in found] == [4] * 4
    assert froc(found, np.ones((1, 4)), [1]) == 1
    with pytest.raises(ValueError, match="candidates in lesions and elsewhere, got"):
        detection.train(cases(2, nodules=0), {"nodule": 1}, SETTINGS, 0, CPU)


def write_lungs(folder: Path) -> Path:
    folder.mkdir()
    parts: dict[str, list] = {"training": [], "validation": []}
    for number in range(6):
        entry = {"name": f"n{number}", "patient": f"p{number}"}
        for key, array in zip(("image", "label"), lung(number), strict=True):
            entry[key] = f"n{number}_{key}.nii.gz"
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / entry[key])
        parts["training" if number < 4 else "validation"].append(entry)
    (folder / "datalist.json").write_text(json.dumps(parts))
    return folder


def test_a_study_tells_the_share_found(tmp_path: Path) -> None:
    preset = json.loads(presets("detection")["small"].read_text())
    options = {"texture": "solid", "shape": "ellipsoid", "diameter_mm": [5, 6]}
    pool = {"sites": "normal", "bundle": "lefusion_lidc", "method": "hand_crafted", "near_mm": 5}
    preset |= {
        "fractions": [1.0],
        "seeds": 2,
        "normal": {"healed": True},
        "pools": {"hand_crafted": pool | {"count": 3, "options": options}},
        "arms": {"P": {}, "P_hand": {"pools": {"hand_crafted": 0.75}}},
        "training": SETTINGS | {"steps": 4},
        "learnt_from": {"lefusion_lidc": [], "diffmask": []},
    }
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    real, out = write_lungs(tmp_path / "real"), tmp_path / "out"
    words = ["study", "detection", "--real", str(real), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--preset", str(tmp_path / "preset.json")]) == 0
    groups = json.loads((out / "results.json").read_text())["groups"]
    assert [(group["arm"], group["synthetic"]) for group in groups] == [("P", 0), ("P_hand", 3)]
    found = groups[1]["classes"]["nodule"]
    assert {"cpm", "ap", "at_0.125", "at_8", "by_size", "curves"} <= set(found)
    assert found["cpm"]["effect"]["patients"] == 2
    assert len(found["curves"]["FROC"]) == len(detection.RATES)
    assert "false candidates per case" in (out / "results.md").read_text()
    assert (out / "results.html").read_text().count("data:image/png") >= 4

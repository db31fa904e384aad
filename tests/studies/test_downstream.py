"""Studies of use: designs that leak nothing, paired effects, runs that are made once."""

import json
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tools.cli import main
from tools.phantoms import datasets
from tools.studies.downstream import loop, pools, runs, segmentation
from tools.studies.downstream.cases import Case, prepared
from tools.studies.downstream.design import presets, read_design, require_strangers, subset
from tools.studies.downstream.effects import Measure, effect
from tools.studies.downstream.runs import shard_of
from tools.studies.downstream.segmentation import case_values, of_size, share_found
from tools.studies.downstream.tasks import TASKS
from tools.studies.downstream.training import open_training
from tools.synthesis.arrays import open_synthesizer

SIZE = 16
PATIENTS = [f"p{k}" for k in range(6)]


def write_nodules(
    folder: Path, sections: tuple[str, ...] = ("training",) * 4 + ("validation",) * 2
) -> Path:
    """Write bright balls in dark noise, a patient each, by section of the datalist."""
    rng = np.random.default_rng(0)
    parts: dict[str, list] = {name: [] for name in sections}
    grid = np.indices((SIZE,) * 3)
    folder.mkdir(parents=True)
    for number, patient in enumerate(PATIENTS):
        middle, radius = rng.uniform(6, 10, 3), rng.uniform(2.5, 4)
        ball = ((grid - middle[:, None, None, None]) ** 2).sum(0) < radius**2
        values = np.where(ball, 0, -850) + rng.normal(0, 30, ball.shape)
        entry = {"name": f"n{number}", "patient": patient}
        for key, array in (("image", values.astype(np.int16)), ("label", ball.astype(np.uint8))):
            entry[key] = f"n{number}_{key}.nii.gz"
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / entry[key])
        parts[sections[number]].append(entry)
    (folder / "datalist.json").write_text(json.dumps(parts))
    return folder


def small_preset(path: Path, **changes: object) -> Path:
    preset = json.loads(presets("segmentation")["lung_small"].read_text())
    options = {"texture": "solid", "shape": "ellipsoid", "diameter_mm": [5, 6]}
    pool = {"sites": "normal", "bundle": "lefusion_lidc", "method": "hand_crafted"}
    preset |= {
        "prepare": None,
        "fractions": [0.5],
        "seeds": 2,
        "normal": {"healed": True},
        "pools": {"hand": pool | {"count": 3, "near_mm": 3, "options": options}},
        "arms": {"P": {}, "P_hand": {"pools": {"hand": 1.5}}},
        "learnt_from": {"lefusion_lidc": ["#training"], "diffmask": []},
    }
    network = {"network_def#channels": [4, 8], "network_def#strides": [2]}
    preset["training"] |= {"steps": 6}
    preset["training"]["changes"] |= {"batch_size": 2, "patch_size": [SIZE] * 3, **network}
    path.write_text(json.dumps(preset | changes))
    return path


@pytest.mark.parametrize("name", list(presets("segmentation")))
def test_presets_are_whole(name: str) -> None:
    design = read_design("segmentation", name)
    assert len({run.name for run in design.runs}) == len(design.runs)
    # a seed's runs come together: what is there after a while can be compared
    assert [run.seed for run in design.runs] == sorted(run.seed for run in design.runs)


def test_bundles_take_the_steps_that_pools_of_presets_ask_for() -> None:
    rules = [
        rule
        for task in TASKS
        for name in presets(task)
        for rule in read_design(task, name).preset["pools"].values()
        if rule.get("method") is None
    ]
    asked = {(rule["bundle"], rule["options"].get("steps")) for rule in rules}
    assert {bundle for bundle, _ in asked} >= {"hr_ldm", "lefusion_lidc", "lefusion_emidec"}
    for bundle, steps in asked:  # one that is refused is a ValueError
        open_synthesizer(bundle, "cpu", None, {"steps": steps}).get("synthesizer")


def test_what_one_pool_refuses_is_said_before_any_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_preset(tmp_path / "preset.json")
    preset = json.loads(path.read_text())
    wrong = preset["pools"]["hand"] | {"options": {"texture": "velvet"}}
    preset["pools"]["wrong"] = wrong
    preset["arms"]["P_hand"]["pools"]["wrong"] = 1
    path.write_text(json.dumps(preset))
    words = ["study", "segmentation", str(write_nodules(tmp_path / "real"))]
    assert main([*words, "--out", str(tmp_path / "out"), "--preset", str(path)]) == 1
    assert "texture must be one of" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("pools/*/*_image.nii.gz"))


def test_a_study_goes_from_scans_to_effects_and_is_made_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, out = write_nodules(tmp_path / "real"), tmp_path / "out"
    words = ["study", "segmentation", str(real), "--out", str(out), "--device", "cpu"]
    words += ["--preset", str(small_preset(tmp_path / "preset.json"))]
    assert main([*words, "--shard", "1/2"]) == 0  # the first and third of four runs: P of each seed
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["0500_0_P", "0500_1_P"]
    assert main(words) == 0
    found = json.loads((out / "results.json").read_text())
    assert found["runs"] == {"made": 4, "wanted": 4}
    groups = {group["arm"]: group for group in found["groups"]}
    assert groups["P_hand"]["synthetic"] == 3
    assert groups["P_hand"]["real"] == groups["P"]["real"] == 2
    assert groups["P_hand"]["classes"]["nodule"]["dice"]["effect"]["seeds"] == 2
    assert "<html" in (out / "results.html").read_text()
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    files |= {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert main(words) == 0
    assert all(path.stat().st_mtime_ns == before for path, before in files.items())
    known = json.loads((out / "study.json").read_text())["patients"]
    assert known["tested"] == 2
    # other cases, or another preset, must not be mixed in
    listed = (real / "datalist.json").read_text()
    (real / "datalist.json").write_text(listed.replace('"validation"', '"test"'))
    assert main(words) == 1
    assert "out must hold one request only" in capsys.readouterr().err
    (real / "datalist.json").write_text(listed)
    small_preset(tmp_path / "preset.json", seeds=1)
    content = json.loads((tmp_path / "preset.json").read_text())
    content["training"]["steps"] = 7
    (tmp_path / "preset.json").write_text(json.dumps(content))
    assert main(words) == 1
    assert "out must hold runs of one preset" in capsys.readouterr().err


def test_real_lesions_are_drawn_anew_at_their_own_masks(tmp_path: Path) -> None:
    pool = {"sites": "lesions", "bundle": "lefusion_lidc", "method": "hand_crafted"}
    pools = {"redrawn": pool | {"options": {"texture": "solid"}}}
    arms = {"P": {}, "P_P1": {"pools": {"redrawn": 1}}}
    preset = small_preset(tmp_path / "p.json", pools=pools, arms=arms, seeds=1)
    real, out = write_nodules(tmp_path / "real"), tmp_path / "out"
    words = ["study", "segmentation", str(real), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--preset", str(preset)]) == 0
    groups = {g["arm"]: g for g in json.loads((out / "results.json").read_text())["groups"]}
    assert groups["P_P1"]["synthetic"] == groups["P_P1"]["real"] == 2
    for path in (out / "pools" / "redrawn").glob("*_label.nii.gz"):
        own = real / path.name
        assert np.array_equal(*(np.asarray(nib.load(each).dataobj) for each in (path, own)))
        images = [p.with_name(p.name.replace("_label", "_image")) for p in (path, own)]
        values = [np.asarray(nib.load(each).dataobj) for each in images]
        assert not np.array_equal(*values)


def test_generators_of_the_protocol_paper_know_the_cases_of_their_group_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained is asked of nothing but them, and neither are the shapes."""
    learnt: list[tuple[str, list[dict], dict]] = []

    def trained(bundle: str, folder: Path, out: Path, changes: dict) -> Path:
        listed = json.loads((folder / "datalist.json").read_text())
        shapes = [nib.load(folder / each["image"]).shape for each in listed["training"]]
        assert set(shapes) == {(32,) * 3} != {(SIZE,) * 3}  # windows of the bundle
        assert [e["patient"] for e in listed["validation"]] == patients(listed["training"])
        learnt.append((out.name, listed["training"], changes))
        return Path("bundles/lefusion_lidc/models/model.pt")

    def patients(entries: list[dict]) -> list[str]:
        return [each["patient"] for each in entries]

    monkeypatch.setattr(pools, "train_bundle", trained)
    options = {"steps": 2, "texture": "solid", "shape": "library:{training}"}
    pool = {"sites": "normal", "bundle": "lefusion_lidc", "count": 1, "near_mm": 3, "prepare": {}}
    rule = pool | {"options": options | {"diameter_mm": [5, 6]}, "training": {"max_epochs": 1}}
    preset = small_preset(
        tmp_path / "p.json",
        protocol="paper",
        pools={"normal": rule},
        arms={"P": {}, "P_N1": {"pools": {"normal": 0.5}}},
    )
    work = runs.open_work(
        read_design("segmentation", str(preset)), write_nodules(tmp_path / "real"), tmp_path / "out"
    )
    opened = []
    for run in work.design.runs:
        if run.arm == "P_N1":
            pool_of_run = work.pool("normal", run, runs.pool_organ(work.design))
            entries = work.of_group(run)
            pools.write_subset(pool_of_run.subset, work.folder, entries)
            opened.append((patients(entries), pool_of_run, pool_of_run.synthesizer()))
    assert [sorted(patients(entries)) for _, entries, _ in learnt] == [
        sorted(known) for known, _, _ in opened
    ]
    assert learnt[0][0] != learnt[1][0]
    for known, pool_of_run, synthesizer in opened:
        assert pool_of_run.own
        assert len(synthesizer.shapes.items) == len(known) == 2  # of four to train on


def test_livers_get_tumours_beside_the_label_of_the_organ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "ABDOMEN_GRID", ((44, 33, 30), 7.8))
    datasets.write_tumour_dataset(
        tmp_path / "real", "kidney", 7, {"training": 2, "test": 1, "normal": 1}
    )
    preset = {"base": "liver_small", "seeds": 1, "fractions": [1.0]}
    pool = {"count": 2, "sizes": [[1, 24, 26]], "options": {"organ": "kidney"}}
    preset |= {"pools": {"normal": {"count": 1}, "hand_crafted": pool}}
    changes = {
        "spacing_mm": [7.8] * 3,
        "patch_size": [16] * 3,
        "network_def#channels": [4, 8, 8, 8],
    }
    preset["training"] = {"steps": 2, "changes": changes}
    (tmp_path / "p.json").write_text(json.dumps(preset))
    words = ["study", "segmentation", str(tmp_path / "real"), "--out", str(tmp_path / "out")]
    words += ["--preset", str(tmp_path / "p.json"), "--arms", "P,P_hand", "--device", "cpu"]
    assert main(words) == 0
    pool_folder = tmp_path / "out" / "pools" / "hand_crafted"
    labels = [np.asarray(nib.load(path).dataobj) for path in pool_folder.glob("*_label.nii.gz")]
    whole = np.asarray(nib.load(next((tmp_path / "real").glob("cases/*003*label*"))).dataobj)
    assert len(labels) == 2
    for label in labels:
        assert set(np.unique(label)) == {0, 1, 2}
        assert np.array_equal(label > 0, whole > 0)  # the tumour lies in the organ, which stays
    assert "difftumor (names)" in (tmp_path / "out" / "study.json").read_text()


def test_a_loop_turns_misses_into_requests_and_says_what_they_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = write_nodules(tmp_path / "real", sections=("training",) * 6), tmp_path / "out"
    preset = json.loads(small_preset(tmp_path / "preset.json").read_text())
    preset["pools"]["normal"] = preset["pools"].pop("hand") | {"count": 4}
    preset["pools"]["normal"]["options"]["texture"] = "mixed"
    preset["arms"] = {"P": {}}
    preset["prepare"] = {"bundle": "lefusion_lidc", "size": [SIZE] * 3}
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    real = (real / "datalist.json").rename(real / "mine.json")
    words = ["study", "loop", str(real), "--out", str(out), "--device", "cpu", "--folds", "2"]
    words += ["--preset", str(tmp_path / "preset.json"), "--seeds", "1"]
    assert main([*words, "--ratios", "1"]) == 0
    found = json.loads((out / "results.json").read_text())
    assert [group["arm"] for group in found["groups"]] == ["P", "R100"]
    effect = found["groups"][1]["classes"]["nodule"]["dice"]["effect"]
    assert effect["patients"] == 6  # each is tested once
    kept = json.loads((out / "data" / "datalist.json").read_text())
    assert len(kept["training"]) == 6  # as the network sees them, and none set aside
    for number in (1, 2):
        fold = out / f"fold_{number}"
        lists = json.loads((fold / "data" / "datalist.json").read_text())
        sides = [{each["patient"] for each in lists[k]} for k in ("training", "validation")]
        assert not sides[0] & sides[1]
        asked = json.loads((fold / "misses.json").read_text())
        assert sum(part["lesions"] for part in asked["sizes"]) == 3  # of the training cases alone
        assert list(asked["textures"]) == ["solid"]  # balls of 0 HU
        rule = json.loads((fold / "pools" / "normal_solid" / "pool.json").read_text())
        sizes = asked["textures"]["solid"]["sizes"]
        assert rule["sizes"] == [[part["weight"], *part["size_mm"]] for part in sizes]
        assert rule["options"]["texture"] == "solid"
        assert len(list((fold / "pools" / "normal_solid").glob("*_image.nii.gz"))) == 4
    for page in ("results.md", "results.html"):
        told = (out / page).read_text()
        assert "Fold 1: missed " in told
        assert " of 3 lesions: " in told
        assert "no higher ratio" not in told
    # no further than what harms
    monkeypatch.setattr(loop, "_harms", lambda results, arm: True)
    assert main([*words, "--ratios", "1,2"]) == 0
    found = json.loads((out / "results.json").read_text())
    assert [group["arm"] for group in found["groups"]] == ["P", "R100"]
    assert "with 1 synthetic per real harms: no higher ratio was tried" in capsys.readouterr().out
    assert main([*words, "--ratios", "2,1"]) == 1
    assert "ratios must rise from above 0" in capsys.readouterr().err
    # other folds test other patients
    assert main([*words, "--ratios", "1", "--folds", "3"]) == 1
    assert "made with folds=2 where 3 is asked for" in capsys.readouterr().err


def test_equal_seeds_give_equal_networks(tmp_path: Path) -> None:
    settings = json.loads(small_preset(tmp_path / "p.json").read_text())["training"]
    rng = np.random.default_rng(0)
    image, known = rng.normal(-850, 50, (SIZE,) * 3), np.ones((SIZE,) * 3, bool)
    label = np.zeros_like(known, np.uint8)
    label[4:9, 4:9, 4:9] = 1
    cases = [Case("a", "p", image, label, np.eye(4), known)]
    given = (cases, {"nodule": 1}, settings)
    networks = [segmentation.train(*given, seed, torch.device("cpu"))[0] for seed in (0, 0, 1)]
    first, same, other = (torch.cat([x.flatten() for x in n.parameters()]) for n in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("steps", [1, 7, 480, 500])
def test_a_training_has_as_many_steps_as_it_says(steps: int) -> None:
    settings = {"bundle": "lesion_segmentation", "steps": steps}
    parser = open_training(settings, torch.device("cpu"))
    epochs, length = (parser.get_parsed_content(key) for key in ("max_epochs", "epoch_length"))
    assert epochs * length == steps


def test_only_what_was_scanned_counts(tmp_path: Path) -> None:
    settings = json.loads(small_preset(tmp_path / "p.json").read_text())["training"]
    label = np.zeros((SIZE,) * 3, np.uint8)
    label[4:8, 4:8, 4:8] = 1
    known = np.zeros(label.shape, bool)
    known[:, :, 2:10] = True
    image = np.where(label > 0, 400.0, -1000.0)
    image[:, :, 12:] = 400  # would be taken for a lesion
    case = Case("a", "p", image, label, np.eye(4), known)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - x, x - 0.5], 1)

    (row,) = segmentation.measure(network, [case], {"nodule": 1}, settings, torch.device("cpu"))
    found = row["classes"]["nodule"]
    assert found["dice"] == 1
    assert found["nsd"] == 1
    assert found["lesions"] == [[4.96, True]]  # (6 / pi * 64) ** (1 / 3)
    assert found["false"] == 0


def test_subsets_are_nested_and_of_whole_patients() -> None:
    patients = [f"p{k}" for k in range(20)]
    parts = [subset(patients, part, 3) for part in (0.1, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [2, 5, 10, 20]
    assert all(few < more for few, more in pairwise(parts))
    assert subset(patients, 0.5, 4) != parts[2]


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    design = read_design("segmentation", str(small_preset(tmp_path / "p.json")))
    listed = {"lefusion_lidc": ["known.json#training"]}
    design = design._replace(preset={**design.preset, "learnt_from": listed})
    (tmp_path / "known.json").write_text(json.dumps({"training": [{"patient": "p5"}]}))
    known = require_strangers(design, {"p4"}, {"p0"}, tmp_path)
    assert known == {"training": 1, "lefusion_lidc (known.json#training)": 1}
    names = design._replace(preset={**design.preset, "learnt_from": {"difftumor": [["p4", "p5"]]}})
    assert require_strangers(names, {"p6"}, {"p0"}, tmp_path)["difftumor (names)"] == 2
    with pytest.raises(ValueError, match=r"got p5 in difftumor \(names\)"):
        require_strangers(names, {"p5"}, {"p0"}, tmp_path)
    with pytest.raises(ValueError, match="got p5 in lefusion_lidc"):
        require_strangers(design, {"p4", "p5"}, {"p0"}, tmp_path)
    with pytest.raises(ValueError, match="got p4 in training, too"):
        require_strangers(design, {"p4"}, {"p0", "p4"}, tmp_path)


def test_a_list_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    real = write_nodules(tmp_path / "real")
    other = (real / "datalist.json").rename(real / "mine.json")
    preset = read_design("segmentation", str(small_preset(tmp_path / "p.json"))).preset
    with pytest.raises(
        ValueError, match=r"real must be named datalist\.json with this preset, got"
    ):
        prepared(other, tmp_path, preset)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fractions": [0.0]}, "fractions must be above 0 and at most 1"),
        ({"protocol": "mine"}, "protocol must be one of"),
        ({"arms": {"P_hand": {"pools": {"hand": 1}}}}, "arms must hold P without pools"),
        ({"arms": {"P": {}, "Q": {"pools": {"none": 1}}}}, "pools of arm Q must be pools"),
        ({"learnt_from": {}}, "learnt_from must say which patients lefusion_lidc"),
        ({"colour": 1}, "preset must have the keys"),
        ({"task": "detection"}, "preset must be of task segmentation"),
    ],
)
def test_designs_that_cannot_be(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_design("segmentation", str(small_preset(tmp_path / "p.json", **changes)))


def test_an_effect_is_paired_and_knows_chance() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{k // 2}" for k in range(40)]
    # patients differ by far more than the arms do: only pairs can tell
    base = rng.normal(0.6, 0.2, 40)[None] + rng.normal(0, 0.01, (5, 40))
    better = effect(base, base + 0.02 + rng.normal(0, 0.01, base.shape), patients)
    assert better["verdict"] == "helps"
    assert better["low"] < 0.02 < better["high"]
    assert better["patients"] == 20
    assert better["p_wilcoxon"] < 1e-4
    same = effect(base, base + rng.normal(0, 0.01, base.shape), patients)
    assert same["verdict"] == "no difference"
    assert effect(base, base - 0.1, patients)["verdict"] == "harms"
    # seeds that disagree widen the interval, though patients agree
    split = base + np.array([0.1, -0.08, 0.1, -0.08, 0.1])[:, None]
    assert effect(base, split, patients)["verdict"] == "no difference"
    with pytest.raises(ValueError, match="arm must have the shape of base"):
        effect(base, base[:4], patients)


def test_effects_leave_out_what_is_unknown() -> None:
    base = np.full((2, 3), 0.5)
    base[:, 1] = np.nan
    found = effect(base, base + 0.25, ["a", "b", "c"])
    assert (found["effect"], found["patients"]) == (0.25, 2)


def test_values_of_cases_by_hand() -> None:
    def row(dice: float | None, *lesions: list) -> dict:
        return {"classes": {"x": {"dice": dice, "lesions": list(lesions)}}}

    rows = [row(0.5, [5.0, True], [8.0, False]), row(None), row(0.1, [7.0, True])]
    assert case_values(rows, "x", "dice")[[0, 2]].tolist() == [0.5, 0.1]
    assert np.isnan(case_values(rows, "x", "dice")[1])
    assert case_values(rows, "x", "sensitivity")[[0, 2]].tolist() == [0.5, 1.0]
    few, count = of_size(rows, "x", (6, 10))
    assert count == 2
    weights = np.array([[1.0, 1, 1], [3, 0, 1], [0, 1, 0]])
    assert share_found(few, "x", weights)[:2].tolist() == [0.5, 0.25]
    assert np.isnan(share_found(few, "x", weights)[2])
    assert Measure("found", whole=share_found).of_run(rows, "x") == pytest.approx(2 / 3)
    assert of_size(rows, "x", (20, 30))[1] == 0


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/2"])
def test_shards_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match="shard must be I/N"):
        shard_of(text)


@pytest.mark.parametrize("name", list(presets("segmentation")))
def test_networks_of_presets_are_those_of_the_bundle(name: str) -> None:
    preset = read_design("segmentation", name).preset
    parser = open_training(preset["training"], torch.device("cpu"))
    network = parser.get_parsed_content("network").eval()
    size, values = parser["patch_size"], preset["classes"].values()
    found = network(torch.zeros(1, parser["network_def"]["in_channels"], *size))
    assert found.shape[1] > max(values)
    assert found.shape[-3:] == tuple(size)

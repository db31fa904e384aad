"""A heart bundle is measured from its files alone: requests, pasting, variants, what is written."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tools.commands.models import evaluate
from tools.evaluation.heart_cases import HeartCase, HeartWindow, load_hearts, other_hearts
from tools.evaluation.heart_cases import paste_lesion as paste
from tools.evaluation.heart_control import (
    HeartSamples,
    background_changes,
    case_divergences,
    sample_hearts,
)
from tools.evaluation.heart_figure import example_hearts
from tools.evaluation.heart_models import (
    HeartModel,
    load_heart_bundle,
    load_heart_model,
    parse_variants,
)
from tools.evaluation.heart_realism import mean_fill, slice_features, tell_apart
from tools.networks.lesion_unet import LesionUNet
from tools.phantoms.heart_datasets import heart_datalist, write_heart_dataset

WINDOW = {"window_size": [48, 48], "window_spacing_mm": 2.4}
NETWORK = {"in_channels": 4, "out_channels": 2, "channels": [8, 16], "condition_size": 32}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    write_heart_dataset(folder, sections={"validation": 4})
    return folder


@pytest.fixture(scope="module")
def cases(dataset: Path) -> list[HeartCase]:
    return load_hearts(heart_datalist(dataset, "validation"), HeartWindow(**WINDOW))


@pytest.fixture(scope="module")
def bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configs of the bundle with a smaller window and a tiny untrained network."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny_hearts"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    source = repository / "bundles" / "lefusion_emidec" / "configs"
    for name in ("train.json", "inference.json"):
        config = json.loads((source / name).read_text(encoding="utf-8")) | WINDOW
        config["amp_dtype"] = None
        config["network_def"] |= NETWORK
        (folder / "configs" / name).write_text(json.dumps(config), encoding="utf-8")
    (folder / "configs" / "joint.json").write_text('{"network_def#condition_size": null}')
    states = {}
    for name, size in (("model", 32), ("joint", None)):
        torch.manual_seed(0)
        states[name] = LesionUNet(**NETWORK | {"condition_size": size}).state_dict()
    torch.save(states["model"], folder / "models" / "model.pt")
    checkpoint = {"network": {}, "ema": states["joint"], "trainer": {"epoch": 1}}
    torch.save(checkpoint, folder / "models" / "joint.pt")
    return folder


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.evaluation.shape_tests.TREES", 20)


class Recorder(nn.Module):
    """Stands for sampler and network: notes what it is asked and fills lesions with a value."""

    def __init__(self, value: float = 0.25) -> None:
        super().__init__()
        self.value, self.calls = value, []

    def forward(
        self, inputs: Tensor, network: nn.Module, condition: Tensor | None, seeds: list[int]
    ) -> Tensor:
        self.calls.append((condition, seeds))
        inside = inputs[:, 2:].amax(1, keepdim=True) > 0
        return torch.where(inside, torch.tensor(self.value), inputs[:, :2])


def model(controlled: bool) -> HeartModel:
    return HeartModel("stand-in", nn.Identity(), controlled, Path("none"))


def test_windows_hold_scaled_scan_and_a_mask_per_class(cases: list[HeartCase]) -> None:
    case = cases[0]
    assert case.image.shape == (1, *case.tissue.shape)
    assert case.image.shape[1:3] == (48, 48)
    assert case.image.shape[3] % 4 == 0
    assert (float(case.image.min()), float(case.image.max())) == (-1, 1)
    assert torch.equal(case.lesion_masks.sum(0), (case.tissue >= 3).float())
    assert torch.equal(case.histograms.sum(1) > 0, torch.tensor(case.present))
    # two of three phantom hearts have a core
    assert [case.present for case in cases] == [(True, True)] * 2 + [(True, False), (True, True)]


def test_other_heart_has_the_same_classes(cases: list[HeartCase]) -> None:
    order = other_hearts(cases, 3)
    assert order[2] == 2  # alone without a core
    assert sorted(order) == [0, 1, 2, 3]
    assert all(order[i] != i for i in (0, 1, 3))


def test_network_without_histograms_is_given_none(cases: list[HeartCase]) -> None:
    own = [case.histograms for case in cases]
    for controlled in (True, False):
        recorder = Recorder()
        sample_hearts(model(controlled), recorder, cases, own, samples=2, seed=5)
        asked = [condition for condition, _ in recorder.calls]
        if controlled:
            assert torch.equal(asked[2], own[1].reshape(1, 32))
        else:
            assert asked == [None] * 8
        assert [seeds for _, seeds in recorder.calls[:4]] == [[5], [1014], [6], [1015]]


def test_divergence_is_zero_for_the_real_lesion_and_counts_present_classes(
    cases: list[HeartCase],
) -> None:
    assert case_divergences(cases[0].image, cases[0], cases[0].histograms) == pytest.approx(
        {"infarct": 0, "no_reflow": 0}, abs=1e-6
    )
    without_core = case_divergences(cases[2].image, cases[2], cases[2].histograms)
    assert without_core["no_reflow"] is None
    # the lowest bin was requested, the highest delivered: no overlap, ln 2
    asked = torch.eye(16)[[0, 0]]
    found = case_divergences(torch.ones_like(cases[0].image), cases[0], asked)
    assert found == pytest.approx({"infarct": np.log(2), "no_reflow": np.log(2)})


def test_pasted_scan_changes_in_the_lesion_only(cases: list[HeartCase]) -> None:
    case = cases[0]
    pasted = paste(case, torch.zeros_like(case.image))  # 0 all over, yet only the lesion is taken
    assert pasted.dtype == case.scan.dtype
    middle = round(sum(case.intensity_range) / 2)
    assert np.unique(pasted[case.label >= 3]).tolist() == [middle]
    assert np.array_equal(pasted[case.label < 3], case.scan[case.label < 3])


def test_background_of_the_window_is_watched(cases: list[HeartCase]) -> None:
    images = [[case.image.clone()] for case in cases]
    run = {"own": HeartSamples(images, [0.0] * 4)}
    assert background_changes(run, cases)["window"] == 0
    images[1][0][0, 0, 0, 0] += 0.5
    assert background_changes(run, cases)["window"] == 1


def test_forest_sees_a_fill_but_not_the_real_lesion(cases: list[HeartCase]) -> None:
    sources = {"same": [c.image for c in cases], "fill": [mean_fill(c) for c in cases]}
    found = tell_apart(cases, sources)
    assert found["same"]["accuracy"]["mean"] == 0.5
    assert found["same"]["auc"]["mean"] == 0.5
    assert found["fill"]["accuracy"]["mean"] > 0.8
    # two pairs of patients, a fold each, paired five times
    assert len(found["real_other"]["accuracy"]["folds"]) == 10
    assert found["real_other"]["accuracy"]["mean"] < 0.8


def test_features_of_a_flat_lesion() -> None:
    masks = np.zeros((2, 9, 9))
    masks[0, 2:7, 2:7] = 1
    features = slice_features(np.where(masks[0] > 0, 0.5, -0.5), masks)
    assert features[:2] == [0.5, 0.0]
    assert features[4:8] == [0.0] * 4
    assert features[8] == -0.5
    assert len(features) == 10


def test_examples_are_mostly_hearts_with_a_core(cases: list[HeartCase]) -> None:
    assert example_hearts(cases, 3) == [0, 1, 2]
    assert example_hearts(cases, 6) == [0, 1, 2, 3]


def test_sampler_is_that_of_inference_without_a_preset(bundle: Path) -> None:
    tested = load_heart_bundle(bundle)
    assert tested.window.window_size == [48, 48]
    inferer = tested.make_inferer(3, "end")
    assert (len(inferer.transitions), inferer.combine) == (3, "end")
    assert inferer.condition is None
    assert inferer.mask_input
    assert tested.make_inferer().combine == "step"


def test_weights_of_a_training_are_those_of_its_average(bundle: Path) -> None:
    joint = load_heart_model(bundle, "J", "joint.json", bundle / "models" / "joint.pt")
    assert not joint.controlled
    assert load_heart_model(bundle, "JH").controlled
    with pytest.raises(
        ValueError, match=r"weights must fit the network of train.json, got .*joint"
    ):
        load_heart_model(bundle, "JH", weights=bundle / "models" / "joint.pt")
    with pytest.raises(FileNotFoundError, match=r"bundle must have absent.json"):
        load_heart_model(bundle, "J", "absent.json")


@pytest.mark.parametrize("text", ["J:joint.json", ":joint.json:w.pt", "J:joint.json:"])
def test_variant_needs_name_and_weights(text: str) -> None:
    with pytest.raises(ValueError, match="variants must be a list of NAME:OVERLAY:WEIGHTS, got"):
        parse_variants(text)


def test_variants_come_as_text_or_list() -> None:
    listed = parse_variants(["S:single.json:a.pt", "JH::b.pt"])
    assert listed == parse_variants("S:single.json:a.pt, JH::b.pt")
    assert parse_variants("") == []
    with pytest.raises(ValueError, match="variants must have different names"):
        parse_variants("S:a.json:a.pt,S:b.json:b.pt")


def test_one_heart_is_too_few(dataset: Path) -> None:
    with pytest.raises(ValueError, match="limit must be at least 2, got 1"):
        load_hearts(heart_datalist(dataset, "validation"), HeartWindow(), limit=1)


def test_results_are_written(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    joint = f"J:joint.json:{bundle / 'models' / 'joint.pt'}"
    evaluate(
        bundle=str(bundle),
        dataset_dir=str(dataset),
        out=str(out),
        steps=2,
        limit=3,
        samples=1,
        variants=joint,
    )
    names = ["results.json", "results.md", "results.png"]
    assert sorted(path.name for path in out.glob("r*")) == names
    results = json.loads((out / "results.json").read_text())
    assert [row["voxels"]["no_reflow"] > 0 for row in results["hearts"]] == [True, True, False]
    assert results["hearts"][2]["jsd"]["other"] == {"infarct": None, "no_reflow": None}
    assert results["control"]["own"]["infarct"]["n"] == 3
    assert results["control"]["own"]["no_reflow"]["n"] == 2
    assert results["combine"]["step"]["jsd"] == results["control"]["own"]
    assert results["combine"]["end"]["jsd"] != results["combine"]["step"]["jsd"]
    assert list(results["variants"]) == ["tiny_hearts", "tiny_hearts, no control", "J"]
    assert (results["background"]["scan"], results["background"]["window"]) == (0, 0)
    assert results["background"]["changed_inside"] > 0
    page = (out / "results.md").read_text()
    assert "Voxels changed outside the lesion labels: 0 on the scans' own grids" in page
    assert "| J |" in page
    assert matplotlib.image.imread(out / "results.png").shape[0] > 400

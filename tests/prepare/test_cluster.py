"""Lesions made to be of three kinds are found again, with and without units of intensity."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.prepare.pairs import KINDS, content, write_kinds, write_list, write_pair
from tools.cli import main
from tools.histograms import load_presets
from tools.organs import load_organ
from tools.prepare.cluster import cluster_lesions
from tools.prepare.clustering import Clustering, cluster_histograms, compare_cluster_numbers
from tools.prepare.textures import HuWindows, measure_textures, read_look
from tools.synthesis.textures import Textures

WINDOW = (-1000, 400)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("lesions"))


def copied(name: str, folder: Path) -> Path:
    """Copy the configs of a bundle; return the folder."""
    shutil.copytree(Path("bundles") / name / "configs", folder / "bundle" / "configs")
    return folder / "bundle"


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.prepare.cluster.write_cluster_figure", lambda *_: None)


def test_three_kinds_are_found_and_written_as_presets(dataset: Path, tmp_path: Path) -> None:
    bundle = copied("lefusion_lidc", tmp_path)
    before = (bundle / "configs" / "histograms.json").read_bytes()
    results = cluster_lesions(str(dataset), str(bundle), out=tmp_path / "out")
    assert (results["lesions"], results["left_out"]) == (12, 1)
    assert [g["name"] for g in results["clusters"]] == ["ground_glass", "part_solid", "solid"]
    assert [g["size"] for g in results["clusters"]] == [4, 4, 4]
    for group, kind in zip(results["clusters"], KINDS, strict=True):
        members = [m["name"] for m in results["members"] if m["cluster"] == group["name"]]
        assert all(name.startswith(kind) for name in members)
        assert group["mean_hu"] == pytest.approx(KINDS[kind], abs=5)
        assert group["medoid"] in members
    scores = {row["clusters"]: row["silhouette"] for row in results["by_clusters"]}
    assert list(scores) == [2, 3, 4, 5, 6]
    assert max(scores, key=lambda k: scores[k]) == 3
    presets = load_presets(tmp_path / "out" / "histograms.json")
    assert {p["weight"] for p in presets.values()} == {33.3}
    # -650 +- 30 HU lies in the bins from -737.5 to -562.5
    assert sum(presets["ground_glass"]["histogram"][3:5]) > 0.99
    assert json.loads((tmp_path / "out" / "cluster.json").read_text()) == results
    assert (tmp_path / "out" / "cluster.png").read_bytes()[:4] == b"\x89PNG"
    assert (bundle / "configs" / "histograms.json").read_bytes() == before
    assert not list(tmp_path.rglob(".*.partial"))


@pytest.mark.usefixtures("no_figure")
def test_write_replaces_the_presets_of_the_bundle_in_their_form(
    dataset: Path, tmp_path: Path
) -> None:
    bundle = copied("lefusion_lidc", tmp_path)
    path = bundle / "configs" / "histograms.json"
    old = json.loads(path.read_text())
    cluster_lesions(str(dataset), str(bundle), out=tmp_path / "out", write=True)
    new = json.loads(path.read_text())
    assert new.keys() == old.keys()
    assert new["presets"].keys() == old["presets"].keys()
    assert (new["bins"], new["window_hu"]) == (old["bins"], old["window_hu"])
    assert new["presets"] != old["presets"]
    assert load_presets(path).keys() == old["presets"].keys()
    assert not (tmp_path / "out" / "histograms.json").exists()
    # the bundle's own configuration names a preset that two clusters do not have
    with pytest.raises(ValueError, match=r"write needs presets with the texture .*'solid'"):
        cluster_lesions(str(dataset), str(bundle), 2, tmp_path / "out", write=True)
    assert json.loads(path.read_text()) == new


@pytest.mark.usefixtures("no_figure")
def test_a_medoid_is_the_histogram_of_one_lesion(dataset: Path, tmp_path: Path) -> None:
    results = cluster_lesions(str(dataset), clusters=2, out=tmp_path, preset="medoid")
    entries = content(dataset)["training"]
    for group in results["clusters"]:
        entry = next(e for e in entries if e["name"] == group["medoid"])
        files = [{key: str(dataset / entry[key]) for key in ("image", "label")}]
        own = measure_textures(files, HuWindows(WINDOW)).fine[0, 0]
        assert group["histogram"] == pytest.approx(own.tolist(), abs=1e-6)
    assert [group["name"] for group in results["clusters"]] == ["cluster_1", "cluster_2"]


def test_a_histogram_counts_the_lesion_only_and_clips_to_the_window(tmp_path: Path) -> None:
    image = np.full((4, 4, 4), 3000, np.int16)
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, :3] = 1
    image[0, 0, :3] = (-999, -2000, 900)
    entry = write_pair(tmp_path, "a", image, label)
    files = {key: str(tmp_path / name) for key, name in entry.items()}
    found = measure_textures([files], HuWindows(WINDOW), bins=4)
    assert found.fine[0, 0] == pytest.approx([2 / 3, 0, 0, 1 / 3])
    assert found.means[0] == pytest.approx((-999 - 1000 + 400) / 3)
    assert found.voxels.tolist() == [[3]]
    affine = np.eye(4)
    affine[0, 3] = 50
    nib.save(nib.Nifti1Image(label, affine), files["label"])
    with pytest.raises(ValueError, match=r"label must lie in the scan, .*a_label\.nii\.gz"):
        measure_textures([files], HuWindows(WINDOW))


def grouped(histograms: list[list[float]], clusters: int, space: str) -> Clustering:
    rows = np.array(histograms)
    return cluster_histograms(rows, rows @ np.arange(rows.shape[1]), clusters, space=space)


def test_only_the_cumulative_space_knows_that_bins_have_an_order() -> None:
    """Single peaks: in bins 0, 1 and 9 of ten. Peaks 0 and 1 are near in the cumulative space."""
    peaks = [np.eye(10)[i].tolist() for i in (0, 1, 9)]
    nearest = grouped(peaks, 2, "cumulative")
    assert nearest.labels.tolist() == [0, 0, 1]
    assert nearest.inertia == pytest.approx(0.5)
    # in the others any two of them are sqrt(2) apart, whatever the pair
    for space in ("histogram", "sqrt"):
        assert grouped(peaks, 2, space).inertia == pytest.approx(1.0)


def test_square_roots_see_the_hellinger_distance() -> None:
    two = [[0.81, 0.19], [0.81, 0.19], [0.64, 0.36], [0.25, 0.75]]
    assert grouped(two, 3, "sqrt").inertia == pytest.approx(0, abs=1e-12)
    found = grouped(two, 2, "sqrt")
    squared = (0.9 - 0.8) ** 2 + (0.19**0.5 - 0.6) ** 2
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert found.inertia == pytest.approx(squared * 2 / 3)


def test_the_seed_decides_and_inertia_falls() -> None:
    rows = np.random.default_rng(1).dirichlet(np.ones(8), 40)
    means = rows @ np.arange(8)
    first = cluster_histograms(rows, means, 4, seed=3)
    assert np.array_equal(first.labels, cluster_histograms(rows, means, 4, seed=3).labels)
    order = [means[members].mean() for members in first.members]
    assert order == sorted(order)
    inertia = [row["inertia"] for row in compare_cluster_numbers(rows, means)]
    assert inertia == sorted(inertia, reverse=True)


# intensity of the infarct where myocardium is 0.3, blood 0.5, air 0 and fat 1
HEARTS = {"pale": 0.4, "middle": 0.6, "light": 0.85}
NO_REFLOW = 0.2


def write_hearts(folder: Path, per_kind: int = 3) -> Path:
    """Hearts of each kind, every scan in another unit; only light ones have no-reflow."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*2 * [np.arange(64) - 32], indexing="ij")
    radius = np.hypot(x, y)[..., None].repeat(4, 2)
    entries = []
    for i, kind in enumerate([*list(HEARTS) * per_kind, "healthy"]):
        label = np.where(radius < 12, 1, np.where(radius < 20, 2, 0)).astype(np.uint8)
        image = np.choose(label, [0.05, 0.5, 0.3]) + rng.normal(0, 0.01, label.shape)
        image[:8] = 1  # fat
        if kind in HEARTS:
            infarct = (label == 2) & (x > 5)[..., None]
            label[infarct] = 3
            image[infarct] = HEARTS[kind] + rng.normal(0, 0.01, int(infarct.sum()))
        if kind == "light":
            core = (label == 3) & (radius < 15)
            label[core], image[core] = 4, NO_REFLOW
        scaled = 1 + image * rng.uniform(100, 3000)
        affine = np.diag([1.5, 1.5, 10, 1])
        entry = write_pair(folder, f"{kind}_{i}", scaled, label, affine, np.float32)
        entries.append({"name": f"{kind}_{i}", **entry})
    write_list(folder, {"training": entries, "normal": entries[-1:]})
    return folder


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hearts(tmp_path_factory.mktemp("hearts") / "hearts")


def peak(histogram: list[float], block: int) -> float:
    """Middle of the fullest bin; the rim of a lesion is blurred, so the mean says less."""
    return float(np.linspace(-1, 1, 33)[1::2][np.reshape(histogram, (2, 16))[block].argmax()])


def test_three_contrasts_are_found_whatever_the_units(hearts: Path, tmp_path: Path) -> None:
    bundle = copied("lefusion_emidec", tmp_path)
    before = (bundle / "configs" / "histograms.json").read_bytes()
    results = cluster_lesions(str(hearts), str(bundle), out=tmp_path / "out", space="cumulative")
    assert (results["lesions"], results["left_out"]) == (9, 1)
    assert [group["name"] for group in results["clusters"]] == ["faint", "moderate", "bright"]
    assert [group["weight"] for group in results["clusters"]] == [33, 34, 33]
    for group, (kind, level) in zip(results["clusters"], HEARTS.items(), strict=True):
        assert [name.split("_")[0] for name in group["members"]] == [kind] * 3
        assert group["contrast_quartiles"][1] == pytest.approx((level - 0.3) / 0.2, abs=0.05)
        assert group["medoid"] in group["members"]
    # all scans are made alike but for their units, so nothing moves: the levels are the model's
    presets = load_presets(tmp_path / "out" / "histograms.json")
    assert list(presets) == ["faint", "moderate", "bright"]
    wall, blood = results["tissue"]
    for name, level in zip(presets, HEARTS.values(), strict=True):
        expected = wall + (level - 0.3) / 0.2 * (blood - wall)
        assert peak(presets[name]["histogram"], 0) == pytest.approx(expected, abs=0.08)
        assert presets[name]["tissue"] == results["tissue"]
        assert presets[name]["gain"] == results["gain"] == 0.5
    # groups without no-reflow have it from the others
    expected = wall + (NO_REFLOW - 0.3) / 0.2 * (blood - wall)
    assert peak(presets["bright"]["histogram"], 1) == pytest.approx(expected, abs=0.08)
    cores = [preset["histogram"][16:] for preset in presets.values()]
    assert cores[0] == cores[1] == cores[2]
    assert [group["members_by_class"] for group in results["clusters"]] == [[3, 0], [3, 0], [3, 3]]
    assert max(results["fit"]["mean"]) < 0.05
    assert json.loads((tmp_path / "out" / "cluster.json").read_text()) == results
    assert (tmp_path / "out" / "cluster.png").read_bytes()[:4] == b"\x89PNG"
    assert (bundle / "configs" / "histograms.json").read_bytes() == before


@pytest.mark.usefixtures("no_figure")
def test_write_replaces_the_presets_of_hearts(hearts: Path, tmp_path: Path) -> None:
    bundle = copied("lefusion_emidec", tmp_path)
    path = bundle / "configs" / "histograms.json"
    old = json.loads(path.read_text())
    cluster_lesions(str(hearts), str(bundle), out=tmp_path, write=True, preset="medoid")
    new = json.loads(path.read_text())
    assert new.keys() == old.keys()
    assert new != old
    for preset in new["presets"].values():
        assert np.reshape(preset["histogram"], (2, 16)).sum(1) == pytest.approx([1, 1], abs=1e-12)
    drawn = Textures("mixed", load_presets(path), load_organ("heart")).draw(
        0, np.random.default_rng(0), tissue=(-0.4, 0.0), present=[True, True]
    )
    assert drawn.name in new["presets"]
    # without a file, what the bundle's train.json says
    path.unlink()
    results = cluster_lesions(str(hearts), str(bundle), 2, tmp_path)
    assert (results["bins"], results["gain"]) == (16, 0.5)
    with pytest.raises(ValueError, match=r"write needs presets with the texture .*'moderate'"):
        cluster_lesions(str(hearts), str(bundle), 2, tmp_path, write=True)
    assert not path.exists()


def test_a_heart_is_measured_as_the_model_sees_it(hearts: Path) -> None:
    entry = content(hearts)["training"][2]
    files = [{key: str(hearts / entry[key]) for key in ("image", "label")}]
    _, look = read_look("lefusion_emidec")
    found = measure_textures(files, look.model, look.bins)
    assert found.fine.shape == (1, 2, 256)
    assert found.fine.sum(-1) == pytest.approx(1)
    assert found.contrast[0] == pytest.approx((0.85 - 0.3) / 0.2, abs=0.05)
    assert found.voxels[0, 0] > found.voxels[0, 1] > 0
    assert found.tissue is not None
    own = found.histograms(0, found.tissue[0], gain=1)
    assert own == pytest.approx(found.fine[0].reshape(2, 16, 16).sum(-1))


@pytest.mark.usefixtures("no_figure")
def test_the_command_knows_hearts_by_their_bundle(
    hearts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cluster", "--dataset_dir", str(hearts), "--bundle", "lefusion_emidec"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "bright: 3 lesions (33 %), contrast 2.7" in printed
    assert "median divergence of lesions from their preset" in printed

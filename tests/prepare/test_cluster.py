"""Lesions made to be of three kinds are found again, and the presets are what they are."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.histograms import load_presets
from tools.prepare import cluster_figure
from tools.prepare.cluster import cluster_lesions
from tools.prepare.cluster_textures import (
    LesionTextures,
    cluster_textures,
    compare_cluster_numbers,
    measure_textures,
)

KINDS = {"dark": -650, "middle": -300, "bright": 50}
WINDOW = (-1000, 400)


def write_dataset(folder: Path, per_kind: int = 4) -> Path:
    """Cubes of 12^3 voxels with a lesion of 4^3; kinds interleaved; one entry without a lesion."""
    rng = np.random.default_rng(0)
    entries = []
    label = np.zeros((12, 12, 12), np.uint8)
    label[4:8, 4:8, 4:8] = 1
    kinds = [*list(KINDS) * per_kind, "healthy"]
    for i, kind in enumerate(kinds):
        image = rng.normal(-850, 20, label.shape)
        image[label > 0] = rng.normal(KINDS.get(kind, -850), 30, int(label.sum()))
        here = label * (kind != "healthy")
        entry = {"name": f"{kind}_{i}", "image": f"{i}_image.nii.gz", "label": f"{i}_label.nii.gz"}
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.eye(4)), folder / entry["image"])
        nib.save(nib.Nifti1Image(here.astype(np.uint8), np.eye(4)), folder / entry["label"])
        entries.append(entry)
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("lesions"))


@pytest.fixture
def bundle(repository: Path, tmp_path: Path) -> Path:
    configs = tmp_path / "bundle" / "configs"
    shutil.copytree(repository / "bundles" / "lefusion_lidc" / "configs", configs)
    return configs.parent


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.prepare.cluster.write_cluster_figure", lambda *_: None)


def test_three_kinds_are_found_and_written_as_presets(
    dataset: Path, bundle: Path, tmp_path: Path
) -> None:
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
    dataset: Path, bundle: Path, tmp_path: Path
) -> None:
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
    entries = json.loads((dataset / "datalist.json").read_text())["training"]
    for group in results["clusters"]:
        entry = next(e for e in entries if e["name"] == group["medoid"])
        files = [{key: str(dataset / entry[key]) for key in ("image", "label")}]
        own = measure_textures(files, WINDOW, 16).histograms[0]
        assert group["histogram"] == pytest.approx(own.tolist(), abs=1e-6)
    assert [group["name"] for group in results["clusters"]] == ["cluster_1", "cluster_2"]


def test_a_histogram_counts_the_lesion_only_and_clips_to_the_window(tmp_path: Path) -> None:
    image = np.full((4, 4, 4), 3000, np.int16)
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, :3] = 1
    image[0, 0, :3] = (-999, -2000, 900)
    files = {"image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "b.nii.gz")}
    nib.save(nib.Nifti1Image(image, np.eye(4)), files["image"])
    nib.save(nib.Nifti1Image(label, np.eye(4)), files["label"])
    found = measure_textures([files], WINDOW, bins=4)
    assert found.histograms[0] == pytest.approx([2 / 3, 0, 0, 1 / 3])
    assert found.mean_hu[0] == pytest.approx((-999 - 1000 + 400) / 3)
    assert found.voxels.tolist() == [3]
    nib.save(nib.Nifti1Image(label, np.diag([2, 1, 1, 1])), files["label"])
    with pytest.raises(ValueError, match="label must lie on the grid of its image"):
        measure_textures([files], WINDOW, 16)


def rows_of(histograms: list[list[float]]) -> LesionTextures:
    rows = np.array(histograms)
    hu = rows @ np.arange(rows.shape[1])
    return LesionTextures([{}] * len(rows), rows, hu, hu * 0, np.full(len(rows), 9))


def test_only_the_cumulative_space_knows_that_bins_have_an_order() -> None:
    """Single peaks: in bins 0, 1 and 9 of ten. Peaks 0 and 1 are near in the cumulative space."""
    peaks = [np.eye(10)[i].tolist() for i in (0, 1, 9)]
    nearest = cluster_textures(rows_of(peaks), 2, space="cumulative")
    assert nearest.labels.tolist() == [0, 0, 1]
    assert nearest.inertia == pytest.approx(0.5)
    # in the others any two of them are sqrt(2) apart, whatever the pair
    for space in ("histogram", "sqrt"):
        assert cluster_textures(rows_of(peaks), 2, space=space).inertia == pytest.approx(1.0)


def test_square_roots_see_the_hellinger_distance() -> None:
    two = rows_of([[0.81, 0.19], [0.81, 0.19], [0.64, 0.36], [0.25, 0.75]])
    assert cluster_textures(two, 3, space="sqrt").inertia == pytest.approx(0, abs=1e-12)
    found = cluster_textures(two, 2, space="sqrt")
    squared = (0.9 - 0.8) ** 2 + (0.19**0.5 - 0.6) ** 2
    assert found.labels.tolist() == [0, 0, 0, 1]
    assert found.inertia == pytest.approx(squared * 2 / 3)


def test_the_seed_decides_and_inertia_falls() -> None:
    rng = np.random.default_rng(1)
    textures = rows_of(rng.dirichlet(np.ones(8), 40).tolist())
    first = cluster_textures(textures, 4, seed=3)
    assert np.array_equal(first.labels, cluster_textures(textures, 4, seed=3).labels)
    means = [textures.mean_hu[first.labels == i].mean() for i in range(4)]
    assert means == sorted(means)
    inertia = [row["inertia"] for row in compare_cluster_numbers(textures)]
    assert inertia == sorted(inertia, reverse=True)


def test_examples_go_from_the_nearest_to_the_farthest() -> None:
    textures = rows_of([[1, 0], [0.9, 0.1], [0.7, 0.3], [0, 1]])
    found = cluster_textures(textures, 2)
    chosen = cluster_figure.example_members(found, 0, 5)
    distances = found.distances[chosen]
    assert sorted(chosen) == [0, 1, 2]
    assert distances.tolist() == sorted(distances.tolist())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clusters", "1"], "clusters must be a whole number from 2 to"),
        (["--clusters", "13"], "different histograms (12), got 13"),
        (["--clusters", "2.5"], "clusters must be a whole number, got '2.5'"),
        (["--space", "hyper"], "space must be one of ['histogram', 'sqrt', 'cumulative']"),
        (["--preset", "mode"], "preset must be one of ['mean', 'medoid'], got 'mode'"),
        (["--section", "testing"], "section must be a non-empty list of"),
        (["--bundle", "none"], "bundle must be a bundle folder or one of"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    out = tmp_path / "out"
    assert main(["cluster", "--dataset_dir", str(dataset), "--out", str(out), *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert not out.exists()

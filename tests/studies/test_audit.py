"""The audit: a sound data set passes, a changed background fails, copies are found."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.files import mark_folder
from tools.scans.scan import Scan
from tools.studies.audit import audit_dataset
from tools.synthesis.datalist import write_datalist
from tools.synthesis.records import BundleRecord, LesionRecord, ScanRecord, write_record

SHAPE = (24, 24, 24)
GRID = np.moveaxis(np.indices(SHAPE), 0, -1)
SITE = np.array([12, 12, 12])


def blob(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A lump with grain: its mask and its values, another for each seed."""
    rng = np.random.default_rng(seed)
    radii = rng.uniform(3, 5, 3)
    mask = (((GRID - SITE) / radii) ** 2).sum(-1) < 1
    return mask, rng.integers(-300, 100, SHAPE).astype(np.int16)


def write_scan(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def write_case(root: Path, name: str, seed: int, asked: float = 10.0) -> dict[str, Path]:
    """A scan, and what synthesize would make of it."""
    lung = np.random.default_rng(len(name)).integers(-860, -840, SHAPE).astype(np.int16)
    write_scan(root / "scans" / f"{name}.nii.gz", lung)
    mask, texture = blob(seed)
    folder = root / "out" / name
    write_scan(folder / "image.nii.gz", np.where(mask, texture, lung))
    write_scan(folder / "label.nii.gz", mask.astype(np.uint8))
    volume = float(mask.sum())
    diameter = (6 * volume / np.pi) ** (1 / 3)
    lesion = LesionRecord(
        *(1, "lesion", SITE.astype(float).tolist(), diameter, volume, "solid", "ellipsoid", seed),
        diameter_requested_mm=asked,
        histogram_jsd=0.125,
    )
    scan = Scan(root / "scans" / f"{name}.nii.gz")
    record = ScanRecord(
        *(scan.name, scan.sha256, scan.spacing_mm, scan.shape),
        BundleRecord("hand_crafted", "1.2.3"),
        [lesion],
        request={"seed": 5, "diameter_mm": [7.0, 8.0], "placement": "mixed", "site": [12, 15, 16]},
    )
    write_record(folder / "lesions.json", record)
    mark_folder(folder, ["*.nii.gz", "lesions.json"])
    return {"folder": folder}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, entries = tmp_path_factory.mktemp("training"), []
    for seed in range(10, 20):
        mask, texture = blob(seed)
        write_scan(root / f"{seed}_image.nii.gz", np.where(mask, texture, -850).astype(np.int16))
        write_scan(root / f"{seed}_label.nii.gz", mask.astype(np.uint8))
        names = {key: f"{seed}_{key}.nii.gz" for key in ("image", "label")}
        entries.append({**names, "patient": f"p{seed}"})
    (root / "datalist.json").write_text(json.dumps({"training": entries}))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cases = [write_case(tmp_path, name, seed) for name, seed in (("a", 1), ("bb", 2), ("ccc", 3))]
    write_datalist(tmp_path / "out", cases)
    (tmp_path / "scans" / "datalist.json").write_text(
        json.dumps(
            {
                "licence": "CC0",
                "training": [{"image": f"{name}.nii.gz"} for name in ("a", "bb", "ccc")],
            }
        )
    )
    return tmp_path


def test_a_sound_data_set_has_a_card(
    root: Path, training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = str(root / "scans" / "datalist.json")
    words = [str(root / "out"), "--scan", listed, "--training", str(training)]
    assert main(["audit", *words]) == 0
    printed = capsys.readouterr().out
    found = json.loads((root / "out" / "audit.json").read_text())
    background = found["background"]
    assert (background["verdict"], background["findings"]) == ("proven", [])
    assert [case["changed"] for case in background["cases"]] == [0, 0, 0]
    assert found["control"]["jsd"]["median"] == 0.125
    # asked for 10 mm and for a site at 3 and 4 mm from the one that came
    sizes = found["sizes"]["values_mm"]
    assert found["control"]["diameter_error_mm"]["median"] == pytest.approx(np.median(sizes) - 10)
    assert found["control"]["site_error_mm"]["median"] == 5.0
    assert found["sizes"]["asked"] == [[1.0, 7.0, 8.0]]
    assert found["sizes"]["within"] == sum(6.65 <= size <= 8.4 for size in sizes)
    assert found["places"]["sites"] == [[0.5208] * 3] * 3
    assert found["licences"] == {"weights": [], "scans": "CC0"}
    assert found["made_by"][0]["version"] == "1.2.3"
    assert found["training"]["pictures"]["share"] < 0.5
    assert found["diversity"]["duplicates"] == []
    page = (root / "out" / "audit.html").read_text()
    text = (root / "out" / "audit.md").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "<script" not in page
    assert "http" not in page
    for sentence in (
        "Background: proven",
        "Voxels outside the lesions that differ from the scan: 0",
    ):
        assert sentence in page
        assert sentence in text
        assert sentence in printed
    assert main(["verify", str(root / "out"), "--scan", listed]) == 0


def test_a_changed_background_fails_and_is_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "out" / "bb" / "image.nii.gz"
    values = np.asarray(nib.load(path).dataobj).copy()
    values[2, 2, 2:4] += 1
    write_scan(path, values)
    words = [str(root / "out"), "--scan", str(root / "scans" / "datalist.json"), "--json"]
    assert main(["audit", *words, "--out", str(root / "card")]) == 1
    assert json.loads(capsys.readouterr().out)["background"] == "failed"
    background = json.loads((root / "card" / "audit.json").read_text())["background"]
    assert [case["changed"] for case in background["cases"]] == [0, 2, 0]
    assert "2 voxels outside of label" in background["findings"][0]
    assert "Background: FAILED" in (root / "card" / "audit.html").read_text()


def test_without_the_scans_nothing_is_proven(root: Path) -> None:
    found = audit_dataset(root / "out").facts
    assert found["background"]["verdict"] == "not compared"
    assert found["training"] is None
    assert "under the terms of their owner" in found["licences"]["scans"]


def test_copies_of_training_lesions_and_of_one_another_are_found(
    root: Path, training: Path
) -> None:
    write_datalist(root / "out", [write_case(root, n, s) for n, s in (("dddd", 11), ("eeeee", 11))])
    found = audit_dataset(root / "out", training=training).facts
    assert found["background"]["verdict"] == "failed"  # the datalist lacks cases
    assert found["diversity"]["duplicates"] == [["dddd_1", "eeeee_1"]]
    pictures = found["training"]["pictures"]
    assert pictures["distances"] == pytest.approx([0, 0], abs=1e-3)
    assert pictures["names"] == [["dddd_1", "11_1"], ["eeeee_1", "11_1"]]
    assert pictures["share"] == found["training"]["features"]["share"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["missing"], "dir must be an existing folder, got missing"),
        (["scans"], "dir must be a folder that synthesize wrote, got scans without a case"),
    ],
)
def test_what_is_no_data_set_is_refused(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(root)
    assert main(["audit", *words]) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")

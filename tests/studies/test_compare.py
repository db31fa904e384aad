"""All methods at the masks of the same lesions, in surroundings that show none of the old ones."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.studies.test_judge import write_lesion
from tools.cli import main
from tools.transforms.healing import heal

GRID = np.indices((30, 30, 30)) - 14.5
RADIUS = np.sqrt((GRID**2).sum(0))


def test_nothing_of_a_lesion_stays_where_it_was_healed() -> None:
    rng = np.random.default_rng(0)
    slope = -850 + 3 * GRID[0]
    image = slope + rng.normal(0, 20, RADIUS.shape) + 900 * (RADIUS < 6)
    healed = heal(image, RADIUS < 6, (1, 1, 1), rng, margin_mm=2.0)
    hole = RADIUS < 6
    assert np.array_equal(healed[RADIUS > 8.5], image[RADIUS > 8.5].astype(np.float32))
    assert np.abs((healed - slope)[hole].mean()) < 10
    assert (healed - slope)[hole].std() == pytest.approx(20, rel=0.35)
    with pytest.raises(ValueError, match="image must reach beyond lesion"):
        heal(image, RADIUS < 99, (1, 1, 1), rng)


@pytest.mark.usefixtures("small_forests")
@pytest.mark.parametrize("surroundings", ["healed", "real"])
def test_methods_are_compared_and_taken_up_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], surroundings: str
) -> None:
    real = tmp_path / "real"
    entries = [write_lesion(real, f"n{n}", n) for n in range(12)]
    for kind in ("image", "label"):  # too thin for a similarity, as crops of three slices are
        thin = nib.load(real / f"n11_{kind}.nii.gz")
        nib.save(thin.slicer[..., 17:19], real / f"n11_{kind}.nii.gz")
    (real / "datalist.json").write_text(
        json.dumps({"training": entries[:6], "validation": entries[6:]})
    )
    words = ["compare", "--real", str(real), "--library", str(real), "--out", str(tmp_path / "out")]
    words += ["--methods", "hand_crafted,copy_paste", "--surroundings", surroundings]
    assert main(words) == 0
    page = (tmp_path / "out" / "compare.md").read_text()
    rows = [line.split(" | ")[0].strip("| ") for line in page.splitlines() if line.startswith("|")]
    healed = ["healed"] if surroundings == "healed" else []
    assert rows[2:] == ["real halves", *healed, "hand_crafted", "copy_paste"]
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["methods"]
    assert found["hand_crafted"]["jsd"]["n"] == 6
    assert 0 < found["hand_crafted"]["ssim"]["mean"] < 100
    assert found["hand_crafted"]["psnr"]["mean"] < 35  # the real lesion itself is not seen
    if healed:  # the real lesion is put back: nothing differs inside
        assert found["healed"]["jsd"]["mean"] == pytest.approx(0, abs=1e-6)
    image = tmp_path / "out" / "copy_paste" / "n7_1_image.nii.gz"
    stamp = image.stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0
    assert image.stat().st_mtime_ns == stamp
    assert (tmp_path / "out" / "compare.md").read_text() == page
    assert main([*words, "--seed", "1"]) == 1
    assert "made with seed=0 where 1 is asked for" in capsys.readouterr().err
    assert image.stat().st_mtime_ns == stamp


def test_nobodys_own_lesion_is_copied_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real"
    entries = [write_lesion(real, f"n{n}", n) for n in range(5)]
    (real / "datalist.json").write_text(
        json.dumps({"training": entries[4:], "validation": entries})
    )
    words = ["--real", str(real), "--library", str(real), "--out", str(tmp_path / "out")]
    assert main(["compare", *words, "--methods", "copy_paste"]) == 1
    assert "library must hold no patient of validation, got n4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

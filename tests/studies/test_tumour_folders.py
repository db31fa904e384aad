"""Tumours that difftumor drew, audited against what it was trained on, and judged by a finder."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.phantoms.abdomen_ct import ORGANS, abdomen_ct, draw_tumours

pytestmark = pytest.mark.usefixtures("small_forests")
SIDE, BODIES = 36, 4  # mm of the cubes


def write_cubes(folder: Path, first: int, label: str, tumours: bool) -> None:
    """Cubes inside of phantom livers: 1 is liver, 2 a tumour in its middle, if there is one."""
    folder.mkdir()
    entries = []
    for body in range(first, first + BODIES):
        (tumour,) = draw_tumours(body, "liver", 1, (14, 20))
        cube = abdomen_ct((SIDE,) * 3, 1.0, body, [tumour] if tumours else [], tumour.site_mm)
        labels = (cube.organs == ORGANS["liver"]).astype(np.uint8) + cube.lesion_mask
        entry = {"patient": f"p{body}"}
        for key, values in (("image", cube.image), (label, labels)):
            entry[key] = f"{body}_{key}.nii.gz"
            nib.save(nib.Nifti1Image(values, cube.affine), folder / entry[key])
        entries.append(entry)
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Livers with tumours (``real``), and others (``scans``) with drawn ones (``out``)."""
    folder = tmp_path_factory.mktemp("tumours")
    write_cubes(folder / "real", 0, "label", tumours=True)
    write_cubes(folder / "scans", 50, "organ_mask", tumours=False)
    words = ["--bundle", "difftumor", "--scan", str(folder / "scans" / "datalist.json")]
    words += ["--count", "1", "--shape", "ellipsoid", "--diameter_mm", "8,12", "--device", "cpu"]
    assert main(["synthesize", *words, "--out", str(folder / "out")]) == 0
    return folder


def test_an_audit_takes_tumours_of_the_training_and_no_liver(root: Path) -> None:
    words = ["--scan", str(root / "scans" / "datalist.json"), "--training", str(root / "real")]
    assert main(["audit", str(root / "out"), *words, "--out", str(root / "card")]) == 0
    found = json.loads((root / "card" / "audit.json").read_text())
    assert found["background"]["verdict"] == "proven"
    assert len(found["sizes"]["values_mm"]) == BODIES
    memory = found["training"]
    assert memory["lesions"] == memory["patients"] == BODIES  # with livers it would be more
    assert len(memory["pictures"]["distances"]) == BODIES
    assert min(memory["pictures"]["distances"]) > 0.01  # none is a copy


def test_real_and_drawn_tumours_are_judged_by_what_others_trained(root: Path, kiunet: Path) -> None:
    words = ["--real", str(root / "real"), "--section", "training", "--values", "2"]
    words += ["--synthetic", str(root / "out"), "--window", "-175,250"]
    words += ["--liver_finder", str(kiunet), "--out", str(root / "judged")]
    assert main(["evaluate", *words]) == 0
    result = json.loads((root / "judged" / "judge.json").read_text())
    for side in ("real", "synthetic"):
        found = result["found"][side].values()
        assert sum(each["lesions"] for each in found) == BODIES
        assert all(0 <= each["found"] <= each["lesions"] for each in found)
    assert set(result["found"]["synthetic"]) <= {"6 to 10 mm", "10 to 20 mm"}
    assert result["asked"]["lesions"] == BODIES
    assert abs(result["asked"]["diameter_mm"]["median"]) < 1
    assert "Found by a segmenter trained elsewhere" in (root / "judged" / "judge.html").read_text()


def test_too_few_real_tumours_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads((root / "real" / "datalist.json").read_text())
    few = root / "real" / "few.json"
    few.write_text(json.dumps({"training": listed["training"][:3]}))
    words = ["--real", str(few), "--synthetic", str(root / "out"), "--out", str(root / "few")]
    assert main(["evaluate", *words, "--values", "2"]) == 1
    sentence = "real must hold at least 4 lesions, two for each half, got 3 in"
    assert sentence in capsys.readouterr().err

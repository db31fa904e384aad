"""A bundle made ready for another organ: its table, its window, its textures, what is refused."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.studies.test_adapt import write_lesions
from tools.bundle import Bundle, find_bundle, sha256_file
from tools.organs.organ import load_organ
from tools.prepare.scans import bundle_rule, prepare_scans
from tools.studies.other_organ import as_of_organ, bundle_of_organ, require_organ
from tools.synthesis.arrays import open_synthesizer


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return lesions as ``prepare scans`` writes them."""
    folder = tmp_path_factory.mktemp("lesions")
    rule = bundle_rule("lefusion_lidc")
    prepare_scans(write_lesions(folder / "in"), folder / "data", rule, validation_fraction=0.5)
    return folder / "data"


def test_a_bundle_of_lungs_becomes_one_of_livers(lesions: Path, tmp_path: Path) -> None:
    made = bundle_of_organ("lefusion_lidc", "liver", (-100, 250), lesions, tmp_path / "ready")
    synthesizer = open_synthesizer(made, "cpu", None, {"texture": "dark", "count": 1}).get(
        "synthesizer"
    )
    assert (synthesizer.organ.name, synthesizer.organ.values) == ("liver", (2,))
    assert synthesizer.placement == "anywhere"
    assert tuple(synthesizer.texturer.view.scale) == (-100, 250)
    assert list(synthesizer.texturer.presets) == ["dark", "medium", "bright"]
    assert synthesizer.texturer.library is None
    # the bundle that it was made of is as it was, and the weights are its own
    own = find_bundle("lefusion_lidc")
    assert (own / "configs" / "subtypes.json").is_file()
    assert sha256_file(made / "models" / "model.pt") == sha256_file(own / "models" / "model.pt")
    assert Bundle(made, "cpu").get("window_hu") == [-100, 250]
    content = (made / "configs" / "train.json").read_text()
    assert json.loads(content)["window_hu"] == [-100, 250]
    # what is there is taken as it is
    (made / "configs" / "train.json").write_text("{}")
    assert bundle_of_organ("lefusion_lidc", "liver", None, lesions, made) == made
    assert (made / "configs" / "train.json").read_text() == "{}"


def test_lesions_get_the_value_of_the_organ(lesions: Path) -> None:
    listed = as_of_organ(lesions, load_organ("liver"))
    entries = json.loads(listed.read_text())["validation"]
    before = json.loads((lesions / "datalist.json").read_text())["validation"]
    assert len(entries) == len(before) > 0
    for new, old in zip(entries, before, strict=True):
        values = [np.asarray(nib.load(lesions / entry["label"]).dataobj) for entry in (new, old)]
        assert np.unique(values[0]).tolist() == [0, 2]
        assert np.array_equal(values[0] > 0, values[1] > 0)
        assert (new["image"], new["patient"]) == (old["image"], old["patient"])


@pytest.mark.parametrize(
    ("bundle", "organ", "window", "sentence"),
    [
        ("lefusion_lidc", "heart", None, "organ must have the chart of lung, .* got wall of heart"),
        ("difftumor", "lung", None, "organ goes with a bundle of one organ"),
        ("lefusion_lidc", "liver", (250, -100), "window_hu must be two HU, lowest first"),
        ("lefusion_lidc", "spleen", None, "organ must be one of"),
    ],
)
def test_what_does_not_go_together(
    bundle: str, organ: str, window: tuple[int, int] | None, sentence: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        require_organ(bundle, organ, window)

"""Any JSON and any options, drawn at random: read, or refused in one sentence of ours.

``FUZZ=10000`` draws more of them.
"""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bad_inputs import USUAL, write_inputs
from tools.cli import main
from tools.export.classes import read_labels
from tools.export.entries import read_modality, read_real, read_synthetic
from tools.files import read_object
from tools.histograms import load_presets
from tools.organs import load_organ
from tools.phantoms.datalists import read_section
from tools.prepare.lesions import Rule
from tools.prepare.scans import prepare_scans
from tools.shapes import LibraryShapes
from tools.synthesis.cases import find_cases
from tools.synthesis.catalogue import read_subtypes, read_textures
from tools.synthesis.records import read_record
from tools.synthesis.verify import verify_dataset

ANY = settings(
    max_examples=int(os.environ.get("FUZZ", 200)),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
OTHER = 0.1  # share of files that are no JSON at all
WORDS = ["", ".", "..", "/", "0", "-1", "nan", "lungs.nii.gz", "chest.nii.gz", "folder", "\0", "é"]

BINS = [1.0, 2.0, 3.0, 4.0]
ENTRY = {"image": "chest.nii.gz", "label": "lungs.nii.gz", "patient": "p", "fold": 0}
ENTRY |= {"organ_mask": "lungs.nii.gz", "lesions": [{"value": 1, "ratings": {"texture": 4.5}}]}
LIST = {"training": [ENTRY], "validation": [], "test": ["unit.nii.gz"], "fold": 1}
LIST |= {"labels": {"0": "background", "1": "lesion"}, "modality": {"0": "CT"}}
PRESET = {"histogram": BINS, "weight": 1.0, "tissue": [-0.5, 0.5]}
SUBTYPE = {"number": 0, "frequency": 0.5, "diameters_mm": [5.0], "histograms": [BINS]}
LESION = {"label": 1, "class": "nodule", "site_mm": [1.0, 2.0, 3.0], "diameter_mm": 6.0}
LESION |= {"volume_mm3": 100.0, "texture": "solid", "shape_source": "a", "seed": 1, "attempts": 1}
LESION |= {"histogram_achieved": BINS, "histogram_jsd": 0.1, "sampler": {"margin_mm": 3}}
RECORD = {
    "schema_version": "1.0",
    "scan": {"name": "a", "sha256": "0", "spacing_mm": [1, 1, 1], "shape": [4, 4, 4]},
    "bundle": {"name": "b", "version": "0.1.0", "weights_sha256": None},
    "organ_mask": {"labels": {"1": "cavity"}},
    "notes": ["a"],
    "lesions": [LESION],
}
ORGAN = {
    **{"name": "spleen", "modality": "CT", "chart": "box", "parts": {"pulp": 1}, "wall": [1]},
    "classes": [{"name": "cyst", "value": 7, "inside": None}],
    "diameter": {"kind": "equal_volume_sphere", "range_mm": [3, 40]},
    "regions": {"option": "pole", "structures": {"upper": "a"}, "first_values": [1]},
}


def prepared(path: Path) -> None:
    rule = Rule(form="masks", size=None, classes=(1,))
    prepare_scans(path, path.with_name("prepared"), rule)


def exported(path: Path) -> None:
    content, _ = read_real(path)
    read_labels(content, "real")
    read_modality(content, "real")


READERS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "cases": (LIST, find_cases),
    "prepare": (LIST, prepared),
    "export": (LIST, exported),
    "synthetic": (LIST, lambda path: read_synthetic(path.parent)),
    "section": (LIST, lambda path: read_section(path.parent, "training", "", print)),
    "library": (LIST, LibraryShapes),
    "verify": (LIST, lambda path: verify_dataset(path.parent)),
    "textures": ({"presets": {"a": PRESET}, "gain": 1}, lambda path: read_textures(path, 4)),
    "presets": ({"bins": 2, "classes": 2, "presets": {"a": PRESET}, "gain": 1}, load_presets),
    "subtypes": ({"bins": 4, "subtypes": {"solid": SUBTYPE | {"medoid": BINS}}}, read_subtypes),
    "record": (RECORD, read_record),
    "organ": (ORGAN, load_organ),
}

SCALARS = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.sampled_from(WORDS)
SCALARS |= st.integers(-(10**400), 10**400) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every object or list in a JSON value with each key of it."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    found = []
    for key, value in pairs:
        found.append((content, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


@st.composite
def files(draw: st.DrawFn, content: Any) -> bytes:
    """The bytes of a file like the one that is wanted, but for a few values."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places(content) or [([None], 0)]))
        if draw(st.integers(0, 4)):
            holder[key] = draw(VALUES)
        else:
            del holder[key]
    if draw(st.floats(0, 1)) < OTHER:
        content = draw(VALUES)
    text = json.dumps(content).encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    return draw(st.binary(max_size=40)) if draw(st.floats(0, 1)) < OTHER / 2 else text


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.mark.parametrize("name", READERS)
@settings(ANY, max_examples=max(25, ANY.max_examples // len(READERS)))
@given(data=st.data())
def test_any_json_is_read_or_refused(name: str, data: st.DataObject, inputs: Path) -> None:
    content, read = READERS[name]
    path = inputs / "datalist.json"
    path.write_bytes(data.draw(files(content)))
    said = ""
    try:
        read(path)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    assert not said or " must " in said
    assert "\n" not in said


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_changed_is_read(name: str, inputs: Path) -> None:
    content, read = READERS[name]
    path = inputs / "datalist.json"
    path.write_text(json.dumps(content), encoding="utf-16")
    if name == "synthetic":
        with pytest.raises(ValueError, match="synthetic must list synthetic cases only"):
            read(path)
    else:
        read(path)
    assert read_object(path, "a") == content


OPTIONS = {
    "texture": ["solid", "mixed", "none", "two.json", "named.json:a", "like:chest.nii.gz:"],
    "shape": ["ellipsoid", "diffmask", "lungs.nii.gz", "library:folder", "library:gone.json"],
    "device": ["cpu", "auto", "cuda:9", "mps", "xla"],
    "placement": ["interior", "mixed"],
    "output_format": ["nifti", "dicom", "tiff"],
    "if_impossible": ["error", "skip"],
    "lobe": ["any", "left_upper", "left_upper,any"],
    "organ_source": ["recipe", "auto"],
    "fill_nan": ["air", "0"],
    "host_reaction": ["none", "retraction", "pleural_tag"],
    "bundle": ["lefusion_lidc", "diffmask", "folder"],
    "weights": ["other.pt", "empty.pt", "folder"],
}
NUMBERS = ["count", "seed", "steps", "attempts", "jump_length", "jump_n_sample", "diameter_mm"]
NUMBERS += ["site", "erosion_mm", "spiculation", "lobulation", "no_reflow_share", "hu_offset"]
OTHERS = ["out", "organ_mask", "lesion_mask", "dataset_dir", "section", "series_uid"]
PLAIN = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=6)
NUMBER = st.integers(-3, 12) | st.integers(-(10**30), 10**30) | st.floats()
LISTED = st.lists(NUMBER | st.just(""), max_size=4).map(lambda part: ",".join(map(str, part)))


@st.composite
def options(draw: st.DrawFn) -> list[str]:
    names = st.sampled_from([*OPTIONS, *NUMBERS * 2, *OTHERS])
    found = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        known = st.sampled_from(OPTIONS.get(name, WORDS))
        usual = NUMBER.map(str) | LISTED if name in NUMBERS else known | known
        found.append(f"--{name}={draw(usual | usual | PLAIN | LISTED)}")
    return found


@ANY
@given(words=options())
def test_any_option_is_taken_or_refused(words: list[str], inputs: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        before = sorted(inputs.rglob("*"))
        said: list[str] = []
        patch.setattr("tools.cli.print", lambda text, **_: said.append(text), raising=False)
        # a scan that is cut short is refused when all options are taken
        code = main(["synthesize", *USUAL.replace("chest", "cut").split(), *words])
        assert sorted(inputs.rglob("*")) == before
    assert code == 1
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert any(word in said[0] for word in (" must ", " go with ", " goes with ", " need"))

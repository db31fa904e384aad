"""Histograms the user brings: JSON in three forms, and a real lesion to be like."""

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools.synthesis.plan import TextureChoice
from tools.synthesis.textures import read_textures

WINDOW = (-1000.0, 400.0)
PRESETS = {
    "pale": {"histogram": [1.0, 0, 0, 0], "weight": 1.0},
    "bright": {"histogram": [0, 0, 0, 1.0], "weight": 3.0},
}


def write_json(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def write_lesion(folder: Path, dtype: type = np.int16) -> tuple[str, str]:
    """A scan at -800 HU whose masked voxels hold -900, -100, -100 and 3000 HU."""
    image = np.full((5, 5, 5), -800, dtype)
    mask = np.zeros((5, 5, 5), np.uint8)
    image[2, 2, :4], mask[2, 2, :4] = (-900, -100, -100, 3000), 1
    paths = folder / "image.nii.gz", folder / "mask.nii.gz"
    for path, values in zip(paths, (image, mask), strict=True):
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return str(paths[0]), str(paths[1])


def choice(text: str, **options: Any) -> TextureChoice:
    return TextureChoice(text, PRESETS, **{"fluctuation": 0.0, "window_hu": WINDOW, **options})


def draw(textures: TextureChoice, count: int) -> list[tuple[str, list[float] | None]]:
    rng = np.random.default_rng(0)
    return [textures.draw(i, rng) for i in range(count)]


@pytest.mark.parametrize(
    "content", [[1, 0, 3, 0], {"histogram": [1, 0, 3, 0]}], ids=["list", "one"]
)
def test_one_histogram_is_called_as_its_file(tmp_path: Path, content: Any) -> None:
    path = write_json(tmp_path / "mine.json", content)
    assert draw(choice(path), 2) == [("mine.json", [0.25, 0, 0.75, 0])] * 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_named_histograms_are_drawn_by_their_weights(tmp_path: Path, wrapped: bool) -> None:
    named = {"a": {"histogram": [2, 2, 0, 0], "weight": 9}, "b": {"histogram": [0, 0, 0, 5]}}
    content = {"bins": 4, "window_hu": [-1000, 400], "presets": named} if wrapped else named
    path = write_json(tmp_path / "mine.json", content)
    drawn = draw(choice(path), 400)
    assert dict(drawn) == {"a": [0.5, 0.5, 0, 0], "b": [0, 0, 0, 1]}
    assert [name for name, _ in drawn].count("b") == pytest.approx(40, abs=20)
    assert draw(choice(f"{path}:b"), 2) == [("b", [0, 0, 0, 1])] * 2


def test_a_lesion_gives_its_histogram_in_the_models_window(tmp_path: Path) -> None:
    image, mask = write_lesion(tmp_path)
    textures = choice(f"like:{image}:{mask}")
    # bins end at -650, -300, 50; 3000 HU counts in the last
    assert draw(textures, 1) == [("like:image.nii.gz", [0.25, 0, 0.5, 0.25])]
    assert draw(choice(f"like:{image}:{mask}", window_hu=(-1000, 3000)), 1)[0][1] == [
        0.75, 0, 0, 0.25,
    ]  # fmt: skip
    assert json.loads(json.dumps(textures.file_histogram)) == textures.file_histogram


def test_all_kinds_are_taken_in_turn(tmp_path: Path) -> None:
    image, mask = write_lesion(tmp_path)
    path = write_json(tmp_path / "mine.json", [0, 1, 0, 0])
    textures = choice(f"pale,like:{image}:{mask}, none,{path},mixed")
    names = [name for name, _ in draw(textures, 6)]
    assert names[:4] == ["pale", "like:image.nii.gz", "none", "mine.json"]
    assert names[4] in PRESETS
    assert names[5] == "pale"
    assert draw(textures, 3)[2] == ("none", None)
    assert set(textures.file_histogram) == {"like:image.nii.gz", "mine.json"}
    assert choice("pale,mixed").file_histogram is None


def test_a_named_preset_takes_no_draw_so_that_old_seeds_give_old_voxels() -> None:
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    drawn = choice("bright,pale", fluctuation=0.1).draw(0, rng)
    half = 0.1 / 2.1
    factors = same.uniform(1 - half, 1 + half, size=4)
    assert drawn[1] == pytest.approx((np.array([0, 0, 0, 1]) * factors / factors[3]).tolist())
    assert rng.random() == same.random()


BAD_FILES = {
    "length": ([1, 2, 3], r"histogram of 'bad.json' .* must be 4 non-negative .* got \[1, 2, 3\]"),
    "negative": ([1, -1, 1, 1], "non-negative finite numbers"),
    "nan": ([1, math.nan, 1, 1], "non-negative finite numbers"),
    "infinite": ([1, math.inf, 1, 1], "non-negative finite numbers"),
    "zeros": ([0, 0, 0, 0], "not all 0"),
    "words": (["a", "b", "c", "d"], "non-negative finite numbers"),
    "ragged": ([[1], [1, 2], 3, 4], "non-negative finite numbers"),
    "nothing": ([], "must be 4 non-negative"),
    "number": (3, "must hold a histogram or named histograms, got 3"),
    "empty": ({}, "must hold a histogram or named histograms"),
    "no presets": ({"bins": 4, "presets": {}}, "must be named histograms"),
    "no histogram": ({"a": {"weight": 3}}, "'a' of texture file .* must have a histogram"),
    "weight": ({"a": {"histogram": [1, 0, 0, 0], "weight": -1}}, "weight of 'a' .* at least 0"),
    "null weight": ({"a": {"histogram": [1, 0, 0, 0], "weight": None}}, "weight of 'a'"),
    "no weights": ({"a": {"histogram": [1, 0, 0, 0], "weight": 0}}, "must not all be 0"),
    "window": ({"histogram": [1, 0, 0, 0], "window_hu": [-1, 1]}, "must be the model's"),
    "no window": ({"histogram": [1, 0, 0, 0], "window_hu": "all"}, "must be the model's"),
    "syntax": ("{", "texture file must be JSON"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_FILES.values(), ids=list(BAD_FILES))
def test_bad_files_get_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    path = write_json(tmp_path / "bad.json", content)
    with pytest.raises(ValueError, match=sentence) as raised:
        choice(path)
    assert "\n" not in str(raised.value)


def test_bad_words_get_one_sentence(tmp_path: Path) -> None:
    image, mask = write_lesion(tmp_path)
    with pytest.raises(ValueError, match=r"texture must be one of \['pale'.*got 'granite'"):
        choice("pale,granite")
    with pytest.raises(FileNotFoundError, match="texture must be an existing JSON file"):
        choice("no.json")
    path = write_json(tmp_path / "mine.json", PRESETS)
    with pytest.raises(ValueError, match=r"texture must be one of \['pale', 'bright'\] in"):
        choice(f"{path}:dark")
    with pytest.raises(ValueError, match="texture of a lesion must be like:IMAGE"):
        choice(f"like:{image}")
    with pytest.raises(FileNotFoundError, match=r"existing file as mask of .* got no\.nii"):
        choice(f"like:{image}:no.nii")
    with pytest.raises(ValueError, match="needs the model's window"):
        choice(f"like:{image}:{mask}", window_hu=None)


def test_bad_lesions_get_one_sentence(tmp_path: Path) -> None:
    image, _ = write_lesion(tmp_path)
    masks = {
        "empty": (np.zeros((5, 5, 5)), np.eye(4), "mask must mark at least one voxel"),
        "small": (np.ones((4, 5, 5)), np.eye(4), "mask must have the scan's shape"),
        "moved": (np.ones((5, 5, 5)), np.diag([1, 1, 2, 1]), "mask must have the scan's affine"),
    }
    for name, (values, affine, sentence) in masks.items():
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)
        with pytest.raises(ValueError, match=sentence):
            choice(f"like:{image}:{path}")
    image, mask = write_lesion(tmp_path, np.float32)
    broken = np.full((5, 5, 5), np.nan, np.float32)
    nib.save(nib.Nifti1Image(broken, np.eye(4)), image)
    with pytest.raises(ValueError, match="must have finite values inside the mask"):
        choice(f"like:{image}:{mask}")


def test_a_bundles_presets_file_can_be_read_back(repository: Path) -> None:
    path = repository / "bundles" / "lefusion_lidc" / "configs" / "histograms.json"
    found = read_textures(path, 16, WINDOW)
    assert {name: entry["weight"] for name, entry in found.items()} == {
        "ground_glass": 7, "part_solid": 13, "solid": 80,
    }  # fmt: skip

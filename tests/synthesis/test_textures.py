"""Textures asked for: presets, subtypes, files, real lesions to be like; of one class or two."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.jobs import library, row
from tools.organs import load_organ
from tools.synthesis.catalogue import Subtype, SubtypeLibrary, read_textures
from tools.synthesis.textures import Textures
from tools.synthesis.view import SlicesView

WINDOW = (-1000.0, 400.0)
LUNG, HEART = load_organ("lung"), load_organ("heart")
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


def choice(text: str, presets: Any = PRESETS, **options: Any) -> Textures:
    given = {"fluctuation": 0.0, "window_hu": WINDOW, **options}
    return Textures(text, presets, LUNG, **given)


def draw(textures: Textures, count: int) -> list[tuple[str, list[float] | None]]:
    rng = np.random.default_rng(0)
    return [textures.draw(i, rng)[:2] for i in range(count)]


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
    assert drawn.histogram == pytest.approx(
        (np.array([0, 0, 0, 1]) * factors / factors[3]).tolist()
    )
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
    "syntax": ("{", "texture must be JSON"),
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
    with pytest.raises(ValueError, match="the model's window is needed"):
        choice(f"like:{image}:{mask}", window_hu=None)


def test_bad_lesions_get_one_sentence(tmp_path: Path) -> None:
    image, _ = write_lesion(tmp_path)
    moved = np.eye(4)
    moved[:3, 3] = 50
    masks = {
        "empty": (np.zeros((5, 5, 5)), np.eye(4), "mask must mark at least one voxel"),
        "elsewhere": (np.ones((5, 5, 5)), moved, "mask must lie in the scan"),
    }
    for name, (values, affine, sentence) in masks.items():
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)
        with pytest.raises(ValueError, match=sentence):
            choice(f"like:{image}:{path}")
    image, mask = write_lesion(tmp_path, np.float32)
    broken = np.full((5, 5, 5), np.nan, np.float32)
    nib.save(nib.Nifti1Image(broken, np.eye(4)), image)
    with pytest.raises(ValueError, match="scan must hold finite values"):
        choice(f"like:{image}:{mask}")


def test_a_bundles_presets_file_can_be_read_back(repository: Path) -> None:
    path = repository / "bundles" / "lefusion_lidc" / "configs" / "histograms.json"
    found = read_textures(path, 16, WINDOW)
    assert {name: entry["weight"] for name, entry in found.items()} == {
        "ground_glass": 7, "part_solid": 12, "solid": 81,
    }  # fmt: skip


def by_subtype(text: str, known: SubtypeLibrary | None = None, **options: Any) -> Textures:
    known = library() if known is None else known
    return Textures(text, known.presets, LUNG, known, WINDOW, **options)


def draws(text: str, diameter: float | None, count: int = 400) -> list[tuple[str, int, int]]:
    """Names, numbers of the subtype and brightest bins of many draws."""
    textures, rng = by_subtype(text, fluctuation=0.0), np.random.default_rng(0)
    drawn = [textures.draw(0, rng, diameter) for _ in range(count)]
    return [(name, subtype, int(np.argmax(histogram))) for name, histogram, subtype, _ in drawn]


def test_histograms_follow_the_size() -> None:
    assert Counter(bin for *_, bin in draws("solid", 6.0))[20] > 390
    assert Counter(bin for *_, bin in draws("solid", 20.0))[30] > 390
    middle = Counter(bin for *_, bin in draws("solid", np.sqrt(6 * 20)))
    assert 150 < middle[20] < 250
    assert 150 < Counter(bin for *_, bin in draws("solid", None))[20] < 250


def test_a_size_that_training_never_saw_takes_the_nearest() -> None:
    assert {bin for *_, bin in draws("solid", 60.0)} == {30}
    assert {bin for *_, bin in draws("solid", 0.01)} == {20}


def test_mixed_draws_subtypes_by_frequency_with_their_own_histograms() -> None:
    found = draws("mixed", 20.0)
    names = Counter(name for name, *_ in found)
    assert 260 < names["solid"] < 340
    assert {(name, number, bin) for name, number, bin in found if name == "ground_glass"} == {
        ("ground_glass", 2, 10)
    }
    assert {number for name, number, _ in found if name == "solid"} == {0}


def test_words_are_taken_in_turn_and_bins_fluctuate() -> None:
    textures, rng = by_subtype("ground_glass,none,solid"), np.random.default_rng(1)
    drawn = [textures.draw(number, rng, 9.0) for number in range(4)]
    assert [each.name for each in drawn] == ["ground_glass", "none", "solid", "ground_glass"]
    assert [each.subtype for each in drawn] == [2, -1, 0, 2]
    flat = Subtype(0, 1.0, np.array([9.0]), np.full((1, 40), 1 / 40), row(0))
    textures = by_subtype("solid", SubtypeLibrary(solid=flat))
    first, second = (textures.draw(0, np.random.default_rng(s), 9.0)[1] for s in (0, 1))
    assert sum(first) == pytest.approx(1)
    assert first != second


def test_a_histogram_of_the_user_has_no_subtype_even_if_it_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    content = {"solid": {"histogram": row(3), "weight": 1.0}}
    path.write_text(json.dumps(content))
    textures = by_subtype(f"{path}:solid", fluctuation=0.0)
    name, histogram, subtype, _ = textures.draw(0, np.random.default_rng(0), 9.0)
    assert (name, int(np.argmax(histogram)), subtype) == ("solid", 3, -1)


def cored(**options: Any) -> Textures:
    """Lesions with and without a core that is solid from bin 20 on."""
    part = Subtype(1, 0.5, np.array([9.0]), np.array([row(10, 15, 25, 30)]), row(10), solid_bin=20)
    known = SubtypeLibrary(library(), part_solid=part)
    return by_subtype("part_solid,solid", known, fluctuation=0.0, **options)


@pytest.mark.parametrize(
    ("asked", "low", "high"), [(None, 0.5, 0.5), (0.2, 0.2, 0.2), ("0.1,0.4", 0.1, 0.4)]
)
def test_a_core_has_the_share_asked_for(asked: Any, low: float, high: float) -> None:
    textures, rng = cored(solid_share=asked), np.random.default_rng(0)
    shares = []
    for _ in range(20):
        drawn = textures.draw(0, rng, 9.0)
        assert sum(drawn.histogram[20:]) == pytest.approx(drawn.solid_share)
        shares.append(drawn.solid_share)
    assert low - 1e-9 <= min(shares) <= max(shares) <= high + 1e-9
    assert (len(set(shares)) > 1) == (low < high)
    assert textures.draw(1, rng, 9.0).solid_share is None


@pytest.mark.parametrize("share", [1.5, "0.5,0.2", (0.1, 0.2, 0.3), -0.1, "much", math.nan])
def test_shares_out_of_range_are_refused(share: Any) -> None:
    with pytest.raises(ValueError, match="solid_share must be one number or two from 0 to 1"):
        cored(solid_share=share)


def test_a_share_goes_with_lesions_that_have_a_core() -> None:
    with pytest.raises(ValueError, match=r"solid_share goes with textures .* \(none here\), got"):
        by_subtype("solid", solid_share=0.5)


def test_presets_without_subtypes_say_so() -> None:
    textures = choice("solid", library().presets)
    assert textures.draw(0, np.random.default_rng(0), 6.0).subtype == -1


SLICES = SlicesView(HEART, (1, 2, 3, 4), (16, 16), 1.5, (0, 100), 0)
TISSUE = (-0.5, 0.0)
CLASSES = {
    "faint": {"histogram": [0, 1.0, 0, 0, 1, 0, 0, 0], "weight": 1.0},
    "bright": {"histogram": [0, 0, 1.0, 0, 0, 1, 0, 0], "weight": 3.0},
}
CLASSES = {name: entry | {"tissue": list(TISSUE), "gain": 1.0} for name, entry in CLASSES.items()}
BOTH = [True, True]


def of_classes(text: str, presets: Any, **options: Any) -> Textures:
    return Textures(text, presets, HEART, **options)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def write_heart(folder: Path, wall: float = 200, infarct: float = 900) -> str:
    """Cavity 400, wall, infarct, no-reflow 100; 1000 is the brightest voxel, 50 the darkest."""
    label = np.zeros((16, 16, 4), np.uint8)
    label[2:14, 2:14] = 2
    label[5:10, 5:10] = 1
    label[11:14, 4:12], label[12, 6:10] = 3, 4
    image = np.choose(label, [50, 400, wall, infarct, 100]).astype(np.int16)
    image[0, 0] = 1000
    affine = np.diag([1.5, 1.5, 10, 1])
    paths = [folder / "heart_image.nii.gz", folder / "heart_label.nii.gz"]
    for path, values in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(values, affine), path)
    return f"like:{paths[0]}:{paths[1]}"


def test_presets_of_classes_are_taken_in_turn_and_mixed_by_weight() -> None:
    textures = of_classes("bright, none ,faint", CLASSES, fluctuation=0)
    drawn = [textures.draw(i, rng(), None, TISSUE, BOTH) for i in range(4)]
    assert [each.name for each in drawn] == ["bright", "none", "faint", "bright"]
    assert drawn[0][1] == pytest.approx(CLASSES["bright"]["histogram"])
    assert drawn[1][1] is None
    assert textures.names == ["bright", "none", "faint"]
    assert textures.file_histogram is None
    mixed, chance = of_classes("mixed", CLASSES), rng()
    names = [mixed.draw(0, chance, None, None, BOTH)[0] for _ in range(400)]
    assert names.count("bright") == pytest.approx(300, abs=40)


def test_a_preset_moves_with_the_tissue_and_absent_classes_are_zero() -> None:
    textures = of_classes("faint", CLASSES, fluctuation=0)
    moved = textures.draw(0, rng(), None, (0.0, 0.5), [True, False])[1]
    assert moved == pytest.approx([0, 0, 1, 0, 0, 0, 0, 0])
    unmoved = textures.draw(0, rng(), None, None, [False, True])[1]
    assert unmoved == pytest.approx([0, 0, 0, 0, 1, 0, 0, 0])
    with pytest.raises(ValueError, match="present must have 2 entries, got"):
        textures.draw(0, rng(), None, TISSUE, [True])
    with pytest.raises(ValueError, match="blood on the same side of myocardium"):
        textures.draw(0, rng(), None, (0.5, 0.5), BOTH)


def test_blocks_fluctuate_each_for_itself_by_the_seed() -> None:
    broad = {"broad": {"histogram": [0.5, 0.5, 0, 0, 0.2, 0.2, 0.3, 0.3], "weight": 1.0}}
    textures = of_classes("broad", broad)
    drawn = [textures.draw(0, rng(seed), None, None, BOTH)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    blocks = np.reshape(drawn[0], (2, 4))
    assert blocks.sum(1) == pytest.approx([1, 1])
    assert blocks[0, 0] != 0.5
    assert abs(blocks[1] / [0.2, 0.2, 0.3, 0.3] - 1).max() <= 0.1
    # a class that is absent does not change the other
    alone = textures.draw(0, rng(1), None, None, [True, False])[1]
    assert alone == [*drawn[0][:4], 0, 0, 0, 0]


def test_files_have_the_form_of_the_bundle_or_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    entries = {
        "odd": {"histogram": [0, 6, 0, 0, 0, 0, 0, 0], "tissue": list(TISSUE)},
        "even": {"histogram": [1] * 8},
    }
    path.write_text(json.dumps({"bins": 4, "classes": 2, "gain": 0, "presets": entries}))
    textures = of_classes(f"{path}:odd,{path}", CLASSES, fluctuation=0)
    assert textures.names == ["mine.json:odd", "mine.json"]
    # a gain of 0 moves by the middle of the tissues, here by one bin, whatever their distance
    name, moved, *_ = textures.draw(0, rng(), None, (-0.1, 0.6), BOTH)
    assert (name, moved) == ("odd", pytest.approx([0, 0, 1, 0, 0, 0, 0, 0]))
    stored = textures.file_histogram
    assert json.loads(json.dumps(stored)) == stored
    assert list(stored["mine.json"]) == ["odd", "even"]
    path.write_text(json.dumps([3, 1, 0, 0, 0, 0, 5, 5]))
    plain = of_classes(str(path), CLASSES, fluctuation=0).draw(0, rng(), None, (0.0, 0.5), BOTH)
    assert plain[:2] == ("mine.json", pytest.approx([0.75, 0.25, 0, 0, 0, 0, 0.5, 0.5]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 1], "must be 8 non-negative finite numbers"),
        ({"histogram": [1] * 8, "tissue": [1]}, r"must be the levels of myocardium .* got \[1\]"),
        ({"histogram": [1] * 8, "tissue": [0, 1], "gain": 3}, "gain of .* in 0..1, got 3"),
    ],
)
def test_files_of_classes_that_do_not_fit_are_refused(
    tmp_path: Path, content: object, sentence: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        of_classes(str(path), CLASSES)


def test_a_real_heart_gives_histograms_and_tissue(tmp_path: Path) -> None:
    word = write_heart(tmp_path)
    textures = of_classes(word, CLASSES, fluctuation=0, view=SLICES)
    # 50..1000 are -1..1: infarct 900 in the last bin of four, no-reflow 100 in the first
    as_it_is = textures.draw(0, rng(), None, None, BOTH)
    assert as_it_is[:2] == ("like:heart_image.nii.gz", [0, 0, 0, 1, 1, 0, 0, 0])
    entry = textures.file_histogram["like:heart_image.nii.gz"]["like:heart_image.nii.gz"]
    assert entry["tissue"] == pytest.approx([150 * 2 / 950 - 1, 350 * 2 / 950 - 1])
    assert entry["gain"] == 1.0
    # contrast 3.5 between wall and blood: at -0.9 and -0.8 that is -0.55, with its bin -0.9..-0.4
    moved = textures.draw(0, rng(), None, (-0.9, -0.8), [True, False])[1]
    assert sum(moved[:2]) == pytest.approx(1)
    assert moved[0] > 0.5


def test_like_needs_a_heart_with_a_lesion(tmp_path: Path) -> None:
    word = write_heart(tmp_path)
    with pytest.raises(ValueError, match="the model's window is needed, got none"):
        of_classes(word, CLASSES)
    with pytest.raises(ValueError, match=r"must be like:IMAGE.nii.gz:MASK.nii.gz, got 'like:a'"):
        of_classes("like:a", CLASSES, view=SLICES)
    with pytest.raises(FileNotFoundError, match=r"as mask of like:IMAGE.nii.gz:MASK.nii.gz"):
        of_classes(word[:-7] + "_no.nii.gz", CLASSES, view=SLICES)
    path = tmp_path / "heart_label.nii.gz"
    label = np.asarray(nib.load(path).dataobj)
    affine = nib.load(path).affine
    nib.save(nib.Nifti1Image(np.minimum(label, 2), affine), path)
    with pytest.raises(ValueError, match=r"must hold one of \(3, 4\), got none"):
        of_classes(word, CLASSES, view=SLICES)
    nib.save(nib.Nifti1Image(label * 0, affine), path)
    with pytest.raises(ValueError, match="must be a lesion and its mask: organ_mask must hold"):
        of_classes(word, CLASSES, view=SLICES)


def test_a_file_of_two_classes_can_be_read_back(repository: Path) -> None:
    path = repository / "bundles" / "lefusion_emidec" / "configs" / "histograms.json"
    found = read_textures(path, 32)
    assert list(found) == ["faint", "moderate", "bright"]
    textures = of_classes(str(path), found, fluctuation=0)
    first, second = (
        textures.draw(0, rng(), None, tissue, BOTH)[1] for tissue in (None, (-0.1, 0.4))
    )
    assert np.reshape(first, (2, 16)).sum(1) == pytest.approx([1, 1])
    bins = np.arange(16)
    assert bins @ second[:16] > bins @ first[:16]  # a brighter scan, a brighter infarct

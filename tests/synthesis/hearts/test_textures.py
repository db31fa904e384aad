"""Textures of hearts: as asked, moved to the tissue, blocks apart, real hearts to be like."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.synthesis.generator import SliceSettings
from tools.synthesis.hearts.textures import HeartTextures, heart_preset
from tools.synthesis.textures import read_textures

SLICES = SliceSettings((1, 2, 3, 4), (16, 16), 1.5, (0, 100), 0, (3, 4))
TISSUE = (-0.5, 0.0)
PRESETS = {
    "faint": {"histogram": [0, 1.0, 0, 0, 1, 0, 0, 0], "weight": 1.0},
    "bright": {"histogram": [0, 0, 1.0, 0, 0, 1, 0, 0], "weight": 3.0},
}
PRESETS = {name: entry | {"tissue": list(TISSUE), "gain": 1.0} for name, entry in PRESETS.items()}
BOTH = [True, True]


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


def test_presets_are_taken_in_turn_and_mixed_by_weight() -> None:
    textures = HeartTextures("bright, none ,faint", PRESETS, fluctuation=0)
    drawn = [textures.draw(i, rng(), TISSUE, BOTH) for i in range(4)]
    assert [name for name, _ in drawn] == ["bright", "none", "faint", "bright"]
    assert drawn[0][1] == pytest.approx(PRESETS["bright"]["histogram"])
    assert drawn[1][1] is None
    assert textures.names == ["bright", "none", "faint"]
    assert textures.file_histogram is None
    mixed, chance = HeartTextures("mixed", PRESETS), rng()
    names = [mixed.draw(0, chance, None, BOTH)[0] for _ in range(400)]
    assert names.count("bright") == pytest.approx(300, abs=40)


def test_a_preset_moves_with_the_tissue_and_absent_classes_are_zero() -> None:
    textures = HeartTextures("faint", PRESETS, fluctuation=0)
    moved = textures.draw(0, rng(), (0.0, 0.5), [True, False])[1]
    assert moved == pytest.approx([0, 0, 1, 0, 0, 0, 0, 0])
    unmoved = textures.draw(0, rng(), None, [False, True])[1]
    assert unmoved == pytest.approx([0, 0, 0, 0, 1, 0, 0, 0])
    with pytest.raises(ValueError, match="present must have 2 entries, got"):
        textures.draw(0, rng(), TISSUE, [True])
    with pytest.raises(ValueError, match="blood on the same side of myocardium"):
        textures.draw(0, rng(), (0.5, 0.5), BOTH)


def test_blocks_fluctuate_each_for_itself_by_the_seed() -> None:
    broad = {"broad": {"histogram": [0.5, 0.5, 0, 0, 0.2, 0.2, 0.3, 0.3], "weight": 1.0}}
    textures = HeartTextures("broad", broad)
    drawn = [textures.draw(0, rng(seed), None, BOTH)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    blocks = np.reshape(drawn[0], (2, 4))
    assert blocks.sum(1) == pytest.approx([1, 1])
    assert blocks[0, 0] != 0.5
    assert abs(blocks[1] / [0.2, 0.2, 0.3, 0.3] - 1).max() <= 0.1
    # a class that is absent does not change the other
    alone = textures.draw(0, rng(1), None, [True, False])[1]
    assert alone == [*drawn[0][:4], 0, 0, 0, 0]


def test_files_have_the_form_of_the_bundle_or_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    entries = {
        "odd": {"histogram": [0, 6, 0, 0, 0, 0, 0, 0], "tissue": list(TISSUE)},
        "even": {"histogram": [1] * 8},
    }
    path.write_text(json.dumps({"bins": 4, "classes": 2, "gain": 0, "presets": entries}))
    textures = HeartTextures(f"{path}:odd,{path}", PRESETS, fluctuation=0)
    assert textures.names == ["mine.json:odd", "mine.json"]
    # a gain of 0 moves by the middle of the tissues, here by one bin, whatever their distance
    name, moved = textures.draw(0, rng(), (-0.1, 0.6), BOTH)
    assert (name, moved) == ("odd", pytest.approx([0, 0, 1, 0, 0, 0, 0, 0]))
    stored = textures.file_histogram
    assert json.loads(json.dumps(stored)) == stored
    assert list(stored["mine.json"]) == ["odd", "even"]
    path.write_text(json.dumps([3, 1, 0, 0, 0, 0, 5, 5]))
    plain = HeartTextures(str(path), PRESETS, fluctuation=0).draw(0, rng(), (0.0, 0.5), BOTH)
    assert plain == ("mine.json", pytest.approx([0.75, 0.25, 0, 0, 0, 0, 0.5, 0.5]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 1], "must be 8 non-negative finite numbers"),
        ({"histogram": [1] * 8, "tissue": [1]}, r"must be the levels of myocardium .* got \[1\]"),
        ({"histogram": [1] * 8, "tissue": [0, 1], "gain": 3}, "gain of .* in 0..1, got 3"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, content: object, sentence: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        HeartTextures(str(path), PRESETS)


def test_a_real_heart_gives_histograms_and_tissue(tmp_path: Path) -> None:
    word = write_heart(tmp_path)
    textures = HeartTextures(word, PRESETS, fluctuation=0, slices=SLICES)
    # 50..1000 are -1..1: infarct 900 in the last bin of four, no-reflow 100 in the first
    as_it_is = textures.draw(0, rng(), None, BOTH)
    assert as_it_is == ("like:heart_image.nii.gz", [0, 0, 0, 1, 1, 0, 0, 0])
    entry = textures.file_histogram["like:heart_image.nii.gz"]["like:heart_image.nii.gz"]
    assert entry["tissue"] == pytest.approx([150 * 2 / 950 - 1, 350 * 2 / 950 - 1])
    assert entry["gain"] == 1.0
    # contrast 3.5 between wall and blood: at -0.9 and -0.8 that is -0.55, with its bin -0.9..-0.4
    moved = textures.draw(0, rng(), (-0.9, -0.8), [True, False])[1]
    assert sum(moved[:2]) == pytest.approx(1)
    assert moved[0] > 0.5


def test_like_needs_a_heart_with_a_lesion(tmp_path: Path) -> None:
    word = write_heart(tmp_path)
    with pytest.raises(ValueError, match="needs the model's window, got none"):
        HeartTextures(word, PRESETS)
    with pytest.raises(ValueError, match=r"must be like:IMAGE.nii.gz:LABEL.nii.gz, got 'like:a'"):
        heart_preset("like:a", SLICES)
    with pytest.raises(FileNotFoundError, match=r"as label of like:IMAGE.nii.gz:LABEL.nii.gz"):
        heart_preset(word[:-7] + "_no.nii.gz", SLICES)
    path = tmp_path / "heart_label.nii.gz"
    label = np.asarray(nib.load(path).dataobj)
    affine = nib.load(path).affine
    nib.save(nib.Nifti1Image(np.minimum(label, 2), affine), path)
    with pytest.raises(ValueError, match=r"must hold one of \(3, 4\), got none"):
        heart_preset(word, SLICES)
    nib.save(nib.Nifti1Image(label * 0, affine), path)
    with pytest.raises(ValueError, match="must be a heart and its labels: organ_mask must hold"):
        heart_preset(word, SLICES)
    nib.save(nib.Nifti1Image(label[:8], affine), path)
    with pytest.raises(ValueError, match="label must have the scan's shape"):
        heart_preset(word, SLICES)


def test_the_bundles_presets_file_can_be_read_back(repository: Path) -> None:
    path = repository / "bundles" / "lefusion_emidec" / "configs" / "histograms.json"
    found = read_textures(path, 32)
    assert list(found) == ["faint", "moderate", "bright"]
    textures = HeartTextures(str(path), found, fluctuation=0)
    first, second = (textures.draw(0, rng(), tissue, BOTH)[1] for tissue in (None, (-0.1, 0.4)))
    assert np.reshape(first, (2, 16)).sum(1) == pytest.approx([1, 1])
    bins = np.arange(16)
    assert bins @ second[:16] > bins @ first[:16]  # a brighter scan, a brighter infarct

"""Subtype and histogram are drawn together, the histogram from lesions of about the same size."""

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.latent_stub import BINS, LatentStub, library, row
from tools.synthesis.cases import Case
from tools.synthesis.job_choice import JobOptions, make_job
from tools.synthesis.plan import TextureChoice
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans
from tools.synthesis.subtypes import Subtype, SubtypeLibrary, SubtypeTextures, read_subtypes

SMALL, LARGE = row(20), row(30)


def draws(text: str, diameter: float | None, count: int = 400) -> list[tuple[str, int, int]]:
    """Names, numbers of the subtype and brightest bins of many draws."""
    textures, rng = SubtypeTextures(text, library(), fluctuation=0.0), np.random.default_rng(0)
    found = []
    for _ in range(count):
        name, histogram = textures.draw(0, rng, diameter)
        found.append((name, textures.subtype(0, name), int(np.argmax(histogram))))
    return found


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
    textures, rng = SubtypeTextures("ground_glass,none,solid", library()), np.random.default_rng(1)
    names = [textures.draw(number, rng, 9.0)[0] for number in range(4)]
    assert names == ["ground_glass", "none", "solid", "ground_glass"]
    assert [textures.subtype(n, name) for n, name in enumerate(names)] == [2, -1, 0, 2]
    flat = Subtype(0, 1.0, np.array([9.0]), np.full((1, BINS), 1 / BINS), row(0))
    textures = SubtypeTextures("solid", SubtypeLibrary(solid=flat))
    first, second = (textures.draw(0, np.random.default_rng(s), 9.0)[1] for s in (0, 1))
    assert sum(first) == pytest.approx(1)
    assert first != second


def test_a_histogram_of_the_user_has_no_subtype_even_if_it_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    content = {"solid": {"histogram": row(3), "weight": 1.0}}
    path.write_text(json.dumps(content))
    textures = SubtypeTextures(f"{path}:solid", library(), fluctuation=0.0)
    name, histogram = textures.draw(0, np.random.default_rng(0), 9.0)
    assert (name, int(np.argmax(histogram)), textures.subtype(0, name)) == ("solid", 3, -1)


def test_presets_without_subtypes_say_so() -> None:
    textures = TextureChoice("solid", library().presets)
    assert textures.subtype(0, textures.draw(0, np.random.default_rng(0), 6.0)[0]) == -1


def test_a_run_gives_each_lesion_its_subtype(tmp_path: Path) -> None:
    shape, affine = (80, 80, 80), np.eye(4)
    values = np.random.default_rng(0).normal(-850, 30, shape).astype(np.int16)
    organ = np.zeros(shape, np.uint8)
    organ[4:-4, 4:-4, 4:-4] = 1
    for name, data in (("scan", values), ("organ", organ)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    case = Case("scan", tmp_path / "scan.nii.gz", tmp_path / "organ.nii.gz")
    stub, out = LatentStub(), tmp_path / "out"
    options = JobOptions(count=2, texture="ground_glass,solid", shape="ellipsoid", diameter_mm=8)
    (made,) = synthesize_scans([case], out, make_job(stub, options))
    record = read_record(made["folder"] / "lesions.json")
    assert [lesion.texture for lesion in record.lesions] == ["ground_glass", "solid"]
    assert {job.subtype for job in stub.jobs} == {0, 2}
    assert all(len(lesion.histogram_achieved) == BINS for lesion in record.lesions)
    page = (out / "report.html").read_text()
    assert "Changed 3 mm or more from label" in page
    assert ">0 voxels<" in page
    assert "where each lesion fades out" in page
    assert synthesize_scans([case], out, make_job(LatentStub(), options))
    other = JobOptions(count=2, texture="solid", shape="ellipsoid", diameter_mm=8)
    with pytest.raises(ValueError, match="out must"):
        synthesize_scans([case], out, make_job(LatentStub(), other))


def good() -> dict:
    entry = {"number": 0, "frequency": 1.0, "diameters_mm": [5.0, 9.0]}
    return {
        "bins": BINS,
        "subtypes": {"solid": entry | {"histograms": [SMALL, LARGE], "medoid": SMALL}},
    }


def test_rows_are_normalised(tmp_path: Path) -> None:
    content = good()
    content["subtypes"]["solid"]["histograms"][0] = [2.0] * BINS
    (tmp_path / "s.json").write_text(json.dumps(content))
    (solid,) = read_subtypes(tmp_path / "s.json").values()
    assert solid.histograms.sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"histograms": [SMALL]}, "diameters_mm of 'solid' in .* must be one number above 0"),
        ({"diameters_mm": [5.0, 0.0]}, "diameters_mm of 'solid' in .* must be one number above 0"),
        ({"histograms": [[1.0], [1.0]], "medoid": [1.0]}, "must be rows of 40 non-negative"),
        ({"histograms": [SMALL, [0.0] * BINS]}, "must be rows of 40 non-negative numbers, not all"),
        ({"frequency": -1.0}, "frequency and number of 'solid' in .* must be at least 0"),
        ({"frequency": 0.0}, "must hold a subtype with a frequency above 0"),
    ],
)
def test_files_that_break_a_rule_are_named(tmp_path: Path, change: dict, message: str) -> None:
    content = good()
    content["subtypes"]["solid"] |= change
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_subtypes(tmp_path / "s.json")


def test_missing_files_and_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="subtypes must be an existing JSON file, got"):
        read_subtypes(tmp_path / "none.json")
    content = good()
    del content["subtypes"]["solid"]["medoid"]
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must have every key, got none of 'medoid'"):
        read_subtypes(tmp_path / "s.json")


def test_the_bundles_library_reads(repository: Path) -> None:
    found = read_subtypes(repository / "bundles" / "hr_ldm" / "configs" / "subtypes.json")
    assert {name: subtype.number for name, subtype in found.items()} == {
        "solid": 0,
        "part_solid": 1,
        "ground_glass": 2,
    }
    assert sum(subtype.frequency for subtype in found.values()) == pytest.approx(1, abs=1e-4)
    middles = -1000 + 35 * (np.arange(BINS) + 0.5)
    means = [subtype.histograms.mean(0) @ middles for subtype in found.values()]
    assert means[0] > means[1] > means[2]

"""Memory, seeds, control, subtypes and networks: on lesions of which all that is known."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tools.scans.crops import Crop
from tools.studies.asked import asked_and_got, named_subtypes
from tools.studies.judge import Measured, each_crop, listed, measure, read_crops
from tools.studies.memory import memory, seed_spread
from tools.studies.two_sample import network_auc
from tools.synthesis.records import BundleRecord, LesionRecord, ScanRecord, write_record

pytestmark = pytest.mark.usefixtures("small_forests")
GRID = np.indices((24, 24, 24)) - 11.5
WINDOW = (-1000.0, 400.0)
LEVELS = {"solid": 40.0, "ground_glass": -600.0}


def made_crop(number: int, seed: int, subtype: str = "solid") -> Crop:
    """A ball in lung with a texture of its own."""
    rng = np.random.default_rng(seed)
    ball = (GRID**2).sum(0) < (4 + number % 3) ** 2
    texture = ndimage.gaussian_filter(rng.normal(0, 1, ball.shape), 1.2) * 300
    image = np.where(ball, LEVELS[subtype] + texture, -850) + rng.normal(0, 15, ball.shape)
    parts = image.astype(np.float32), ball, (1.0, 1.0, 1.0), np.eye(4)
    return Crop(f"n{number}", f"p{number}", *parts, subtype)


def made(start: int, count: int) -> Measured:
    kinds = [*LEVELS]
    return measure([made_crop(k, k, kinds[k % 2]) for k in range(start, start + count)], WINDOW)


@pytest.fixture(scope="module")
def real() -> Measured:
    return made(0, 12)


@pytest.fixture(scope="module")
def training() -> Measured:
    return made(100, 12)


def test_copies_of_the_training_are_near_and_new_lesions_are_not(
    real: Measured, training: Measured
) -> None:
    copies = [
        crop._replace(name=f"c{k}", patient=f"c{k}", image=np.flip(crop.image, 0).copy())
        for k, crop in enumerate(training.crops)
    ]
    mirrored = [crop._replace(mask=np.flip(crop.mask, 0).copy()) for crop in copies]
    found = memory(measure(mirrored, WINDOW), training)
    assert found["lesions"] == found["patients"] == 12
    for kind in ("pictures", "features"):
        assert found[kind]["share"] > 0.9
        assert found[kind]["synthetic"]["median"] < found[kind]["real"]["q1"] / 2
        assert found[kind]["nearest"] == list(range(12))
    fresh = memory(real, training)["pictures"]
    assert fresh["low"] <= 0.1
    assert fresh["synthetic"]["median"] == pytest.approx(fresh["real"]["median"], rel=0.3)
    one = training._replace(crops=[crop._replace(patient="p") for crop in training.crops])
    with pytest.raises(ValueError, match="at least 2 patients, got 1"):
        memory(real, one)


def test_the_spread_of_seeds_is_that_of_the_texture() -> None:
    first = [made_crop(k, k) for k in range(6)]
    rng = np.random.default_rng(0)
    others = [
        [crop._replace(image=crop.image + rng.normal(0, 30, crop.image.shape)) for crop in first]
        for _ in range(2)
    ]
    found = seed_spread([first, *others])
    assert (found["lesions"], found["seeds"]) == (6, 3)
    # pairs of 30 and 30 root 2: |N(0, s)| is s times the root of 2 / pi
    expected = np.mean([30, 30, 30 * np.sqrt(2)]) * np.sqrt(2 / np.pi)
    assert found["difference"]["median"] == pytest.approx(expected, rel=0.1)
    assert found["noise"]["median"] == pytest.approx(15 * 2 / np.sqrt(np.pi), rel=0.15)
    with pytest.raises(ValueError, match="names and masks of synthetic"):
        seed_spread([first, [made_crop(k + 6, k) for k in range(6)]])


def test_subtypes_are_named_by_their_density(real: Measured) -> None:
    synthetic = made(50, 8)
    found = named_subtypes(real, synthetic)
    assert found is not None
    assert found["real"]["value"] == found["synthetic"]["value"] == 1
    assert found["named"] == {"solid": [4, 0], "ground_glass": [0, 4]}
    crops = [crop._replace(subtype="") for crop in synthetic.crops]
    unknown = named_subtypes(real, synthetic._replace(crops=crops))
    assert unknown is not None
    assert unknown["synthetic"] is None
    assert unknown["named"] == {"unknown": [4, 4]}
    assert named_subtypes(synthetic._replace(crops=crops), real) is None


def test_a_network_tells_what_differs_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    names = [str(n) for n in range(12)]
    plain, other = rng.normal(0, 0.2, (2, 12, 1, 12, 12, 12))
    assert network_auc(plain, other + 0.6, names, names, epochs=15).value > 0.9
    assert network_auc(plain, plain[:9], names, names[:9], epochs=2).low < 0.5
    assert np.isnan(network_auc(plain, plain, ["p"] * 12, ["p"] * 12).value)


RECORD = LesionRecord(
    label=1,
    class_name="nodule",
    site_mm=(10.0, 10.0, 12.0),
    diameter_mm=8.0,
    volume_mm3=64.0,
    texture="ground_glass",
    shape_source="ellipsoid",
    seed=0,
    diameter_requested_mm=10.0,
    histogram_requested=(1.0, 0.0),
    histogram_achieved=(0.5, 0.5),
    sampler={"intensity_range": [-1000.0, 400.0]},
)


def write_case(folder: Path, *lesions: LesionRecord) -> None:
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:12, 8:12, 8:12] = 1  # its middle is 9.5
    labels[16:20, 16:20, 16:20] = 1
    organ = np.zeros_like(labels)
    organ[10:] = 1
    folder.mkdir()
    image = np.where(labels, -500, -850).astype(np.int16)
    for name, array in (("image", image), ("label", labels), ("organ_mask", organ)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
    bundle = BundleRecord("made", "0.1.0")
    record = ScanRecord(folder.name, "0" * 64, (1, 1, 1), labels.shape, bundle, lesions)
    write_record(folder / "lesions.json", record)


def test_asked_against_got_by_hand(tmp_path: Path) -> None:
    far = replace(
        RECORD,
        site_mm=(17.5, 17.5, 17.5),
        diameter_requested_mm=None,
        histogram_requested=None,
        texture="mine",
    )
    write_case(tmp_path / "scan", RECORD, far)
    (tmp_path / "datalist.json").write_text(
        '{"training": [{"image": "scan/image.nii.gz", "label": "scan/label.nii.gz",'
        ' "organ_mask": "scan/organ_mask.nii.gz"}]}'
    )
    found = asked_and_got(tmp_path)
    assert found is not None
    first, second = found["rows"]
    assert first["diameter_mm"] == -2
    assert first["centre_mm"] == pytest.approx(np.sqrt(0.25 + 0.25 + 6.25))
    assert first["inside_share"] == 0.5
    # half of the voxels lie one bin of 700 too high
    assert first["histogram_w1"] == pytest.approx(350)
    assert first["histogram_jsd"] == pytest.approx(0.2158, abs=1e-4)
    assert second["centre_mm"] == pytest.approx(0)
    assert second["diameter_mm"] is second["histogram_jsd"] is None
    assert found["diameter_mm"]["n"] == found["histogram_w1"]["n"] == 1
    assert found["inside_share"]["n"] == 2
    # what was asked for is the subtype of the crop nearest to its site
    assert [crop.subtype for crop in read_crops(tmp_path)] == ["ground_glass", ""]
    assert asked_and_got(tmp_path / "scan" / "..") is not None
    (tmp_path / "scan" / "lesions.json").unlink()
    assert asked_and_got(tmp_path) is None


def test_what_was_in_the_scan_before_is_no_synthetic_lesion(tmp_path: Path) -> None:
    write_case(tmp_path / "scan", RECORD)
    (crop,) = each_crop(tmp_path)
    assert crop.centre_mm == pytest.approx((9.5, 9.5, 9.5))
    (tmp_path / "scan" / "lesions.json").unlink()
    assert len(list(each_crop(tmp_path))) == 2


@pytest.mark.parametrize(
    ("entry", "subtype"),
    [
        ('"ratings": {"texture": 1.5}', "ground_glass"),
        ('"texture": 3', "part_solid"),
        ('"texture": "solid"', "solid"),
        ('"texture": "rough"', ""),
        ('"ratings": 3', ""),
    ],
)
def test_the_datalist_tells_the_subtype(tmp_path: Path, entry: str, subtype: str) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "datalist.json").write_text(
        f'{{"training": [{{"image": "a.nii.gz", "label": "b.nii.gz", {entry}}}]}}'
    )
    assert [each.subtype for each in listed(tmp_path)] == [subtype]

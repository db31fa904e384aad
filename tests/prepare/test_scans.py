"""Any datalist of scans with lesion masks becomes what a bundle trains on."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from nibabel.affines import voxel_sizes

from tests.dicom_series import write_dicom_series
from tests.prepare.pairs import array, content, load, tree, write_list, write_pair
from tools.cli import main
from tools.dicom.series import read_series
from tools.prepare.lesions import Rule
from tools.prepare.scans import bundle_rule, prepare_scans
from tools.prepare.sections import validation_patient

PATCHES = Rule("patches", smallest=48, lowest=-1024, heal_below=-500)


def write_crop(
    folder: Path, name: str, spacing: tuple[float, ...] = (0.7, 0.7, 2.5), radius_mm: float = 5.0
) -> dict[str, Any]:
    """A bright ball in noisy lung, tight in depth; return its entry of a datalist."""
    shape = (44, 44, max(2, int(2 * radius_mm / spacing[2])))
    image = np.random.default_rng(0).normal(-850, 30, shape)
    index = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    mask = ((index * spacing) ** 2).sum(-1) <= radius_mm**2
    image[mask] = 30
    return write_scan(folder, name, image, mask, spacing) | {"ratings": {"texture": 4.5}}


def write_scan(
    folder: Path,
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    dtype: type = np.int16,
) -> dict[str, Any]:
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (30, 20, -10)
    entry = write_pair(folder, name, image, label, affine, dtype)
    return entry | {"patient": name.split("_")[0]}


def write_crops(folder: Path, count: int = 4) -> Path:
    """A datalist of crops, every second patient for validation."""
    entries = [write_crop(folder, f"p{i}_1") for i in range(count)]
    return write_list(folder, {"training": entries[::2], "validation": entries[1::2]})


def prepare(datalist: Path, out: Path, *words: str) -> int:
    return main(["prepare", "scans", "--datalist", str(datalist), "--out", str(out), *words])


def prepared(
    folder: Path, rule: Rule, entries: list[dict[str, Any]], **sections: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Prepare entries of one folder, none for validation; return the datalist and the summary."""
    datalist = write_list(folder, {"training": entries, **sections})
    summary = prepare_scans(datalist, folder / "out", rule, validation_fraction=0.0)
    return content(folder / "out"), summary


def test_windows_of_a_datalist_can_be_trained_on(tmp_path: Path) -> None:
    given, out = tmp_path / "in", tmp_path / "out"
    entries = [write_crop(given, "a_1"), write_crop(given, "c_1"), write_crop(given, "c_2")]
    entries[1]["ratings"] = {"texture": 0}  # not given
    large = write_crop(given, "d_1", (0.7, 0.7, 2.5), 40.0)
    datalist = write_list(
        given, {"training": [*entries, large], "validation": [write_crop(given, "b_1")]}
    )
    summary = prepare_scans(datalist, out, bundle_rule("lefusion_lidc"))
    assert summary["left_out"] == {"larger than the window": 1}
    assert (summary["training"], summary["validation"], summary["broken"]) == (3, 1, {})
    first, second, _ = content(out)["training"]
    assert (first["name"], first["patient"], first["texture"]) == ("a_1", "a", 4.5)
    assert "texture" not in second
    image, label = load(out, first, "image"), load(out, first, "label")
    assert image.shape == label.shape == (32, 32, 32)
    assert voxel_sizes(image.affine).tolist() == [1, 1, 1]
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    assert first["diameter_mm"] == pytest.approx(10, abs=1)
    parser = ConfigParser()
    parser.read_config("bundles/lefusion_lidc/configs/train.json")
    parser["dataset_dir"], parser["device"] = str(out), "cpu"
    (batch,) = list(parser.get_parsed_content("train#dataloader"))
    assert batch["image"].shape == (3, 1, 24, 24, 24)
    assert (batch["label"].sum((1, 2, 3, 4)) > 0).all()


def test_lesions_of_one_scan_become_windows_each_and_dicom_is_read(tmp_path: Path) -> None:
    image = np.full((64, 60, 50), -850, np.int16)
    label = np.zeros(image.shape, np.uint8)
    for corner in (10, 40):
        box = (slice(corner, corner + 6),) * 3
        label[box], image[box] = 2, 30
    label[30, 30, 30] = 1
    positions = [(0.0, 0.0, float(k)) for k in range(50)]
    write_dicom_series(tmp_path / "series", image.transpose(2, 1, 0), positions=positions)
    affine = read_series(tmp_path / "series").affine
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "l.nii.gz")
    entry = {"image": "series", "label": "l.nii.gz", "patient": "a"}
    datalist = write_list(tmp_path, {"training": [entry], "labels": {"0": "b", "1": "x", "2": "y"}})
    with pytest.raises(ValueError, match=r"classes must say which of .* are lesions, got none"):
        prepare_scans(datalist, tmp_path / "out", bundle_rule("lefusion_lidc"))
    rule = bundle_rule("lefusion_lidc", classes=[2])
    written, _ = prepared(tmp_path, rule, [entry])
    entries = written["training"]
    assert [entry["name"] for entry in entries] == ["series_n01", "series_n02"]
    for entry in entries:
        inside = array(tmp_path / "out", entry, "label") > 0
        assert np.median(array(tmp_path / "out", entry, "image")[inside]) == 30


def test_masks_need_no_image_and_cut_ones_are_left_out(tmp_path: Path) -> None:
    entries = [write_crop(tmp_path, f"{name}_1") for name in "ab"]
    (tmp_path / "a_1_image.nii.gz").unlink()
    del entries[0]["image"]
    entries[1]["truncated"] = True
    assert prepare(write_list(tmp_path, {"training": entries}), tmp_path / "out",
                   "--bundle", "diffmask", "--validation_fraction", "0") == 0  # fmt: skip
    (entry,) = content(tmp_path / "out")["training"]
    mask = load(tmp_path / "out", entry, "label")
    assert (entry["name"], "image" in entry) == ("a_1", False)
    assert voxel_sizes(mask.affine).tolist() == [1, 1, 1]
    assert np.asarray(mask.dataobj).sum() == pytest.approx(entry["volume_mm3"], rel=0.05)


def test_stacks_keep_their_slices_and_healthy_ones_go_apart(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(0.5, 0.1, (4, 30, 20))
    label = np.zeros(image.shape)
    label[:, 10:14, 10:14] = 3
    entries = [
        write_scan(tmp_path, name, image, lesion, (9.0, 1.4, 1.4), np.float32)
        for name, lesion in (("a_1", label), ("b_1", np.minimum(label, 2)))
    ]
    rule = bundle_rule("lefusion_emidec")
    written, _ = prepared(tmp_path, rule, entries, labels={"3": "infarct"})
    ((entry,), (healthy,)) = written["training"], written["normal"]
    assert (entry["patient"], healthy["patient"]) == ("a", "b")
    stack = load(tmp_path / "out", entry, "image")
    assert stack.shape == (30, 20, 4)
    assert voxel_sizes(stack.affine) == pytest.approx((1.4, 1.4, 9))
    np.testing.assert_array_equal(stack.dataobj, image.astype(np.float32).transpose(1, 2, 0))
    assert written["labels"] == {"3": "infarct"}
    assert bundle_rule("diffmask", "cardiac").form == "stacks"


def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """HU that rise along the patient's axes in mm: any error of place shows in the values."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    return (index @ affine[:3, :3].T + affine[:3, 3]) @ [1.0, 2.0, 4.0]


def test_patches_have_one_millimetre_and_every_voxel_its_place(tmp_path: Path) -> None:
    affine = np.diag([-0.8, -0.8, 1.6, 1.0])
    affine[:3, 3] = (30, 20, -10)
    label = np.zeros((50, 60, 30))
    label[10:20, 10:20, 10:20] = 2
    entry = write_scan(tmp_path, "a", ramp(label.shape, affine).round(), label, (0.8, 0.8, 1.6))
    written, _ = prepared(tmp_path, PATCHES._replace(patch_size=32), [entry])
    entries = written["training"]
    assert len(entries) == 8  # 40 x 48 x 48 mm: two along each axis
    lesion = 0
    for entry in entries:
        image = load(tmp_path / "out", entry, "image")
        assert image.shape == (32, 32, 32)
        expected, inner = ramp(image.shape, image.affine), (slice(2, -2),) * 3
        # beyond the outermost voxel centres the scan is continued, so the border is left alone
        assert np.abs(np.asarray(image.dataobj)[inner] - expected[inner]).max() <= 1.5
        mask = array(tmp_path / "out", entry, "label")
        assert set(np.unique(mask)) <= {0, 1}
        lesion += int(mask.sum())
    assert lesion > 0


def test_what_gives_no_patches_is_counted_and_crops_give_windows(tmp_path: Path) -> None:
    body = np.full((40, 40, 40), 40)
    nothing = np.zeros(body.shape)
    entries = [
        write_scan(tmp_path, "thick", body, nothing, (3.0, 3.0, 3.0)),
        write_scan(tmp_path, "air", body - 1040, nothing),
        write_scan(tmp_path, "padded", np.where(np.indices(body.shape)[0] < 5, -3000, 40), nothing),
        write_crop(tmp_path, "crop"),
    ]
    del entries[2]["label"]
    written, summary = prepared(tmp_path, PATCHES, entries)
    assert summary["left_out"] == {"coarse scans": 1, "scans of air": 1}
    patch, window = written["training"]
    assert load(tmp_path / "out", patch, "image").shape == (40, 40, 40)  # thinner than a patch
    assert array(tmp_path / "out", patch, "image").min() == -1024
    assert load(tmp_path / "out", window, "image").shape == (48, 48, 48)


def test_healthy_windows_lie_in_the_organ_and_touch_no_mark(tmp_path: Path) -> None:
    image = np.full((80, 80, 60), -850)
    label = np.zeros(image.shape)
    image[40:46, 40:46, 30:36], label[40:46, 40:46, 30:36] = 30, 1
    entry = write_scan(tmp_path, "a", image, label)
    for key, box in (("lung", slice(4, 76)), ("marks", slice(10, 20))):
        part = np.zeros(image.shape, np.uint8)
        part[box, box, 4:56] = 1
        volume = nib.load(tmp_path / entry["label"])
        nib.save(nib.Nifti1Image(part, volume.affine), tmp_path / f"{key}.nii.gz")
        entry[key] = f"{key}.nii.gz"
    rule = bundle_rule("lefusion_lidc", size=(16, 16, 16), normal=3)
    normal = prepared(tmp_path, rule, [entry])[0]["normal"]
    assert len(normal) == 3
    inverse = np.linalg.inv(nib.load(tmp_path / entry["label"]).affine)
    for each in normal:
        window = load(tmp_path / "out", each, "image")
        assert np.asarray(window.dataobj).max() == -850
        assert array(tmp_path / "out", each, "organ_mask").mean() >= 0.3
        corners = (inverse @ window.affine @ [[0, 15], [0, 15], [0, 15], [1, 1]])[:3]
        assert corners.min() >= 0
        assert (corners[:2].min(1) > 20).any()
    # the patient is tested: nothing of him is trained on
    datalist = write_list(tmp_path, {"validation": [entry], "training": []})
    made = prepare_scans(datalist, tmp_path / "apart", rule)
    assert made["validation"] == 1
    assert not content(tmp_path / "apart").get("normal")


def test_sections_stay_and_others_are_divided_by_patient(tmp_path: Path) -> None:
    entries = [write_crop(tmp_path, f"p{i // 2}_{i}") for i in range(8)]
    test = [write_crop(tmp_path, "t_1"), "t_2_image.nii.gz"]
    write_crop(tmp_path, "t_2")
    out = tmp_path / "out"
    rule = bundle_rule("diffmask")
    datalist = write_list(tmp_path, {"training": entries, "test": test})
    summary = prepare_scans(datalist, out, rule, validation_fraction=0.5)
    assert summary["left_out"] == {"no label": 1}
    written = content(out)
    assert [entry["patient"] for entry in written["test"]] == ["t"]
    for section in ("training", "validation"):
        for entry in written[section]:
            assert validation_patient(entry["patient"], 0, 0.5) == (section == "validation")
    for number, entry in enumerate(entries):
        entry["fold"] = number // 4
    prepare_scans(write_list(tmp_path, {"training": entries}), tmp_path / "f", rule, fold=1)
    assert {e["patient"] for e in content(tmp_path / "f")["validation"]} == {"p2", "p3"}
    datalist = write_list(tmp_path, {"training": entries[:1], "validation": entries[1:2]})
    with pytest.raises(ValueError, match="patients must be in one section, got p0 in"):
        prepare_scans(datalist, tmp_path / "g", rule)
    share = np.mean([validation_patient(f"patient {n}", 0, 0.2) for n in range(1000)])
    assert share == pytest.approx(0.2, abs=0.04)


def test_scans_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    entries = []
    for patient in ("P1", "P2"):
        entry = write_crop(tmp_path / patient, "image")
        entries.append({key: f"{patient}/{entry[key]}" for key in ("image", "label")})
    written, _ = prepared(tmp_path, bundle_rule("diffmask"), entries)
    names = [entry["patient"] for entry in written["training"]]
    assert names == ["P1_image", "P2_image"]


def test_broken_scans_are_named_the_others_done_and_a_second_run_takes_them_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datalist, out = write_crops(tmp_path / "in"), tmp_path / "out"
    whole = (tmp_path / "in" / "p2_1_image.nii.gz").read_bytes()
    (tmp_path / "in" / "p2_1_image.nii.gz").write_bytes(whole[:900])
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), FAR),
             tmp_path / "in" / "p3_1_label.nii.gz")  # fmt: skip
    assert prepare(datalist, out) == 1
    said = capsys.readouterr().err
    assert "2 scans could not be prepared" in said
    assert "p3_1: label must lie in the scan" in said
    assert len(content(out)["training"]) == len(content(out)["validation"]) == 1
    kept = tree(out / "cases" / "p0_1")
    stamp = (out / "cases" / "p0_1" / "record.json").stat().st_mtime_ns
    write_crops(tmp_path / "in")
    assert prepare(datalist, out) == 0
    assert len(content(out)["training"]) == len(content(out)["validation"]) == 2
    assert tree(out / "cases" / "p0_1") == kept
    assert (out / "cases" / "p0_1" / "record.json").stat().st_mtime_ns == stamp
    lost = out / "cases" / "p1_1" / "p1_1_label.nii.gz"
    lost.unlink()
    assert prepare(datalist, out) == 0
    assert lost.is_file()
    assert prepare(datalist, out, "--smallest", "40") == 1
    assert "prepared with the same settings" in capsys.readouterr().err


FAR = np.diag([-1.0, -1, 1, 1])
FAR[:3, 3] = 500
COLOURS = np.zeros((20, 20, 20), [("R", "u1"), ("G", "u1"), ("B", "u1")])
BALL = np.zeros((20, 20, 20), np.uint8)
BALL[6:12, 6:12, 6:12] = 1
LUNG = np.where(BALL, 30, -850).astype(np.int16)
HOLED = LUNG.astype(np.float32)
HOLED[0, 0, 0] = np.nan
UNFIT = {  # image, label, affine of the label, what is said
    "nan": (HOLED, BALL, None, "image must hold finite values, got NaN or infinity in 1 of 8000"),
    "scaled": (LUNG / 1000, BALL, None, "image must be in HU"),
    "offset": (LUNG + 2000, BALL, None, "image must be in HU"),
    "colours": (COLOURS, BALL, None, "image must hold whole or real numbers"),
    "elsewhere": (LUNG, BALL, FAR, "label must lie in the scan"),
    "values": (LUNG, BALL * 1.5, None, "label must hold whole numbers"),
    "none": (None, BALL, None, "image must be an existing image file"),
    "label": (LUNG, None, None, "label must be an existing image file"),
}


def write_unfit(folder: Path, name: str) -> dict[str, Any]:
    image, label, affine, _ = UNFIT[name]
    entry = write_scan(folder, name, LUNG, BALL)
    own = nib.load(folder / entry["image"]).affine
    for key, values, place in (("image", image, own), ("label", label, affine)):
        (folder / entry[key]).unlink()
        if values is not None:
            place = own if place is None else place
            nib.save(nib.Nifti1Image(values, place), folder / entry[key])
    return entry


def test_scans_that_are_unfit_are_named_and_all_others_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_scan(tmp_path, "whole", LUNG, BALL)
    entries = [whole, *(write_unfit(tmp_path, name) for name in UNFIT)]
    entries += [dict(whole, name="again"), dict(whole, label="other.nii.gz", patient="x")]
    datalist = write_list(tmp_path, {"training": entries})
    assert prepare(datalist, tmp_path / "out", "--validation_fraction", "0") == 1
    error = capsys.readouterr().err
    assert "10 scans could not be prepared" in error
    assert "(and 7 more)" in error
    said = caplog.messages
    for name, (_, _, _, sentence) in UNFIT.items():
        (line,) = [line for line in said if line.startswith(f"{name} could not be prepared: ")]
        assert sentence in line
        assert f"{name}_" in line.split(": ", 1)[1]
    assert "again could not be prepared: scans must be listed once, got" in "\n".join(said)
    assert "patient must be one for each scan, got whole and x" in "\n".join(said)
    assert [entry["patient"] for entry in content(tmp_path / "out")["training"]] == ["whole"]


def test_unfit_values_are_taken_as_the_options_say(tmp_path: Path) -> None:
    for name, words in (("nan", ["--fill_nan", "air"]), ("offset", ["--hu_offset", "-2000"])):
        datalist = write_list(tmp_path, {"training": [write_unfit(tmp_path, name)]})
        out = tmp_path / name
        assert prepare(datalist, out, "--validation_fraction", "0", *words) == 0
        values = array(out, content(out)["training"][0], "image")
        assert (values.min(), values.max()) == (-1000 if name == "nan" else -850, 30)


def test_nothing_to_train_on_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [write_scan(tmp_path, "empty", LUNG, 0 * BALL), write_unfit(tmp_path, "nan")]
    assert prepare(write_list(tmp_path, {"training": entries}), tmp_path / "out") == 1
    (said,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "datalist must list scans that give something to train on, got none" in said
    assert "empty: no lesion" in said
    assert "nan: image must hold finite values" in said
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_of_many_reasons_a_few_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [write_scan(tmp_path, f"empty{i}", LUNG, 0 * BALL) for i in range(5)]
    datalist = write_list(tmp_path, {"training": entries})
    assert prepare(datalist, tmp_path / "out", "--validation_fraction", "0") == 1
    said = capsys.readouterr().err
    assert "empty2: no lesion (and 2 more)" in said
    assert "empty3: no lesion" not in said[said.index("error: ") :]


def test_a_label_of_another_grid_is_resampled_and_recorded(tmp_path: Path) -> None:
    entry = write_scan(tmp_path, "a", LUNG, BALL)
    affine = nib.load(tmp_path / entry["image"]).affine @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] += (0.25, 0.25, -0.25)
    fine = BALL.repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(np.float64) * 0.9999999998
    nib.save(nib.Nifti1Image(fine, affine), tmp_path / entry["label"])
    written, _ = prepared(tmp_path, bundle_rule("lefusion_lidc"), [entry])
    assert array(tmp_path / "out", written["training"][0], "label").sum() == BALL.sum()
    record = json.loads((tmp_path / "out/cases/a/record.json").read_text())
    assert record["notes"] == ["label was resampled from a grid of 40 x 40 x 40 voxels of "
                               "0.5 x 0.5 x 0.5 mm"]  # fmt: skip


def test_one_series_of_a_folder_is_taken_by_its_uid(tmp_path: Path) -> None:
    places = [(0.0, 0.0, float(k)) for k in range(20)]
    for uid in ("1.2.3", "1.2.4"):
        write_dicom_series(
            tmp_path / "study",
            LUNG.transpose(2, 1, 0),
            positions=places,
            names=[f"{uid}_{k}" for k in range(20)],
            edit=lambda k, header, uid=uid: setattr(header, "SeriesInstanceUID", uid),
        )
    affine = read_series(tmp_path / "study", "1.2.4").affine
    nib.save(nib.Nifti1Image(BALL, affine), tmp_path / "l.nii.gz")
    entry = {"image": "study", "label": "l.nii.gz", "patient": "a", "series_uid": "1.2.4"}
    written, summary = prepared(tmp_path, bundle_rule("lefusion_lidc"), [entry])
    assert summary["broken"] == {}
    assert array(tmp_path / "out", written["training"][0], "label").sum() == BALL.sum()


@pytest.mark.slow  # each worker imports torch anew
def test_two_workers_write_the_same(tmp_path: Path) -> None:
    datalist, rule = write_crops(tmp_path / "in"), bundle_rule("lefusion_lidc")
    assert prepare_scans(datalist, tmp_path / "a", rule) == prepare_scans(
        datalist, tmp_path / "b", rule, workers=2
    )
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_bundle_must_say_what_it_trains_on(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(repository / "bundles" / "diffmask" / "configs", folder / "configs")
    path = folder / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["prepare"]["colour"] = 1
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"prepare must have keys of .* got \['colour'\]"):
        bundle_rule(str(folder))
    del config["prepare"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"bundle must have a section prepare in train\.json"):
        bundle_rule(str(folder))


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "bundle", "classes"),
    [
        ("lidc_nodules", "lefusion_lidc", None),
        ("lidc_cubes", "lefusion_lidc", None),
        ("lidc_masks", "diffmask", None),
        ("kidney_masks", "diffmask", [2]),
        ("liver_tumour_masks", "diffmask", None),
    ],
)
def test_real_datalists_are_taken_as_they_are(
    shared_dir: Path, tmp_path: Path, folder: str, bundle: str, classes: list[int] | None
) -> None:
    given = shared_dir / "data" / folder
    listed = json.loads((given / "datalist.json").read_text())
    for section in ("training", "validation"):
        for entry in listed.get(section, []):
            entry |= {k: str(given / entry[k]) for k in ("image", "label") if k in entry}
        listed[section] = listed.get(section, [])[:: max(1, len(listed.get(section, [])) // 4)]
    datalist = write_list(tmp_path, {k: v for k, v in listed.items() if v})
    rule = bundle_rule(bundle, classes=classes)
    summary = prepare_scans(datalist, tmp_path / "out", rule, dataset_dir=given)
    assert summary["broken"] == {}
    assert summary["training"] + summary["validation"] >= len(listed["training"])

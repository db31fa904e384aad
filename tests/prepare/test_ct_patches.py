"""One training set of 1 mm patches, from tiny scans and a tiny archive made here."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.prepare import ct_patches
from tools.prepare.ct_patches import find_scans, prepare_ct
from tools.prepare.lidc_split import lidc_split
from tools.windows import WindowGrid

# what the rule of the split says of them
TRAIN, VALIDATE, TEST = "LIDC-IDRI-0001", "LIDC-IDRI-0007", "LIDC-IDRI-0002"
FREE, RESTRICTED = "CC BY 3.0", "CC BY-NC 3.0 (non-commercial)"


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """HU that rise along the patient's axes in mm: any error of place shows in the values."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return (index @ affine[:3, :3].T + affine[:3, 3]) @ [1.0, 2.0, 4.0]


def write_scan(
    folder: Path,
    name: str,
    shape: tuple[int, int, int] = (40, 40, 40),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    lesion: bool = False,
    image: np.ndarray | None = None,
    suffix: str = ".nii.gz",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (30, 20, -10)
    values = ramp(shape, affine) if image is None else image
    path = folder / f"{name}{suffix}"
    nib.save(nib.Nifti1Image(values.round().astype(np.int16), affine), path)
    if lesion:
        mask = np.zeros(shape, np.uint8)
        mask[10:20, 10:20, 10:20] = 2
        stem = name.removesuffix("_image")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"{stem}_lesion{suffix}")
    return path


def write_archive(folder: Path, patients: list[tuple[str, str]]) -> None:
    """Nodules in lung, one for each patient and its split."""
    folder.mkdir(parents=True)
    shape = (30, 30, 12)
    mask = np.zeros(shape, bool)
    mask[10:20, 10:20, :] = True
    count = len(patients)
    image = np.where(mask, 30, -850).astype(np.int16)
    np.savez(
        folder / "crops.npz",
        image_flat=np.tile(image.ravel(), count),
        mask_flat_packed=np.packbits(np.tile(mask.ravel(), count)),
        offset=np.arange(count + 1) * mask.size,
        shape=np.array([shape] * count, np.int16),
        spacing_xyz_mm=np.ones((count, 3), np.float32),
        origin_ras_mm=np.zeros((count, 3), np.float32),
        nodule_id=np.array([f"{patient}_1" for patient, _ in patients]),
        patient_id=np.array([patient for patient, _ in patients]),
        split=np.array([split for _, split in patients]),
    )


def manifest(folder: Path, entries: dict[str, dict]) -> None:
    files = [{"path": p, "modality": "CT", "dtype": "int16", **e} for p, e in entries.items()]
    (folder / "MANIFEST.json").write_text(json.dumps({"files": files}))


def content(out: Path) -> dict:
    return json.loads((out / "datalist.json").read_text())


def test_patches_have_one_millimetre_and_every_voxel_its_place(tmp_path: Path) -> None:
    write_scan(tmp_path / "in", f"{TRAIN}_image", (50, 60, 30), (0.8, 0.8, 1.6), lesion=True)
    counts = prepare_ct(tmp_path / "in", tmp_path / "out", patch_size=32, phantoms=0)
    entries = content(tmp_path / "out")["training"]
    assert counts == {"training": len(entries), "validation": 0, "left_out": 0}
    # 40 x 48 x 48 mm in patches of 32: two along each axis
    assert len(entries) == 8
    lesion = 0
    for entry in entries:
        image, label = (nib.load(tmp_path / "out" / entry[key]) for key in ("image", "label"))
        assert image.shape == label.shape == (32, 32, 32)
        assert image.get_data_dtype() == np.int16
        assert np.allclose(image.affine[:3, :3], np.eye(3))
        expected = ramp(image.shape, image.affine)
        # beyond the outermost voxel centres the scan is continued, so the border is left alone
        inner = (slice(2, -2),) * 3
        assert np.abs(np.asarray(image.dataobj)[inner] - expected[inner]).max() <= 1.5
        mask = np.asarray(label.dataobj)
        assert set(np.unique(mask)) <= {0, 1}
        lesion += int(mask.sum())
    assert lesion > 0
    starts = [nib.load(tmp_path / "out" / e["image"]).affine[:3, 3] for e in entries]
    assert np.ptp(starts, axis=0) == pytest.approx((8, 16, 16))


def test_lesions_keep_their_volume_and_values_above_one_are_lesion(tmp_path: Path) -> None:
    write_scan(tmp_path / "in", f"{TRAIN}_image", (40, 40, 40), lesion=True)
    prepare_ct(tmp_path / "in", tmp_path / "out", phantoms=0)
    (entry,) = content(tmp_path / "out")["training"]
    label = np.asarray(nib.load(tmp_path / "out" / entry["label"]).dataobj)
    assert label.shape == (40, 40, 40)  # thinner than a patch: a thinner patch
    assert label.sum() == 1000


def test_patients_are_split_and_test_patients_left_out(tmp_path: Path) -> None:
    for patient in (TRAIN, VALIDATE, TEST):
        write_scan(tmp_path / "in", patient)
    counts = prepare_ct(tmp_path / "in", tmp_path / "out", phantoms=0)
    assert counts == {"training": 1, "validation": 1, "left_out": 1}
    written = content(tmp_path / "out")
    assert [e["patient"] for e in written["training"]] == [TRAIN]
    assert [e["patient"] for e in written["validation"]] == [VALIDATE]
    assert len(list((tmp_path / "out" / "patches").iterdir())) == 4


def test_coarse_small_and_airy_scans_are_left_out(tmp_path: Path) -> None:
    numbers = (f"LIDC-IDRI-{number:04d}" for number in range(1, 100))
    thick, small, air, good = [name for name in numbers if lidc_split(name) == "train"][:4]
    write_scan(tmp_path / "in", thick, (20, 20, 20), (3.0, 3.0, 3.0))
    write_scan(tmp_path / "in", small, (40, 40, 20))
    write_scan(tmp_path / "in", air, image=np.full((40, 40, 40), -1000))
    write_scan(tmp_path / "in", good)
    counts = prepare_ct(tmp_path / "in", tmp_path / "out", phantoms=0)
    assert counts == {"training": 1, "validation": 0, "left_out": 3}
    assert [entry["patient"] for entry in content(tmp_path / "out")["training"]] == [good]


def test_padding_values_become_air(tmp_path: Path) -> None:
    image = np.full((40, 40, 40), 40)
    image[:5] = -3000
    write_scan(tmp_path / "in", TRAIN, image=image)
    prepare_ct(tmp_path / "in", tmp_path / "out", phantoms=0)
    (entry,) = content(tmp_path / "out")["training"]
    assert np.asarray(nib.load(tmp_path / "out" / entry["image"]).dataobj).min() == -1024


def test_manifest_decides_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a_image", "b_image", "mr_image", "unlisted_image"):
        write_scan(folder, name)
    manifest(
        folder,
        {
            "a_image.nii.gz": {"patient": TRAIN, "data_licence": FREE},
            "b_image.nii.gz": {"patient": VALIDATE, "data_licence": RESTRICTED},
            "mr_image.nii.gz": {"modality": "MR", "data_licence": FREE},
            "a_lesion.nii.gz": {"dtype": "uint8", "data_licence": FREE},
        },
    )
    assert [(scan.name, scan.patient) for scan in find_scans(folder)[1]] == [("a", TRAIN)]
    both = find_scans(folder, non_commercial=True)[1]
    assert [scan.patient for scan in both] == [TRAIN, VALIDATE]


def test_windows_of_an_archive_join_the_patches(tmp_path: Path) -> None:
    write_archive(tmp_path / "in" / "nodules", [("x", "train"), ("y", "val")])
    write_scan(tmp_path / "in" / "nodules", "sample_image")  # of the archive, not read twice
    write_scan(tmp_path / "in" / "scans", TRAIN)
    counts = prepare_ct(tmp_path / "in", tmp_path / "out", window_size=32, phantoms=0)
    assert counts == {"training": 2, "validation": 1, "left_out": 0}
    window, patch = content(tmp_path / "out")["training"]
    assert (window["patient"], patch["patient"]) == ("x", TRAIN)
    assert nib.load(tmp_path / "out" / window["image"]).shape == (32, 32, 32)


def test_scans_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        write_scan(tmp_path / "in" / patient, "n", suffix=".nii", lesion=patient == "P1")
    scans = find_scans(tmp_path / "in")[1]
    assert [(scan.name, scan.patient) for scan in scans] == [("P1_n", "P1"), ("P2_n", "P2")]
    # "n" also stands in the suffix of the file
    assert [scan.lesion is None for scan in scans] == [False, True]


def test_phantoms_train_only_and_say_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ct_patches, "PHANTOM_SHAPE", (40, 40, 40))
    write_scan(tmp_path / "in", VALIDATE)
    counts = prepare_ct(tmp_path / "in", tmp_path / "out", patch_size=40, phantoms=1)
    assert counts == {"training": 2, "validation": 1, "left_out": 0}
    assert all(entry["phantom"] for entry in content(tmp_path / "out")["training"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--source", "{none}"], "source must be an existing folder, got"),
        (["--source", "{empty}", "--phantoms", "0"], "source must hold CT scans or a crops"),
        (["--source", "{empty}", "--patch_size", "16"], "patch_size must be >= 32, got 16"),
        (["--source", "{empty}", "--window_size", "24"], "window_size must be >= 32, got 24"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"none": str(tmp_path / "none"), "empty": str(tmp_path / "empty")}
    words = [option.format(**places) for option in options]
    assert main(["prepare", "ct", *words, "--out", str(tmp_path / "out")]) == 1
    assert f"error: {sentence}" in capsys.readouterr().err


def test_grid_covers_an_oblique_scan() -> None:
    affine = np.eye(4)
    affine[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    grid = ct_patches._grid_of((40, 40, 40), affine)
    assert isinstance(grid, WindowGrid)
    assert grid.size == (56, 56, 40)

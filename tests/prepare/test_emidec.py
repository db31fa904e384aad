"""Hearts out of download trees that the tests write."""

import gzip
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.prepare.pairs import content
from tools.cli import main
from tools.prepare import emidec
from tools.prepare.emidec import TEST_CASES, prepare_emidec, section_of

SPACING = (1.5, 1.25, 10.0)


def heart(lesions: bool = True) -> np.ndarray:
    """A ring of 6 x 6 voxels round a cavity of 2 x 2, in two of three slices."""
    label = np.zeros((16, 12, 3), np.uint8)
    label[4:10, 2:8, 1:] = 2
    label[6:8, 4:6, 1:] = 1
    if lesions:
        label[4, 2:8, 1] = 3
        label[4, 4, 1] = 4
    return label


def save(path: Path, values: np.ndarray, slope: float | None = None) -> None:
    """Write as the release does: sform of 1 mm, voxel size in pixdim only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(values, np.eye(4))
    volume.header["pixdim"][1:4] = SPACING
    volume.header["sform_code"], volume.header["qform_code"] = 1, 0
    if slope is not None:
        volume.header.set_slope_inter(slope, 3.0)
    nib.save(volume, path)


def write_case(
    root: Path, name: str, label: np.ndarray | None = None, slope: float | None = None
) -> None:
    label = heart(name.startswith("P")) if label is None else label
    values = np.random.default_rng(len(name)).integers(0, 900, (16, 12, 3)).astype(np.int16)
    save(root / f"Case_{name}" / "Images" / f"Case_{name}.nii.gz", values, slope)
    save(root / f"Case_{name}" / "Contours" / f"Case_{name}.nii.gz", label)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A download with one case for each section."""
    root = tmp_path / "download"
    for name in ("P001", "P035", "P005", "N012"):
        write_case(root / "train", name)
    return root


def test_every_case_lands_in_its_section_with_its_measures(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = prepare_emidec(release, out)
    one_each = {"training": 1, "validation": 1, "test": 1, "normal": 1}
    assert counts == {**one_each, "unlabelled": 0, "broken": {}}
    listed = content(out)
    assert listed["labels"]["4"] == "no_reflow"
    (entry,) = listed["training"]
    assert (entry["patient"], entry["bits"], entry["slices"]) == ("P001", 16, 3)
    voxel_ml = 1.5 * 1.25 * 10 / 1000
    counted = {"cavity": 8, "myocardium": 58, "infarct": 5, "no_reflow": 1}
    assert entry["volumes_ml"] == {
        name: pytest.approx(n * voxel_ml, abs=6e-4) for name, n in counted.items()
    }
    assert (entry["pathological"], entry["has_no_reflow"]) == (True, True)
    assert entry["heart_extent_mm"] == [9.0, 7.5]
    assert entry["heart_extent_voxels"] == [6, 6]
    # the middle of voxels 4..9, 2..7 and slices 1..2, on axes to the left, back and base
    assert entry["heart_mm"] == pytest.approx([-6.5 * 1.5, -4.5 * 1.25, 15.0], abs=0.01)
    assert not listed["normal"][0]["pathological"]


def test_affine_comes_from_the_voxel_size_and_values_stay(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "P001", slope=0.5)
    prepare_emidec(tmp_path / "in", tmp_path / "out")
    source = nib.load(tmp_path / "in/Case_P001/Images/Case_P001.nii.gz")
    image, label = (
        nib.load(tmp_path / f"out/cases/P001/P001_{kind}.nii.gz") for kind in ("image", "label")
    )
    np.testing.assert_allclose(image.affine, np.diag([-1.5, -1.25, 10, 1]))
    np.testing.assert_array_equal(label.affine, image.affine)
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    assert image.get_data_dtype() == source.get_data_dtype() == np.int16
    assert (image.dataobj.slope, image.dataobj.inter) == (0.5, 3.0)
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), source.dataobj.get_unscaled())
    np.testing.assert_array_equal(np.asarray(label.dataobj), heart())
    assert content(tmp_path / "out")["training"][0]["affine_rebuilt"]


def test_true_affines_are_kept(tmp_path: Path) -> None:
    affine = np.array([[0, 1.2, 0, 4], [1.4, 0, 0, -3], [0, 0, 9, 2], [0, 0, 0, 1.0]])
    for kind, values in (("image", heart().astype(np.uint8)), ("label", heart())):
        path = tmp_path / "in" / f"emidec8bit_Case_P001_{kind}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, affine), path)
    prepare_emidec(tmp_path / "in", tmp_path / "out")
    image = nib.load(tmp_path / "out/cases/P001/P001_image.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    (entry,) = content(tmp_path / "out")["training"]
    assert (entry["bits"], entry["spacing_is_nominal"]) == (8, True)
    assert not entry["affine_rebuilt"]


def zipped(folder: Path, path: Path, extra: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.nii.gz")):
            archive.write(file, f"emidec/{file.relative_to(folder)}")
        if extra:
            archive.writestr(extra, b"x")
    return path


def test_archives_are_read(release: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    path = zipped(release, archives / "a.zip", "__MACOSX/Images/Case_P001.nii.gz")
    for name in ("._a.zip", ".DS_Store", "Thumbs.db"):
        (archives / name).write_bytes(b"of another system")
    (archives / "b.zip").symlink_to(tmp_path / "nowhere.zip")
    first = prepare_emidec(path, tmp_path / "file")
    assert prepare_emidec(archives, tmp_path / "folder") == first
    assert first["training"] == 1
    assert first["broken"] == {}
    assert len(list(archives.iterdir())) == 5
    assert "Thumbs.db (and 2 more) is a left-over" in caplog.text.replace(".DS_Store", "Thumbs.db")
    assert "b.zip is a link to a file that is not there" in caplog.text


def test_a_bad_member_is_named_by_its_archive(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "P001")
    path = tmp_path / "in/Case_P001/Images/Case_P001.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    broken = prepare_emidec(zipped(tmp_path / "in", tmp_path / "a.zip"), tmp_path / "out")["broken"]
    member = tmp_path / "a.zip" / "emidec/Case_P001/Images/Case_P001.nii.gz"
    assert f"file must be readable, got {member}" in broken["P001"]


@pytest.mark.parametrize("name", ["../evil.nii.gz", "/evil.nii.gz", "a\\..\\..\\e", "C:/evil"])
def test_archives_that_try_to_escape_are_refused(release: Path, tmp_path: Path, name: str) -> None:
    path = zipped(release, tmp_path / "a.zip", name)
    with pytest.raises(ValueError, match="must stay inside its folder"):
        prepare_emidec(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_and_crowds_in_archives_are_refused(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(release, tmp_path / "a.zip")
    link = zipfile.ZipInfo("Images/Case_P099.nii.gz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(ValueError, match=r"must be files, got 'Images/.*', a link or device"):
        prepare_emidec(path, tmp_path / "out")
    monkeypatch.setattr(emidec, "MOST_MEMBERS", 3)
    with pytest.raises(ValueError, match="archive must hold at most 3 files, got"):
        prepare_emidec(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("packed", [gzip.compress, bytes], ids=["gzip", "zip"])
def test_bombs_are_named_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(emidec, "LARGEST_MB", 1)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for kind in ("Images", "Contours"):
            archive.writestr(f"{kind}/Case_P001.nii.gz", packed(bytes(2**26)))
    tracemalloc.start()
    broken = prepare_emidec(path, tmp_path / "out")["broken"]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "file must hold at most 1 MB, unpacked, got more in " in broken["P001"]
    assert most < 2**25


def test_broken_cases_get_a_sentence_and_the_others_are_done(
    release: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_case(release, "P010", np.full((16, 12, 3), 7, np.uint8))
    write_case(release, "P011", heart()[:, :, :2])
    write_case(release, "P015", heart(lesions=False))
    write_case(release, "N013", heart())
    write_case(release, "P017")
    (release / "Case_P017/Contours/Case_P017.nii.gz").unlink()
    write_case(release, "P019")
    (release / "Case_P019/Images/Case_P019.nii.gz").write_bytes(b"not a volume")
    write_case(release, "P021")
    path = release / "Case_P021/Images/Case_P021.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:900]))
    out = tmp_path / "out"
    assert main(["prepare", "emidec", "--source", str(release), "--out", str(out)]) == 1
    error = capsys.readouterr().err + caplog.text
    for sentence in (
        "7 cases could not be prepared",
        "label of P010 must hold 0 to 4 only, got [7]",
        "label of P011 must have the image's shape (16, 12, 3), got (16, 12, 2)",
        "label of P015 must hold an infarct, got [0, 1, 2]",
        "label of N013 must hold no infarct, got [0, 1, 2, 3, 4]",
        "case P017 must have one label, got none",
        "P019 could not be prepared: image must be an image that can be read, got",
        "P021 could not be prepared: image must be whole, got",
    ):
        assert sentence in error
    assert [len(content(out)[s]) for s in ("training", "validation", "test", "normal")] == [1] * 4


def test_second_run_takes_up_what_is_missing(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare_emidec(release, out)
    before = content(out)
    kept, lost = (out / "cases" / f"{n}/{n}_label.nii.gz" for n in ("P001", "P005"))
    kept.write_bytes(b"untouched")
    lost.unlink()
    assert prepare_emidec(release, out) == first
    assert content(out) == before
    assert kept.read_bytes() == b"untouched"
    assert lost.is_file()
    assert not list(out.rglob(".*.partial"))


def test_full_precision_goes_before_its_copy_and_doubles_are_named(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_case(root / "a", "P001")
    write_case(root / "a", "P002")
    write_case(root / "b", "P002")
    write_case(root / "test", "101")
    (root / "test/Case_101/Contours/Case_101.nii.gz").unlink()
    save(root / "emidec8bit_Case_P001_image.nii.gz", heart())
    save(root / "emidec8bit_Case_P001_label.nii.gz", heart())
    counts = prepare_emidec(root, tmp_path / "out")
    assert counts["unlabelled"] == 1
    assert list(counts["broken"]) == ["P002"]
    assert "must have one image, got" in counts["broken"]["P002"]
    assert content(tmp_path / "out")["training"][0]["bits"] == 16


def test_split_is_fixed_and_disjoint() -> None:
    names = [f"P{i:03d}" for i in range(1, 101)]
    sections = {name: section_of(name) for name in names}
    assert {name for name, section in sections.items() if section == "test"} == TEST_CASES
    validation = {name for name, section in sections.items() if section == "validation"}
    assert {"P007", "P035", "P043", "P055", "P063", "P081", "P090", "P094", "P098"} <= validation
    assert not {"P001", "P028", "P100"} & validation
    assert section_of("P001", pathological=False) == "normal"


@pytest.mark.real
def test_real_hearts(shared_dir: Path, tmp_path: Path) -> None:
    counts = prepare_emidec(shared_dir / "data" / "cardiac_lge", tmp_path)
    assert counts["broken"] == {}
    assert [counts[s] for s in ("training", "validation", "test", "normal")] == [37, 10, 8, 27]
    listed = content(tmp_path)
    groups = [{e["patient"] for e in listed[s]} for s in ("training", "validation", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups))
    no_reflow = [e["has_no_reflow"] for e in listed["validation"]]
    assert no_reflow.count(True) == no_reflow.count(False) == 5
    (native,) = [e for e in listed["training"] if e["patient"] == "P100"]
    assert native["volumes_ml"] == pytest.approx(
        {"cavity": 108.86, "myocardium": 115.362, "infarct": 17.964, "no_reflow": 0.745}, abs=0.01
    )

"""A case is there whole or not at all, is kept if nothing changed, and never mixed."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.synthesis.case_folder import (
    describe_source,
    is_whole,
    new_case_folder,
    remove_broken,
    require_same,
)
from tools.synthesis.ranks import Rank
from tools.synthesis.records import BundleRecord, ScanRecord, write_record

BUNDLE = BundleRecord("some_bundle", "0.1.0", "b" * 64)


def write_case(folder: Path, **request: object) -> Path:
    with new_case_folder(folder, "0" * 64) as partial:
        for name in ("image", "label"):
            values = np.random.default_rng(0).integers(0, 99, (9, 9, 9)).astype(np.int16)
            nib.save(nib.Nifti1Image(values, np.eye(4)), partial / f"{name}.nii.gz")
        record = ScanRecord("a", "a" * 64, (1, 1, 1), (9, 9, 9), BUNDLE, request=request)
        write_record(partial / "lesions.json", record)
    return folder


def test_a_case_is_whole_or_made_again(tmp_path: Path) -> None:
    assert is_whole(write_case(tmp_path / "a"))
    for name in ("image.nii.gz", "label.nii.gz", "lesions.json"):
        for size in (None, 0, 30):
            path = write_case(tmp_path / "b") / name
            content = path.read_bytes()
            path.unlink()
            if size is not None:
                path.write_bytes(content[:size])
            assert not is_whole(tmp_path / "b"), (name, size)
            remove_broken(tmp_path / "b")
            assert not (tmp_path / "b").exists()


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = write_case(tmp_path / "a") / "image.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert not is_whole(tmp_path / "a")


def test_files_of_others_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"out must not hold what others made .*series"):
        remove_broken(tmp_path / "series")
    folder = write_case(tmp_path / "a")  # ours, but for one file, so nothing of it goes
    (folder / "image.nii.gz").write_bytes(b"half")
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"out must not hold other files .*notes.txt"):
        remove_broken(folder)
    assert (folder / "notes.txt").read_text() == "precious"
    assert (folder / "label.nii.gz").is_file()
    assert (tmp_path / "series" / "1.dcm").read_bytes() == b"precious"
    remove_broken(tmp_path / "absent")


def test_interrupted_writing_leaves_no_case(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_case_folder(tmp_path / "a", "0" * 64) as partial:
            (partial / "image.nii.gz").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    assert is_whole(write_case(tmp_path / "a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_request_is_refused(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "a", seed=1, diameter_mm=(6.0, 20.0), texture=["solid"])
    same = {"seed": 1, "diameter_mm": (6.0, 20.0), "texture": ["solid"]}
    require_same(folder, "a" * 64, BUNDLE, same)
    with pytest.raises(ValueError, match="out must not hold a case of another scan"):
        require_same(folder, "c" * 64, BUNDLE, same)
    with pytest.raises(ValueError, match="made with seed=1 where 2 is asked for"):
        require_same(folder, "a" * 64, BUNDLE, {**same, "seed": 2})
    with pytest.raises(ValueError, match=r"bundle=some_bundle 0.1.0 .* where some_bundle 0.2.0"):
        require_same(folder, "a" * 64, BundleRecord("some_bundle", "0.2.0", "b" * 64), same)
    before = write_case(tmp_path / "b")  # by a version that did not write requests down
    with pytest.raises(ValueError, match="made with diameter_mm=None"):
        require_same(before, "a" * 64, BUNDLE, same)


def test_description_tells_sources_apart_and_names_no_path(tmp_path: Path) -> None:
    class Source:
        def __init__(self, path: Path, values: list[float]) -> None:
            self.path, self.values, self.scale, self._hidden = path, np.array(values), 2, 3

    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    first, second, third = (
        describe_source(Source(tmp_path / name, values))
        for name, values in (("one", [1.0]), ("two", [1.0]), ("one", [2.0]))
    )
    assert first.keys() == {"kind", "path_sha256", "scale", "values_crc32"}
    assert len({str(item) for item in (first, second, third)}) == 3
    assert str(tmp_path) not in str(first)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_all_items_once(world_size: int) -> None:
    items = list(range(5))
    shares = [Rank(rank, world_size).share(items) for rank in range(world_size)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rank_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Rank.from_environment() == Rank(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Rank.from_environment() == Rank(3, 4, 1)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ValueError, match="RANK must lie from 0 to WORLD_SIZE - 1, got 4 of 4"):
        Rank.from_environment()
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ValueError, match="must be whole numbers"):
        Rank.from_environment()


def test_each_rank_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Rank(3, 4, 3).device("auto") == "cuda:1"
    assert Rank(0, 4, 0).device("cuda") == "cuda:0"
    assert Rank(3, 4, 3).device("cpu") == "cpu"
    assert Rank(0, 1, 0).device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Rank(1, 2, 1).device("auto") == "auto"

"""A segmenter of others as a judge: whatever way a scan lies, and how many it finds by size."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.studies.test_judge import write_lesion
from tools.scans.scan import Scan
from tools.studies.liver_finder import LiverFinder, found_by_size


def test_the_way_a_scan_lies_does_not_matter(kiunet: Path) -> None:
    finder = LiverFinder(kiunet)
    image = np.random.default_rng(0).normal(50, 100, (24, 20, 30)).astype(np.float32)
    affine = np.diag([1.4, 1.5, 2.0, 1.0])
    straight = finder.marked(Scan(nib.Nifti1Image(image, affine)))
    assert straight.shape == image.shape
    marks = np.asarray(straight.image)
    assert 0 < marks.mean() < 1
    turned = affine[:, [2, 0, 1, 3]] @ np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[:3, 3] = affine[:3, 2] * 29
    other = Scan(nib.Nifti1Image(image.transpose(2, 0, 1)[::-1].copy(), turned))
    again = finder.marked(other)
    assert np.array_equal(again.affine, turned)
    assert np.array_equal(np.asarray(again.image), marks.transpose(2, 0, 1)[::-1])


def test_lesions_are_counted_by_size(tmp_path: Path) -> None:
    class Left:
        """Marks the first half of every scan along its first axis."""

        def marked(self, scan: Scan) -> Scan:
            half = np.zeros(scan.shape, np.uint8)
            half[: len(half) // 2] = 1
            return Scan(nib.Nifti1Image(half, scan.affine), in_hu=False)

    class Nothing(Left):
        def marked(self, scan: Scan) -> Scan:
            return Scan(nib.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine), in_hu=False)

    for n in range(3):
        write_lesion(tmp_path, f"n{n}", n)
    found = found_by_size(Left(), tmp_path)  # type: ignore[arg-type]
    assert sum(each["lesions"] for each in found.values()) == 3
    assert all(each["found"] == each["lesions"] for each in found.values())
    missed = found_by_size(Nothing(), tmp_path)  # type: ignore[arg-type]
    assert {size: each["lesions"] for size, each in missed.items()} == {
        size: each["lesions"] for size, each in found.items()
    }
    assert not any(each["found"] for each in missed.values())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="liver_finder must be a file of weights, got"):
        LiverFinder(tmp_path / "none.pth")
    torch.save({"start.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"liver_finder must be weights of a KiU-Net, got"):
        LiverFinder(tmp_path / "other.pth")

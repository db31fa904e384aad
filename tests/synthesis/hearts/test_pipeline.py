"""One heart through the pipeline: only lesions change, records say what was done."""

from collections.abc import Sequence
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest

from tools.phantoms.heart_mr import heart_mr
from tools.synthesis.generator import SliceSettings, WindowJob, unscaled
from tools.synthesis.hearts.pipeline import HeartPlan, HeartWindow, plan_heart
from tools.synthesis.records import BundleRecord
from tools.synthesis.sampling import SynthesisResult, sample_scans
from tools.synthesis.scan import Scan

SETTINGS = SliceSettings((1, 2, 3, 4), (48, 48), 1.6, (0.5, 99.5), 0, (3, 4))
SHAPE, SPACING = (72, 64, 6), (1.4, 1.4, 9.0)


class LevelGenerator:
    """Stands for a bundle: fills everything with a level of [-1, 1] that its seed chooses."""

    window = None
    slices = SETTINGS
    presets: ClassVar[dict] = {"flat": {"histogram": [1 / 32] * 32}}
    record = BundleRecord("level", "0.1.0")

    def __init__(self, levels: Sequence[float] = (0.5,)) -> None:
        self.levels, self.jobs = list(levels), []
        self.settings = {"num_inference_steps": 1}

    def sample(self, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
        self.jobs += jobs
        level = self.levels[min(len(self.jobs), len(self.levels)) - 1]
        return [unscaled(np.full(job.image.shape, level, np.float32), job.window) for job in jobs]


def healthy_heart(axes: tuple[int, int, int] = (0, 1, 2)) -> tuple[Scan, np.ndarray, np.ndarray]:
    """Return a heart, its label map and a lesion in its wall, their axes in some order."""
    phantom = heart_mr(SHAPE, SPACING, seed=3)
    wall = np.argwhere(phantom.label == 2)
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[tuple(wall[(wall[:, 2] == 2) & (wall[:, 0] < wall[:, 0].mean())].T)] = 3
    inner = np.argwhere(lesion)
    lesion[tuple(inner[: len(inner) // 4].T)] = 4
    affine = phantom.affine[:, [*axes, 3]]
    image, label, lesion = (np.transpose(a, axes) for a in (phantom.image, phantom.label, lesion))
    return Scan(nib.Nifti1Image(np.ascontiguousarray(image), affine)), label, lesion


def synthesize(
    scan: Scan, window: HeartWindow, plan: HeartPlan, generator: LevelGenerator, attempts: int = 3
) -> SynthesisResult:
    return sample_scans([plan_heart(scan, window, plan, generator)], generator, attempts)[0]


def plan_of(scan: Scan, window: HeartWindow, lesion: np.ndarray) -> HeartPlan:
    histogram = [0.0] * 32
    histogram[12] = histogram[16 + 12] = 1.0
    label = np.transpose(lesion, window.order)
    return HeartPlan(label, 40.0, "test", "bright", histogram, 7)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_only_lesion_voxels_change_and_the_label_map_is_carried(axes: tuple[int, int, int]) -> None:
    scan, organ, lesion = healthy_heart(axes)
    window = HeartWindow.open(scan, organ, SETTINGS)
    result = synthesize(scan, window, plan_of(scan, window, lesion), LevelGenerator())
    changed = result.stored != scan.stored
    assert changed.any()
    assert not changed[lesion == 0].any()
    assert np.array_equal(result.label, np.where(lesion > 0, lesion, organ))
    expected = unscaled(np.array(0.5), window.range)
    assert np.allclose(result.stored[lesion > 0], np.rint(expected), atol=1)


def test_axes_of_the_file_do_not_change_what_the_model_sees() -> None:
    seen = []
    for axes in ((0, 1, 2), (2, 0, 1)):
        scan, organ, lesion = healthy_heart(axes)
        window = HeartWindow.open(scan, organ, SETTINGS)
        generator = LevelGenerator()
        synthesize(scan, window, plan_of(scan, window, lesion), generator)
        seen.append(generator.jobs[0])
    assert np.allclose(seen[0].image, seen[1].image, atol=1e-3)
    assert np.array_equal(seen[0].lesion_mask, seen[1].lesion_mask)
    assert seen[0].lesion_mask.shape == (2, 48, 48, 8)


def test_records_one_per_class_with_units_and_scale() -> None:
    scan, organ, lesion = healthy_heart()
    window = HeartWindow.open(scan, organ, SETTINGS)
    result = synthesize(scan, window, plan_of(scan, window, lesion), LevelGenerator())
    assert [(r.label, r.class_name) for r in result.records] == [(3, "infarct"), (4, "no_reflow")]
    for record in result.records:
        voxel = np.prod(scan.spacing_mm)
        assert record.volume_mm3 == pytest.approx((lesion == record.label).sum() * voxel, rel=1e-4)
        assert record.histogram_jsd == pytest.approx(0, abs=1e-6)
        assert len(record.histogram_requested) == len(record.histogram_achieved) == 16
        assert record.sampler["intensity_range"] == pytest.approx(window.range, abs=1e-3)
        index = np.linalg.inv(scan.affine) @ [*record.site_mm, 1]
        assert lesion[tuple(np.rint(index[:3]).astype(int))] == record.label


def test_the_best_attempt_is_kept() -> None:
    scan, organ, lesion = healthy_heart()
    window = HeartWindow.open(scan, organ, SETTINGS)
    generator = LevelGenerator((-0.9, 0.55, -0.9))
    result = synthesize(scan, window, plan_of(scan, window, lesion), generator)
    assert len(generator.jobs) == 2  # the second is good enough
    assert {record.attempts for record in result.records} == {2}
    assert {record.seed for record in result.records} == {generator.jobs[1].seed}
    assert generator.jobs[0].seed != generator.jobs[1].seed


def test_a_point_stands_in_for_a_label_map() -> None:
    scan, organ, _ = healthy_heart()
    centre = scan.affine @ [*np.argwhere(organ > 0).mean(0), 1]
    window = HeartWindow.open(scan, np.zeros_like(organ), SETTINGS, centre_mm=centre[:3])
    own = HeartWindow.open(scan, organ, SETTINGS)
    assert np.allclose(window.grid.affine, own.grid.affine, atol=3)
    assert window.tissue is None
    assert own.tissue[0] < own.tissue[1]  # blood is brighter than healthy muscle
    with pytest.raises(ValueError, match="organ_mask must hold an organ, got an empty mask"):
        HeartWindow.open(scan, np.zeros_like(organ), SETTINGS)


def test_what_does_not_fit_is_named() -> None:
    scan, organ, lesion = healthy_heart()
    window = HeartWindow.open(scan, organ, SETTINGS)
    plan = plan_of(scan, window, lesion)
    with pytest.raises(ValueError, match="max_attempts must be at least 1, got 0"):
        synthesize(scan, window, plan, LevelGenerator(), 0)
    with pytest.raises(ValueError, match="label must hold a lesion, got none"):
        synthesize(scan, window, plan._replace(label=0 * plan.label), LevelGenerator())
    only_infarct = plan._replace(label=np.where(plan.label == 4, 3, plan.label))
    result = synthesize(scan, window, only_infarct, LevelGenerator())
    assert [record.label for record in result.records] == [3]

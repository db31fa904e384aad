"""Nodules by subtype: rebinning, the classifier, the measures, and a run on the phantom."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.cli import main
from tools.evaluation import subtype_study
from tools.evaluation.subtype_cases import SubtypeCase, histogram_hu, load_subtype_cases, rebin
from tools.evaluation.subtype_classifier import SubtypeClassifier, lesion_features
from tools.evaluation.subtype_models import Drawn, SubtypeModel, own_requests
from tools.evaluation.subtype_study import measure_drawn
from tools.synthesis.generator import WindowJob
from tools.synthesis.latent_settings import LatentSettings
from tools.synthesis.subtypes import Subtype, SubtypeLibrary

WINDOW = (-1000.0, 400.0)
LEVELS = (0.0, -300.0, -650.0)


def case(subtype: int, seed: int = 0, level: float | None = None) -> SubtypeCase:
    rng = np.random.default_rng([seed, subtype])
    image = rng.normal(-850, 40, (16, 16, 16)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[5:11, 5:11, 5:11] = True
    image[mask] = rng.normal(LEVELS[subtype] if level is None else level, 40, mask.sum())
    histogram = histogram_hu(image, mask, 40, WINDOW)
    return SubtypeCase(f"{subtype}-{seed}", f"p{seed}", image, mask, subtype, 7.4, histogram)


class Painter:
    """Stands in for a generator: fills the mask with the mean of the histogram asked for."""

    latent = LatentSettings(step=8, smallest=16, context=4)
    window = WINDOW
    settings = {"num_inference_steps": 1}  # noqa: RUF012

    def __init__(self, reach: int = 0) -> None:
        self.reach = reach
        self.jobs: list[WindowJob] = []
        rows = {name: np.eye(40)[[k]] for name, k in zip(NAMES, (28, 19, 10), strict=True)}
        self.library = SubtypeLibrary(
            {
                name: Subtype(i, 1 / 3, np.array([8.0]), rows[name], rows[name][0].tolist())
                for i, name in enumerate(NAMES)
            }
        )
        self.presets = self.library.presets

    def sample(self, jobs: list[WindowJob]) -> list[np.ndarray]:
        self.jobs += jobs
        images = []
        for job in jobs:
            image = np.clip(job.image, *self.latent.intensity_range)
            centres = -1000 + 35 * (np.arange(40) + 0.5)
            level = LEVELS[0] if job.histogram is None else np.dot(job.histogram, centres)
            image[job.lesion_mask] = level
            if self.reach:
                image[0, 0, : self.reach] += 5
            images.append(image)
        return images


NAMES = ("solid", "part_solid", "ground_glass")


def test_rebinning_keeps_the_sum_and_undoes_itself() -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(8))
    fine = rebin(values, 40)
    assert sum(fine) == pytest.approx(1)
    assert rebin(fine, 8) == pytest.approx(values)


def test_a_limit_is_shared_by_the_subtypes(tmp_path: Path) -> None:
    import nibabel as nib

    files = []
    for i, texture in enumerate(["solid"] * 6 + [3.0] + [None]):
        paths = {key: str(tmp_path / f"{i}_{key}.nii.gz") for key in ("image", "label")}
        one = case(0, i)
        nib.save(nib.Nifti1Image(one.image.astype(np.int16), np.eye(4)), paths["image"])
        nib.save(nib.Nifti1Image(one.lesion_mask.astype(np.uint8), np.eye(4)), paths["label"])
        files.append(paths | ({} if texture is None else {"texture": texture}))
    settings = LatentSettings(step=8, context=4, smallest=16)
    found = load_subtype_cases(files, settings, WINDOW, limit=6)
    assert [one.subtype for one in found] == [0, 0, 1]
    assert found[0].image.shape == (16, 16, 16)
    assert sum(found[0].histogram) == pytest.approx(1)
    with pytest.raises(ValueError, match="must have lesions with a texture"):
        load_subtype_cases(files[-1:], settings, WINDOW)


def test_the_classifier_knows_clear_subtypes_and_notices_wrong_ones() -> None:
    train = [case(subtype, seed) for seed in range(8) for subtype in range(3)]
    test = [case(subtype, 100 + seed) for seed in range(3) for subtype in range(3)]
    classifier = SubtypeClassifier(train)
    images, masks = [one.image for one in test], [one.lesion_mask for one in test]
    right = classifier.measure(images, masks, [one.subtype for one in test])
    assert right["balanced_accuracy"] == 1
    assert right["chance"] == pytest.approx(1 / 3)
    wrong = classifier.measure(images, masks, [(one.subtype + 1) % 3 for one in test])
    assert wrong["balanced_accuracy"] == 0
    assert np.sum(wrong["table"]) == 9
    with pytest.raises(ValueError, match="got an empty mask"):
        lesion_features(images[0], np.zeros_like(masks[0]))


def test_measures_of_the_real_image_are_perfect_and_of_another_are_not() -> None:
    cases = [case(0), case(2)]
    requests = own_requests(cases)
    same = measure_drawn(cases, Drawn([c.image for c in cases], 0, 1.0), requests, WINDOW)
    assert set(same) == {"all", "solid", "ground_glass"}
    assert same["all"]["jsd"]["median"] == pytest.approx(0, abs=1e-6)
    shifted = [np.where(c.lesion_mask, c.image + 105, c.image) for c in cases]
    moved = measure_drawn(cases, Drawn(shifted, 0, 1.0), requests, WINDOW)
    assert moved["ground_glass"]["w1_hu"]["median"] == pytest.approx(105, abs=1)
    row = moved["ground_glass"]
    assert row["mean_hu_drawn"]["median"] - row["mean_hu_asked"]["median"] == pytest.approx(105, 1)


def test_drawing_keeps_what_the_range_clips_and_counts_changes_beyond_the_margin() -> None:
    one = case(0)
    one.image[15, 15, 15] = 2500
    one.image[1, 1, 1] = -1024
    model = SubtypeModel("m", Painter(), 3.0, "")  # type: ignore[arg-type]
    drawn = model.draw([one], own_requests([one]), 0, "own")
    assert drawn.beyond == 0
    assert np.array_equal(drawn.images[0][~one.lesion_mask], one.image[~one.lesion_mask])
    reaching = SubtypeModel("m", Painter(reach=4), 3.0, "")  # type: ignore[arg-type]
    assert reaching.draw([one], own_requests([one]), 0, "own").beyond == 4


def test_evaluate_writes_tables_for_the_model_and_its_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painters: dict[str, Painter] = {}

    def load(name: str, *_: Any) -> SubtypeModel:
        painters[name] = Painter()
        return SubtypeModel(name, painters[name], 3.0, "0" * 16)  # type: ignore[arg-type]

    monkeypatch.setattr(subtype_study, "load_model", load)
    arguments = ["evaluate", "--bundle", "bundles/hr_ldm", "--dataset_dir", "", "--limit", "6"]
    main([*arguments, "--out", str(tmp_path), "--variants", "plain::w.pt"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "results.png").is_file()
    assert list(results["models"]) == ["hr_ldm", "plain"]
    ours = results["models"]["hr_ldm"]
    assert ours["changed_beyond_margin"] == 0
    assert set(ours["requests"]) == {
        *("own", "histogram only", "subtype only", "nothing", *NAMES),
    }
    # asked for one bin, painted with its centre: nothing is missed
    assert ours["requests"]["ground_glass"]["ground_glass"]["jsd"]["median"] < 1e-6
    assert "balanced accuracy" in (tmp_path / "results.md").read_text()
    parts = {(job.histogram is None, job.subtype < 0) for job in painters["hr_ldm"].jobs}
    assert parts == {(a, b) for a in (True, False) for b in (True, False)}

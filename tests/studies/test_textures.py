"""What a lesion looks like is measured rightly: on images whose values are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tests.studies.conftest import made_case, study_of
from tools.studies import textures
from tools.studies.cases import Case, other_cases, taken_out
from tools.studies.methods import MeanFill, Request, TextureMethod, parse_variants, rebin
from tools.studies.textures import (
    border_jump,
    changes,
    compare_values,
    fit_log_linear,
    lesion_crops,
    lesion_mean,
    slice_features,
    tissue_contrasts,
)


def method_of(asked: list[Tensor | None]) -> TextureMethod:
    """A method that asked for this, and is compared with it."""
    return TextureMethod("m", asked=[Request(rows) for rows in asked], targets={"m": asked})


def measured(cases: list[Case], images: list[np.ndarray], asked: list[Tensor | None]) -> dict:
    of = ["divergence", "wasserstein", "mean_asked", "mean_drawn"]
    found = textures.histograms(study_of(cases, method_of(asked), images), ["m"], of)
    return found["methods"]["m"]["m"]["all"]


def test_the_real_image_meets_its_own_histogram_and_none_asked_does_not_count(
    cases: list[Case],
) -> None:
    asked = [None, *(c.histograms for c in cases[1:])]
    found = measured(cases, [c.image for c in cases], asked)
    assert found["divergence"]["median"] == pytest.approx(0, abs=1e-6)
    assert found["wasserstein"]["median"] == pytest.approx(0, abs=1e-3)
    assert found["mean_asked"] == found["mean_drawn"]
    assert found["divergence"]["n"] == len(cases) - 1


def test_another_image_is_off_by_its_distance(cases: list[Case]) -> None:
    # the lowest bin was requested, the highest delivered: no overlap, ln 2
    asked = [torch.eye(16)[[0]] for _ in cases]
    found = measured(cases, [np.ones_like(c.image) for c in cases], asked)
    assert found["divergence"]["median"] == pytest.approx(np.log(2))
    assert found["wasserstein"]["median"] == pytest.approx(15 * 87.5)
    step = found["mean_drawn"]["median"] - found["mean_asked"]["median"]
    assert step == pytest.approx(15 * 87.5)


def test_chance_is_that_of_a_multinomial_draw() -> None:
    # JSD is chi-squared / 8n for large n: (k - 1) / 8n on average, k = 16 equal bins, n = 100
    cases = [made_case(0)] * 300
    uniform = study_of(cases, method_of([torch.full((1, 16), 1 / 16)] * 300), [])
    found = textures.chance(uniform, ["m"])["methods"]["m"]
    assert found["mean"] == pytest.approx(15 / 800, rel=0.1)
    certain = study_of(cases, method_of([torch.eye(16)[[3]]] * 300), [])
    assert max(textures.chance(certain, ["m"])["cases"]["m"]) == 0


@pytest.mark.parametrize(("r", "s"), [(0.0, 1.0), (0.3, 0.6), (1.0, 0.0)])
def test_the_share_of_original_and_control_is_found(r: float, s: float) -> None:
    rng = np.random.default_rng(0)
    original, control = rng.dirichlet(np.full(16, 5.0), (2, 12))
    # O = exp(m), not normalised: p + q is found as well
    fit = fit_log_linear(original, control, np.exp(r * np.log(original) + s * np.log(control) - 1))
    assert (fit.r, fit.s) == pytest.approx((r, s), abs=0.02)
    assert fit.p == pytest.approx(fit.q)
    assert fit.p + fit.q == pytest.approx(-1, abs=0.1)


def test_one_fit_tells_how_far_the_control_is_obeyed(cases: list[Case]) -> None:
    asked = [cases[k - 1].histograms for k in range(len(cases))]
    # images of another size: the mask of all lesions is the same corner
    images = [np.ones_like(case.image) for case in cases]
    for k, case in enumerate(cases):
        images[k][case.lesion] = cases[k - 1].image[cases[k - 1].lesion]
    obeyed = study_of(cases, method_of(asked), images)
    found = textures.log_linear(obeyed, ["m"])["methods"]["m"]
    assert found["s"] == pytest.approx(1, abs=1e-5)
    assert found["r"] == pytest.approx(0, abs=1e-5)
    assert found["control"]["median"] == pytest.approx(0, abs=1e-6)
    kept = study_of(cases, method_of(asked), [case.image for case in cases])
    found = textures.log_linear(kept, ["m"])["methods"]["m"]
    assert (found["r"], found["s"]) == pytest.approx((1, 0), abs=1e-5)
    assert found["divergence"]["median"] < 0.01 < found["control"]["median"]


def test_mean_is_in_the_units_of_the_scan(cases: list[Case]) -> None:
    assert lesion_mean(np.zeros_like(cases[0].image), cases[0]) == -300
    assert lesion_mean(np.ones_like(cases[0].image), cases[0]) == 400


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_changes_are_counted_outside_only_beyond_the_margin(margin: float) -> None:
    case = made_case(0, 16)
    inside = np.where(case.lesion, 1.0, case.image)
    found = changes(inside, case, margin)
    assert (found["outside"], found["inside"], found["largest"]) == (0, 100, 0)
    inside[6, 4, 3] += 0.25  # beside the lesion
    assert changes(inside, case, margin)["outside"] == (1 if margin == 0 else 0)
    inside[15, 15, 15] += 0.25
    assert changes(inside, case, margin)["largest"] == pytest.approx(0.25)


def heart() -> tuple[np.ndarray, np.ndarray]:
    """A slice: blood 0.6, myocardium -0.4 (unit 1), infarct 0.8 (contrast 1.2), core 0.1 (0.5)."""
    tissue = np.zeros((6, 6, 2), int)
    tissue[0, :, 0], tissue[1, :, 0] = 1, 2
    tissue[2:6, :, 0] = 3
    tissue[3:5, 2:4, 0] = 4
    image = np.choose(tissue, [-1.0, 0.6, -0.4, 0.8, 0.1])
    return image, tissue


def parts(tissue: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.stack([tissue == 3, tissue == 4]), tissue == 2, tissue == 1


@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.3, 0.1)])
def test_contrast_is_zero_at_myocardium_and_one_at_blood_in_any_units(scale: tuple) -> None:
    image, tissue = heart()
    found = tissue_contrasts(scale[0] * image + scale[1], *parts(tissue))
    assert found == pytest.approx({"first": 1.2, "second": 0.5, "ratio": 0.5 / 1.2})


def test_absent_class_and_blood_without_contrast_are_undefined() -> None:
    image, tissue = heart()
    without_core = tissue_contrasts(image, *parts(np.where(tissue == 4, 3, tissue)))
    assert (without_core["second"], without_core["ratio"]) == (None, None)
    flat = np.where(tissue == 1, -0.4, image)
    assert set(tissue_contrasts(flat, *parts(tissue)).values()) == {None}
    assert border_jump(flat, *parts(tissue)) == {"fall": None, "step": None}


def test_border_counts_the_neighbours_within_the_slice() -> None:
    image, tissue = heart()
    # the next slice holds infarct below the core and must not count
    tissue[3:5, 2:4, 1] = 3
    image[3:5, 2:4, 1] = -1
    jump = border_jump(image, *parts(tissue))
    assert jump == {"fall": pytest.approx(0.7), "step": pytest.approx(0.7)}
    # a step sees roughness that the mean fall hides
    image[3, 2:4, 0], image[4, 2:4, 0] = 0.8 + 0.5, 0.8 - 0.5
    jump = border_jump(image, *parts(tissue))
    assert jump == {"fall": pytest.approx(0, abs=1e-12), "step": pytest.approx(0.5)}
    image, tissue = heart()
    tissue[2:6, :, 0] = 3
    tissue[4, 3, 1] = 4  # infarct above it, none beside it
    assert border_jump(image, *parts(tissue))["fall"] is None


def test_shift_is_the_distance_and_cases_count_alike() -> None:
    found = compare_values([1.0, 3.0], [[1.5], [3.5, 3.5, 3.5]])
    assert found is not None
    assert (found["wasserstein"], found["error"], found["n"]) == pytest.approx((0.5, 0.5, 2))
    swapped = compare_values([1.0, 3.0, None], [[3.0], [1.0], [7.0]])
    assert swapped is not None
    assert (swapped["wasserstein"], swapped["error"]) == pytest.approx((0.0, 2.0))
    assert compare_values([None], [[1.0]]) is None


def test_crop_is_about_the_lesion_inside_the_window_and_whole_hu() -> None:
    case = made_case(0, 24)
    cut = lesion_crops([case, case], size=16)
    assert cut.shape == (2, 1, 16, 16, 16)
    # the centre is nearer to the border than 8 voxels along each axis
    part = torch.from_numpy(case.image[:16, :16, :16])
    assert float((cut[0, 0] - part).abs().max()) <= 0.5 / 700 + 1e-6
    assert torch.allclose(cut * 700, (cut * 700).round(), atol=1e-3)
    assert torch.equal(lesion_crops([case], [case.image], size=16), cut[:1])


def test_features_of_a_flat_lesion() -> None:
    masks = np.zeros((2, 9, 9))
    masks[0, 2:7, 2:7] = 1
    features = slice_features(np.where(masks[0] > 0, 0.5, -0.5), masks)
    assert features[:2] == [0.5, 0.0]
    assert features[4:8] == [0.0] * 4
    assert features[8] == -0.5
    assert len(features) == 10


def test_mean_fill_is_flat_inside_and_untouched_outside(cases: list[Case]) -> None:
    for case, filled in zip(cases, MeanFill("m").generate(cases, 0), strict=True):
        assert np.unique(filled[case.lesion]) == pytest.approx([case.image[case.lesion].mean()])
        assert np.array_equal(filled[~case.lesion], case.image[~case.lesion])


def test_others_have_the_same_classes_and_are_another_where_there_is_one() -> None:
    cases = [made_case(i) for i in range(5)]
    cases[2].histograms.zero_()
    order = other_cases(cases, 3)
    assert order[2] == 2
    assert sorted(order) == list(range(5))
    assert all(order[i] != i for i in (0, 1, 3, 4))


def test_rebinning_keeps_the_sum_and_undoes_itself() -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(8))
    fine = rebin(values, 40)
    assert sum(fine) == pytest.approx(1)
    assert rebin(fine, 8) == pytest.approx(values)


def test_variants_come_as_text_or_list_and_differ() -> None:
    listed = parse_variants(["S:single.json:a.pt", "JH::b.pt"])
    assert listed == parse_variants("S:single.json:a.pt, JH::b.pt")
    assert parse_variants("") == []
    for text in ("J:joint.json", ":joint.json:w.pt", "J:joint.json:"):
        with pytest.raises(ValueError, match="must be a list of NAME:OVERLAY:WEIGHTS, got"):
            parse_variants(text)
    with pytest.raises(ValueError, match="variants must have different names"):
        parse_variants("S:a.json:a.pt,S:b.json:b.pt")


def test_a_case_is_drawn_on_surroundings_that_know_nothing_of_its_lesion() -> None:
    case, shown = made_case(1, 24), []
    near = ndimage.distance_transform_edt(~case.lesion) <= 2
    for marker in (0.9, -0.9):
        marked = replace(case, image=np.where(near, marker, case.image))
        shown.append(taken_out(marked).shown)
        drawn = next(MeanFill("m").generate([taken_out(marked)], 0))
        assert drawn[case.lesion] == pytest.approx(marker)  # what is asked for is the real one's
        assert np.array_equal(drawn[~case.lesion], shown[-1][~case.lesion])
        assert changes(drawn, taken_out(marked))["outside"] == 0
    assert np.array_equal(*shown)
    assert np.array_equal(shown[0][12:], case.image[12:])
    assert case.shown is case.image

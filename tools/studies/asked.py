"""Asked against got: whether synthetic lesions are what ``synthesize`` was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import apply_affine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from tools.histograms import jensen_shannon_divergence
from tools.metrics.lesion_edit import wasserstein_distance_hu
from tools.scans.scan import Scan
from tools.studies.judge import Listed, Measured, feature_sets, listed
from tools.studies.statistics import bootstrap_interval, quartiles
from tools.synthesis.dicom.segmentation import lesion_numbers
from tools.synthesis.records import LesionRecord
from tools.transforms.conditions import SUBTYPES

__all__ = ["asked_and_got", "named_subtypes"]

ERRORS = ("diameter_mm", "centre_mm", "histogram_jsd", "histogram_w1", "inside_share")
FOLDS, FEWEST = 5, 3


def asked_and_got(source: str | Path, seed: int = 0) -> dict[str, Any] | None:
    """Return how far lesions lie from what was asked for; None where no record tells of any.

    ``diameter_mm``: got less asked, as the organ's table defines diameters. ``centre_mm``: from the
    site to the middle of the label. ``histogram_jsd`` in nats and ``histogram_w1`` in the scan's
    units: of the histograms asked and got. ``inside_share``: of the lesion in the organ, where a
    mask of it lies beside the scan or in the datalist. Quartiles with intervals by case; ``rows``
    are the lesions. What was not asked for is left out.

    Args:
        source: folder that ``synthesize`` wrote, or a datalist of such.
        seed: of the bootstrap.
    """
    rows: list[dict[str, Any]] = []
    for case in tqdm(list(listed(Path(source))), desc="asked and got"):
        record = case.record()
        if record is not None and record.lesions:
            rows += _of_case(case, record.lesions)
    if not rows:
        return None
    found: dict[str, Any] = {"lesions": len(rows)}
    for name in ERRORS:
        found[name] = quartiles([row[name] for row in rows], [row["case"] for row in rows], seed)
    return {**found, "rows": rows}


def _of_case(case: Listed, lesions: Sequence[LesionRecord]) -> list[dict[str, Any]]:
    scan = Scan(case.image)
    labels = scan.load_labels(case.label, "label")
    voxels = np.argwhere(labels > 0)
    values = labels[tuple(voxels.T)]
    numbers = lesion_numbers(voxels, values, labels.shape, scan.affine, lesions)
    organ = None
    if case.organ_mask is not None:
        organ = np.asarray(scan.load_mask(case.organ_mask, "organ_mask"))
    rows = []
    for number, lesion in enumerate(lesions, 1):
        mine = voxels[numbers == number]
        if not len(mine):
            continue
        middle = apply_affine(scan.affine, mine.mean(0))
        wanted = lesion.diameter_requested_mm
        rows.append(
            {
                "case": case.name,
                "class": lesion.class_name,
                "texture": lesion.texture,
                "diameter_mm": None if wanted is None else lesion.diameter_mm - wanted,
                "centre_mm": float(np.linalg.norm(middle - lesion.site_mm)),
                "histogram_jsd": None,
                "histogram_w1": None,
                "inside_share": None if organ is None else float(organ[tuple(mine.T)].mean()),
                **_histograms(lesion),
            }
        )
    return rows


def _histograms(lesion: LesionRecord) -> dict[str, float]:
    limits = lesion.sampler.get("intensity_range")
    if lesion.histogram_requested is None or lesion.histogram_achieved is None or limits is None:
        return {}
    got, wanted = (
        torch.tensor([float(share) for share in row])
        for row in (lesion.histogram_achieved, lesion.histogram_requested)
    )
    return {
        "histogram_jsd": jensen_shannon_divergence(got, wanted).item(),
        "histogram_w1": wasserstein_distance_hu(got, wanted, limits).item(),
    }


def named_subtypes(real: Measured, synthetic: Measured, seed: int = 0) -> dict[str, Any] | None:
    """Return which subtype a classifier of real lesions alone names synthetic ones.

    A logistic regression on radiomic features, rare subtypes weighted up. ``real``: balanced
    accuracy on real lesions of patients that it did not see (folds by patient), with its interval
    by patient; ``synthetic`` likewise, where lesions were asked for a subtype; ``chance``;
    ``named``: how many of each subtype asked (``unknown`` where none was) are named what. None
    where fewer than two subtypes have three real patients.

    Args:
        real: lesions of which some have a ``subtype``.
        synthetic: measured likewise.
        seed: of folds and bootstrap.
    """
    owners = {
        name: {p for p, each in zip(real.patients, real.subtypes, strict=True) if each == name}
        for name in SUBTYPES
    }
    names = [name for name in SUBTYPES if len(owners[name]) >= FEWEST]
    if len(names) < 2:
        return None
    one, other = feature_sets(real, synthetic)["all"]
    rows = np.flatnonzero(np.isin(real.subtypes, names))
    truth, patients = np.array(real.subtypes)[rows], np.array(real.patients)[rows]
    regression = LogisticRegression(C=0.05, class_weight="balanced", max_iter=2000)
    model = make_pipeline(StandardScaler(), regression)
    folds = StratifiedGroupKFold(
        min(FOLDS, *(len(owners[name]) for name in names)), shuffle=True, random_state=seed
    )
    seen = cross_val_predict(model, one[rows], truth, groups=patients, cv=folds)
    named = model.fit(one[rows], truth).predict(other)
    asked = np.array([each if each in names else "unknown" for each in synthetic.subtypes])
    known = asked != "unknown"
    found: dict[str, Any] = {
        "chance": 1 / len(names),
        "real": _accuracy(truth, seen, patients, seed),
        "synthetic": None,
        "names": names,
        "named_real": confusion_matrix(truth, seen, labels=names).tolist(),
        "named": {
            each: [int((named[asked == each] == name).sum()) for name in names]
            for each in [*names, "unknown"]
            if (asked == each).any()
        },
    }
    if known.any():
        groups = np.array(synthetic.patients)[known]
        found["synthetic"] = _accuracy(asked[known], named[known], groups, seed)
    return found


def _accuracy(
    truth: np.ndarray, named: np.ndarray, patients: np.ndarray, seed: int
) -> dict[str, float]:
    def balanced(rows: np.ndarray) -> float:
        shares = [(named[rows] == truth[rows])[truth[rows] == each] for each in set(truth[rows])]
        return float(np.mean([share.mean() for share in shares]))

    low, high = bootstrap_interval(patients, balanced, seed)
    return {"value": float(balanced_accuracy_score(truth, named)), "low": low, "high": high}

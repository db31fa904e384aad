"""A bundle fine-tuned on lesions of the user's own, and whether it got better (``adapt``)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import GroupKFold

from tools.bundle import Bundle, find_bundle
from tools.files import new_file, new_folder, read_entries, read_object, write_json
from tools.prepare.scans import bundle_rule, prepare_scans, require_prepared
from tools.studies.compare import Settings, compare, read_preset
from tools.studies.downstream.pools import write_subset
from tools.studies.downstream.train_bundle import train_bundle
from tools.studies.judge import LEAST
from tools.studies.other_organ import (
    PLACES,
    as_of_organ,
    bundle_of_organ,
    organ_of,
    require_organ,
    table_of,
)
from tools.studies.request import require_one_request
from tools.studies.tables import grid

__all__ = ["FILES", "Adaptation", "adapt"]

OF_ORGAN = ("unadapted", "textures", "preset.json")
FILES = ("request.json", "data", "fold_*", "all", "adapted", "adapt.json", "adapt.md", *OF_ORGAN)
ADAPTED = "adapted"
UNADAPTED = "unadapted"  # the bundle made ready for another organ
# what is told of both, where it lies in what compare returns, its form, and whether more is better
MEASURES: dict[str, tuple[tuple[str, ...], str]] = {
    "JSD (nats)": (("jsd", "mean"), ".3f"),
    "PSNR (dB)": (("psnr", "mean"), ".1f"),
    "SSIM (%)": (("ssim", "mean"), ".0f"),
    "AUC inside": (("told_apart", "inside", "value"), ".2f"),
    "AUC border": (("told_apart", "border", "value"), ".2f"),
    "Frechet inside": (("distances", "frechet_radiomics_inside", "value"), ".3g"),
}


class Adaptation(NamedTuple):
    """What is wanted; see the command."""

    bundle: str
    folds: int = 3
    epochs: int = 20
    learning_rate: float = 0.0002
    steps: int | None = None
    weights: str | None = None
    device: str = "auto"
    seed: int = 0
    classes: Sequence[int] = ()
    dataset_dir: str | None = None
    organ: str | None = None
    window_hu: Sequence[float] | None = None


def adapt(datalist: str | Path, out: Path, wanted: Adaptation) -> dict[str, Any]:
    """Fine-tune a bundle on the lesions of a datalist, measure it on folds, and keep one of all.

    In each fold the bundle is trained on, from its own weights, with the lesions of the other
    folds, and lesions of the fold are drawn anew by the bundle before and after, at their own
    masks and asked for their own histograms (:func:`tools.studies.compare.compare`). What is kept,
    ``OUT/adapted``, is trained on all lesions in the same way, so the folds tell what to expect of
    it. All steps are kept and taken up again. For another organ than the bundle's own, the bundle
    is first made ready for it (:func:`tools.studies.other_organ.bundle_of_organ`): what learns and
    what is measured "before" is then ``OUT/unadapted``.

    Args:
        datalist: of scans with masks, as ``prepare scans`` takes it; its section training.
        out: folder to write.
        wanted: see above.

    Returns:
        ``folds``: by fold the measures before and after; ``lesions``, ``patients``.

    Raises:
        ValueError: if the bundle cannot be trained on, or there are too few lesions or patients.
    """
    _require_adaptable(wanted)
    asked = {key: value for key, value in wanted._asdict().items() if key != "device"}
    require_one_request(out, {"datalist": datalist, **asked})
    rule = bundle_rule(wanted.bundle, classes=list(wanted.classes) or None)
    data = out / "data"
    made = prepare_scans(
        datalist, data, rule, validation_fraction=0.0, dataset_dir=wanted.dataset_dir
    )
    require_prepared(made)
    entries = read_entries(data / "datalist.json", "datalist")
    divided = _folds(entries, wanted)
    wanted = _ready(wanted, data, out)
    preset = _preset(wanted.bundle) or _preset_of(find_bundle(wanted.bundle), out / "preset.json")
    folds = []
    for number, (training, tested) in enumerate(divided, 1):
        place = out / f"fold_{number}"
        write_subset(place / "data", data, training, tested)
        adapted = _trained(place, wanted)
        folds.append({"lesions": len(tested)} | _measured(place, adapted, preset, wanted))
    write_subset(out / "all" / "data", data, entries)
    patients = {str(each["patient"]) for each in entries}
    results = {"lesions": len(entries), "patients": len(patients), "folds": folds}
    results |= {"bundle": wanted.bundle, "adapted": str(out / ADAPTED)}
    results |= {"settings": wanted._asdict()}
    _keep(_trained(out / "all", wanted), out / ADAPTED, results)
    write_json(out / "adapt.json", results)
    with new_file(out / "adapt.md") as partial:
        partial.write_text("\n".join(table(results)) + "\n", encoding="utf-8")
    return results


def _keep(trained: Path, folder: Path, results: Mapping[str, Any]) -> None:
    """Copy the bundle that learnt from all lesions; its README says so first."""
    if folder.is_dir():
        return
    with new_folder(folder, PLACES) as partial:
        shutil.copytree(trained, partial, dirs_exist_ok=True)
        readme, origin = partial / "docs" / "README.md", Path(results["bundle"]).name
        readme.parent.mkdir(exist_ok=True)  # a bundle of one's own may have none
        before = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        said = [
            f"# {origin}, adapted",
            "",
            f"The weights of `{origin}`, trained on for {results['settings']['epochs']} epochs on "
            "lesions of one's own (`python -m tools adapt`), whose terms of use hold beside those "
            "in `data_license.txt`. What to expect, measured by bundles that had not learnt from "
            "the lesions they drew:",
            "",
            *table(results),
            "",
            f"What follows was written of `{origin}`: figures, data and licences are of its own "
            "weights.",
            "",
            before,
        ]
        readme.write_text("\n".join(said), encoding="utf-8")


def _require_adaptable(wanted: Adaptation) -> None:
    configs = find_bundle(wanted.bundle) / "configs"
    config = read_object(configs / "train.json", "bundle")
    draws = (configs / "synthesize.json").is_file() and config.get("prepare", {}).get(
        "form"
    ) != "masks"
    if not draws or "start_weights" not in config:
        raise ValueError(
            "bundle must draw lesions into scans and have start_weights in its train.json, got "
            f"{wanted.bundle}"
        )
    if wanted.organ is not None:
        require_organ(wanted.bundle, wanted.organ, wanted.window_hu)
    elif wanted.window_hu is not None:
        raise ValueError(f"window_hu goes with organ, got {tuple(wanted.window_hu)} without one")


def _ready(wanted: Adaptation, data: Path, out: Path) -> Adaptation:
    """Return the task with a bundle of the organ wanted."""
    if wanted.organ is None:
        return wanted
    folder = bundle_of_organ(wanted.bundle, wanted.organ, wanted.window_hu, data, out / UNADAPTED)
    return wanted._replace(bundle=str(folder))


def _preset_of(bundle: Path, path: Path) -> str:
    """Write a preset of ``compare`` for a bundle of an organ that compare does not know."""
    preset = read_preset("lung") | {"title": "Before and after", "bundle": str(bundle)}
    window = read_object(bundle / "configs" / "inference.json", "bundle")["window_hu"]
    preset |= {"controls": 0, "shown": preset["shown"] | {"window": window}}
    preset |= {"published": {"source": "", "differs": "", "measures": {}, "methods": {}}}
    write_json(path, preset)
    return str(path)


def _preset(bundle: str) -> str | None:
    """Return the preset of ``compare`` that is of the bundle's organ; None: of one of its own.

    Raises:
        ValueError: if it is of another organ that compare does not know.
    """
    organs = {}
    for path in sorted(Path(__file__).parent.glob("compare_*.json")):
        name = path.stem.removeprefix("compare_")
        organs[organ_of(find_bundle(read_preset(name)["bundle"]))] = name
    mine = organ_of(find_bundle(bundle))
    if mine not in organs and not isinstance(mine, Path):
        raise ValueError(f"bundle must be of an organ that compare knows, got {mine}")
    return organs.get(mine)


def _folds(
    entries: Sequence[Mapping[str, Any]], wanted: Adaptation
) -> list[tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]]:
    """Return the lesions to train on and to test on, no patient on both sides."""
    patients = [str(each["patient"]) for each in entries]
    if not 2 <= wanted.folds <= len(set(patients)):
        raise ValueError(
            f"folds must be from 2 to the number of patients ({len(set(patients))}), got "
            f"{wanted.folds}"
        )
    split = GroupKFold(wanted.folds, shuffle=True, random_state=wanted.seed)
    found = []
    for training, tested in split.split(np.zeros(len(entries)), groups=patients):
        if len(tested) < LEAST:
            raise ValueError(
                f"folds must hold {LEAST} lesions each, got {len(tested)} of {len(entries)} in one "
                f"of {wanted.folds} (take fewer folds)"
            )
        found.append(tuple([entries[k] for k in part] for part in (training, tested)))
    return found  # type: ignore[return-value]


def _trained(place: Path, wanted: Adaptation) -> Path:
    """Return the bundle with weights trained on ``place/data``."""
    start = Bundle(wanted.bundle, "cpu", weights=wanted.weights).weights
    changes = {
        "start_weights": str(start),
        "max_epochs": wanted.epochs,
        "learning_rate": wanted.learning_rate,
        "seed": wanted.seed,
    }
    weights = train_bundle(wanted.bundle, place / "data", place / "training", changes)
    return _with_weights(wanted.bundle, weights, place, ADAPTED)


def _with_weights(bundle: str, weights: str | Path, place: Path, word: str) -> Path:
    """Return the bundle with other weights, as a folder of another name."""
    target = place / f"{Path(bundle).name}_{word}"
    if not target.is_dir():
        with new_folder(target, PLACES) as partial:
            shutil.copytree(find_bundle(bundle), partial, dirs_exist_ok=True)
            shutil.copyfile(weights, partial / "models" / "model.pt")
    return target


def _measured(place: Path, adapted: Path, preset: str, wanted: Adaptation) -> dict[str, Any]:
    """Return the measures of a fold before and after."""
    before = wanted.bundle
    if wanted.weights is not None:
        before = str(_with_weights(before, wanted.weights, place, "before"))
    methods = [before, str(adapted)]
    settings = Settings(
        preset=preset,
        methods=methods,
        limit=10_000,
        seed=wanted.seed,
        steps=_steps(wanted, preset),
        device=wanted.device,
    )
    data, organ = place / "data", table_of(wanted.bundle)
    if organ.chart == "box" and organ.values != (1,):  # what prepare calls a lesion
        data = as_of_organ(data, organ)
    found = compare(data, place / "compare", settings)["methods"]
    sides = [found[Path(method).name] for method in methods]
    return {
        side: {name: _at(each, path) for name, (path, _) in MEASURES.items()}
        for side, each in zip(
            ("before", "after", "put_back"), [*sides, found["healed"]], strict=True
        )
    }


def _steps(wanted: Adaptation, preset: str) -> int | None:
    """Return the steps of the sampler, before and after the same: by bundle in the preset."""
    steps = read_preset(preset)["steps"] if wanted.steps is None else wanted.steps
    return steps.get(find_bundle(wanted.bundle).name) if isinstance(steps, dict) else steps


def _at(found: Any, path: Sequence[str]) -> float | None:
    for key in path:
        found = found[key]
    return None if found is None or not np.isfinite(found) else float(found)


def table(results: Mapping[str, Any]) -> list[str]:
    """Return the measures before and after as Markdown: means over folds, and each fold."""
    rows = []
    for name, (_, form) in MEASURES.items():
        row = [name]
        for side in ("before", "after", "put_back"):
            values = [fold[side][name] for fold in results["folds"]]
            known = [value for value in values if value is not None]
            each = ", ".join("-" if value is None else f"{value:{form}}" for value in values)
            row.append(f"{np.mean(known):{form}} ({each})" if known else "-")
        rows.append(row)
    head = f"{results['lesions']} lesions of {results['patients']} patients"
    return [
        f"{head}, {len(results['folds'])} folds by patient; mean over folds (each fold)",
        "",
        *grid(["", "before", "after", "real, put back"], rows),
    ]

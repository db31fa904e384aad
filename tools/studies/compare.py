"""All methods at the masks of the same real lesions, with the same seeds (``tools compare``).

What differs between organs stands in presets, ``compare_NAME.json`` beside this file:

* ``title``; ``bundle``: its view, bins and organ are those of the comparison, and its overlays the
  methods in place of its network;
* ``methods``, ``limit``, ``steps``: what is taken where the command does not say; null: all, and
  as many steps as each bundle says; ``steps`` may be by bundle, as some need more than others;
* ``quick``: the same keys for a run of minutes;
* ``largest_mm``: lesions above are left out (diameter of the sphere of equal volume); null: none;
* ``healed_mm``: width of the rim that is healed with the lesion;
* ``controls``: how many lesions are drawn with each texture of the bundle;
* ``shown``: how pictures are drawn, and how many lesions;
* ``phantom``: what writes data to try it on, where none is given;
* ``published``: figures of a paper, see :mod:`tools.studies.comparison`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from tools.bundle import SYNTHESIZE, Bundle, bundle_folders, find_bundle
from tools.files import claimed, read_object
from tools.histograms import jensen_shannon_divergence
from tools.intensity import HuWindow
from tools.phantoms.datalists import PHANTOM_VERSION, cached_phantom
from tools.scans.crops import Crop
from tools.studies.comparison import FILES as PAGES
from tools.studies.comparison import Controls, evenly, write_comparison
from tools.studies.judge import Measured, apart, judge, measure, pairs, require_enough
from tools.studies.redraw import PERCENT, Real, Redraw
from tools.studies.request import require_one_request
from tools.studies.statistics import mean_and_error
from tools.synthesis.arrays import methods_of, open_synthesizer
from tools.synthesis.synthesizer import Synthesizer
from tools.synthesis.textures import read_presets

__all__ = ["Settings", "compare", "known_methods", "read_preset"]

IMAGES = ("request.json", "*_image.nii.gz", "*_label.nii.gz")
KEYS = {"title", "bundle", "methods", "limit", "steps", "quick", "healed_mm", "shown", "phantom"}
KEYS |= {"published", "controls", "largest_mm"}
SURROUNDINGS = ("healed", "real")
PAIRED = ("jsd", "w1", "psnr", "ssim")


class Settings(NamedTuple):
    """What is asked for; see the command. None: what the preset says."""

    preset: str = "lung"
    methods: Sequence[str] | None = None
    section: str | None = "validation"
    library: str | None = None
    limit: int | None = None
    seed: int = 0
    steps: int | Mapping[str, int] | None = None
    device: str = "auto"
    surroundings: str = "healed"
    quick: bool = False


class Bench(NamedTuple):
    """What all methods have in common.

    Attributes:
        preset: read.
        lesions: real ones.
        measured: of them.
        redraw: how they are drawn anew.
        window: intensities that pictures and histograms lie between.
        bins: of the histogram of a class.
        halves: what the halves of the real ones are drawn of, patient or lesion.
    """

    preset: Mapping[str, Any]
    lesions: list[Real]
    measured: Measured
    redraw: Redraw
    window: HuWindow
    bins: int
    halves: str


def read_preset(name: str, quick: bool = False) -> dict[str, Any]:
    """Return a preset by name, or from a JSON file of one's own.

    Raises:
        ValueError: if there is none of that name, or it holds an unknown key or lacks one.
    """
    known = {path.stem[8:]: path for path in sorted(Path(__file__).parent.glob("compare_*.json"))}
    path = known.get(name, Path(name))
    if path.suffix != ".json":
        raise ValueError(f"preset must be one of {', '.join(known)} or a JSON file, got {name!r}")
    found = read_object(path, "preset")
    preset = {key: value for key, value in found.items() if not key.startswith("_")}
    if wrong := sorted(set(preset) ^ KEYS):
        raise ValueError(f"preset must have the keys {sorted(KEYS)}, got {wrong[0]!r} in {path}")
    return preset | (preset["quick"] if quick else {})


def known_methods(bundle: str) -> dict[str, tuple[str, str | None]]:
    """Return all that can fill lesions of a bundle's organ, by name: a bundle, and its method.

    First the bundle, then others of that organ with a network for textures, then what overlays of
    these put in the place of their networks.
    """
    root = find_bundle(bundle)
    organ = _config(root, SYNTHESIZE)["organ_table"]
    others = {
        folder.name: str(folder)
        for place in reversed(bundle_folders())
        for folder in sorted(place.glob("*"))
        if "network" in _config(folder, SYNTHESIZE).get("texturer", {})
        and _config(folder, SYNTHESIZE)["organ_table"] == organ
    }
    bundles = {root.name: bundle} | {k: v for k, v in others.items() if k != root.name}
    found: dict[str, tuple[str, str | None]] = {k: (v, None) for k, v in bundles.items()}
    for folder in bundles.values():
        found = {name: (folder, name) for name in methods_of(folder)} | found
    return {**{name: found[name] for name in bundles}, **found}


def _config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "configs" / name
    return read_object(path, "config of the bundle") if path.is_file() else {}


def compare(real: str | Path | None, out: str | Path, settings: Settings) -> dict[str, Any]:
    """Draw every real lesion anew by each method, judge each method, and write the tables.

    A method is asked for the lesion's own histograms, where it takes some. What it makes of a
    lesion is written at once and taken up again when the command is repeated.

    Args:
        real: datalist, or folder with one, of scans with label maps; None: the preset's phantom.
        out: folder to write.
        settings: see the command.

    Returns:
        ``settings`` and ``methods``, JSON values only.

    Raises:
        ValueError: if there are too few lesions, a method is unknown, or a patient is in both
            sections.
    """
    preset = read_preset(settings.preset, settings.quick)
    given = {key: getattr(settings, key) for key in ("methods", "limit", "steps")}
    settings = settings._replace(**{k: preset[k] if v is None else v for k, v in given.items()})
    source = _phantom(preset["phantom"]) if real is None else Path(real)
    methods = _methods(preset, settings, source)
    settings = settings._replace(methods=list(methods))
    # opened first: what one of them refuses costs no drawing
    asked = {name: _of_bundle(settings, bundle) for name, (bundle, _) in methods.items()}
    jobs = {name: _job(*each, asked[name], source) for name, each in methods.items()}
    bench = _bench(preset, settings, source)
    known = settings._asdict() | {"preset": str(settings.preset)}
    results: dict[str, Any] = {
        "settings": {"lesions": len(bench.lesions), **known, "phantom": real is None}
        | {"window": list(bench.window), "unit": _unit(bench), "halves": bench.halves},
        "methods": {},
    }
    made: dict[str, list[Crop]] = {}
    owned = [*PAGES, *methods, *(f"{name}_controls" for name in methods)]
    with claimed(out, owned) as folder:
        if settings.surroundings == "healed":
            made["healed"] = [bench.redraw.put_back(each) for each in bench.lesions]
        controls = None
        for name, job in jobs.items():
            request = _request(asked[name], job, source, real is None)
            with claimed(folder / name, IMAGES) as own:
                require_one_request(own, request)
                made[name] = list(_drawn(bench, job, own, name))
            if controls is None and preset["controls"] and _controlled(job):
                controls = _controls(bench, job, folder / f"{name}_controls", request, name)
        first: dict[str, Any] | None = None
        for name, crops in tqdm(made.items(), desc="judging"):
            results["methods"][name] = _judged(bench, crops, settings.seed, first)
            first = results["methods"][name] if first is None else first
        write_comparison(folder, results, preset, bench.lesions, made, controls)
    return results


def _methods(
    preset: Mapping[str, Any], settings: Settings, source: Path
) -> dict[str, tuple[str, str | None]]:
    """Return the methods asked for by name, all of which can be had, as their library can."""
    known = known_methods(preset["bundle"])
    wanted: dict[str, tuple[str, str | None]] = {}
    all_there = [name for name, each in known.items() if _is_trained(*each)]
    for name in all_there if settings.methods is None else settings.methods:
        if name not in known and not _config(Path(name), SYNTHESIZE):
            raise ValueError(
                f"methods must be of {', '.join(known)}, or folders of bundles, got {name!r}"
            )
        if Path(name).name in wanted:
            raise ValueError(f"methods must differ in their names, got two {Path(name).name}")
        wanted[Path(name).name] = known.get(name, (name, None))
    if settings.surroundings not in SURROUNDINGS:
        raise ValueError(
            f"surroundings must be one of {', '.join(SURROUNDINGS)}, got {settings.surroundings!r}"
        )
    if any(_copies(*each) for each in wanted.values()):
        _require_strangers(source, settings.section, Path(settings.library or source))
    return wanted


def _is_trained(bundle: str, method: str | None) -> bool:
    """Return whether a method needs no weights of its own, or has them."""
    root = find_bundle(bundle)
    config = {} if method is None else _config(root, methods_of(bundle)[method])
    return "ckpt_path" not in config or (root / "models" / f"model_{method}.pt").is_file()


def _copies(bundle: str, method: str | None) -> bool:
    """Return whether a method is one that copies from a library."""
    file = "" if method is None else methods_of(bundle)[method]
    return bool(file) and "library" in _config(find_bundle(bundle), file)


def _bench(preset: Mapping[str, Any], settings: Settings, source: Path) -> Bench:
    opened = Bundle(preset["bundle"], "cpu", required=("synthesizer",))
    view, organ = opened.get("view"), opened.get("organ_table")
    margin = float(preset["healed_mm"]) if settings.surroundings == "healed" else 0.0
    redraw = Redraw(organ, view, margin, settings.seed)
    largest = preset["largest_mm"]
    lesions = list(redraw.read(source, settings.section, settings.limit, largest))
    require_enough(lesions, source)
    crops, halves = apart([each.crop for each in lesions])
    lesions = [each._replace(crop=crop) for each, crop in zip(lesions, crops, strict=True)]
    in_units = lesions[0].scale is None
    window = HuWindow(*view.scale) if in_units else PERCENT
    bins = len(next(iter(read_presets(opened.folder / "configs")[0].values()))["histogram"])
    measured = measure(crops, window, in_units)
    return Bench(preset, lesions, measured, redraw, window, bins // len(organ.classes), halves)


def _phantom(writer: str) -> Path:
    """Return a folder of phantoms, made on first use by a function of that dotted name."""
    module, _, function = writer.rpartition(".")
    name = f"phantom-{PHANTOM_VERSION}-{function.removeprefix('write_')}"
    return cached_phantom(name, getattr(import_module(module), function))


def _unit(bench: Bench) -> str:
    return "HU" if bench.lesions[0].scale is None else "%"


def _job(bundle: str, method: str | None, settings: Settings, source: Path) -> Synthesizer:
    """Return what draws lesions: a bundle, or what an overlay puts in place of its network."""
    options = {"seed": settings.seed, "texture": "none", "attempts": 1, "steps": settings.steps}
    if _copies(bundle, method):
        options["library"] = str(settings.library or source)
    opened = open_synthesizer(bundle, settings.device, None, options, method=method)
    return opened.get("synthesizer")


def _of_bundle(settings: Settings, bundle: str) -> Settings:
    """Return the settings with the steps of one bundle; None: as many as it says itself."""
    steps = settings.steps
    if not isinstance(steps, Mapping):
        return settings
    return settings._replace(steps=steps.get(find_bundle(bundle).name))


def _controlled(job: Synthesizer) -> bool:
    """Return whether a network is told of histograms."""
    network = getattr(job.texturer, "network", None)
    if network is None:
        return False
    return None not in [getattr(part, "condition_size", 1) for part in network.modules()]


def _drawn(bench: Bench, job: Synthesizer, folder: Path, name: str) -> Iterator[Crop]:
    for each in tqdm(bench.lesions, desc=name):
        target = folder / f"{each.crop.name}_image.nii.gz"
        yield bench.redraw.drawn(each, job, target)


def _controls(
    bench: Bench, job: Synthesizer, folder: Path, request: Mapping[str, Any], name: str
) -> Controls:
    """Draw some lesions without control and with each of the bundle's textures, twice each."""
    lesions = [bench.lesions[k] for k in evenly(bench.lesions, bench.preset["controls"])]
    words = ["none", *sorted(job.textures.presets, key=lambda word: _level(job, word))]
    drawn: dict[str, list[tuple[Crop, Crop]]] = {}
    with claimed(folder, IMAGES) as own:
        require_one_request(own, request)
        for word in tqdm(words, desc="controls"):
            drawn[word] = []
            for each in lesions:
                one, other = (
                    bench.redraw.drawn(
                        each, job, own / f"{each.crop.name}_{word}_{turn}_image.nii.gz", word, turn
                    )
                    for turn in (0, 1)
                )
                drawn[word].append((one, other))
    before = [each.crop._replace(image=each.part(bench.redraw.healed(each))) for each in lesions]
    alike = {
        word: _mean(
            _similarity(one, other, each.crop.mask, bench.window)
            for each, (one, other) in zip(lesions, both, strict=True)
        )
        for word, both in drawn.items()
    }
    return Controls(name, before, {w: [one for one, _ in both] for w, both in drawn.items()}, alike)


def _level(job: Synthesizer, word: str) -> float:
    """Return the mean of a preset's histogram of the outermost class, in bins."""
    histogram = job.textures.presets[word]["histogram"]
    row = np.reshape(histogram, (len(job.organ.classes), -1))[0]
    return float(row @ np.arange(len(row)) / max(row.sum(), 1e-9))


def _mean(rows: Iterator[dict[str, float]]) -> dict[str, float]:
    listed = list(rows)
    known = {key: [row[key] for row in listed if np.isfinite(row[key])] for key in listed[0]}
    return {key: float(np.mean(values)) if values else np.nan for key, values in known.items()}


def _request(settings: Settings, job: Synthesizer, source: Path, phantom: bool) -> dict[str, Any]:
    names = ("seed", "steps", "surroundings", "library")
    known = {name: getattr(settings, name) for name in names}
    return {**known, "real": "phantom" if phantom else source, "job": job.texturer.record}


def _require_strangers(real: Path, section: str | None, library: Path) -> None:
    """Refuse a library with lesions of patients that are drawn anew: they would be copied back."""
    drawn, copied = (
        {patient for _, patient, *_ in pairs(source, part)}
        for source, part in ((real, section), (library, "training"))
    )
    if both := sorted(drawn & copied):
        raise ValueError(f"library must hold no patient of {section}, got {both[0]} in {library}")


def _judged(
    bench: Bench, crops: Sequence[Crop], seed: int, first: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a method's lesions differ in from the real ones, as sets and one by one."""
    in_units = bench.lesions[0].scale is None
    found = judge(bench.measured, measure(crops, bench.window, in_units), seed, first)
    both = zip(bench.lesions, crops, strict=True)
    rows = [_paired(real, made, bench) for real, made in both]
    found["classes"] = {}
    for k, each in enumerate(bench.redraw.organ.classes):
        mine = [row[k] for row in rows if k in row]
        values = {key: _known([row[key] for row in mine], seed) for key in PAIRED}
        found["classes"][each.name] = values
    for key in PAIRED:  # of a lesion of several classes their mean
        finite = [[v[key] for v in row.values() if np.isfinite(v[key])] for row in rows]
        found[key] = _known([sum(each) / len(each) for each in finite if each], seed)
    return found


def _known(values: Sequence[float], seed: int) -> dict[str, float | int]:
    return mean_and_error([value for value in values if np.isfinite(value)], seed)


def _paired(real: Real, made: Crop, bench: Bench) -> dict[int, dict[str, float]]:
    """Return by class: JSD in nats, W1 in the unit, PSNR in dB, SSIM in % of a lesion anew."""
    found = {}
    for k, mask in enumerate(real.classes):
        if not mask.any():
            continue
        values = [x.image[mask] for x in (real.crop, made)]
        rows = [
            np.histogram(bench.window.scaled(part), bench.bins, (-1, 1))[0] / len(part)
            for part in values
        ]
        jsd = jensen_shannon_divergence(*(torch.tensor(row)[None] for row in rows)).item()
        found[k] = {"jsd": jsd, "w1": float(wasserstein_distance(*values))}
        found[k] |= _similarity(real.crop, made, mask, bench.window)
    return found


def _similarity(one: Crop, other: Crop, mask: np.ndarray, window: HuWindow) -> dict[str, float]:
    """Return PSNR in dB and SSIM in % of two images in the box round a mask.

    SSIM is within slices, which are the axis with the largest voxels, and NaN in boxes of fewer
    than 3 voxels.
    """
    sides = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {k}))) for k in range(3)]
    box = tuple(slice(side[0], side[-1] + 1) for side in sides)
    first, second = (window.scaled(each.image[box]) for each in (one, other))
    axis = 2 - int(np.argmax(np.round(one.spacing_mm, 3)[::-1]))
    side = min(n for k, n in enumerate(first.shape) if k != axis)
    side = min(7, side - 1 + side % 2)  # odd, as large as the box allows
    similar = np.nan
    if side >= 3:
        options = {"win_size": side, "data_range": 2, "channel_axis": axis}
        similar = 100 * float(structural_similarity(first, second, **options))
    error = float(np.mean((first - second) ** 2))
    psnr = float(peak_signal_noise_ratio(first, second, data_range=2)) if error else np.nan
    return {"psnr": psnr, "ssim": similar}

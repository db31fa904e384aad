"""All methods at the masks of the same real lesions, with the same seeds (``tools compare``)."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from tools.files import claimed, new_file, read_json, write_json
from tools.histograms import jensen_shannon_divergence
from tools.intensity import HuWindow
from tools.scans.crops import Crop, lesion_crops
from tools.scans.scan import Scan
from tools.shapes import MaskFileShape
from tools.studies.healing import heal
from tools.studies.judge import Measured, judge, measure, pairs, without_nan
from tools.studies.statistics import mean_and_error
from tools.studies.tables import grid
from tools.synthesis.arrays import LEARNED, METHODS, open_synthesizer
from tools.synthesis.cases import Case
from tools.synthesis.synthesizer import Synthesizer
from tools.synthesis.textures import Textures

__all__ = ["FILES", "compare"]

MARGINS_MM = {"healed": 2.5, "real": 0.0}
FILES = ("compare.json", "compare.md", "request.json", "*_image.nii.gz", "*_label.nii.gz")
WINDOW = (-1000.0, 400.0)
BINS = 16
BUNDLES = {"cond_diffusion_latent": "hr_ldm"}  # of methods; all others are of the first bundle
# what the paper reports of whole test sets, PSNR in dB and SSIM in %; its region is not stated
PUBLISHED = {
    "hand_crafted": (1.97, 0.07),
    "cond_diffusion": (16.95, 93.46),
    "cond_diffusion_latent": (15.50, 90.05),
    "repaint": (18.91, 91.22),
    "lefusion_lidc": (22.38, 90.16),
}

logger = logging.getLogger(__name__)


class Real(NamedTuple):
    """A real lesion and the files it comes from; the mask is one connected part of the label."""

    crop: Crop
    image: Path
    label: Path


def compare(
    real: str | Path,
    methods: Sequence[str],
    out: str | Path,
    section: str | None = "validation",
    library: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
    surroundings: str = "healed",
) -> dict[str, Any]:
    """Draw every real lesion anew by each method, judge each method, and write the table.

    A method is asked for the lesion's own histogram, where it takes one. What it makes of a lesion
    is written at once and taken up again when the command is repeated.

    Args:
        real: datalist, or folder with one, of CT images with label maps, a lesion each.
        methods: names of bundles, and of what stands in place of a network.
        out: folder to write.
        section: list of the datalist.
        library: real lesions for methods that copy; no patient of it may be in the section.
        limit: so many lesions, evenly over the section.
        seed: of all chance; each lesion adds its own name.
        steps: of networks; None: the bundle's.
        device: see :func:`tools.bundle.choose_device`.
        surroundings: healed, the lesion and 2.5 mm round it replaced by what lies around before
            one is drawn there, as in the healthy scans of users; real, only what is in the mask,
            whose rim then shows round the new lesion. Row ``healed`` is the real lesion put back:
            the trace of the healing itself.

    Returns:
        ``settings``, ``band`` and ``methods``, JSON values only.

    Raises:
        ValueError: if there are too few lesions, a method is unknown, or a patient is in both
            sections.
    """
    if library is not None:
        _require_strangers(Path(real), section, Path(library))
    lesions = list(_read(Path(real), section, limit))
    if len(lesions) < 4:
        raise ValueError(f"real must hold at least 4 lesions, got {len(lesions)} in {real}")
    if surroundings not in MARGINS_MM:
        raise ValueError(f"surroundings must be healed or real, got {surroundings!r}")
    margin_mm = MARGINS_MM[surroundings]
    first = measure([each.crop for each in lesions], WINDOW)
    results: dict[str, Any] = {
        "settings": {"lesions": len(lesions), "seed": seed, "steps": steps, "section": section}
        | {"surroundings": surroundings},
        "methods": {},
    }
    with claimed(out, [*FILES, *methods]) as folder:
        if margin_mm:
            crops = [_put_back(each, margin_mm, seed) for each in lesions]
            results["methods"]["healed"] = _judged(lesions, crops, first, seed)
        for name in methods:
            job = _job(name, library, device, seed, steps)
            with claimed(folder / name, FILES) as own:
                request = {"real": real, "library": library, "job": job.texturer.record}
                _require_one_request(own, results["settings"] | request)
                crops = [
                    _drawn(each, job, own, margin_mm, seed) for each in tqdm(lesions, desc=name)
                ]
            results["methods"][name] = _judged(lesions, crops, first, seed)
        write_json(folder / "compare.json", without_nan(results))
        with new_file(folder / "compare.md") as partial:
            partial.write_text("\n".join(page(results)) + "\n", encoding="utf-8")
    return results


def page(results: Mapping[str, Any]) -> list[str]:
    """Return the table of all methods as Markdown, the band of real halves first."""
    headers = ["method", "JSD", "PSNR", "SSIM", "Frechet inside", "border", "AUC inside", "border"]
    headers += [
        "all",
        "SWD axial",
        "precision",
        "recall",
        "step",
        "edge mm",
        "noise ratio",
        "paper",
    ]
    rows: list[list[str]] = []
    for name, found in results["methods"].items():
        distances, apart, border = found["distances"], found["told_apart"], found["border"]
        if not rows:
            rows.append(_row("real halves", None, distances, apart, border, "real"))
        paper = "{:.4g} dB, {:.4g} %".format(*PUBLISHED[name]) if name in PUBLISHED else ""
        rows.append([*_row(name, found, distances, apart, border, "synthetic")[:-1], paper])
    number = results["settings"]["lesions"]
    return [
        "# Methods at the masks of the same real lesions",
        "",
        f"{number} lesions, seed {results['settings']['seed']}. Distances, medians of halves by "
        "patient: smaller is better, within that of real halves it cannot be told from real. "
        "AUC: a forest against real, 95 % interval. PSNR and SSIM in the box of the lesion, window "
        f"-1000 to 400 HU. Surroundings: {results['settings']['surroundings']}.",
        "",
        *grid(headers, rows),
    ]


def _row(name: str, found: Any, distances: Any, apart: Any, border: Any, side: str) -> list[str]:
    def distance(key: str) -> str:
        each = distances[key] if side == "synthetic" else distances[key]["real"]
        return f"{each['value']:.3g}"

    def area(key: str) -> str:
        each = apart[key] if side == "synthetic" else apart[key]["real"]
        return f"{each['value']:.2f} ({each['low']:.2f} to {each['high']:.2f})"

    def middle(each: Mapping[str, float] | None) -> str:
        return "" if each is None else f"{each['median']:.3g}"

    paired = ["", "", ""]
    if found is not None:
        paired = [f"{found[key]['mean']:.3g}" for key in ("jsd", "psnr", "ssim")]
    return [
        name,
        *paired,
        *(distance(f"frechet_radiomics_{group}") for group in ("inside", "border")),
        *(area(group) for group in ("inside", "border", "all")),
        *(distance(key) for key in ("swd_axial", "precision", "recall")),
        *(middle(border[key][side]) for key in ("step", "edge_mm", "noise_ratio")),
        "",
    ]


def _require_one_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse images that were drawn for another request: they would be judged as this one's."""
    wanted = {k: str(v) for k, v in request.items() if k not in ("lesions", "section")}
    path = folder / "request.json"
    made = read_json(path, "out") if path.is_file() else wanted
    for key in wanted:
        if made.get(key) != wanted[key]:
            raise ValueError(
                f"out must hold one request only, got {folder} made with {key}={made.get(key)} "
                f"where {wanted[key]} is asked for; name another folder"
            )
    write_json(path, wanted)


def _require_strangers(real: Path, section: str | None, library: Path) -> None:
    """Refuse a library with lesions of patients that are drawn anew: they would be copied back."""
    drawn, copied = (
        {patient for _, patient, *_ in pairs(source, part)}
        for source, part in ((real, section), (library, "training"))
    )
    if both := sorted(drawn & copied):
        raise ValueError(f"library must hold no patient of {section}, got {both[0]} in {library}")


def _read(source: Path, section: str | None, limit: int | None) -> Iterator[Real]:
    listed = list(pairs(source, section))
    if limit is not None and limit < len(listed):
        listed = [listed[k] for k in np.linspace(0, len(listed) - 1, limit).round().astype(int)]
    for name, patient, image, label in tqdm(listed, desc="reading"):
        scan = Scan(image, in_hu=True)
        inside = scan.load_labels(label, "label") > 0
        crops = list(lesion_crops(scan, inside, name, patient, margin_mm=1e3))
        if len(crops) == 1:
            yield Real(crops[0], image, label)
        else:
            logger.warning("%s is left out: it holds %d lesions", name, len(crops))


def _job(name: str, library: str | None, device: str, seed: int, steps: int | None) -> Synthesizer:
    options: dict[str, Any] = {"seed": seed, "texture": "none", "attempts": 1}
    method = name if name in (*METHODS, *LEARNED) else None
    bundle = BUNDLES.get(name, "lefusion_lidc") if method else name
    if name not in METHODS:
        options["steps"] = steps
    elif method != "hand_crafted":
        options["library"] = library
    return open_synthesizer(bundle, device, None, options, method=method).get("synthesizer")


def _healed(real: Real, margin_mm: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(real.crop.name.encode())])
    scan = Scan(real.image, in_hu=True)
    mask = np.asarray(scan.load_mask(real.label, "label"))
    return heal(np.asarray(scan.image, np.float32), mask, scan.spacing_mm, rng, margin_mm)


def _put_back(real: Real, margin_mm: float, seed: int) -> Crop:
    """Return the real lesion in healed surroundings."""
    image = _healed(real, margin_mm, seed)
    return real.crop._replace(image=np.where(real.crop.mask, real.crop.image, image))


def _drawn(real: Real, job: Synthesizer, folder: Path, margin_mm: float, seed: int) -> Crop:
    """Return a lesion drawn anew, from the file where that was done before."""
    name = real.crop.name
    target = folder / f"{name}_image.nii.gz"
    if not target.is_file():
        source = Scan(real.image, in_hu=True)
        healed = source.stored_values(_healed(real, margin_mm, seed))
        scan = Scan(nib.Nifti1Image(healed, source.affine, dtype=healed.dtype), in_hu=True)
        textures = Textures(
            f"like:{real.image}:{real.label}",
            job.textures.presets,
            job.organ,
            job.texturer.library,
            job.textures.window_hu,
        )
        own = replace(job, shapes=MaskFileShape(real.label), textures=textures, count=1)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        (result,) = own.finish([own.plan(scan, Case(name, real.image), rng, "error")])
        with new_file(folder / f"{name}_label.nii.gz") as partial:
            scan.write_label(partial, result.label)
        with new_file(target) as partial:
            scan.write(partial, result.stored)
    image = np.asarray(Scan(target).image, np.float32)
    return real.crop._replace(image=image)


def _judged(
    lesions: Sequence[Real], crops: Sequence[Crop], first: Measured, seed: int
) -> dict[str, Any]:
    found = judge(first, measure(crops, WINDOW), seed)
    rows: dict[str, list[float]] = {"jsd": [], "psnr": [], "ssim": []}
    for each, made in zip(lesions, crops, strict=True):
        for key, value in _paired(each.crop, made).items():
            rows[key].append(value)
    known = {key: [v for v in values if np.isfinite(v)] for key, values in rows.items()}
    return {**found, **{key: mean_and_error(values, seed) for key, values in known.items()}}


def _paired(real: Crop, made: Crop) -> dict[str, float]:
    """Return JSD in nats, PSNR in dB and SSIM in % of a lesion drawn at the mask of a real one."""
    import torch

    scale = HuWindow(*WINDOW)
    bins = [
        np.histogram(scale.scaled(x.image[x.mask]), BINS, (-1, 1))[0] / x.mask.sum()
        for x in (real, made)
    ]
    jsd = jensen_shannon_divergence(*(torch.tensor(row)[None] for row in bins)).item()
    sides = [np.flatnonzero(real.mask.any(tuple({0, 1, 2} - {k}))) for k in range(3)]
    box = tuple(slice(side[0], side[-1] + 1) for side in sides)
    one, other = (scale.scaled(x.image[box]) for x in (real, made))
    side = min(one.shape) - 1 + min(one.shape) % 2  # odd, as large as the box allows, 7 at most
    similar = np.nan
    if side >= 3:
        similar = structural_similarity(one, other, win_size=min(7, side), data_range=2)
    return {
        "jsd": jsd,
        "psnr": float(peak_signal_noise_ratio(one, other, data_range=2)),
        "ssim": 100 * float(similar),
    }

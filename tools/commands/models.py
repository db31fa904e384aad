"""Commands about weights and bundles: fetch, convert, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tools.commands.arguments import Number, Seed
from tools.commands.result import Result

__all__ = [
    "compare",
    "convert_difftumor",
    "convert_lefusion",
    "convert_maisi",
    "convert_monai_generative",
    "evaluate",
    "fetch",
]


def convert_difftumor(src: str, dst: str, autoencoder: str | None = None) -> Result:
    """Convert a published DiffTumor autoencoder or diffusion model, every tensor checked.

    Neither omegaconf nor Lightning is needed, and no code of the file is run. Of a diffusion model
    the averaged weights are taken; what it learnt to sample with (4 steps for early tumours, 200
    for larger ones) is printed.

    Example: python -m tools convert difftumor AutoencoderModel.ckpt autoencoder.pt

    Example: python -m tools convert difftumor liver_early.pt model.pt --autoencoder autoencoder.pt

    Args:
        src: AutoencoderModel.ckpt, or {liver,pancreas,kidney}_{early,noearly}.pt.
        dst: file to write.
        autoencoder: AutoencoderModel.ckpt or what it became: refuses a diffusion model that was
            trained with another one.
    """
    from tools.convert.difftumor import convert
    from tools.files import require_new

    require_new(dst, "dst")
    definition, steps = convert(src, dst, autoencoder)
    kind = "the autoencoder" if steps is None else f"a denoiser of {steps} steps"
    facts = {"written": dst, "network_def": definition, "num_train_timesteps": steps}
    return Result(f"wrote {dst}, {kind}", facts)


def convert_lefusion(
    src: str, dst: str, weights: str = "model", sphere_outside: float | str | None = None
) -> Result:
    """Convert a published LeFusion or DiffMask checkpoint, keys and shapes checked.

    Example: python -m tools convert lefusion diffmask.pt published.pt --sphere_outside auto

    Args:
        src: the released file (``step``, ``model``, ``ema``, ``scaler``).
        dst: file to write.
        weights: model (what the release samples with) or ema.
        sphere_outside: only for DiffMask: what it was shown outside the sphere; 255 (default, as
            the released code trains), -1 (as it was meant), or auto to try both on known lesions.
    """
    from tools.convert.lefusion import convert
    from tools.files import require_new

    require_new(dst, "dst")
    definition = convert(src, dst, weights, sphere_outside)
    encoding = definition.get("sphere_outside")
    text = f"wrote {dst}" if encoding is None else f"wrote {dst}, sphere_outside {encoding:g}"
    return Result(text, {"written": dst, "network_def": definition})


def convert_maisi(src: str, dst: str) -> Result:
    """Convert MAISI's published autoencoder for published_autoencoder.json, every tensor checked.

    Example: python -m tools convert maisi autoencoder_epoch273.pt published_autoencoder.pt

    Args:
        src: the released file, a state dict, bare or under unet_state_dict.
        dst: file to write.
    """
    from tools.convert.maisi import convert
    from tools.files import require_new

    require_new(dst, "dst")
    convert(src, dst)
    return Result(f"wrote {dst}", {"written": dst})


def convert_monai_generative(
    src: str, dst: str, config: str, net_id: str = "network_def", key_in_ckpt: str = ""
) -> Result:
    """Convert weights made with the archived package monai-generative for MONAI's own networks.

    Whatever would load without a word and compute something else is refused in one sentence.

    Args:
        src: checkpoint of AutoencoderKL, ControlNet, DecoderOnlyTransformer or DiffusionModelUNet.
        dst: file to write, a state dict.
        config: JSON or YAML file that names the MONAI network with the arguments of the training.
        net_id: key of the network in a bundle config.
        key_in_ckpt: key of the state dict in src; empty where src is one.
    """
    from tools.convert.monai_generative import convert
    from tools.files import require_new

    require_new(dst, "dst")
    convert(src, dst, config, net_id, key_in_ckpt)
    return Result(f"wrote {dst}", {"written": dst})


def fetch(
    bundle: str,
    out: str | None = None,
    url: str | None = None,
    convert: str = "auto",
    sphere_outside: float | str | None = None,
) -> Result:
    """Download the published weights of a bundle and convert them to what its configs load.

    Example: python -m tools fetch bundles/lefusion_lidc

    Args:
        bundle: folder of the bundle; its published_weights.yml names the files.
        out: folder that takes the place of the bundle folder for what is written.
        url: address to use in place of the listed one, such as a mirror or file://PATH.
        convert: lefusion, maisi, or none to leave the file as it comes; auto takes what the
            bundle says.
        sphere_outside: only for DiffMask: 255 (default), -1 or auto, see convert lefusion.
    """
    from tools.convert.fetch import fetch as fetch_files

    kind = None if convert == "none" else convert
    paths = [str(path) for path in fetch_files(bundle, out, url, kind, sphere_outside)]
    return Result("\n".join(f"wrote {path}" for path in paths), {"written": paths})


def evaluate(
    dataset_dir: str = "",
    out: str = "out/evaluate",
    bundle: str = "lefusion_lidc",
    steps: Number = 50,
    limit: Number | None = None,
    seed: Seed = 0,
    discriminator: bool = False,
    repaint_weights: str | None = None,
    samples: Number = 2,
    weights: str | None = None,
    variants: str = "",
    stage: str = "",
    overlay: str | None = None,
    real: str = "",
    synthetic: str = "",
    section: str | None = None,
    values: Sequence[int] = (),
    window: tuple[float, float] = (-1000, 400),
    training: str = "",
    other_seeds: Sequence[str] = (),
    radimagenet: str = "",
    network_test: bool = False,
    liver_finder: str = "",
    surroundings: str = "healed",
) -> Result:
    """Measure on validation data whether a bundle obeys its controls and its lesions look real.

    What is compared and measured stands in the bundle's configs/study.json. Of textures: asked and
    drawn histograms with and without control, variants of the network, contrasts to the tissues
    around, whether a classifier tells the lesions from real ones or names their subtype, changes of
    the background. Of shapes: spheres, boundaries, features, classifiers and ratings. Of the
    autoencoder that a latent model works in (``--stage autoencoder``): PSNR, SSIM and error in HU.

    Example: python -m tools evaluate --dataset_dir work/crops --out out/evaluate --discriminator

    Example: python -m tools evaluate --bundle bundles/diffmask --dataset_dir work/masks

    Example: python -m tools evaluate --bundle bundles/lefusion_emidec --dataset_dir work/emidec

    Example: python -m tools evaluate --bundle bundles/hr_ldm --stage autoencoder --dataset_dir
        work/ct

    Example: python -m tools evaluate --real data/lidc_nodules --section validation --synthetic out

    With real and synthetic, any two folders of images with label maps are compared, whoever made
    them: Frechet, kernel and sliced Wasserstein distances of radiomic features and pictures of the
    lesions, precision and recall, whether a forest tells them apart, what happens at their border
    and in their noise; each beside what two halves of the real lesions differ by. Of a folder that
    synthesize wrote: asked against got. Where the real datalist rates textures: which subtype a
    classifier of real lesions names.

    Example: python -m tools evaluate --real data/lidc_nodules --section validation --synthetic out
        --training data/lidc_nodules --network_test

    Args:
        dataset_dir: folder made by ``prepare``, with a validation section.
        out: folder to write results.json, results.md and results.png; of two folders judge.json,
            judge.csv, judge.md, judge.png and judge.html.
        bundle: the model to measure.
        steps: denoising steps; texture models only.
        limit: use that many lesions, hearts or patches (per section) only.
        seed: source of all chance.
        discriminator: also train a network to tell real from synthetic; for shapes always done, for
            hearts a random forest.
        repaint_weights: weights of repaint.json (models/model_repaint.pt), to compare with;
            models of lungs only.
        samples: synthetic versions of each heart.
        weights: other weights than the bundle's, such as a checkpoint of a training; not for
            shapes.
        variants: networks to compare with, NAME:OVERLAY:WEIGHTS separated by commas, OVERLAY a file
            in the bundle's configs or empty; models of hearts, and of nodules by subtype, where
            WEIGHTS may also be the folder of another bundle.
        stage: autoencoder measures that instead of the lesions.
        overlay: config of the bundle with another autoencoder, such as
            published_autoencoder.json; of the stage autoencoder only.
        real: real lesions: a datalist, a folder with datalist.json, or one of X_image and X_label.
        synthetic: synthetic ones, likewise, such as a folder that synthesize wrote.
        section: list of the datalist of the real ones to take; default: all.
        values: values of the label maps that are lesions; default: those that lesions.json tells
            of, else all above 0.
        window: intensities between which pictures are compared, for scans in HU.
        training: lesions that the model was trained on, DATALIST[:section], by default the section
            training: tells how near the synthetic ones lie to the nearest of them, beside how near
            those of like size lie to one of another patient.
        other_seeds: folders with the same masks drawn with other seeds, separated by commas: tells
            how far two seeds lie apart.
        radimagenet: RadImageNet-ResNet50_notop.pth, whose features give FID and KID of pictures.
        network_test: also train a small 3-D network to tell the two apart; minutes.
        liver_finder: weights of a KiU-Net for liver and tumour (16, 32 and 64 channels): tells how
            many real and synthetic tumours of each size it finds.
        surroundings: of lesions drawn by a bundle at the masks of real ones: healed, the real
            lesion and 3 mm round it are replaced by what lies around first; or real ("at real
            masks"), whose rim shows round the new lesion.
    """
    given = dict(locals())
    if real or synthetic:
        from tools.studies.folders import Folders, judge_folders
        from tools.studies.verdict import lines

        named = {field.name: given[field.name] for field in fields(Folders)}
        result, rows = judge_folders(Folders(**named))
        text = "\n".join([*lines(rows), f"open {Path(out) / 'judge.html'}"])
        return Result(text, {"out": out, "results": result})

    from tools.files import claimed
    from tools.studies.study import Options, evaluate_bundle

    names = {field.name for field in fields(Options)}
    options = Options(**{name: value for name, value in given.items() if name in names})
    with claimed(out, ("results.json", "results.md", "results.png")):
        results = evaluate_bundle(out, options)
    # the page is printed already
    return Result(f"results in {out}", {"out": out, "results": results})


def compare(
    real: str = "",
    out: str = "out/compare",
    preset: str = "lung",
    methods: Sequence[str] | None = None,
    library: str | None = None,
    section: str = "validation",
    limit: Number | None = None,
    seed: Seed = 0,
    steps: Number | None = None,
    device: str = "auto",
    surroundings: str = "healed",
    quick: bool = False,
) -> Result:
    """Draw the same real lesions anew by several methods and judge each, in one table.

    Each method gets the same masks, seeds and, where it takes some, the lesion's own histograms.
    Beside the methods stands what two halves of the real lesions differ by, and the figures of
    the papers where there are some. What is drawn is kept, so a run that was interrupted goes on.

    Example: python -m tools compare --quick

    Example: python -m tools compare --preset lung --real data/lidc_nodules --methods
        lefusion_lidc,hr_ldm,copy_paste,hand_crafted

    Example: python -m tools compare --preset heart --real work/emidec

    A preset says what differs between organs: the bundle whose window, bins and classes are used,
    how many lesions and steps, how pictures are shown, and the figures of the papers. Nodules are
    measured in HU, in a healed lung. Hearts (made by ``prepare emidec``) are measured in percent of
    each scan's own scale; infarct and no-reflow are replaced by the wall as it is elsewhere at the
    same depth, and nothing of the blood or of what lies beside the heart comes into it.

    Args:
        real: scans with label maps: a datalist, or its folder; what hangs together is a lesion, of
            a heart all of it. Default: the embedded phantom.
        out: folder to write: compare.html (all of it, opens offline), compare.md, compare.csv,
            compare.json, compare.png (cases and methods), compare_controls.png (textures),
            compare_measures.png, and per method the images.
        preset: lung, heart, liver, or a JSON file of the same keys.
        methods: bundles of the organ, and what their overlays put in place of the network
            (hand_crafted, copy_paste, repaint, cond_diffusion, ...); default: all that are there,
            with weights where they need some.
        library: real lesions to copy: the training section of a datalist; default: that of real.
        section: list of the datalist of the lesions to draw anew.
        limit: so many lesions, evenly over the list; default: as the preset says.
        seed: of all chance.
        steps: of the networks; default: as the preset says.
        device: auto, cpu, cuda or cuda:N.
        surroundings: healed, the real lesion and a rim round it are replaced by what lies around
            before another is drawn there, as in the healthy scans of users; or real, whose rim
            shows round the new lesion. Row "healed" is the real lesion put back.
        quick: fewer lesions and steps: minutes instead of up to an hour.
    """
    from tools.files import require_apart
    from tools.studies.compare import Settings
    from tools.studies.compare import compare as run
    from tools.studies.comparison import page

    given = dict(locals())
    if real:
        source = Path(real)
        require_apart(out, [source if source.is_dir() else source.parent])
    settings = Settings(**{name: given[name] for name in Settings._fields})
    results = run(real or None, out, settings)
    text = "\n".join([*page(results), "", f"open {out}/compare.html"])
    return Result(text, {"out": out, "results": results})

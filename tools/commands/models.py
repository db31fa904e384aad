"""Commands about weights and bundles: convert, evaluate, pack, check."""

from __future__ import annotations

__all__ = ["check", "convert_lefusion", "evaluate", "pack"]


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


def pack(bundle: str, out: str = "dist") -> None:
    """Write the model-zoo zip of a bundle: the bundle and the code it runs on.

    Args:
        bundle: folder of the bundle.
        out: folder to write NAME_vVERSION.zip to.
    """
    from tools.release.pack import pack_bundle

    print(f"wrote {pack_bundle(bundle, out)}")


def check(*bundles: str, fix: bool = False, schema: str | None = None) -> None:
    """Check bundles against the rules of the house and of the model zoo; one line per finding.

    Example: python -m tools check bundles/lefusion_lidc --fix

    Args:
        bundles: folders; none means all in bundles/.
        fix: copy shared settings from train.json to the other configs, and write them in the house
            form.
        schema: local copy of the metadata schema; None looks in ../shared/reference, and where
            there is none the schema is not checked.
    """
    from tools.release.check import check_bundles, find_bundles

    folders = find_bundles(bundles)
    findings = check_bundles(folders, fix, schema)
    if findings:
        print("\n".join(findings))
        raise SystemExit(1)
    print(f"{len(folders)} bundle{'s' * (len(folders) != 1)} checked, no finding")

"""Commands that make the textures to ask for out of the lesions of a dataset."""

from __future__ import annotations

from tools.commands.arguments import Number, Seed
from tools.commands.result import Result

__all__ = ["cluster", "subtypes"]


def cluster(
    dataset_dir: str,
    bundle: str = "lefusion_lidc",
    clusters: int = 3,
    out: str = "out/cluster",
    write: bool = False,
    seed: Seed = 0,
    section: str = "training",
    space: str = "histogram",
    preset: str = "mean",
) -> Result:
    """Group the lesions of a dataset by their histograms and make each group a texture preset.

    Example: python -m tools cluster --dataset_dir work/rois --out out/cluster

    Try the presets with --texture out/cluster/histograms.json before you --write them. Three groups
    are named ground_glass, part_solid, solid in order of mean HU; look at OUT/cluster.png to
    see whether that is what they are. For hearts, --bundle lefusion_emidec: their infarcts are
    grouped in one standard tissue and named faint, moderate, bright; no-reflow comes with them.

    Args:
        dataset_dir: folder with datalist.json, as the prepare commands make it.
        bundle: the texture model whose window and bins are used.
        clusters: number of groups; the figures for 2 to 6 are in OUT/cluster.json.
        out: folder to write cluster.json (figures), cluster.png and histograms.json (presets).
        write: replace configs/histograms.json of the bundle, the presets of its inference.json,
            instead of writing OUT/histograms.json, which synthesize takes as --texture.
        seed: of k-means.
        section: of the datalist.
        space: histogram (as they are), sqrt (Hellinger distance) or cumulative (bins have an
            order).
        preset: mean (of the group) or medoid (of its most central lesion).
    """
    from tools.prepare.cluster import cluster_lesions

    results = cluster_lesions(
        dataset_dir, bundle, clusters, out, write, seed, section, space, preset
    )
    lines = []
    for group in results["clusters"]:
        size = f"{group['name']}: {group['size']} lesions ({group['weight']} %)"
        if "tissue" in results:
            low, middle, high = group["contrast_quartiles"]
            lines.append(f"{size}, contrast {middle} (quartiles {low} to {high}; blood is 1)")
        else:
            top = f"{group['top_bin_share']:.0%} of voxels in the brightest bin"
            lines.append(f"{size}, {group['mean_hu']} HU, {top}")
    lines.append(f"median divergence of lesions from their preset, by class: {results['fit']}")
    row = "{clusters} clusters: silhouette {silhouette}, inertia {inertia}"
    lines += [row.format(**entry) for entry in results["by_clusters"]]
    lines.append(f"presets in {results['presets_file']}; look at {out}/cluster.png")
    return Result("\n".join(lines), results)


def subtypes(
    dataset_dir: str,
    out: str = "out/subtypes.json",
    bins: int = 40,
    window_hu: tuple[float, float] = (-1000, 400),
    solid: float = 4.5,
    part_solid: float = 2.5,
    library: Number = 1000,
    min_voxels: int = 30,
    section: str = "training",
    seed: Seed = 0,
    agreement: float = 0.9,
    outline: str | None = None,
) -> Result:
    """Collect sizes and histograms of training lesions by subtype, for bundles to draw from.

    Example: python -m tools subtypes --dataset_dir work/rois --out subtypes.json

    Masks must be outlined as the shapes are that the bundle draws. LIDC's readers draw their line
    outside the nodule: prepare lidc leaves it out, and about 85 % of a nodule are then above half
    of its contrast. Masks that hold the line are 1.4 times as large, and their histograms make the
    inside of nodules too dark.

    Args:
        dataset_dir: folder with datalist.json, as prepare scans makes it of scans with ratings.
        out: file to write.
        bins: of the histograms, as the bundle was trained with.
        window_hu: lowest and highest HU of the histograms.
        solid: a lesion is solid if the mean of its texture ratings (1 to 5) is at least this.
        part_solid: part-solid if at least this; ground-glass below it.
        library: lesions kept of each subtype, at most, spread over all sizes.
        min_voxels: lesions of fewer voxels are not kept.
        section: of the datalist.
        seed: of the choice.
        agreement: largest standard deviation of the readers' texture ratings (texture_sd of an
            entry, where it is stated) of lesions that are kept.
        outline: how the masks were outlined, in words; records of lesions drawn from them say so.
    """
    from tools.files import require_new
    from tools.prepare.subtypes import collect_subtypes

    require_new(out)
    content = collect_subtypes(
        dataset_dir,
        out,
        bins,
        window_hu,
        solid,
        part_solid,
        library,
        min_voxels,
        section,
        seed,
        agreement,
        outline,
    )
    facts = {
        name: {"lesions": e["count"], "kept": len(e["histograms"]), "mean_hu": e["mean_hu"]}
        for name, e in content["subtypes"].items()
    }
    lines = [
        f"{name}: {e['lesions']} lesions, {e['kept']} kept, mean {e['mean_hu']} HU"
        for name, e in facts.items()
    ]
    return Result("\n".join([*lines, f"library in {out}"]), {"out": out, "subtypes": facts})

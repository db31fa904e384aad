"""A bundle made ready to learn the lesions of another organ (``adapt --organ``)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tools.bundle import SYNTHESIZE, find_bundle, read_configs, resolved
from tools.files import new_file, new_folder, read_entries, read_object, write_json
from tools.organs.organ import Organ, load_organ, organ_file
from tools.prepare.cluster import cluster_lesions
from tools.scans.reader import open_image

__all__ = ["PLACES", "as_of_organ", "bundle_of_organ", "organ_of", "require_organ", "table_of"]

PLACES = ("*", "*/*", "*/*/*")  # of the files of a bundle
TABLE = "organ.json"
OWN_TABLE = f"$@bundle_root + '/configs/{TABLE}'"  # as a config says it
TEXTURES = ("dark", "medium", "bright")  # what lesions of no known organ are called
OF_ITS_LESIONS = ("subtypes.json", "published_histograms.json", "histograms.json")


def bundle_of_organ(
    bundle: str | Path,
    organ: str | Path,
    window_hu: Sequence[float] | None,
    data: Path,
    folder: Path,
) -> Path:
    """Write a copy of a bundle that places lesions into another organ, and return its folder.

    Its weights are still those of the bundle. It has the table of the organ; the window between
    whose ends it sees intensities; and, for the words of its textures, groups of the lesions at
    hand (:func:`tools.prepare.cluster.cluster_lesions`), dark, medium and bright. A folder that is
    there is taken as it is.

    Args:
        bundle: name or folder; of lesions in a box, with one class, that takes a histogram.
        organ: name of a table, or a JSON file.
        window_hu: the window, lowest first; None: the bundle's.
        data: folder with ``datalist.json`` of the lesions, prepared for the bundle.
        folder: to write.

    Raises:
        FileNotFoundError: if there is no such organ.
        ValueError: if organ and bundle do not go together, or the window is none.
    """
    table = require_organ(bundle, organ, window_hu)
    window = None if window_hu is None else [float(edge) for edge in window_hu]
    if folder.is_dir():
        return folder
    with new_folder(folder, PLACES) as partial:
        shutil.copytree(find_bundle(bundle), partial, dirs_exist_ok=True)
        configs = partial / "configs"
        for name in OF_ITS_LESIONS:
            (configs / name).unlink(missing_ok=True)
        for path in sorted(configs.glob("*.json")):
            write_json(path, _changed(path, table, window), indent=2)
        shutil.copyfile(organ_file(organ), configs / TABLE)
        cluster_lesions(str(data), str(partial), len(TEXTURES), folder.parent / "textures", True)
    return folder


def organ_of(folder: Path) -> str | Path:
    """Return what ``synthesize.json`` says of the organ; a path: a bundle made ready for it."""
    config = read_object(folder / "configs" / SYNTHESIZE, "bundle")
    named = str(config["organ_table"]["name_or_path"])
    return folder / "configs" / TABLE if named == OWN_TABLE else named


def table_of(bundle: str | Path, organ: str | None = None) -> Organ:
    """Return the table of the organ that a bundle draws in; ``organ``: of one for several."""
    folder = find_bundle(bundle)
    parser = read_configs(folder / "configs", [SYNTHESIZE])
    parser["bundle_root"] = str(folder)
    if organ is not None:
        parser["organ"] = organ
    table: Organ = resolved(parser, "organ_table")
    return table


def as_of_organ(data: Path, organ: Organ) -> Path:
    """Write the validation section again, its lesions with the value of the organ's label maps.

    ``prepare scans`` gives lesions the value 1, which may be the organ itself there.

    Args:
        data: folder with ``datalist.json``, as ``prepare scans`` writes it.
        organ: of one class.

    Returns:
        The new datalist, in that folder.
    """
    value = organ.values[0]
    entries, labels, target = [], data / "organ_labels", data / "organ_datalist.json"
    labels.mkdir(exist_ok=True)
    for entry in read_entries(data / "datalist.json", "datalist", "validation"):
        image = open_image(data / entry["label"], "label")
        label = (np.asarray(image.dataobj) > 0).astype(np.uint8) * value
        path = labels / Path(entry["label"]).name
        with new_file(path) as partial:
            nib.save(nib.Nifti1Image(label, image.affine), partial)
        entries.append(entry | {"label": f"{labels.name}/{path.name}"})
    write_json(target, {"validation": entries})
    return target


def require_organ(
    bundle: str | Path, organ: str | Path, window_hu: Sequence[float] | None
) -> Organ:
    """Return the table of an organ that a bundle can be made ready for; see above."""
    root, table = find_bundle(bundle), load_organ(organ)
    name, train = organ_of(root), read_object(root / "configs" / "train.json", "bundle")
    if window_hu is not None and not window_hu[0] < window_hu[1]:
        raise ValueError(f"window_hu must be two HU, lowest first, got {tuple(window_hu)}")
    if "textures" not in train or str(name).startswith("@"):
        raise ValueError(
            f"organ goes with a bundle of one organ whose textures are histograms, got {bundle}"
        )
    own = load_organ(name)
    for word, mine, other in (
        ("chart", own.chart, table.chart),
        ("modality", own.modality, table.modality),
        ("number of classes", len(own.classes), len(table.classes)),
    ):
        if mine != other:
            raise ValueError(
                f"organ must have the {word} of {own.name}, which {bundle} is of, {mine}, got "
                f"{other} of {table.name}"
            )
    return table


def _changed(path: Path, table: Organ, window: Sequence[float] | None) -> dict[str, Any]:
    """Return a config of the bundle as the organ wants it."""
    config = read_object(path, "config of the bundle")
    if window is not None and isinstance(config.get("window_hu"), list):
        config["window_hu"] = list(window)
    if path.name == SYNTHESIZE:
        config["organ_table"]["name_or_path"] = OWN_TABLE
        if config["placement"] not in table.placements:
            config["placement"] = table.placements[0]
    if path.name == "inference.json":
        config["displayable_configs"]["texture"] = TEXTURES[1]
    if path.name == "train.json":
        config["textures"]["names"] = list(TEXTURES)
    if path.name == "metadata.json":
        config["name"] += f", adapted to the {table.name}"
        config["description"] += f" These weights were then trained on lesions of the {table.name}."
    return config

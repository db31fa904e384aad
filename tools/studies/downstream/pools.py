"""Pools of synthetic cases, made ahead and kept: each case once, whatever the number of runs.

A pool of a preset says how its cases are made:

* ``sites``: ``lesions``, each real lesion is taken out and another one drawn at its mask (P');
  ``normal``, lesions are put into sites without any (N', N'');
* ``bundle`` and ``method``: what draws textures; ``options``: of ``synthesize``, in which
  ``{subset}`` is the folder of the real cases of a run, and ``{training}`` that of all training
  cases, which under the protocol ``user`` shapes may come from, as those of a bundle do; under
  ``paper`` it is the same as ``{subset}``;
* ``sizes``: weight, smallest and largest diameter of each part of a mix, in place of the option
  ``diameter_mm``;
* ``amp``: false computes textures in float32; many processors are slow in bfloat16;
* ``count``: cases of a pool at normal sites; ``near_mm``: how far from the middle of a site a
  lesion lies at most, null: anywhere in the organ;
* ``facts``: what is said of each case, such as its class;
* ``training``: changes of the bundle's ``train.json`` where the protocol is ``paper``;
  ``prepare``: of its rule of ``prepare scans``, by which the real cases of the study are made into
  windows for it; without it they are learnt from as they are.

What depends on the real cases of a run (``{subset}``, the protocol ``paper``) is made once per
fraction and seed, anything else once.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from tools.files import new_file, read_entries, read_object, write_json
from tools.organs.organ import Organ
from tools.scans.reader import open_image
from tools.scans.scan import Scan
from tools.studies.downstream.cases import MARGIN_MM, Case, Site, prepared
from tools.studies.downstream.train_bundle import train_bundle
from tools.studies.redraw import Redraw
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.cases import Case as Request
from tools.synthesis.synthesizer import Synthesizer

__all__ = ["Pool", "write_subset"]

TRIES = 4  # of a lesion that finds no room at its site
AERATED = -500  # HU, of means of about 2 mm

logger = logging.getLogger(__name__)


@dataclass
class Pool:
    """A pool of a study, of one group of runs where it depends on their real cases.

    Args:
        name: of the pool.
        rule: its entry in the preset.
        protocol: of the study.
        organ: whose lesions they are.
        folder: of all pools.
        group: of runs.
        subset: folder of the datalist with their real cases.
        training: of that with all training cases.
        device: of networks.
    """

    name: str
    rule: Mapping[str, Any]
    protocol: str
    organ: Organ
    folder: Path
    group: str
    subset: Path
    training: Path
    device: str = "auto"

    @property
    def own(self) -> bool:
        """Whether it depends on the real cases of a group of runs."""
        options = json.dumps(self.rule.get("options", {}))
        if self.protocol == "paper" and "{training}" in options:
            return True
        return self._learns or "{subset}" in options

    @property
    def _learns(self) -> bool:
        """Whether its generator is trained on the real cases of a group of runs."""
        return self.protocol == "paper" and self.rule.get("method") is None

    @property
    def place(self) -> Path:
        """Folder of its cases."""
        return self.folder / (f"{self.name}_{self.group}" if self.own else self.name)

    def path(self, name: str) -> Path:
        """Return the image of a case."""
        return self.place / f"{name}_image.nii.gz"

    def synthesizer(self) -> Synthesizer:
        """Return what draws the lesions, from weights of this group's cases if so wanted."""
        options = dict(self.rule.get("options", {}))
        shapes = self.subset if self.protocol == "paper" else self.training
        for word, folder in (("{subset}", self.subset), ("{training}", shapes)):
            texts = {key: value for key, value in options.items() if isinstance(value, str)}
            options |= {key: text.replace(word, str(folder)) for key, text in texts.items()}
        method = self.rule.get("method")
        weights = self._trained() if self._learns else None
        wanted = {"attempts": 1, **options}
        opened = open_synthesizer(self.rule["bundle"], self.device, weights, wanted, method=method)
        if not self.rule.get("amp", True):
            opened.parser["amp_dtype"] = None
        return opened.get("synthesizer")

    def _trained(self) -> Path:
        """Return weights that have learnt from the real cases of this group alone."""
        bundle, cases = self.rule["bundle"], self.subset
        place = self.folder.parent / "weights" / f"{bundle}_{self.group}"
        if "prepare" in self.rule:
            # what repeats its training cases for validation is not taken by prepare
            entries = read_entries(cases / "datalist.json", "real")
            alone = write_subset(place / "listed", cases, entries, [])
            keys = {"prepare": {"bundle": bundle, **self.rule["prepare"]}}
            made = prepared(alone, place / "windows", keys, validation_fraction=0)
            entries = read_entries(made / "datalist.json", "real")
            cases = write_subset(place / "data", made, entries)
        return train_bundle(bundle, cases, place, dict(self.rule.get("training", {})))

    def check(self) -> None:
        """Open what draws its lesions, unless that is to be trained first.

        Raises:
            ValueError: if it refuses what the preset asks of it.
        """
        if not self._learns:
            self._of_sizes()

    def fill(self, training: Sequence[Mapping[str, Any]], sites: Sequence[Site]) -> None:
        """Make what is missing of the pool.

        Args:
            training: entries of the real cases that lesions are drawn anew of.
            sites: without lesion.
        """
        self._require_same()
        if self.rule["sites"] == "lesions":
            wanted = [each for each in training if not self._done(each["name"])]
            if wanted:
                self._redraw(wanted)
            return
        numbers = [k for k in range(self.rule["count"]) if not self._done(f"{k:05d}")]
        if numbers:
            job = self._of_sizes()
            for number in tqdm(numbers, self.place.name):
                self._put(number, sites[number % len(sites)](), job)

    def read(self, names: Collection[str] | None = None) -> Iterator[Case]:
        """Yield the cases that are there, of some names or all."""
        paths = sorted(self.place.glob("*_image.nii.gz"))
        for path in paths:
            name = path.name.removesuffix("_image.nii.gz")
            if names is not None and name not in names:
                continue
            image = open_image(path)
            label = open_image(self._label(path))
            labels = np.asarray(label.dataobj).astype(np.uint8)
            affine, known = np.asarray(image.affine), np.ones(labels.shape, bool)
            values, facts = np.asarray(image.dataobj), self.rule.get("facts", {})
            yield Case(f"{self.name}:{name}", "", values, labels, affine, known, facts)

    def _of_sizes(self) -> Synthesizer:
        """Return what draws one lesion per site, of the sizes of the pool."""
        sizes = tuple((float(a), float(b), float(c)) for a, b, c in self.rule.get("sizes", []))
        return replace(self.synthesizer(), count=1, sizes=sizes or None)

    def _require_same(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        path, wanted = self.place / "pool.json", dict(self.rule) | {"protocol": self.protocol}
        made = read_object(path, "out") if path.is_file() else None
        if made is not None and made | {"count": 0} != wanted | {"count": 0}:
            raise ValueError(
                f"out must hold pools of one preset, got {path} with another rule than {wanted}"
            )
        write_json(path, wanted)

    def _done(self, name: str) -> bool:
        return self.path(name).is_file()

    def _label(self, path: Path) -> Path:
        return path.with_name(path.name.replace("_image.", "_label."))

    def _redraw(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Draw lesions anew at their own masks, after they were taken out."""
        job = self.synthesizer()
        texture = ",".join(job.textures.names)
        redraw = Redraw(self.organ, job.texturer.view, MARGIN_MM, job.seed)
        for each in tqdm(entries, self.place.name):
            found = list(redraw.reals(each["name"], each["patient"], each["image"], each["label"]))
            if len(found) == 1:
                redraw.drawn(found[0], job, self.path(each["name"]), texture)
            else:  # the others would stay, and not be in the label
                logger.warning("%s is left out: it holds %d lesions", each["name"], len(found))

    def _put(self, number: int, site: Case, job: Synthesizer) -> None:
        """Put a lesion into a site; a site without room is left out."""
        scan = Scan(
            nib.Nifti1Image(site.image, site.affine, dtype=site.image.dtype),
            in_hu=self.organ.modality == "CT",
        )
        if self.organ.parts:
            organ, near = site.label, None
        else:
            organ = _aerated(site.image, site.spacing_mm).astype(np.uint8)
            near = self.rule.get("near_mm")
        case = Request(site.name, Path(site.name), nib.Nifti1Image(organ, site.affine))
        for turn in range(TRIES):
            key = zlib.crc32(self.name.encode())
            chance = np.random.default_rng([job.seed, key, number, turn])
            try:
                point = None if near is None else _point(organ > 0, site.affine, near, chance)
                plan = replace(job, site=point).plan(scan, case, chance, "error")
            except ValueError as error:
                logger.info("%s %d: %s", self.name, number, error)
                continue
            (result,) = job.finish([plan])
            path = self.path(f"{number:05d}")
            with new_file(self._label(path)) as partial:
                scan.write_label(partial, result.label)
            with new_file(path) as partial:
                scan.write(partial, result.stored)
            return
        logger.warning("%s: case %d finds no room in %s", self.name, number, site.name)


def _aerated(image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the lung of a window, with its vessels: what is dark in means, without gaps."""
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), 1 / np.array(spacing_mm))
    return np.asarray(ndimage.binary_closing(smooth < AERATED, iterations=2) | (smooth < AERATED))


def _point(
    organ: np.ndarray, affine: np.ndarray, near_mm: float, chance: np.random.Generator
) -> tuple[float, ...]:
    """Return a voxel of the organ near the middle of a window, RAS mm."""
    middle = nib.affines.apply_affine(affine, (np.array(organ.shape) - 1) / 2)
    points = nib.affines.apply_affine(affine, np.argwhere(organ))
    close = points[np.linalg.norm(points - middle, axis=1) <= near_mm]
    if not len(close):
        raise ValueError(f"site must have organ within {near_mm} mm of its middle, got none")
    return tuple(close[chance.integers(len(close))].tolist())


def write_subset(
    folder: Path,
    prepared: Path,
    entries: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write a datalist of some real cases, which alone a generator may learn from; return it.

    Args:
        folder: to write; files are linked to.
        prepared: folder of the datalist that the entries are of.
        entries: to train on.
        validation: None repeats those: trainings of bundles validate, and nothing else is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    other = entries if validation is None else validation
    files = [entry[key] for entry in (*entries, *other) for key in ("image", "label")]
    for top in sorted({Path(file).parts[0] for file in files}):
        link = folder / top
        if not link.is_symlink():
            link.symlink_to((prepared / top).resolve())
    write_json(folder / "datalist.json", {"training": entries, "validation": other})
    return folder

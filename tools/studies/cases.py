"""The cases of a study: real lesions of a datalist, in the form that a bundle works on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine, voxel_sizes
from torch import Tensor
from tqdm import tqdm

from tools.histograms import intensity_histogram
from tools.intensity import HuWindow
from tools.organs.organ import Organ
from tools.scans.scan import Scan, read_labels
from tools.synthesis.view import CropView, CubeView, SlicesView
from tools.transforms.conditions import SUBTYPES, derangement, lesion_subtype
from tools.transforms.healing import heal, heal_wall
from tools.transforms.spheres import Sphere, enclosing_sphere
from tools.transforms.windows import PasteLesiond
from tools.windows import WindowGrid, cut_window, window_size

Range = tuple[float, float]
Entry = Mapping[str, Any]  # of a datalist
SCALED: Range = (-1.0, 1.0)
HEALED_MM = 3.0


class Native(NamedTuple):
    """The scan that a window was resampled from, and how to bring the window back."""

    scan: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    grid: WindowGrid
    lesions: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A real lesion, or an organ with lesions of several classes, and what is known of it.

    ``image`` is ``(H, W, D)``, empty where the study is of masks alone; ``masks`` are True inside,
    one per lesion class, ``(K, H, W, D)``; ``histograms`` their own, ``(K, bins)``, zeros where a
    class is absent. ``value_range`` are the values of ``image`` that are the ends of histograms and
    of what a model sees, ``scale`` the scan's intensities that they stand for. Cases of one patient
    never lie on both sides of a split; ``group`` is what the datalist sorts the case into (a
    subtype, a section); ``facts`` go into the results. ``tissue`` is the label map of the window,
    ``native`` the scan that it was resampled from, ``sphere`` the smallest about a mask; ``healed``
    is the image without the lesion, see :func:`taken_out`.
    """

    name: str
    patient: str
    image: np.ndarray
    masks: np.ndarray
    value_range: Range = SCALED
    scale: Range = SCALED
    histograms: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    group: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    tissue: np.ndarray | None = None
    native: Native | None = None
    sphere: Sphere = field(default_factory=lambda: Sphere((0.0, 0.0, 0.0), 0.0))
    healed: np.ndarray | None = None

    @property
    def shown(self) -> np.ndarray:
        """What lesions are drawn on: the image, healed if it was."""
        return self.image if self.healed is None else self.healed

    @property
    def lesion(self) -> np.ndarray:
        """True inside a lesion of any class, ``(H, W, D)``."""
        return np.asarray(self.masks.any(0))

    @property
    def present(self) -> tuple[bool, ...]:
        """Whether each class is there."""
        return tuple((self.histograms.sum(1) > 0).tolist())

    @property
    def placed(self) -> PlacedMask:
        """The lesion as a mask on its grid."""
        return PlacedMask(self.masks[0], self.affine)

    def pasted(self, image: np.ndarray) -> np.ndarray:
        """Return the scan with a synthetic window brought back inside the lesion labels."""
        if self.native is None:
            raise ValueError("case must have been cut from a scan, got a window without one")
        scan, label, affine, grid, lesions = self.native
        window = torch.as_tensor(image, dtype=torch.float32)[None]
        pixels, labels = (torch.from_numpy(np.ascontiguousarray(a))[None] for a in (scan, label))
        sample: dict[Hashable, Any] = {
            "pred": window,
            "scan": MetaTensor(pixels, affine=torch.from_numpy(affine)),
            "scan_label": labels,
            "window": MetaTensor(window, affine=torch.from_numpy(grid.affine)),
            "intensity_range": self.scale,
        }
        paste = PasteLesiond("pred", "scan", "scan_label", lesions, window_key="window")
        return paste(sample)["pred"][0].as_subclass(Tensor).numpy()


class PlacedMask(NamedTuple):
    """A mask (bool, 3-D, not empty) on a grid of its own (affine: voxel index to RAS mm)."""

    mask: np.ndarray
    affine: np.ndarray


def spread(entries: Sequence[Any], count: int | None, ends: bool = False) -> list[Any]:
    """Return entries evenly spread over a list, from the first on; None takes all.

    With ``ends`` the last is taken too.

    Example:
        >>> spread("abcdef", 3), spread("abcdef", 3, ends=True)
        (['a', 'c', 'e'], ['a', 'c', 'f'])
    """
    if count is not None and count < 1:
        raise ValueError(f"limit must be at least 1, got {count}")
    total = len(entries)
    count = total if count is None else min(count, total)
    if ends:
        return [entries[int(i)] for i in np.linspace(0, total - 1, count).round()]
    return [entries[i * total // count] for i in range(count)]


def taken_out(case: Case, organ: Organ | None = None) -> Case:
    """Return a case whose lesion, and 3 mm round it, are healed: what users draw on.

    See :func:`tools.transforms.healing.heal`; ``organ`` is that of a wall.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    if organ is None or not organ.wall or case.native is None:
        spacing = voxel_sizes(case.affine)
        healed = heal(case.image, case.lesion, spacing, rng, HEALED_MM)
    else:
        scan, label, affine, grid, lesions = case.native
        lesion, wall, cavity = (
            np.isin(label, values) for values in (lesions, organ.wall, organ.cavity)
        )
        # on the scan's own grid: a window has interpolated the lesion into its surroundings
        whole = heal_wall(np.asarray(scan), lesion, wall, cavity, affine, rng, HEALED_MM)
        healed = HuWindow(*case.scale).scaled(cut_window(whole, affine, grid))
    # what is not healed stays, bit for bit; noise must not leave the range of a scaled image
    low, high = case.value_range if case.value_range == SCALED else (-np.inf, np.inf)
    changed = healed != case.image.astype(np.float32)
    return replace(case, healed=np.where(changed, healed.clip(low, high), case.image))


def class_histograms(image: np.ndarray, masks: np.ndarray, bins: int, value_range: Range) -> Tensor:
    """Return the histogram of each class, ``(K, bins)``; zeros where a class is absent.

    The bins at the ends collect what lies beyond the range.

    Example:
        >>> image = np.array([-900.0, 300.0, 900.0])
        >>> class_histograms(image, np.ones((1, 3), bool), 2, (-1000, 400))
        tensor([[0.3333, 0.6667]])
    """
    values = torch.as_tensor(np.ascontiguousarray(image)).float().expand(masks.shape)
    return intensity_histogram(values, torch.from_numpy(masks), bins, value_range)


def lesion_box(
    inside: np.ndarray, size: Callable[[float], int] = window_size, step: int = 8
) -> tuple[slice, ...]:
    """Return the cube about a lesion, moved inside the array or cut down to it.

    The grid is of 1 mm; ``size`` leads from the largest extent to the voxels of a side, and a side
    that is cut down is a multiple of ``step``.

    Raises:
        ValueError: if the mask is empty, or no such cube inside the array holds the lesion.
    """
    voxels = np.argwhere(inside)
    if len(voxels) == 0:
        raise ValueError("lesion_mask must hold a lesion, got an empty mask")
    low, high = voxels.min(0), voxels.max(0) + 1
    extent = float((high - low).max())
    side = min(size(extent), min(inside.shape) // step * step)
    if side < extent:
        raise ValueError(
            f"lesion_mask must fit a cube of {side} voxels inside its array of shape "
            f"{inside.shape}, got an extent of {(high - low).tolist()}"
        )
    start = np.clip((low + high - side) // 2, 0, np.array(inside.shape) - side)
    return tuple(slice(int(a), int(a) + side) for a in start)


def other_cases(cases: Sequence[Case], seed: int = 0) -> list[int]:
    """Return for each case another one with the same lesion classes; itself if there is none."""
    order = list(range(len(cases)))
    for pattern in {case.present for case in cases}:
        members = [i for i, case in enumerate(cases) if case.present == pattern]
        if len(members) > 1:
            for i, place in zip(members, derangement(len(members), seed), strict=True):
                order[i] = members[place]
    return order


def _named(entry: Entry) -> tuple[str, str]:
    name = str(entry.get("name", entry.get("image", entry["label"])))
    return name, str(entry.get("patient", name))


def _lesion_in_hu(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Return a CT and where its lesion is."""
    scan = Scan(entry["image"], in_hu=True, argument="image")
    return np.asarray(scan.image), scan.load_labels(entry["label"], "label") > 0


def window_cases(
    files: Sequence[Entry], view: CubeView, bins: int, limit: int | None
) -> list[Case]:
    """Return lesions in the smallest window that the network can work in, scaled as it sees them.

    ``files`` have ``image`` (HU, 1 mm isotropic) and ``label``; ``limit`` spreads over them.
    """
    cases = []
    for entry in tqdm(spread(files, limit), desc="loading lesions"):
        scan, inside = _lesion_in_hu(entry)
        box = lesion_box(inside)
        hu = scan[box].astype(np.float32)
        # double precision, so that scaling by the sampler changes nothing any more
        image, masks = view.scale.scaled(hu).astype(np.float64), inside[box][None]
        own = class_histograms(image, masks, bins, SCALED)
        facts = {"voxels": int(masks.sum()), "window": image.shape[-1]}
        scale = (view.scale.low, view.scale.high)
        cases.append(Case(*_named(entry), image, masks, SCALED, scale, own, facts=facts))
    if len(cases) < 2:
        raise ValueError(f"limit must leave at least 2 lesions, got {len(cases)}")
    return cases


def subtype_cases(
    files: Sequence[Entry], view: CropView, bins: int, limit: int | None
) -> list[Case]:
    """Return the lesions whose subtype is known, in HU, in the windows of a latent model.

    ``files`` have ``texture`` as well, a rating from 1 to 5 or a name. ``limit`` is shared equally
    by the subtypes: a rare one keeps all it has.
    """
    chosen: list[tuple[Entry, str]] = []
    for number, name in enumerate(SUBTYPES):
        mine = [entry for entry in files if lesion_subtype(entry.get("texture")) == number]
        share = None if limit is None else -(-limit // len(SUBTYPES))
        chosen += [(entry, name) for entry in (spread(mine, share) if mine else ())]
    if not chosen:
        raise ValueError("dataset must have lesions whose datalist rates their texture")
    return _crops(chosen, view, bins)


def crop_cases(files: Sequence[Entry], view: CropView, bins: int, limit: int | None) -> list[Case]:
    """Return lesions of any kind, in HU, in the windows of a latent model."""
    cases = _crops([(entry, "") for entry in spread(files, limit)], view, bins)
    if len(cases) < 2:
        raise ValueError(f"limit must leave at least 2 lesions, got {len(cases)}")
    return cases


def _crops(chosen: Sequence[tuple[Entry, str]], view: CropView, bins: int) -> list[Case]:
    window = (view.scale.low, view.scale.high)
    cases = []
    for entry, name in tqdm(chosen, desc="loading lesions"):
        scan, inside = _lesion_in_hu(entry)
        box = lesion_box(inside, lambda mm: view.voxels(mm * view.spacing_mm), view.step)
        image = scan[box].astype(np.float32)
        masks = inside[box][None]
        own = class_histograms(image, masks, bins, window)
        diameter = float((6 * inside.sum() / np.pi) ** (1 / 3))
        facts = {"voxels": int(masks.sum()), "diameter_mm": diameter}
        cases.append(
            Case(*_named(entry), image, masks, window, window, own, np.eye(4), name, facts)
        )
    return cases


def slice_cases(
    files: Sequence[Entry], view: SlicesView, bins: int, limit: int | None
) -> list[Case]:
    """Return organs on scans of few thick slices, each in the window that the model sees.

    ``label`` is the map of the organ, lesions included.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}")
    chosen = tqdm(spread(files, limit), desc="loading scans")
    cases = [_slices(entry, view, bins) for entry in chosen]
    cases = [case for case in cases if any(case.present)]
    if len(cases) < 2:
        raise ValueError(f"dataset_dir must hold two scans with a lesion, got {len(cases)}")
    return cases


def _slices(entry: Entry, view: SlicesView, bins: int) -> Case:
    source = Scan(entry["image"], argument="image")
    scan, label = np.asarray(source.image), source.load_labels(entry["label"], "label")
    affine = np.asarray(source.affine, float)
    grid = view.rule.on_slices(np.isin(label, view.around), affine)
    cut = cut_window(scan, affine, grid)
    scale = view.percentiles.of(cut)
    tissue = cut_window(label, affine, grid, order=0, beyond=0.0)
    masks = np.stack([tissue == value for value in view.organ.values])
    image = scale.scaled(cut).astype(np.float64)
    names = [each.name for each in view.organ.classes]
    counts = dict(zip(names, masks.sum((1, 2, 3)).tolist(), strict=True))
    facts = {"slices": int(label.shape[2]), "voxels": counts}
    own = class_histograms(image, masks, bins, SCALED)
    native = Native(scan, label, affine, grid, view.organ.values)
    named = _named({"name": entry.get("patient", entry["image"]), **entry})
    known: dict[str, Any] = {"facts": facts, "tissue": tissue, "native": native}
    return Case(*named, image, masks, SCALED, (scale.low, scale.high), own, **known)


def read_masks(files: Sequence[Entry], limit: int | None = None) -> list[Case]:
    """Return the masks of a datalist, each cut or padded to the grid round its sphere."""
    chosen = spread(files, limit, ends=True)
    return [_mask_case(entry) for entry in tqdm(chosen, desc="reading masks")]


def _mask_case(entry: Entry, margin: int = 2) -> Case:
    """Return a mask on the part of its lattice that holds its sphere and some voxels."""
    labels, affine = read_labels(entry["label"], "label")
    mask = labels > 0
    sphere = enclosing_sphere(mask, affine)
    inverse = np.linalg.inv(affine)
    middle = apply_affine(inverse, sphere.centre_mm)
    reach = sphere.radius_mm * np.linalg.norm(inverse[:3, :3], axis=1)
    low = np.floor(middle - reach).astype(int) - margin
    high = np.ceil(middle + reach).astype(int) + margin + 1
    window = np.zeros(high - low, bool)
    window[tuple((np.argwhere(mask) - low).T)] = True
    moved = affine.copy()
    moved[:3, 3] = apply_affine(affine, low)
    scores = {k: float(entry[k]) for k in ("spiculation", "lobulation") if entry.get(k) is not None}
    name = str(entry["label"])
    patient = str(entry.get("patient", name))
    facts = scores | {"diameter_mm": 2 * sphere.radius_mm}
    return Case(name, patient, np.empty(0), window[None], affine=moved, facts=facts, sphere=sphere)


def read_patches(files: Iterable[Entry], section: str, intensity_range: Range) -> list[Case]:
    """Return patches scaled to [0, 1]; a patch without a label has no mask at all (K = 0)."""
    low, high = intensity_range
    cases = []
    for entry in tqdm(list(files), desc=f"reading {section}"):
        scan = Scan(entry["image"], argument="image")
        values = np.asarray(scan.image, np.float32)
        image = (np.clip(values, low, high) - low) / (high - low)
        masks = np.zeros((0, *image.shape), bool)
        if "label" in entry:
            masks = scan.load_labels(entry["label"], "label")[None] > 0
        kind = "nodule" if "diameter_mm" in entry else "scan"
        kind = "phantom" if entry.get("phantom") else kind
        names = _named({"name": Path(entry["image"]).name, "patient": "", **entry})
        facts = {"section": section, "kind": kind}
        case = Case(*names, image, masks, (0.0, 1.0), (low, high), group=section, facts=facts)
        cases.append(case)
    return cases

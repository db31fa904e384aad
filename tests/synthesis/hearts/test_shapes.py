"""Infarcts for a given heart: in the wall, nested, of the size and at the site asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine

from tools.networks.lesion_unet import LesionUNet
from tools.phantoms.heart_mr import heart_mr
from tools.synthesis.hearts.diffmask_shapes import _inward
from tools.synthesis.hearts.shapes import (
    DiffMaskHeartShapes,
    Heart,
    HeartRequest,
    HeartShape,
    LibraryHeartShapes,
    MaskFileHeartShape,
    make_heart_shape_source,
)
from tools.transforms.spheres import enclosing_sphere

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


def phantom(seed: int, infarct: bool = True, slices: int = 5) -> tuple[Heart, np.ndarray]:
    made = heart_mr((80, 80, slices), (1.8, 1.8, 14.0), seed, infarct=infarct)
    return Heart(made.label > 1, made.label == 1, made.affine), made.label


def save(path: Path, label: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.nifti1.Nifti1Image(label.astype(np.uint8), affine), path)
    return path


def request(low: float = 1.0, high: float = 500.0, **arguments: object) -> HeartRequest:
    return HeartRequest((low, high), **arguments)


def check(shape: HeartShape, heart: Heart) -> None:
    assert shape.label.dtype == np.uint8
    assert shape.label.any()
    assert set(np.unique(shape.label).tolist()) <= {0, 3, 4}
    assert not shape.label[~heart.wall].any()
    diameter = 2 * enclosing_sphere(shape.label, heart.affine).radius_mm
    assert shape.diameter_mm == pytest.approx(diameter)
    share = (shape.label == 4).sum() / (shape.label > 0).sum()
    assert shape.no_reflow_share == pytest.approx(share)


def angle_of(heart: Heart, label: np.ndarray) -> float:
    place = heart.coordinates()
    return float(np.angle(np.exp(1j * place.angle[label[tuple(place.voxels.T)] > 0]).mean()))


def apart(a: float, b: float) -> float:
    return float(np.degrees(abs(np.angle(np.exp(1j * (a - b))))))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    for seed in (1, 2, 3):
        heart, label = phantom(seed, infarct=seed < 3, slices=4 + seed)
        save(folder / f"case{seed}_label.nii.gz", label, heart.affine)
    save(folder / "case1_image.nii.gz", np.ones((3, 3, 3)), AFFINE)
    return folder


@pytest.fixture(scope="module")
def healthy() -> Heart:
    return phantom(7, infarct=False)[0]


@pytest.fixture(scope="module")
def make_wall_bundle(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[float], Path]:
    """A writer of bundles like the cardiac one, tiny and untrained: in or out by its bias."""

    def write(bias: float) -> Path:
        folder = tmp_path_factory.mktemp("walls") / "tiny_walls"
        configs = repository / "bundles" / "diffmask" / "configs"
        for name in ("configs", "models"):
            (folder / name).mkdir(parents=True)
        plain = json.loads((configs / "inference.json").read_text(encoding="utf-8"))
        heart = json.loads((configs / "cardiac_inference.json").read_text(encoding="utf-8"))
        heart |= {"prediction_type": "sample", "amp_dtype": None}
        heart["displayable_configs"]["num_inference_steps"] = 2
        heart["network_def"]["channels"] = [8, 16, 16]
        definition = {k: v for k, v in heart["network_def"].items() if not k.startswith("_")}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = LesionUNet(**definition)
        torch.nn.init.constant_(network.output[-1].bias, bias)
        for name, config in (("inference", plain), ("cardiac_inference", heart)):
            text = json.dumps(config)
            (folder / "configs" / f"{name}.json").write_text(text, encoding="utf-8")
        torch.save(network.state_dict(), folder / "models" / "model_cardiac.pt")
        return folder

    return write


@pytest.fixture(scope="module")
def learned(make_wall_bundle: Callable[[float], Path]) -> DiffMaskHeartShapes:
    source = make_heart_shape_source(f"diffmask:{make_wall_bundle(0.6)}", "cpu")
    assert isinstance(source, DiffMaskHeartShapes)
    return source


def test_learned_shapes_keep_wall_sphere_and_share(
    learned: DiffMaskHeartShapes, healthy: Heart
) -> None:
    site = tuple(apply_affine(healthy.affine, np.argwhere(healthy.wall)[900]))
    asked = request(40.0, 50.0, no_reflow_share=(0.2, 0.2), site_mm=site)
    shape = learned.draw(healthy, asked, np.random.default_rng(0))
    check(shape, healthy)
    assert shape.source == "diffmask"
    assert shape.diameter_mm <= 50
    voxels = int((shape.label > 0).sum())
    assert int((shape.label == 4).sum()) == round(0.2 * voxels)
    # 0.57 of the way from the axis at 44 mm or so: round the site, but reaching inward
    angle = healthy.coordinates().angle[
        np.linalg.norm(
            healthy.coordinates().voxels - np.argwhere(healthy.wall)[900], axis=1
        ).argmin()
    ]
    assert apart(angle_of(healthy, shape.label), float(angle)) < 25


def test_the_sphere_of_a_large_lesion_lies_inward_of_its_site() -> None:
    index = np.stack(np.meshgrid(*map(np.arange, (41, 41, 3)), indexing="ij"), -1)
    radius = np.linalg.norm((index[..., :2] - 20) * 2.0, axis=-1)
    ring = Heart((radius >= 20) & (radius < 30), radius < 20, np.diag([2.0, 2.0, 10.0, 1.0]))
    # middle of the ring at (40, 40); a site 25 mm from it
    for diameter, part in ((0.0, 1.0), (47.0, 0.54), (68.0, 0.39), (103.0, 0.16), (200.0, 0.16)):
        centre = _inward(ring, (65.0, 40.0, 10.0), diameter)
        assert centre == pytest.approx((40 + 25 * part, 40.0, 10.0))


def test_learned_shapes_repeat_with_the_seed(learned: DiffMaskHeartShapes, healthy: Heart) -> None:
    labels = [
        learned.draw(healthy, HeartRequest(), np.random.default_rng(seed)).label
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[0], labels[2])


def test_empty_predictions_end_in_an_error(
    make_wall_bundle: Callable[[float], Path], healthy: Heart
) -> None:
    source = DiffMaskHeartShapes(str(make_wall_bundle(-5.0)), "cpu")
    with pytest.raises(ValueError, match=r"diameter_mm must leave room for a lesion, got .* in 5"):
        source.draw(healthy, HeartRequest(), np.random.default_rng(0))


def test_library_shapes_lie_in_the_wall_and_differ(library: Path, healthy: Heart) -> None:
    source = make_heart_shape_source(f"library:{library}")
    assert isinstance(source, LibraryHeartShapes)
    assert sorted(item.name for item in source.lesions) == ["case1", "case2"]
    shapes = [source.draw(healthy, request(), np.random.default_rng(n)) for n in (0, 0, 1, 2, 3)]
    for shape in shapes:
        check(shape, healthy)
        assert shape.source.startswith("library:case")
    assert np.array_equal(shapes[0].label, shapes[1].label)
    assert len({shape.label.tobytes() for shape in shapes}) >= 4


def test_library_chooses_by_size_and_else_the_nearest(library: Path, healthy: Heart) -> None:
    source = LibraryHeartShapes(library, turn_degrees=0)
    found = {
        draw.source.split()[0]: draw.diameter_mm
        for draw in (source.draw(healthy, request(), np.random.default_rng(n)) for n in range(12))
    }
    assert len(found) == 2
    for name, diameter in found.items():
        narrow = request(diameter - 0.5, diameter + 0.5)
        for seed in range(4):
            shape = source.draw(healthy, narrow, np.random.default_rng(seed))
            assert shape.source.split()[0] == name
    largest = max(found, key=lambda name: found[name])
    shape = source.draw(healthy, request(900.0, 901.0), np.random.default_rng(0))
    assert shape.source.split()[0] == largest


def test_a_datalist_is_a_library_of_its_training_section(library: Path, tmp_path: Path) -> None:
    entries = [{"label": str(library / "case1_label.nii.gz")}, {"image": "only.nii.gz"}]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": entries, "test": [{"label": "no.nii.gz"}]}))
    for place in (path, tmp_path):
        assert [item.name for item in LibraryHeartShapes(place).lesions] == ["case1"]


def test_a_share_asked_of_the_library_is_met(library: Path, healthy: Heart) -> None:
    source = LibraryHeartShapes(library)
    for low, high in ((0.0, 0.0), (0.3, 0.3), (0.6, 0.7)):
        asked = request(no_reflow_share=(low, high))
        shape = source.draw(healthy, asked, np.random.default_rng(0))
        check(shape, healthy)
        assert low - 0.01 <= shape.no_reflow_share <= high + 0.01


def test_the_site_is_the_middle_of_a_moved_lesion(library: Path, healthy: Heart) -> None:
    source = LibraryHeartShapes(library)
    place = healthy.coordinates()
    for n in (100, 2000):
        voxel, angle = place.voxels[n], float(place.angle[n])
        site = tuple(apply_affine(healthy.affine, voxel))
        shape = source.draw(healthy, request(site_mm=site), np.random.default_rng(0))
        assert apart(angle_of(healthy, shape.label), angle) < 12
    with pytest.raises(ValueError, match="site_mm must lie within 20 mm of the wall, got"):
        source.draw(healthy, request(site_mm=(900.0, 0.0, 0.0)), np.random.default_rng(0))


def test_a_mask_in_the_wall_is_used_voxel_by_voxel(tmp_path: Path) -> None:
    heart, label = phantom(1)
    lesions = np.where(label > 2, label, 0)
    for name, values in (("alone", lesions), ("with_heart", label)):
        path = save(tmp_path / f"{name}.nii.gz", values, heart.affine)
        source = make_heart_shape_source(str(path))
        assert isinstance(source, MaskFileHeartShape)
        shape = source.draw(heart, request(900.0, 901.0), np.random.default_rng(0))
        check(shape, heart)
        assert np.array_equal(shape.label, lesions)
        assert shape.source == f"mask:{name}.nii.gz"


def test_a_mask_of_another_heart_is_moved(tmp_path: Path, healthy: Heart) -> None:
    heart, label = phantom(1, slices=7)
    path = save(tmp_path / "other.nii.gz", label, heart.affine)
    source = MaskFileHeartShape(path)
    shape = source.draw(healthy, request(), np.random.default_rng(0))
    check(shape, healthy)
    assert shape.source == "mask:other.nii.gz turned 0 degrees"
    assert apart(angle_of(healthy, shape.label), angle_of(heart, label > 2)) < 10
    again = source.draw(healthy, request(), np.random.default_rng(1))
    assert np.array_equal(shape.label, again.label)


def test_masks_that_fit_nowhere_are_named(tmp_path: Path, healthy: Heart) -> None:
    rng = np.random.default_rng(0)
    lesion = np.zeros(healthy.wall.shape, np.uint8)
    lesion[0, 0, 0] = 3
    path = save(tmp_path / "stray.nii.gz", lesion, healthy.affine)
    with pytest.raises(ValueError, match=r"shape must lie in the wall .* partly outside the wall"):
        MaskFileHeartShape(path).draw(healthy, request(), rng)
    path = save(tmp_path / "shifted.nii.gz", lesion, healthy.affine + 1)
    with pytest.raises(ValueError, match=r"shape must lie in the wall .* on another grid"):
        MaskFileHeartShape(path).draw(healthy, request(), rng)
    path = save(tmp_path / "healthy.nii.gz", healthy.wall * 2, healthy.affine)
    with pytest.raises(ValueError, match=r"shape must hold 3 .* got labels \[0, 2\]"):
        MaskFileHeartShape(path)
    with pytest.raises(ValueError, match="shape must name label maps"):
        MaskFileHeartShape(tmp_path / "absent.nii.gz")
    with pytest.raises(ValueError, match="shape must name a library with infarcts, got none"):
        LibraryHeartShapes(save(tmp_path / "x_label.nii.gz", healthy.wall * 2, AFFINE).parent)
    save(tmp_path / "x_label.nii.gz", lesion, AFFINE)
    with pytest.raises(ValueError, match=r"shape must name label maps with 1 .* got \[0, 3\]"):
        LibraryHeartShapes(tmp_path)
    with pytest.raises(ValueError, match="shape library:PATH must name a folder"):
        LibraryHeartShapes(tmp_path / "absent")
    with pytest.raises(ValueError, match="turn_degrees must be >= 0, got -1"):
        LibraryHeartShapes(tmp_path, -1)
    for word in ("library", "blob", ""):
        with pytest.raises(ValueError, match=f"shape must be one of diffmask, .* got '{word}'"):
            make_heart_shape_source(word)
    with pytest.raises(FileNotFoundError, match="bundle must be a bundle folder"):
        make_heart_shape_source("diffmask:nowhere")

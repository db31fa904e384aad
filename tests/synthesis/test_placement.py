import nibabel as nib
import numpy as np
import pytest

from tools.synthesis.placement import choose_sites

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def box_organ(size: int = 80, border: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """A cube of lung (-850 HU) in soft tissue, ``border`` from the faces: scan, mask."""
    organ = np.zeros((size,) * 3, bool)
    organ[(slice(border, size - border),) * 3] = True
    return np.where(organ, -850.0, 40.0), organ


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    angle = np.deg2rad(25)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine[:3, :3] = turn @ np.diag(spacing) @ np.diag([-1, 1, 1])
    affine[:3, 3] = 30, -40, 12
    return affine


def depth_in_cube(index: tuple[float, float, float], low: float, high: float) -> float:
    return min(min(x - low, high - x) for x in index)


def test_interior_lesions_lie_wholly_inside_and_apart() -> None:
    scan, organ = box_organ()
    radii = [10.0, 6.0, 6.0, 3.0]
    sites = choose_sites(scan, organ, AFFINE, radii, np.random.default_rng(1), mode="interior")
    assert [site.mode for site in sites] == ["interior"] * 4
    for radius, site in zip(radii, sites, strict=True):
        assert depth_in_cube(site.index, 9.5, 69.5) >= radius + 1
        assert site.clean
        assert site.vessel_share == 0
    for a in range(4):
        for b in range(a):
            apart = np.linalg.norm(np.subtract(sites[a].point_mm, sites[b].point_mm))
            assert apart >= radii[a] + radii[b] + 4


def test_subpleural_lesions_touch_the_surface_from_inside() -> None:
    scan, organ = box_organ()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        (site,) = choose_sites(scan, organ, AFFINE, [8.0], rng, mode="subpleural")
        depth = depth_in_cube(site.index, 9.5, 69.5)
        assert 0.5 * 8 - 1 <= depth <= 0.95 * 8 + 1


def test_anisotropic_oblique_scan_is_handled_in_mm() -> None:
    spacing = (0.7, 0.7, 2.5)
    organ = np.zeros((120, 120, 40), bool)
    organ[20:100, 20:100, 6:34] = True  # 56 x 56 x 70 mm
    scan = np.where(organ, -850.0, 40.0)
    affine = oblique(spacing)
    rng = np.random.default_rng(0)
    sites = choose_sites(scan, organ, affine, [9.0, 7.0], rng, mode="interior")
    for radius, site in zip([9.0, 7.0], sites, strict=True):
        assert np.allclose(nib.affines.apply_affine(affine, site.index), site.point_mm)
        ends = ((19.5, 99.5), (19.5, 99.5), (5.5, 33.5))
        depths = [
            min(x - low, high - x) * mm
            for x, (low, high), mm in zip(site.index, ends, spacing, strict=True)
        ]
        assert min(depths) >= radius + 0.5
    apart = np.linalg.norm(np.subtract(sites[0].point_mm, sites[1].point_mm))
    assert apart >= 9 + 7 + 4


def test_vessels_are_avoided_and_the_best_is_marked_where_none_is_free() -> None:
    scan, organ = box_organ()
    scan[:, 30:50, 30:50] = 40  # a trunk of 20 x 20 mm through the organ
    for seed in range(10):
        (site,) = choose_sites(scan, organ, AFFINE, [8.0], np.random.default_rng(seed), "interior")
        assert site.clean
        assert site.vessel_share < 0.05
        y, z = site.index[1], site.index[2]
        assert np.hypot(max(0, 30 - y, y - 49), max(0, 30 - z, z - 49)) > 0.7 * 8 - 2
    scan, organ = box_organ(40, 4)
    scan[::4, ::4, 4:36] = 3000  # threads everywhere
    (site,) = choose_sites(scan, organ, AFFINE, [8.0], np.random.default_rng(0), "interior")
    assert not site.clean
    assert site.vessel_share > 0.05


def test_a_solid_organ_has_no_vessel_rule() -> None:
    _, organ = box_organ()
    scan = np.full(organ.shape, 60.0)
    (site,) = choose_sites(scan, organ, AFFINE, [8.0], np.random.default_rng(0))
    assert site.clean
    assert np.isnan(site.vessel_share)


@pytest.mark.parametrize("mode", ["interior", "subpleural", "mixed"])
def test_a_shell_parts_interior_from_subpleural(mode: str) -> None:
    scan, organ = box_organ()
    modes = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        (site,) = choose_sites(scan, organ, AFFINE, [4.0], rng, mode, erosion_mm=14.0)
        depth = depth_in_cube(site.index, 9.5, 69.5)
        modes.add(site.mode)
        if site.mode == "interior":
            assert depth >= 14 - 1  # without a shell 6 would do
        else:
            assert depth < 14 + 1
            assert depth <= 0.95 * 4 + 2
    assert modes == ({"interior", "subpleural"} if mode == "mixed" else {mode})


def test_a_shell_wider_than_the_organ_leaves_no_interior() -> None:
    scan, organ = box_organ()
    with pytest.raises(ValueError, match=r"0 of 1 fitted .*, erosion_mm 40\)"):
        choose_sites(
            scan, organ, AFFINE, [4.0], np.random.default_rng(0), "interior", erosion_mm=40.0
        )


def test_lesions_keep_to_a_region_but_the_surface_is_that_of_the_organ() -> None:
    scan, organ = box_organ()
    region = organ.copy()
    region[:, :, 40:] = False  # a lobe: its upper face is a fissure, not pleura
    for seed in range(12):
        rng = np.random.default_rng(seed)
        (inner,) = choose_sites(
            scan, organ, AFFINE, [6.0], rng, mode="interior", region_mask=region
        )
        assert inner.index[2] <= 39.5 - 6 - 1
        (outer,) = choose_sites(
            scan, organ, AFFINE, [6.0], rng, mode="subpleural", region_mask=region
        )
        assert outer.index[2] <= 39.5
        assert depth_in_cube(outer.index, 9.5, 69.5) <= 0.95 * 6 + 1  # near a face of the organ
    with pytest.raises(ValueError, match="site_mm must lie inside region_mask"):
        choose_sites(
            scan, organ, AFFINE, [6.0], rng, site_mm=(40.0, 40.0, 60.0), region_mask=region
        )
    with pytest.raises(ValueError, match="region_mask must mark at least one block"):
        choose_sites(scan, organ, AFFINE, [6.0], rng, region_mask=np.zeros_like(organ))


def test_existing_lesions_keep_their_distance() -> None:
    scan, organ = box_organ()
    lesion = np.zeros(organ.shape, bool)
    lesion[30:50, 30:50, 30:50] = True
    for seed in range(10):
        rng = np.random.default_rng(seed)
        (site,) = choose_sites(scan, organ, AFFINE, [5.0], rng, lesion_mask=lesion)
        gap = np.linalg.norm([max(0, 29.5 - x, x - 49.5) for x in site.index])
        assert gap >= 5 + 4 - 1


def test_volume_faces_do_not_count_as_surface_but_bound_the_lesion() -> None:
    scan, organ = np.full((60, 60, 24), -850.0), np.ones((60, 60, 24), bool)
    for seed in range(5):
        (site,) = choose_sites(scan, organ, AFFINE, [8.0], np.random.default_rng(seed), "interior")
        ends = zip(site.index, scan.shape, strict=True)
        assert all(8 <= x + 0.5 <= size - 8 for x, size in ends)
    with pytest.raises(ValueError, match="0 of 1 fitted"):
        choose_sites(scan, organ, AFFINE, [8.0], np.random.default_rng(0), "subpleural")


def test_same_seed_same_sites() -> None:
    scan, organ = box_organ()
    first, second, other = (
        choose_sites(scan, organ, AFFINE, [5.0, 7.0], np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


def test_too_many_lesions_are_counted() -> None:
    scan, organ = box_organ(48, 10)  # a cube of 28 mm holds one ball of radius 10 at most
    with pytest.raises(ValueError, match="1 of 3 fitted"):
        choose_sites(scan, organ, AFFINE, [10.0] * 3, np.random.default_rng(0), "interior")


def test_given_points_are_used_and_the_rest_keeps_away() -> None:
    scan, organ = box_organ()
    affine = oblique((1.0, 1.0, 1.0))
    point = nib.affines.apply_affine(affine, [40.25, 40, 40])
    sites = choose_sites(
        scan, organ, affine, [8.0, 8.0], np.random.default_rng(0), site_mm=point.tolist()
    )
    assert sites[0].mode == "given"
    assert np.allclose(sites[0].index, [40.25, 40, 40])
    assert np.linalg.norm(np.subtract(sites[1].point_mm, point)) >= 20
    alone = choose_sites(scan, None, affine, [8.0], np.random.default_rng(0), site_mm=point)
    assert alone[0].point_mm == sites[0].point_mm


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"site_mm": (40, 40, 95.5)},
            r"site must lie inside the volume .* got \(40.0, 40.0, 95.5\)",
        ),
        ({"site_mm": (2, 40, 40)}, r"site_mm must lie inside organ_mask, got \(2.0, 40.0, 40.0\)"),
        ({"site_mm": (1, 2)}, "site_mm must be points"),
        ({"site_mm": [(40, 40, 40)] * 2}, "site_mm must not hold more points than lesions"),
        ({"radii_mm": []}, "radii_mm must be numbers > 0"),
        ({"radii_mm": [-1.0]}, "radii_mm must be numbers > 0"),
        (
            {"mode": "shell"},
            "mode must be one of mixed, interior, subpleural, anywhere, got 'shell'",
        ),
        ({"organ_mask": None}, "organ_mask must be given"),
        ({"organ_mask": np.zeros((80, 80, 80), bool)}, "got an empty mask"),
        ({"lesion_mask": np.zeros((8, 8, 8), bool)}, "lesion_mask must have the shape"),
        ({"min_gap_mm": -1}, "min_gap_mm must be >= 0"),
        (
            {"site_mm": [(40, 40, 40), (45, 40, 40)], "radii_mm": [5.0, 5.0]},
            "14.0 mm apart for these radii, got 5.0 mm",
        ),
    ],
)
def test_wrong_arguments_are_named(changes: dict, sentence: str) -> None:
    scan, organ = box_organ()
    arguments = {
        "image_hu": scan,
        "organ_mask": organ,
        "affine": AFFINE,
        "radii_mm": [5.0],
        "rng": np.random.default_rng(0),
    }
    with pytest.raises(ValueError, match=sentence):
        choose_sites(**(arguments | changes))


def test_anywhere_is_in_the_middle_slices_half_in_the_organ_and_where_interior_has_no_room() -> (
    None
):
    organ = np.zeros((60, 60, 60), bool)
    organ[10:50, 22:38, 5:55] = True  # 16 mm thick
    scan = np.where(organ, 100.0, -90.0)
    rng = np.random.default_rng(0)
    index = np.indices(organ.shape)
    with pytest.raises(ValueError, match="organ_mask must have room for all lesions, but 0 of 1"):
        choose_sites(scan, organ, AFFINE, [8.0], rng, mode="interior")
    heights = []
    for _ in range(20):
        (site,) = choose_sites(scan, organ, AFFINE, [8.0], rng, mode="anywhere")
        ball = np.linalg.norm(index - np.reshape(site.index, (3, 1, 1, 1)), axis=0) <= 8
        assert organ[ball].mean() > 0.45  # blocks of 2 mm
        heights.append(site.index[2])
    assert min(heights) >= 5 + 0.28 * 50
    assert max(heights) <= 5 + 0.72 * 50
    organ[:, 30:] = False  # 8 mm: less than half of a sphere of 30
    with pytest.raises(ValueError, match="organ_mask must have room for all lesions, but 0 of 1"):
        choose_sites(scan, organ, AFFINE, [15.0], rng, mode="anywhere")

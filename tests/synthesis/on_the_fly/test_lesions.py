"""Lesions inside a training loop: exact, repeatable, in batches and in worker processes."""

import json
import re
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import RandFlipd
from nibabel.affines import voxel_sizes
from scipy import ndimage

from tests.synthesis.on_the_fly.sample import AFFINE, SIZE, sample, transform
from tools.phantoms.heart_mr import heart_mr
from tools.synthesis.on_the_fly import LesionCollate, OrganMaskd, SynthesizeLesiond
from tools.synthesis.texturers import DiffusionTexturer


@pytest.fixture(scope="module")
def synthesize() -> SynthesizeLesiond:
    return transform()


def beyond(inside: torch.Tensor) -> torch.Tensor:
    """Where a sample lies 2 mm or more from its lesions, the margin of the bundle."""
    away = ndimage.distance_transform_edt(
        ~np.asarray(inside[0]), sampling=voxel_sizes(np.asarray(AFFINE))
    )
    return torch.from_numpy(away >= 2)[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.float16, torch.float64])
def test_lesion_and_rim_alone_change(synthesize: SynthesizeLesiond, dtype: torch.dtype) -> None:
    given = sample(dtype)
    kept = given["image"].clone()
    made = synthesize(given)
    assert torch.equal(given["image"], kept)
    assert "label" not in given
    inside = made["label"] == 1
    far = beyond(inside)
    assert torch.equal(made["image"][far], kept[far])
    assert (made["image"][inside] != kept[inside]).float().mean() > 0.9
    assert made["image"].dtype == dtype
    assert made["image"].meta["name"] == "piece"
    assert torch.equal(made["label"].affine, AFFINE)
    volume = inside.sum().item() * 1.2 * 1.2 * 1.5
    assert np.pi / 6 * 7**3 * 0.9 < volume < np.pi / 6 * 9**3 * 1.1


def test_label_and_record(synthesize: SynthesizeLesiond) -> None:
    label = torch.zeros(1, *SIZE, dtype=torch.int64)
    label[:, 5:15, 5:15, 5:15] = 4  # an organ of the user's own
    label[:, 30:36, 20:26, 20:26] = 7
    given = sample(label=MetaTensor(label, affine=AFFINE))
    one = transform(lesion_value=7, count=(2, 2), record_key="lesions")
    made = one(given)
    new = made["label"] != given["label"]
    assert set(made["label"][new].tolist()) == {7}
    assert made["label"].dtype == torch.int64
    records = json.loads(made["lesions"])
    assert len(records) == 2
    old = torch.nonzero(label[0] == 7).float() * torch.tensor([1.2, 1.2, 1.5])
    fresh = torch.nonzero(new[0]).float() * torch.tensor([1.2, 1.2, 1.5])
    assert torch.cdist(old, fresh).min() > 2


def test_probability(synthesize: SynthesizeLesiond, monkeypatch: pytest.MonkeyPatch) -> None:
    never = transform(prob=0.0, record_key="lesions")
    given = sample()
    made = never(given)
    assert torch.equal(made["image"], given["image"])
    assert made["label"].shape == given["image"].shape
    assert not made["label"].any()
    assert made["lesions"] == "[]"
    some = transform(prob=0.3)
    asked: list[int] = []
    monkeypatch.setattr(some, "_plan", lambda *_: asked.append(1))
    for _ in range(400):
        some(given)
    assert 85 <= len(asked) <= 155  # 0.3 of 400, four standard deviations


def test_batch_equals_samples_and_seed_repeats() -> None:
    samples = [sample(), sample(torch.int16), sample()]
    together = transform(seed=3).many(samples)
    single = transform(seed=3)
    for one, other in zip([single(each) for each in samples], together, strict=True):
        assert torch.equal(one["label"], other["label"])
        torch.testing.assert_close(one["image"].float(), other["image"].float(), atol=1.0, rtol=0)
    again = transform(seed=3).many(samples)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(again, together, strict=True))
    assert not torch.equal(together[0]["label"], together[2]["label"])


def test_batch_is_one_call_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = DiffusionTexturer.sample

    def counted(self: DiffusionTexturer, jobs: Any) -> list[np.ndarray]:
        calls.append(len(jobs))
        return original(self, jobs)

    monkeypatch.setattr(DiffusionTexturer, "sample", counted)
    scaled: list[float] = []

    def after(each: dict[str, Any]) -> dict[str, Any]:
        scaled.append(float(each["image"].min()))
        return {key: each[key] for key in ("image", "label")}

    loader = DataLoader(
        Dataset([sample(), sample(), sample()]),
        batch_size=3,
        collate_fn=LesionCollate(transform(count=2), after),
    )
    batch = next(iter(loader))
    assert batch["image"].shape == batch["label"].shape == (3, 1, *SIZE)
    assert calls == [6]
    assert len(scaled) == 3


@pytest.mark.parametrize("one_by_one", [None, True, False])
def test_batches_reach_the_network(
    one_by_one: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = transform(one_by_one=one_by_one, diameter_mm=(8, 8))
    assert one._job is not None
    sizes: list[int] = []
    forward = one._job.texturer.network.forward
    monkeypatch.setattr(
        one._job.texturer.network,
        "forward",
        lambda x, *rest: sizes.append(len(x)) or forward(x, *rest),
    )
    one.many([sample(), sample()])
    assert max(sizes) == (2 if one_by_one is False else 1)


def test_worker_processes(synthesize: SynthesizeLesiond) -> None:
    torch.manual_seed(0)
    loader = DataLoader(Dataset([sample()] * 4, synthesize), batch_size=1, num_workers=2)
    batches = list(loader)
    reference = sample()["image"]
    for batch in batches:
        inside = batch["label"][0] == 1
        assert inside.any()
        far = beyond(inside)
        assert torch.equal(batch["image"][0][far], reference[far])
    # workers and epochs draw lesions of their own
    assert len({tuple(torch.nonzero(batch["label"])[0].tolist()) for batch in batches}) > 1


def test_pickled_without_models_and_loaded_again() -> None:
    first = transform(seed=5)
    content = ForkingPickler.dumps(first)  # as worker processes that are spawned get it
    assert len(content) < 100_000
    second = ForkingPickler.loads(content)
    assert torch.equal(second(sample())["image"], first(sample())["image"])


def test_caches_do_not_freeze_lesions(synthesize: SynthesizeLesiond) -> None:
    dataset = CacheDataset([sample()], synthesize, progress=False)
    assert not torch.equal(dataset[0]["label"], dataset[0]["label"])


def test_forked_process_does_not_touch_the_gpu(synthesize: SynthesizeLesiond) -> None:
    one = transform()
    one._pid -= 1  # as in a fork
    assert one._job is not None
    one._job.texturer.device = torch.device("cuda")
    one.device = "cuda"
    with pytest.raises(ValueError, match="device must be cpu or auto in forked worker processes"):
        one(sample())
    one.device = "auto"
    assert one(sample())["label"].any()
    assert one._job.texturer.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_organ_mask_is_a_key_of_the_sample() -> None:
    find = OrganMaskd(organ_key="lung", organ_source="recipe")
    find.source = lambda scan: scan.image < -850  # type: ignore[assignment]
    image = sample()["image"]
    found = find({"image": image})["lung"]
    assert torch.equal(found == 1, image < -850)
    assert found.dtype == torch.uint8
    assert torch.equal(found.affine, AFFINE)
    with pytest.raises(ValueError, match="image must be in HU"):
        find({"image": image / 1000})


def test_hearts() -> None:
    heart = heart_mr(seed=0, infarct=False)
    affine = torch.as_tensor(heart.affine)
    given = {
        "image": MetaTensor(torch.as_tensor(heart.image)[None], affine=affine),
        "label": MetaTensor(torch.as_tensor(heart.label)[None], affine=affine),
    }
    one = transform(bundle="lefusion_emidec", organ_key=None, shape="diffmask", diameter_mm=None)
    made = one(given)
    changed = made["image"] != given["image"]
    lesion = made["label"] >= 3
    assert lesion.any()
    spacing = voxel_sizes(heart.affine)
    away = ndimage.distance_transform_edt(~lesion[0].numpy(), sampling=spacing) >= 2
    assert not changed[0].numpy()[away].any()
    assert bool((given["label"][lesion] == 2).all())
    assert torch.equal(made["label"][~lesion], given["label"][~lesion])


@pytest.mark.slow
def test_latent_bundle_keeps_its_margin() -> None:
    made = transform(bundle="hr_ldm", texture="solid", steps=50, diameter_mm=(9, 9))(sample())
    changed = (made["image"] != sample()["image"])[0]
    lesion = made["label"][0] == 1
    scale = torch.tensor([1.2, 1.2, 1.5])
    distance = torch.cdist(torch.nonzero(changed) * scale, torch.nonzero(lesion) * scale).amin(1)
    assert (changed & lesion).sum() > 0.9 * lesion.sum()
    assert distance.max() < 3


@pytest.mark.slow
def test_examples_of_the_docs_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = (repository / "docs" / "training_loop.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks)
    assert code.count("steps=10") == 2
    monkeypatch.chdir(tmp_path)
    exec(code.replace("steps=10", "steps=2"), {})
    lines = capsys.readouterr().out.splitlines()
    assert "torch.Size([2, 1, 192, 160, 144])" in lines[-1]
    assert sum("voxels of lesion" in line for line in lines) == 1


def test_samples_with_a_lesion_can_be_left_alone() -> None:
    label = torch.zeros(1, *SIZE, dtype=torch.uint8)
    label[:, 20:23, 20:23, 20:23] = 1
    one = transform(only_healthy=True)
    sick, healthy = sample(label=label), sample(label=torch.zeros_like(label))
    made = one.many([sick, healthy])
    assert torch.equal(made[0]["image"], sick["image"])
    assert torch.equal(torch.as_tensor(made[0]["label"]), label)
    assert made[1]["label"].any()


def test_a_method_stands_in_place_of_the_network() -> None:
    made = transform(method="hand_crafted", steps=None)(sample())
    inside = made["label"] > 0
    assert bool((made["image"] != sample()["image"])[inside].any())
    with pytest.raises(ValueError, match=r"method must be one of .*hand_crafted.*, got 'clay'"):
        transform(method="clay")


def test_collate_without_lesions_and_with_workers_of_their_own_chance() -> None:
    after = RandFlipd(["image"], prob=0.5, spatial_axis=0)
    data = [{"image": torch.arange(4.0).reshape(1, 4)} for _ in range(32)]
    collate = LesionCollate(None, after)
    batches = []
    for workers in (0, 2):
        loader = DataLoader(data, workers, batch_size=4, collate_fn=collate)
        batches.append(torch.cat([batch["image"].as_tensor() for batch in loader]))
    assert {len(batch) for batch in batches} == {32}
    rows = batches[1].reshape(8, -1)  # batches of the two workers take turns
    assert not torch.equal(rows[::2], rows[1::2])

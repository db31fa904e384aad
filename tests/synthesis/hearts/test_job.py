"""Hearts through a run: files, records, datalist, report; options that do not fit are named."""

import json
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.hearts.test_pipeline import LevelGenerator
from tools.phantoms.heart_datasets import write_heart_dataset
from tools.synthesis.cases import find_cases
from tools.synthesis.hearts.job import HeartJob
from tools.synthesis.hearts.shapes import Heart, HeartRequest, HeartShape
from tools.synthesis.hearts.textures import HeartTextures
from tools.synthesis.job import Job
from tools.synthesis.job_choice import JobOptions, make_job
from tools.synthesis.records import BundleRecord
from tools.synthesis.run import synthesize_scans

PRESET = {"histogram": [0.0] * 12 + [1.0] + [0.0] * 15 + [1.0] + [0.0] * 3, "weight": 1.0}


class HalfWall:
    """Stands for a source of shapes: one side of the wall, its middle slice without flow."""

    def draw(self, heart: Heart, request: HeartRequest, rng: np.random.Generator) -> HeartShape:
        side = np.arange(heart.wall.shape[0])[:, None, None] < np.argwhere(heart.wall).mean(0)[0]
        label = np.where(heart.wall & side, 3, 0).astype(np.uint8)
        middle = label[..., label.shape[2] // 2]
        middle[middle == 3] = 4
        return HeartShape(label, "half", 60.0, 0.2)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    write_heart_dataset(folder, 0, {"normal": 2, "training": 1})
    return folder


def make(out: Path, hearts: Path, section: str = "normal") -> list[dict]:
    generator = LevelGenerator()
    generator.presets = {"moderate": PRESET}
    textures = HeartTextures("moderate", generator.presets)
    job = HeartJob(generator, HeartRequest(), HalfWall(), textures)
    return synthesize_scans(find_cases(hearts / "datalist.json", section=section), out, job)


def test_normal_hearts_become_a_dataset(hearts: Path, tmp_path: Path) -> None:
    made = make(tmp_path, hearts)
    assert [entry["lesions"] for entry in made] == [2, 2]
    for entry in made:
        before = nib.load(entry["original"])
        after, label = (nib.load(entry["folder"] / f"{n}.nii.gz") for n in ("image", "label"))
        organ = np.asarray(nib.load(str(entry["original"]).replace("_image", "_label")).dataobj)
        lesion = np.asarray(label.dataobj)
        assert after.get_data_dtype() == before.get_data_dtype()
        assert np.array_equal(after.affine, before.affine)
        changed = np.asarray(after.dataobj) != np.asarray(before.dataobj)
        assert changed.any()
        assert np.isin(lesion[changed], (3, 4)).all()
        assert np.array_equal(lesion[lesion < 3], organ[lesion < 3])
        assert (organ[lesion >= 3] == 2).all()
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    assert datalist["modality"] == {"0": "MR"}
    assert datalist["labels"] == {
        "0": "background",
        "1": "cavity",
        "2": "myocardium",
        "3": "infarct",
        "4": "no_reflow",
    }
    page = (tmp_path / "report.html").read_text()
    assert "slice" in page
    assert "coronal before" not in page
    assert "0 voxels" in page  # changed outside the label


def test_lesions_that_are_there_already_stay(hearts: Path, tmp_path: Path) -> None:
    entry = make(tmp_path, hearts, "training")[0]
    organ = np.asarray(nib.load(str(entry["original"]).replace("_image", "_label")).dataobj)
    label = np.asarray(nib.load(entry["folder"] / "label.nii.gz").dataobj)
    image = np.asarray(nib.load(entry["folder"] / "image.nii.gz").dataobj)
    assert (organ > 2).any()
    assert np.array_equal(label[organ > 2], organ[organ > 2])
    assert np.array_equal(
        image[organ > 2], np.asarray(nib.load(entry["original"]).dataobj)[organ > 2]
    )


def test_a_heart_without_label_map_is_one_sentence(hearts: Path, tmp_path: Path) -> None:
    image = next((hearts / "cases").glob("*_image.nii.gz"))
    generator = LevelGenerator()
    generator.presets = {"moderate": PRESET}
    job = HeartJob(generator, HeartRequest(), HalfWall(), HeartTextures("none", generator.presets))
    with pytest.raises(ValueError, match="organ_mask must be a label map of the heart"):
        synthesize_scans(find_cases(image), tmp_path, job)
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_section_of_a_datalist(hearts: Path) -> None:
    assert len(find_cases(hearts / "datalist.json")) == 3
    assert len(find_cases(hearts / "datalist.json", section="training")) == 1
    with pytest.raises(ValueError, match=r"section must be one of .*normal.*, got 'test'"):
        find_cases(hearts / "datalist.json", section="test")
    with pytest.raises(ValueError, match="section goes with a datalist"):
        find_cases(hearts / "cases", section="normal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 3}, "count must be 1 for a heart, got 3"),
        ({"spiculation": 4}, "spiculation does not go with bundle level, got 4"),
        ({"placement": "interior"}, "placement does not go with bundle level, got 'interior'"),
        ({"diameter_mm": (1, 2, 3)}, "diameter_mm must be one number or two with a comma"),
    ],
)
def test_options_that_a_heart_does_not_take(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_job(LevelGenerator(), JobOptions(**options))


def test_nodules_take_no_share_of_no_reflow() -> None:
    class Lungs:
        slices, window, latent, library, device = None, (-1000.0, 400.0), None, None, "cpu"
        record = BundleRecord("lungs", "0.1.0")
        presets = MappingProxyType({"solid": {"histogram": [1 / 16] * 16, "weight": 1.0}})

    with pytest.raises(ValueError, match=r"no_reflow_share does not go with bundle lungs, got 0.2"):
        make_job(Lungs(), JobOptions(no_reflow_share=0.2))
    job = make_job(Lungs(), JobOptions(shape="ellipsoid", diameter_mm=8))
    assert isinstance(job, Job)
    assert (job.request.count, job.request.diameter_mm) == (3, (8.0, 8.0))

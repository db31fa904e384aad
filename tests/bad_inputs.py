"""The files that the commands of docs/inputs.md name, and the rows of its table."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "inputs.md"
USUAL = "--scan chest.nii.gz --organ_mask lungs.nii.gz --out out --shape ellipsoid --count 1"
USUAL += " --texture solid --steps 2 --attempts 1 --device cpu"
ROW = re.compile(r"\| (.+?) \| `(.+?)` \| (.+?) \|")
SHAPE = (44, 44, 36)
JSON: dict[str, Any] = {
    "list.json": [1],
    "nothing.json": {"training": []},
    "word.json": {"training": "chest.nii.gz"},
    "pair.json": {"training": [{"image": ["chest.nii.gz", "chest.nii.gz"]}]},
    "gone.json": {"training": [{"image": "gone.nii.gz"}]},
    "above.json": {"training": [{"image": "../chest.nii.gz"}]},
    "hollow.json": {"training": [{"image": "chest.nii.gz", "label": "zeros.nii.gz"}]},
    "two.json": {"histogram": [1, 2]},
    "negative.json": {"histogram": [-1, *[1] * 15]},
    "text.json": {"histogram": "bright"},
    "nan.json": {"histogram": [float("nan"), *[1] * 15]},
    "weightless.json": {"a": {"histogram": [1] * 16, "weight": 0}},
    "named.json": {"a": {"histogram": [1] * 16}},
    "other_window.json": {"histogram": [1] * 16, "window_hu": [0, 1]},
}
BYTES = {
    "broken.json": b"{",
    "twice.json": b'{"training": [], "training": []}',
    "deep.json": b"[" * 100_000,
    "binary.json": b"\xff\x00\xfe{",
    "empty.pt": b"",
    "text.pt": b"no weights",
    "notes.txt": b"chest",
}


class Row(NamedTuple):
    """A bad input: what it is, the words that are typed, the sentence; an ellipsis is any text."""

    what: str
    words: str
    sentence: str

    @property
    def pattern(self) -> str:
        return re.escape(self.sentence).replace("…", ".*")


def rows() -> list[Row]:
    text = PAGE.read_text(encoding="utf-8")
    return [Row(*found) for found in ROW.findall(text)]


def write_inputs(folder: Path) -> None:
    """Write the files, small and odd."""
    values = np.random.default_rng(0).normal(-850, 30, SHAPE).astype(np.int16)
    lungs = np.zeros(SHAPE, np.uint8)
    lungs[3:-3, 3:-3, 3:-3] = 1
    holes = np.where(values < -900, np.nan, values).astype(np.float32)
    volumes = {"chest": values, "lungs": lungs, "zeros": 0 * lungs, "holes": holes}
    volumes |= {"unit": (values / 1000 + 1).astype(np.float32), "stored": values + 2048}
    for name, array in volumes.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
    far = nib.affines.from_matvec(np.eye(3), [1000, 0, 0])
    nib.save(nib.Nifti1Image(lungs, far), folder / "elsewhere.nii.gz")
    nib.save(nib.Nifti1Image(lungs, np.diag([5.0, 5, 5, 1])), folder / "organ.nii.gz")
    whole = (folder / "chest.nii.gz").read_bytes()
    for name, content in {**BYTES, "cut.nii.gz": whole[: len(whole) // 2]}.items():
        (folder / name).write_bytes(content)
    for name, content in JSON.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    torch.save({"weight": torch.zeros(3)}, folder / "other.pt")
    (folder / "folder").mkdir()

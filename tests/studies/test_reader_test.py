"""The reader test: fair pairs, a page that does not tell, answers from a browser, their score."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.studies.reader_test import Shown, keystream, matched

SHAPE = (44, 40, 36)
TO_RAS = np.diag([1.2, 1.2, 1.5, 1.0])
TO_LPI = np.diag([-1.2, -1.2, -1.5, 1.0])
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def write_lesion(
    folder: Path, name: str, radius_mm: float, affine: np.ndarray, at: int = 0
) -> None:
    """A ball in lung; the patient's right, front and upper part of the scan is brighter."""
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    centre = np.array(SHAPE) // 2 + [0, 0, at]
    ball = np.linalg.norm((index - centre) * np.abs(np.diag(affine)[:3]), axis=-1) < radius_mm
    image = np.random.default_rng(len(name)).integers(-860, -840, SHAPE)
    for axis in range(3):  # of 3, 2 and 1 times 50
        half = index[..., axis] >= SHAPE[axis] / 2
        image += 50 * (3 - axis) * (half if affine[axis, axis] > 0 else ~half)
    image[ball] = 40
    folder.mkdir(parents=True, exist_ok=True)
    for values, kind in ((image, np.int16), (ball, np.uint8)):
        part = "image" if kind is np.int16 else "label"
        nib.save(nib.Nifti1Image(values.astype(kind), affine), folder / f"{name}_{part}.nii.gz")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("readers")
    for n in range(4):
        write_lesion(root / "real", f"Realman{n}", 3.5 + n, TO_RAS)
        # nearer to the end of its scan: what is shown of the real one must end there too
        write_lesion(root / "made", f"Madeup{n}", 3.6 + n, TO_LPI, at=6)
    return root


@pytest.fixture(scope="module")
def make_page(
    folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, dict[str, Any]]]:
    @cache
    def make(*words: str) -> tuple[Path, dict[str, Any]]:
        page = tmp_path_factory.mktemp("page") / "test.html"
        sources = ["--real", str(folders / "real"), "--synthetic", str(folders / "made")]
        assert main(["turing", *sources, "--out", str(page), *words]) == 0
        text = page.read_text(encoding="utf-8")
        found = re.search(r'(?s)<script type="application/json" id="test">(.*?)</script>', text)
        return page, json.loads(found[1])  # type: ignore[index]

    return make


def truth(test: dict[str, Any]) -> dict[str, list]:
    key = base64.b64decode(test["key"])
    return json.loads(bytes(a ^ b for a, b in zip(key, keystream(test["test"]), strict=False)))


def hounsfield(picture: dict[str, Any]) -> np.ndarray:
    """What the page decodes, (X, Y, Z)."""
    halves = np.frombuffer(zlib.decompress(base64.b64decode(picture["data"])), np.uint8)
    high, low = halves.reshape(2, *picture["shape"][::-1]).astype(np.uint16)
    levels = np.cumsum(high << 8 | low, axis=-1, dtype=np.uint16)
    return (picture["low"] + picture["step"] * levels).T


def lesion(name: str, patient: str, size: float) -> Shown:
    return Shown(name, patient, False, size, (), {})


@pytest.mark.parametrize(
    ("real", "synthetic", "expected"),
    [
        ([("P1", 10), ("P2", 20)], [("Q1", 21), ("Q2", 9)], {("P1", "Q2"), ("P2", "Q1")}),
        # the best size is the same patient's, under a longer name
        ([("P1", 10)], [("P1_R_2", 10), ("P10", 11)], {("P1", "P10")}),
        ([("P1", 10), ("P2", 11)], [("P2", 10), ("P1", 11)], {("P1", "P2"), ("P2", "P1")}),
        # sizes that differ by a quarter or more are no pair
        ([("P1", 10), ("P2", 4)], [("Q1", 10.5), ("Q2", 8)], {("P1", "Q1")}),
    ],
)
def test_pairs_are_of_like_size_and_never_of_one_patient(
    real: list, synthetic: list, expected: set
) -> None:
    sets = [[lesion(f"{p}_1", p, size) for p, size in each] for each in (real, synthetic)]
    found = matched(*sets, count=9)
    assert {(a.patient, b.patient) for a, b in found} == expected


def test_of_many_pairs_some_of_all_sizes_are_taken() -> None:
    sets = [[lesion(f"{p}{n}", f"{p}{n}", 4.0 * 1.1**n) for n in range(21)] for p in "ab"]
    sizes = [a.diameter_mm for a, _ in matched(*sets, count=3)]
    assert np.allclose(sizes, [4, 4 * 1.1**10, 4 * 1.1**20])
    with pytest.raises(ValueError, match="other patients whose diameters differ"):
        matched(sets[0][:1], sets[0][:1], 3)
    with pytest.raises(ValueError, match="synthetic must hold lesions, got none"):
        matched(sets[0], [], 3)


def test_the_page_does_not_tell_which_is_which(
    make_page: Callable[..., tuple[Path, dict[str, Any]]],
) -> None:
    path, test = make_page()
    text = path.read_text(encoding="utf-8")
    for name in ("Realman", "Madeup", "https:", "http:"):
        assert name not in text
    key = truth(test)
    assert set(key) == set(test["lesions"]) == {each for pair in test["pairs"] for each in pair}
    for pair in test["pairs"]:
        assert sorted(key[each][0] for each in pair) == [0, 1]
        assert pair == sorted(pair)
    assert {name[:-3]: made for made, name in key.values()} == {"Realman": 0, "Madeup": 1}
    assert list(test["lesions"]) == sorted(test["lesions"])
    one, again = (make_page(*words)[1]["test"] for words in (["--seed", "1"], ["--seed", "0"]))
    assert one != test["test"] == again


@pytest.mark.parametrize("view", ["crop", "context"])
def test_both_of_a_pair_are_shown_alike(
    make_page: Callable[..., tuple[Path, dict[str, Any]]], view: str
) -> None:
    _, test = make_page()
    assert len(test["pairs"]) == 4
    assert test["views"] == ["crop", "context"]
    for pair in test["pairs"]:
        pictures = [test["lesions"][each]["pictures"][view] for each in pair]
        reach = [
            [
                (np.add(p["centre"], 0.5) * p["spacing"]),
                (np.subtract(p["shape"], p["centre"]) - 0.5),
            ]
            for p in pictures
        ]
        assert np.abs(reach[0][0] - reach[1][0]).max() <= 1.5
        assert np.abs(reach[0][1] - reach[1][1]).max() <= 1
        for picture in pictures:
            values = hounsfield(picture)
            middle = np.round(picture["centre"]).astype(int)
            assert abs(values[tuple(middle)] - 40) <= 2
            # first voxels are right, front and top, however the scan is stored
            corner = [
                values[tuple(slice(0, 2) if k == a else -1 for k in range(3))].mean()
                for a in range(3)
            ]
            if view == "context":
                assert np.allclose(corner, [-700, -750, -800], atol=12)


def test_windows_of_mr_are_percentiles(
    make_page: Callable[..., tuple[Path, dict[str, Any]]],
) -> None:
    _, test = make_page("--modality", "MR", "--pairs", "1")
    for own in test["lesions"].values():
        assert [name for name, *_ in own["windows"]] == ["usual", "bright", "wide"]
        assert own["windows"][2][2] == 40
        picture = own["pictures"]["crop"]
        assert picture["step"] == pytest.approx((40 - picture["low"]) / 1000, rel=1e-6)


DRIVER = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
const log = [];
window.onerror = (message) => log.push(message);
(async () => {
  const key = truth();
  const grey = () => {
    const canvas = document.querySelector("canvas");
    return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0];
  };
  at("name").value = "Anna <b>"; at("form").requestSubmit();
  for (let n = 0; n < trials.length; n++) {
    if (!at("pause").hidden) { press("Enter"); }
    for (let k = 0; k < 50 && !shown; k++) await wait(20);
    if (!n) {
      const seen = [grey()];
      for (const each of ["2", "3", "1"]) { press(each); seen.push(grey()); }
      for (let k = 0; k < 6; k++) press("ArrowDown");
      seen.push(grey()); press("c"); seen.push(grey());
      log.push(seen);
      press("p"); log.push([at("trial").hidden, shown === null]); press("Enter");
      for (let k = 0; k < 50 && !shown; k++) await wait(20);
      press("ArrowLeft");
      for (let k = 0; k < 50 && !shown; k++) await wait(20);
      press("u"); log.push(state.answers.length);
      if (!at("pause").hidden) press("Enter");
      for (let k = 0; k < 50 && !shown; k++) await wait(20);
    }
    // right but for the first: what is synthetic, on the right of two
    const { ids } = shown.trial;
    const synthetic = single ? key[ids[0]][0] : ids.findIndex((id) => key[id][0]);
    press((synthetic === 1) === (n > 0) ? "ArrowRight" : "ArrowLeft");
  }
  log.push(stored("Anna <b>").answers.length, readers(), at("end").hidden, at("result").innerText);
  const out = document.createElement("pre");
  out.id = "out";
  out.textContent = btoa(JSON.stringify([log, report()]));
  document.body.append(out);
})();
"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium")
@pytest.mark.parametrize("mode", ["pair", pytest.param("single", marks=pytest.mark.slow)])
def test_a_reader_goes_through_the_page_in_a_browser(
    make_page: Callable[..., tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    mode: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, test = make_page("--mode", mode, "--pairs", "2")
    driven = page.with_name("driven.html")
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{DRIVER}</script></body>")
    driven.write_text(text, encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    command = [BROWSER, *words, f"--user-data-dir={tmp_path}", "--dump-dom", driven.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    found = re.search(r'<pre id="out">([\w+/=]+)</pre>', dom)
    assert found, dom[-2000:]
    log, answers = json.loads(base64.b64decode(found[1]))
    trials = 8 if mode == "single" else 4  # two pairs, without and with surroundings
    # 40 HU in the windows; six slices on the plane is out of the ball; and back
    in_lung, in_soft, in_wide = 236, 128, 189
    assert log[0][:4] == pytest.approx([in_lung, in_soft, in_wide, in_lung], abs=2)
    assert log[0][4] < 150
    assert log[0][5] == pytest.approx(in_lung, abs=2)
    assert log[1:5] == [[True, True], 0, trials, ["Anna <b>"]]
    assert log[5] is False
    assert f"{trials // 2 - 1} of {trials // 2}" in log[6]
    assert [each["view"] for each in answers["answers"]] == ["crop"] * (trials // 2) + [
        "context"
    ] * (trials // 2)
    assert [each["right"] for each in answers["answers"]] == [False] + [True] * (trials - 1)
    key = truth(test)
    for each in answers["answers"]:
        for one in each["shown"]:
            assert [int(one["synthetic"]), one["name"]] == key[one["id"]]
    saved = tmp_path / "answers.json"
    saved.write_text(json.dumps(answers), encoding="utf-8")
    capsys.readouterr()
    assert main(["turing", "score", str(saved), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pooled"]["all"]["answers"] == trials
    assert result["readers"]["Anna <b>"]["crop"]["right"] == trials // 2 - 1
    assert ("real ones" in result["pooled"]) == (mode == "single")


def answers_of(reader: str, right: list[bool], test: str = "abc") -> dict[str, Any]:
    rows = [
        {
            "view": "crop" if n % 2 else "context",
            "seconds": n + 1.0,
            "shown": [{"mm": 5.0 if n < 4 else 12.0}],
            "right": each,
        }
        for n, each in enumerate(right)
    ]
    facts = {"format": "reader-test 1", "test": test, "mode": "pair", "trials": 12}
    return {**facts, "reader": reader, "answers": rows}


def test_score_is_the_share_of_right_answers_with_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 8 of 10: the interval of Clopper and Pearson is 0.4439 to 0.9748, p is 2 * 56 / 1024
    given = {"Anna": [True] * 8 + [False] * 2, "Ben": [False] * 10}
    for name, right in given.items():
        (tmp_path / name).write_text(json.dumps(answers_of(name, right)))
    words = [str(tmp_path / name) for name in given]
    assert main(["turing", "score", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    anna = found["readers"]["Anna"]
    assert anna["all"] == pytest.approx(
        {
            "answers": 10,
            "right": 8,
            "accuracy": 0.8,
            "low": 0.4439,
            "high": 0.9748,
            "p": 112 / 1024,
            "seconds": 5.5,
        },
        abs=1e-4,
    )
    assert [anna[k]["right"] for k in ("crop", "context", "0-6 mm", "10-20 mm")] == [4, 4, 4, 4]
    assert set(anna) == {"trials", "all", "crop", "context", "0-6 mm", "10-20 mm"}
    assert (found["pooled"]["all"]["right"], found["pooled"]["all"]["answers"]) == (8, 20)
    assert main(["turing", "score", *words]) == 0
    assert "| Anna | 10 of 12 | 8 | 0.80 (0.44 to 0.97) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"test": "other"}, "answers must all be of one test, got abc in"),
        ({"reader": "Anna"}, "answers must be one file of each reader, got 'Anna' in"),
        ({"format": "results"}, "answers must be a file that the page of turing saved"),
        ({"answers": [{"right": 1}]}, "answers must be a file that the page of turing saved"),
        ({"trials": 1}, "answers must be a file that the page of turing saved"),
    ],
)
def test_answers_of_another_test_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, sentence: str
) -> None:
    right = [True, False]
    (tmp_path / "a").write_text(json.dumps(answers_of("Anna", right)))
    (tmp_path / "b").write_text(json.dumps({**answers_of("Ben", right), **change}))
    assert main(["turing", "score", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mode", "both"], "mode must be one of pair, single, got 'both'"),
        (["--modality", "PET"], "modality must be one of CT, MR, got 'PET'"),
    ],
)
def test_options_that_are_none_are_refused(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list, sentence: str
) -> None:
    out = tmp_path / "page.html"
    sources = ["--real", str(folders / "real"), "--synthetic", str(folders / "made")]
    assert main(["turing", *sources, "--out", str(out), *words]) == 1
    assert sentence in capsys.readouterr().err
    out.write_text("mine")
    assert main(["turing", *sources, "--out", str(out)]) == 1
    assert out.read_text() == "mine"


def test_score_wants_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["turing", "score"]) == 1
    assert "answers must be one file or more, got none" in capsys.readouterr().err

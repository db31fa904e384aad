"""The report: pages that parse, open offline and show every lesion; an index of them."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tools.files import mark_folder, read_mark, remove_ours
from tools.report.page import (
    CHART_HEIGHT,
    CHART_WIDTH,
    PageReport,
    histogram_chart,
    number_text,
)
from tools.synthesis.records import BundleRecord, LesionRecord, ScanRecord, write_record

AFFINE = np.array([[-0.8, 0, 0, 20.0], [0, -0.8, 0, 20.0], [0, 0, 2.5, -30.0], [0, 0, 0, 1]])
SHAPE = (52, 50, 24)
VOID = {"meta", "img", "input", "link", "br", "hr"}


class Page(HTMLParser):
    """Collects elements and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]


def ball(centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    offsets = (index - centre) * nib.affines.voxel_sizes(AFFINE)
    return np.linalg.norm(offsets, axis=-1) < radius_mm


def make_case(
    folder: Path,
    centres: list[tuple[int, int, int]],
    phantom: bool = False,
    name: str = "a",
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    before = rng.integers(-900, -800, SHAPE).astype(np.int16)
    after, labels, lesions = before.copy(), np.zeros(SHAPE, np.uint8), []
    for seed, centre in enumerate(centres, 41):
        mask = ball(centre, 5.0)
        after[mask], labels[mask] = 30, 1
        site = nib.affines.apply_affine(AFFINE, centre)
        got = [0.0] * 11 + [1.0] + [0.0] * 4
        lesions.append(
            LesionRecord(
                *(1, "lung_nodule", site, 10.2, 555.0, "part_solid", "ellipsoid", seed),
                *("equal_volume_sphere", 10.0, [1 / 16] * 16, got, 0.5, {"steps": 50}, 2, 1.5),
            )
        )
    folder.mkdir(parents=True)
    for array, path in ((after, "image"), (labels, "label")):
        nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{path}.nii.gz")
    bundle = BundleRecord("some_bundle", "0.3.0", "c0ffee" * 10 + "abcd")
    organ = {"source": "bundle", "name": "some_segmentation", "version": "0.2.5"}
    scan = (name, "d" * 64, (0.8, 0.8, 2.5), SHAPE)
    record = ScanRecord(*scan, bundle, lesions, phantom, organ, notes=notes)
    write_record(folder / "lesions.json", record)
    return {"name": name, "original": nib.Nifti1Image(before, AFFINE), "folder": folder}


def write_report(
    out: Path, cases: list[dict[str, Any]], window: tuple[float, float] | None = (-1000.0, 400.0)
) -> Path:
    report = PageReport(window)
    for case in cases:
        report.add(case["folder"], case["name"], case["original"])
    report.write(out, cases)
    return out / "report.html"


def require_offline(page: Page, source: str, folder: Path) -> None:
    """Pictures are inside; links lead to a place of the page or to a page that is there."""
    assert not re.search(r"https?:|@import|\bfetch\(", source)
    anchors = {attrs["id"] for _, attrs in page.elements if attrs.get("id")}
    for tag, attrs in page.elements:
        assert tag != "iframe"
        target = attrs.get("src") or attrs.get("href") or "data:image/"
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("data:image/"):
            assert (folder / unquote(target)).is_file(), target


def test_pages_are_whole_offline_and_complete(tmp_path: Path) -> None:
    cases = [
        make_case(tmp_path / "one \u00e9", [(15, 15, 8), (35, 30, 15)], name="first <scan>"),
        make_case(tmp_path / "two", [(25, 25, 12)], phantom=True),
        make_case(tmp_path / "three", [], notes=("1 of 1 lesions found no room in <it>",)),
    ]
    paths = [write_report(tmp_path, cases), *(case["folder"] / "report.html" for case in cases)]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    pages = [Page(source) for source in sources]
    for page, source, path in zip(pages, sources, paths, strict=True):
        require_offline(page, source, path.parent)
        assert "Synthetic lesions: not for diagnostic use" in page.text
    index, first, second, third = pages

    assert [len(page.having("lesion")) for page in pages] == [0, 2, 1, 0]
    assert [len(page.having("scan")) for page in pages] == [0, 1, 1, 1]
    assert [len(page.having("listed")) for page in pages] == [3, 0, 0, 0]
    assert "first <scan>" in index.text
    assert [page.text.count("phantom") for page in pages] == [1, 0, 1, 0]
    for page in (index, third):
        assert "1 of 1 lesions found no room in <it>" in page.text
    assert "This scan holds no synthetic lesion." in third.text
    assert index.text.count("0.500") == 2 + 1  # of the scans with lesions, and of all
    for text in ("some_bundle 0.3.0", "c0ffeec0ffee", "41, 42", "0 voxels", "10 →", "10.2 mm"):
        assert text in first.text
    assert 'title="source: bundle, name: some_segmentation, version: 0.2.5">bundle<' in sources[1]
    for page in (first, second):
        assert {"#" + str(a["id"]) for a in page.having("lesion")} <= {
            str(attrs.get("href")) for _, attrs in page.elements
        }


def test_the_index_is_light_and_of_one_scan_the_page(tmp_path: Path) -> None:
    case = make_case(tmp_path / "a", [(25, 25, 12)])
    alone = Page(write_report(tmp_path, [case]).read_text(encoding="utf-8"))
    require_offline(alone, "", tmp_path)
    assert (len(alone.having("scan")), len(alone.having("listed"))) == (1, 0)
    page = case["folder"] / "report.html"
    stamp = page.stat().st_mtime_ns
    cases = [case, make_case(tmp_path / "b", [(25, 25, 12)], name="b")]
    PageReport(None).add(cases[1]["folder"], "b", cases[1]["original"])
    PageReport(None).write(tmp_path, cases)
    both = (tmp_path / "report.html").stat().st_size
    assert page.stat().st_mtime_ns == stamp  # what is there is not drawn again
    PageReport(None).write(tmp_path, cases * 20)
    each = ((tmp_path / "report.html").stat().st_size - both) / 38
    assert 500 < each < 6000
    uris = re.findall(r"base64,([\w+/=]+)", (tmp_path / "report.html").read_text())
    sizes = [Image.open(io.BytesIO(base64.b64decode(uri))).size for uri in uris]
    assert len(sizes) == 40
    assert max(map(max, sizes)) <= 112


def test_pictures_decode_and_stay_small(tmp_path: Path) -> None:
    source = write_report(tmp_path, [make_case(tmp_path / "one", [(25, 25, 12)])]).read_text()
    uris = re.findall(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", source)
    assert [kind for kind, _ in uris] == ["jpeg"] * 2 + ["png"] * 9
    for _, content in uris:
        Image.open(io.BytesIO(base64.b64decode(content))).verify()
    assert sum(len(content) for _, content in uris) < 300_000
    mask_outlines = re.findall(r'<path class="class-0" d="(M[^"]+)"', source)
    assert len(mask_outlines) == 9  # before, after, difference in three planes


def test_window_of_mri_follows_the_scan(tmp_path: Path) -> None:
    case = make_case(tmp_path / "one", [(25, 25, 12)])
    page = Page(write_report(tmp_path, [case], window=None).read_text())
    assert "HU" not in page.text
    assert "scaled intensity" in page.text
    assert re.search("Window\u2212(900|899) to \u221280[0-2]", page.text)


def test_an_index_is_put_together_from_what_earlier_runs_left(tmp_path: Path) -> None:
    names = ("first <scan> & more", "b", "c")
    cases = [
        make_case(tmp_path / str(n), [(15, 15, 8), (35, 30, 15)][:n], n == 1, name, ("a note",) * n)
        for n, name in enumerate(names)
    ]
    path = write_report(tmp_path, cases)
    whole = path.read_bytes()
    PageReport(None).write(tmp_path, cases)
    assert path.read_bytes() == whole
    PageReport(None).write(tmp_path, cases[:1])
    alone = Page(path.read_text(encoding="utf-8"))
    assert [attrs["id"] for attrs in alone.having("scan")] == [f"scan-{names[0]}"]


def test_a_case_of_which_nothing_was_written_is_named(tmp_path: Path) -> None:
    cases = [make_case(tmp_path / name, [(25, 25, 12)], name=f"<{name}>") for name in "abc"]
    path = write_report(tmp_path, cases)
    (cases[2]["folder"] / "report.html").unlink()
    for there, links in ((cases, 2), (cases[2:], 0)):
        PageReport(None).write(tmp_path, there)
        page = Page(path.read_text(encoding="utf-8"))
        require_offline(page, "", tmp_path)
        found = {attrs["href"] for _, attrs in page.elements if attrs.get("href")}
        assert len([href for href in found if str(href).endswith("report.html")]) == links
        # its name and what its record says is left
        assert [a["id"] for a in page.having("listed")] == [f"scan-{c['name']}" for c in there]
        assert page.text.count("<c>") == 1
        assert f"Lesions{len(there)}" in page.text


@pytest.mark.parametrize("count", [1, 2])
def test_sections_of_earlier_versions_become_pages(tmp_path: Path, count: int) -> None:
    cases = [make_case(tmp_path / name, [(25, 25, 12)], name=name) for name in "ab"[:count]]
    write_report(tmp_path, cases)
    page = tmp_path / "a" / "report.html"
    now = page.read_text(encoding="utf-8")
    start, end = now.index('<section class="scan"'), now.rindex("</section>")
    (tmp_path / "a" / ".report.html").write_text(now[start:end] + "</section>", encoding="utf-8")
    page.unlink()
    mark_folder(tmp_path / "a", ["*.nii.gz", "lesions.json", ".report.html"], "request")
    PageReport(None).write(tmp_path, cases)
    assert page.read_text(encoding="utf-8") == now
    assert not (tmp_path / "a" / ".report.html").exists()
    mark = read_mark(tmp_path / "a")
    assert mark is not None
    assert mark["request"] == "request"
    remove_ours(tmp_path / "a")  # the new page is ours too


def test_other_grid_and_empty_window_are_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path / "one", [(25, 25, 12)])
    moved = AFFINE.copy()
    moved[0, 3] += 5
    original = nib.Nifti1Image(np.zeros(SHAPE, np.int16), moved)
    with pytest.raises(ValueError, match=r"image\.nii\.gz of a must lie on the grid"):
        PageReport(None).add(case["folder"], "a", original)
    assert not (case["folder"] / "report.html").exists()
    with pytest.raises(ValueError, match=r"window must be .* got \(400, -1000\)"):
        PageReport((400, -1000))


def record(asked: list[float] | None, got: list[float] | None) -> LesionRecord:
    names = (1, "lesion", (0, 0, 0), 5.0, 65.0, "solid", "ellipsoid", 0)
    return LesionRecord(*names, histogram_requested=asked, histogram_achieved=got)


def test_bars_are_what_was_got_and_the_line_what_was_asked() -> None:
    chart = histogram_chart(record([0.25, 0.75], [0.5, 0.5]), (-1000.0, 400.0), " HU")
    assert chart is not None
    assert [bar["height"] for bar in chart["bars"]] == [CHART_HEIGHT * 2 / 3] * 2
    assert chart["bars"][1]["text"] == "\u2212300 to 400 HU: 50.0%, asked 75.0%"
    assert chart["path"] == "M0 132.0L0.0 88.0H160.0L160.0 0.0H320.0V132.0"
    assert chart["ticks"][0] == (0, "\u22121000")
    assert chart["ticks"][-1] == (CHART_WIDTH, "400")
    assert chart["top"] == "75%"


def test_either_histogram_may_be_missing() -> None:
    got, asked, neither = (
        histogram_chart(record(*given), (0.0, 1.0), "")
        for given in ((None, [1.0, 0.0]), ([1.0, 0.0], None), (None, None))
    )
    assert got is not None
    assert (got["path"], got["unit"]) == ("", "scaled intensity")
    assert asked is not None
    assert asked["bars"] == []
    assert neither is None
    with pytest.raises(ValueError, match="histogram_achieved must have 2 bins"):
        histogram_chart(record([0.5, 0.5], [1.0]), (0.0, 1.0), "")


def test_numbers_are_plain() -> None:
    assert number_text(-0.001) == "0"
    assert number_text(-3.50) == "\u22123.5"
    assert number_text(1200.4, 0) == "1200"

"""What a header says of a patient comes into no record, report, datalist, image or log."""

import gzip
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from tests.dicom.dicom_case import noisy_lung, twelve_bits
from tests.dicom.test_run import write_scan
from tools.cli import main

FAST = ["--count", "1", "--steps", "2", "--attempts", "1", "--shape", "ellipsoid"]
FAST += ["--diameter_mm", "6", "--device", "cpu"]
TEXT = dict.fromkeys(("LO", "SH", "PN", "ST", "LT", "UT", "UC", "UR", "CS", "AE"), "QXWORDQX")
WORDS = {**TEXT, "DA": "19470806", "TM": "031415.926", "DT": "19470806031415", "AS": "079Y"}
SAID = [word.encode() for word in {*WORDS.values(), "QXPRIVATEQX"}]
# what a reader has to understand
MEANT = {"SpecificCharacterSet", "Modality", "PhotometricInterpretation", "ImageType"}


def in_every_tag(k: int, header: Dataset) -> None:
    """Fill every element of patient, study, series and image that holds text or a date."""
    twelve_bits(k, header)
    for tag, (vr, multiplicity, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        told = vr in WORDS and group in (0x08, 0x10, 0x18, 0x20, 0x32, 0x38, 0x40)
        if told and keyword not in ("", *MEANT) and multiplicity.startswith("1"):
            setattr(header, keyword, WORDS[vr])
    header.PatientBirthDate = "QXWORDQX"  # no date: programs complain of it, word for word
    header.private_block(0x0011, "QXPRIVATEQX", create=True).add_new(1, "LO", "QXPRIVATEQX")


@pytest.fixture
def series(tmp_path: Path) -> Path:
    scan = noisy_lung(tmp_path)
    lesion = np.zeros(scan.shape, np.uint8)
    lesion[20:25, 20:25, 15:20] = 1
    scan.write_label(tmp_path / "lesion.nii.gz", lesion)
    folder = write_scan(tmp_path / "series", scan, in_every_tag, -1024.0)
    listed = {"image": "series", "label": "lesion.nii.gz", "lung": "lung.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [listed]}))
    return folder


@pytest.mark.parametrize("output", ["nifti", "dicom", "prepare", "broken"])
def test_words_of_the_header_stay_in_the_series(
    series: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    output: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    words = ["synthesize", "--scan", str(series), "--organ_mask", str(tmp_path / "lung.nii.gz")]
    if output == "prepare":
        words = ["prepare", "scans", "--datalist", str(tmp_path / "list.json")]
    elif output == "dicom":
        words += [*FAST, "--output_format", "dicom"]
    else:
        words += FAST
    if output == "broken":
        next(iter(sorted(series.iterdir())[5:])).unlink()
    words += ["--out", str(out)]
    if output == "dicom":  # warnings of libraries too, which pytest would keep to itself
        subprocess.run([sys.executable, "-m", "tools", *words], check=True, timeout=300)
    else:
        assert main(words) == int(output == "broken")
    said = capfd.readouterr()
    written = {"log": (said.out + said.err + caplog.text).encode()}
    for path in out.rglob("*"):
        # a derived series is the patient's, unless --deidentify
        if path.is_file() and path.suffix != ".dcm":
            content = path.read_bytes()
            name = path.relative_to(out).as_posix()
            written[name] = gzip.decompress(content) if path.suffix == ".gz" else content
    assert output == "broken" or len(written) > 4
    found = {name: [w for w in SAID if w in content] for name, content in written.items()}
    assert {name: words for name, words in found.items() if words} == {}

"""DICOM segmentation of synthetic lesions: one segment each, on the derived series."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tools import __version__
from tools.synthesis.dicom.header import MANUFACTURER, derived_uid
from tools.synthesis.records import LesionRecord, ScanRecord

__all__ = ["LESION_TYPES", "lesion_numbers", "make_segmentation", "separate_lesions"]

CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
# SNOMED CT codes as DICOM PS3.16 lists them; there is none for no-reflow
LESION_TYPES = {
    "lesion": Code("27925004", "SCT", "Nodule"),
    "infarct": Code("22298006", "SCT", "Myocardial Infarction"),
    "tumour": Code("108369006", "SCT", "Neoplasm"),
}
OTHER_TYPE = Code("52988006", "SCT", "Lesion")
METHOD = codes.DCM.ArtificialIntelligence  # CID 7162
TAKEN_OVER = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
DATES_AND_TIMES = ("PatientBirthDate", "StudyDate", "StudyTime")
SEXES = ("M", "F", "O")


def separate_lesions(
    label: np.ndarray, affine: np.ndarray, lesions: Sequence[LesionRecord]
) -> np.ndarray:
    """Return a map with 1 for the first record's voxels, 2 for the second's, and so on.

    Lesions of a scan do not touch: each connected part of a label value goes to the record of that
    value whose site is nearest, as a multiple of its radius.

    Args:
        label: uint8, shape (I, J, K); values without a record (an organ) become 0.
        affine: 4x4, voxel index to RAS mm.
        lesions: records; where only one has a value, all voxels of the value are its own.

    Returns:
        uint8, of the same shape; all 0 where there is no record.

    Example:
        >>> label = np.array([1, 1, 0, 1], np.uint8).reshape(4, 1, 1)
        >>> sites = [LesionRecord(1, "lesion", (x, 0, 0), 1, 1, "solid", "mask", 0) for x in (3, 0)]
        >>> separate_lesions(label, np.eye(4), sites).ravel().tolist()
        [2, 2, 0, 1]
    """
    separate = np.zeros(label.shape, np.uint8 if len(lesions) < 256 else np.uint16)
    voxels = np.argwhere(label)
    numbers = lesion_numbers(voxels, label[tuple(voxels.T)], label.shape, affine, lesions)
    separate[tuple(voxels.T)] = numbers
    return separate


def lesion_numbers(
    voxels: np.ndarray,
    values: np.ndarray,
    shape: Sequence[int],
    affine: np.ndarray,
    lesions: Sequence[LesionRecord],
) -> np.ndarray:
    """Return the number of the record of each voxel ``(n, 3)`` of a label, from 1; 0 for none.

    As :func:`separate_lesions`, for what is too large to be in memory as a whole.
    """
    found = np.zeros(len(voxels), int)
    for value in {lesion.label for lesion in lesions}:
        numbers = [n for n, lesion in enumerate(lesions, 1) if lesion.label == value]
        mine = np.flatnonzero(values == value)
        if len(numbers) == 1:
            found[mine] = numbers[0]
            continue
        sites = np.array([lesions[n - 1].site_mm for n in numbers], float)
        radii = np.array([lesions[n - 1].diameter_mm for n in numbers], float) / 2
        count, parts = _connected(voxels[mine], shape)
        for part in range(count):
            inside = mine[parts == part]
            points = nib.affines.apply_affine(affine, voxels[inside])[:, None]
            distance = np.linalg.norm(points - sites, axis=2).min(axis=0)
            found[inside] = numbers[int((distance / radii).argmin())]
    return found


def _connected(voxels: np.ndarray, shape: Sequence[int]) -> tuple[int, np.ndarray]:
    """Return the number of parts whose voxels touch by a face, and the part of each voxel."""
    wide = [size + 1 for size in shape]  # so that the end of a row is not beside the next
    flat = np.ravel_multi_index(tuple(voxels.T), wide)
    order = np.argsort(flat)
    ordered = flat[order]
    pairs = []
    for step in (wide[1] * wide[2], wide[2], 1):
        place = np.searchsorted(ordered, ordered + step)
        beside = np.flatnonzero(ordered[np.minimum(place, len(flat) - 1)] == ordered + step)
        pairs.append((order[beside], order[place[beside]]))
    first, second = (np.concatenate(part) for part in zip(*pairs, strict=True))
    size = len(flat)
    graph = coo_matrix((np.ones(len(first), bool), (first, second)), (size, size))
    return connected_components(graph, directed=False)


def make_segmentation(
    headers: Sequence[Dataset], label: np.ndarray, affine: np.ndarray, record: ScanRecord
) -> Segmentation | None:
    """Return the segmentation of a derived series, one segment per record.

    UIDs and dates follow from those of the series, so that a rerun gives the same file.

    Args:
        headers: of the derived slices, ascending as the last axis of ``label``.
        label: the case's label map, uint8.
        affine: 4x4, voxel index to RAS mm.
        record: of the case.

    Returns:
        A binary segmentation without empty frames; None where there is no lesion.
    """
    separate = separate_lesions(label, affine, record.lesions)
    present = np.flatnonzero(np.bincount(separate.ravel())[1:]) + 1
    if not len(present):
        return None
    first = headers[0]
    marks = hashlib.sha256(separate.tobytes()).hexdigest()
    identity = f"{first.SeriesInstanceUID} {marks}"
    frames = (np.searchsorted(present, separate) + (separate > 0)).astype(separate.dtype)
    bundle = record.bundle
    result = Segmentation(
        source_images=_templates(headers, affine),
        pixel_array=np.ascontiguousarray(frames.transpose(2, 1, 0)),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(number, record.lesions[index - 1], record, identity)
            for number, index in enumerate(present.tolist(), 1)
        ],
        series_instance_uid=derived_uid("segmentation series", identity),
        series_number=int(first.SeriesNumber) + 1,
        sop_instance_uid=derived_uid("segmentation", identity),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=bundle.name[:64],
        software_versions=[__version__, bundle.version],  # type: ignore[arg-type]
        device_serial_number=(bundle.weights_sha256 or "none")[:64],
        content_label="SYNTHETIC_LESION",
        content_description="Synthetic lesions; not for diagnostic use",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="SYNTHETIC lesions: segmentation",
    )
    _make_repeatable(result, first, identity)
    return result


def _templates(headers: Sequence[Dataset], affine: np.ndarray) -> list[Dataset]:
    """Return what a segmentation takes over, in UTF-8 whatever the source's character set is."""
    first = headers[0]
    rows, columns = (float(value) for value in first.PixelSpacing)
    apart = abs(float(np.linalg.det(affine[:3, :3]))) / (rows * columns)
    sex = first.get("PatientSex")
    templates = []
    for header in headers:
        template = Dataset()
        for name in TAKEN_OVER:
            if name in header:
                setattr(template, name, header[name].value)
        # some de-identifiers write words there
        for name in DATES_AND_TIMES:
            setattr(template, name, _date_or_time(header, name))
        template.PatientSex = sex if sex in SEXES else None
        # slices lie apart as their positions say; the header may say otherwise, or nothing
        template.SpacingBetweenSlices = round(apart, 6)
        template.SliceThickness = float(header.get("SliceThickness") or round(apart, 6))
        # one plane for all, as some scanners round differently from slice to slice
        template.ImageOrientationPatient = first.ImageOrientationPatient
        template.PixelSpacing = first.PixelSpacing
        template.SpecificCharacterSet = "ISO_IR 192"
        template.file_meta = header.file_meta
        templates.append(template)
    return templates


def _describe(
    number: int, lesion: LesionRecord, record: ScanRecord, identity: str
) -> SegmentDescription:
    bundle = record.bundle
    name = "nodule" if lesion.class_name == "lesion" else lesion.class_name
    description = SegmentDescription(
        segment_number=number,
        segment_label=f"synthetic {name} {number}"[:64],
        segmented_property_category=CATEGORY,
        segmented_property_type=LESION_TYPES.get(lesion.class_name, OTHER_TYPE),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=bundle.name[:64], family=METHOD, version=bundle.version, source=MANUFACTURER
        ),
        tracking_uid=derived_uid("lesion", str(number), identity),
        tracking_id=f"synthetic {name} {number} seed {lesion.seed}"[:64],
    )
    words = f"{lesion.texture}, {lesion.diameter_mm:g} mm, shape {lesion.shape_source}"
    description.SegmentDescription = words
    return description


def _make_repeatable(segmentation: Segmentation, header: Dataset, identity: str) -> None:
    """Replace what was drawn by chance or read off the clock by what the source says."""
    dates = ("ContentDate", "SeriesDate", "AcquisitionDate", "StudyDate")
    times = ("ContentTime", "SeriesTime", "AcquisitionTime", "StudyTime")
    date = next(filter(None, (_date_or_time(header, k) for k in dates)), "19000101")
    time = next(filter(None, (_date_or_time(header, k) for k in times)), "000000")
    for kind in ("Content", "InstanceCreation"):
        setattr(segmentation, f"{kind}Date", date)
        setattr(segmentation, f"{kind}Time", time)
    segmentation.SyntheticData = "YES"
    organization = derived_uid("dimensions", identity)
    for part in segmentation.iterall():
        if part.keyword == "DimensionOrganizationUID":
            part.value = organization
        if part.keyword == "ContributionDateTime":
            part.value = f"{date}000000"


def _date_or_time(header: Dataset, name: str) -> str | None:
    """Return a date or time as DICOM writes it; None if the header has none, or other words."""
    word = header.get(name) or None
    try:
        if name.endswith("Date"):
            date = DA(word)  # old files write 2001.02.03
            return None if date is None else date.strftime("%Y%m%d")
        return None if TM(word) is None else str(word)
    except ValueError:
        return None

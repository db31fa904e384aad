"""Headers of a derived DICOM series: what of the source stays, what says that it is synthetic."""

from __future__ import annotations

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tools import __version__
from tools.synthesis.records import BundleRecord

__all__ = ["MANUFACTURER", "code_item", "derived_header", "derived_uid", "required_attributes"]

MANUFACTURER = "synthetic-lesions"
MARK = "SYNTHETIC"
SERIES_STEP = 9000  # added to SeriesNumber; far from what scanners count to
SYNTHESIZING = Code("109100", "DCM", "Synthesizing Equipment")  # CID 7005
SOURCE_IMAGE = codes.DCM.SourceImageForImageProcessingOperation  # CID 7202
# type 2 in every image: may be empty, must be there
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
    "Manufacturer",
)
# of the source's pixels or of its bytes: not true of the new ones
DROPPED = (
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "IconImageSequence",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "DataSetTrailingPadding",
)
LOSSY = (
    pydicom.uid.JPEGBaseline8Bit,
    pydicom.uid.JPEGExtended12Bit,
    pydicom.uid.JPEGLSNearLossless,
)


def derived_uid(*sources: str) -> UID:
    """Return a UID that the same sources always give, and others never.

    Args:
        sources: texts; what they were cannot be told from the UID.

    Example:
        >>> derived_uid("series", "1.2.3") == derived_uid("series", "1.2.3")
        True
        >>> derived_uid("series", "1.2.3") == derived_uid("series", "1.2", ".3")
        False
    """
    return generate_uid(entropy_srcs=["|".join(sources)])


def code_item(code: Code) -> Dataset:
    """Return a code as the single item of a code sequence.

    Args:
        code: value, scheme and meaning.
    """
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def required_attributes(header: Dataset) -> None:
    """Add, empty, the attributes that every image must have; sources without a study get one.

    Args:
        header: changed in place.
    """
    for name in REQUIRED:
        if name not in header:
            setattr(header, name, None)
    series = str(header.get("SeriesInstanceUID", ""))
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not header.get(name):
            setattr(header, name, derived_uid(name, series))


def derived_header(
    source: Dataset, series_uid: str, identity: str, bundle: BundleRecord, changed: int
) -> Dataset:
    """Turn the dataset of a source slice into that of the derived slice; its pixels come later.

    Patient, study, frame of reference and geometry stay, so do all dates: a rerun writes the same
    bytes. Private attributes are dropped, as nobody can say whether they still hold.

    Args:
        source: a whole slice, as read; it is used up.
        series_uid: of the derived series.
        identity: text that tells this result from others of the same source.
        bundle: that made the lesions.
        changed: voxels of this slice that differ from the source.

    Returns:
        A dataset with file meta information, explicit VR, little endian.
    """
    source.remove_private_tags()
    for name in DROPPED:
        if name in source:
            delattr(source, name)
    required_attributes(source)
    if source.file_meta.TransferSyntaxUID in LOSSY and "LossyImageCompression" not in source:
        source.LossyImageCompression = "01"  # once lossy, always lossy
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    source.SourceImageSequence = [reference]
    source.SOPInstanceUID = derived_uid("instance", str(source.SOPInstanceUID), identity)
    source.SeriesInstanceUID = series_uid
    source.SeriesNumber = int(source.get("SeriesNumber") or 0) + SERIES_STEP
    _describe(source, bundle, changed)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = source.SOPClassUID
    meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.file_meta = meta
    return source


def _describe(header: Dataset, bundle: BundleRecord, changed: int) -> None:
    """Say in words, codes and flags that lesions were put in, and by what."""
    given = list(header.get("ImageType") or [])
    kind = given[2:] or ["AXIAL" if header.get("Modality") == "CT" else "OTHER"]
    header.ImageType = ["DERIVED", "SECONDARY", *kind]
    header.SyntheticData = "YES"
    described = str(header.get("SeriesDescription") or "").removeprefix(f"{MARK} lesions")
    header.SeriesDescription = " ".join(f"{MARK} lesions {described.strip()}".split())[:64]
    maker = f"{bundle.name} {bundle.version}"
    words = [
        str(header.get("DerivationDescription") or ""),
        f"Synthetic lesions by {maker} ({MANUFACTURER} {__version__}); {changed} voxels of this "
        "slice differ from the source image. Not for diagnostic use.",
    ]
    header.DerivationDescription = " ".join(filter(None, words))[-1024:]
    equipment = Dataset()
    equipment.Manufacturer, equipment.ManufacturerModelName = MANUFACTURER, bundle.name[:64]
    versions = (f"{MANUFACTURER} {__version__}", f"{bundle.name} {bundle.version}")
    equipment.SoftwareVersions = [version[:64] for version in versions]  # LO holds no more
    equipment.ContributionDescription = f"Synthetic lesions put in by {maker}"
    equipment.PurposeOfReferenceCodeSequence = [code_item(SYNTHESIZING)]
    earlier = list(header.get("ContributingEquipmentSequence") or [])
    header.ContributingEquipmentSequence = [*earlier, equipment]

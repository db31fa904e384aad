"""DICOM: series in, derived series and segmentations of their lesions out."""

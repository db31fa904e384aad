"""A case as DICOM: derived series and segmentations of their lesions."""

"""Embedded data: computed scans with and without lesions, made on first use."""

from tools.phantoms.chest_ct import ChestPhantom, chest_ct
from tools.phantoms.datasets import lesion_datalist, write_chest_phantom, write_lesion_rois
from tools.phantoms.heart_datasets import (
    heart_datalist,
    write_heart_dataset,
    write_heart_phantom,
)
from tools.phantoms.heart_mr import HeartPhantom, heart_mr
from tools.phantoms.nodule_insertion import add_nodules
from tools.phantoms.nodule_shapes import ellipsoid_mask, nodule_masks, real_nodule_masks

__all__ = [
    "ChestPhantom",
    "HeartPhantom",
    "add_nodules",
    "chest_ct",
    "ellipsoid_mask",
    "heart_datalist",
    "heart_mr",
    "lesion_datalist",
    "nodule_masks",
    "real_nodule_masks",
    "write_chest_phantom",
    "write_heart_dataset",
    "write_heart_phantom",
    "write_lesion_rois",
]

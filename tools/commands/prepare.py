"""Commands that turn published datasets into training windows."""

from __future__ import annotations

__all__ = ["prepare_crops", "prepare_phantom"]


def prepare_crops(source: str, out: str, smallest: int = 32, largest: int = 72) -> None:
    """Cut training windows of 1 mm round real nodules out of an archive of crops.

    Example: python -m tools prepare crops --source ../shared/data/lidc_voi --out work/rois

    Args:
        source: the archive (.npz), or a folder that holds one.
        out: folder to write: OUT/rois/*.nii.gz and OUT/datalist.json, split by patient.
        smallest: voxels per side of a window, at least.
        largest: nodules that need a larger window are left out, and counted.
    """
    from tools.prepare.crops import prepare_crops as run

    print(run(source, out, smallest, largest))


def prepare_phantom(out: str, seed: int = 0) -> None:
    """Write the embedded chest phantom: a scan, its lung mask, and training windows.

    Args:
        out: folder to write.
        seed: of anatomy and noise.
    """
    from tools.prepare.phantom import prepare_phantom as run

    print(run(out, seed=seed))

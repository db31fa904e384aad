"""What the report says about a scan as a whole."""

from __future__ import annotations

from tools.report.charts import number_text
from tools.report.slices import OrientedVolume, changed_outside
from tools.synthesis.records import ScanRecord

__all__ = ["scan_facts"]


def scan_facts(
    record: ScanRecord,
    window: str,
    before: OrientedVolume,
    after: OrientedVolume,
    labels: OrientedVolume,
) -> list[tuple[str, str, str]]:
    """Return name, value and what stands behind the value for each fact about a scan.

    Args:
        record: of the scan.
        window: text of the display window.
        before: the original.
        after: with lesions.
        labels: of the lesions alone.
    """
    weights = record.bundle.weights_sha256
    seeds = [str(lesion.seed) for lesion in record.lesions]
    more = ", …" if len(seeds) > 4 else ""
    return [
        ("Spacing", " × ".join(number_text(value, 3) for value in record.spacing_mm) + " mm", ""),
        ("Shape", " × ".join(str(value) for value in record.shape), ""),
        ("Made by", f"{record.bundle.name} {record.bundle.version}", ""),
        ("Weights", weights[:12] if weights else "none", weights or ""),
        ("Seed", ", ".join(seeds[:4]) + more if seeds else "none", ", ".join(seeds)),
        ("Input", record.sha256[:12], record.sha256),
        ("Window", window, ""),
        *_organ_fact(record),
        _changed_fact(record, before, after, labels),
    ]


def _organ_fact(record: ScanRecord) -> list[tuple[str, str, str]]:
    if not record.organ_mask:
        return []
    details = ", ".join(f"{key}: {value}" for key, value in record.organ_mask.items())
    source, name = (str(record.organ_mask.get(key, "")) for key in ("source", "name"))
    return [("Organ mask", name if source in ("file", "none") else source, details)]


def _changed_fact(
    record: ScanRecord, before: OrientedVolume, after: OrientedVolume, labels: OrientedVolume
) -> tuple[str, str, str]:
    """Return what changed where nothing should: outside the labels, or beyond the blend."""
    margins = [float(lesion.sampler.get("margin_mm", 0.0)) for lesion in record.lesions]
    margin = max(margins, default=0.0)
    changed = changed_outside(before, after, labels, margin)
    text = f"{changed:,} voxel{'' if changed == 1 else 's'}"
    if margin == 0:
        return "Changed outside label", text, ""
    ring = changed_outside(before, after, labels) - changed
    return (
        f"Changed {number_text(margin)} mm or more from label",
        text,
        f"{ring:,} voxels nearer than that, where each lesion fades out",
    )

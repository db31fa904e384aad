"""Organs as tables, and what finds them in a scan."""

from tools.organs.organ import LesionClass, Organ, OrganMap, load_organ

__all__ = ["LesionClass", "Organ", "OrganMap", "load_organ"]

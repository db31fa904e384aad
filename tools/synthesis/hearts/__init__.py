"""Infarcts in hearts: thick slices, shapes in the wall, several classes in one window."""

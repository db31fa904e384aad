"""Transforms: one concern per module, dictionary transforms end in d."""

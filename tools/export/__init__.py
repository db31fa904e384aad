"""Synthetic cases beside real ones, in the form that other training programs read."""

"""Timings for people: never part of the tests, since a shared machine cannot promise a time."""

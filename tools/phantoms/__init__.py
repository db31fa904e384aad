"""Embedded data: computed scans with and without lesions, made on first use."""

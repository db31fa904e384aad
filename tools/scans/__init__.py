"""Scans and masks as people bring them: read whole or refused, and laid on one grid."""

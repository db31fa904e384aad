"""Studies: cases x methods x measures; every table that we print."""

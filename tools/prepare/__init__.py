"""From raw releases, or from nothing, to NIfTI files with a datalist."""

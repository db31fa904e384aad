"""The commands of ``python -m tools``: they parse, check and call; heavy imports wait."""

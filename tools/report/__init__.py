"""One page that shows what was made."""

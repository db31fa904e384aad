"""Published checkpoints to our state dicts."""

"""Networks that MONAI lacks; each is called `network(x, timesteps, condition)`."""

"""One pass through an autoencoder that also remembers what its loss needs."""

from __future__ import annotations

from monai.inferers import Inferer
from torch import Tensor, nn

__all__ = ["AutoencoderInferer"]


class AutoencoderInferer(Inferer):
    """Reconstruct images in [0, 1], ``(B, 1, H, W, D)``; ``sample`` draws latents, else their mean.

    MONAI's ``AdversarialTrainer`` hands what its inferer returns to the discriminator, so that this
    must be the image alone; mean and deviation are kept for the loss of the same iteration. With
    ``sample=False`` (validation) the network may not be wrapped.
    """

    def __init__(self, sample: bool = True) -> None:
        super().__init__()
        self.sample = sample
        self._posterior: tuple[Tensor, Tensor] | None = None

    def __call__(self, inputs: Tensor, network: nn.Module) -> Tensor:  # type: ignore[override]
        """Return reconstructions, shape of ``inputs``."""
        if not self.sample:
            return network.reconstruct(inputs)  # type: ignore[operator]
        reconstruction, mean, deviation = network(inputs)
        self._posterior = (mean, deviation)
        return reconstruction

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latents of the last call that sampled."""
        if self._posterior is None:
            raise RuntimeError("posterior must be asked for after a call with sample=True")
        return self._posterior

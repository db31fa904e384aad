"""One pass through an autoencoder that also remembers what its loss needs."""

from __future__ import annotations

from monai.inferers import Inferer
from torch import Tensor, nn

__all__ = ["AutoencoderInferer"]


class AutoencoderInferer(Inferer):
    """Reconstruct images, ``(B, 1, H, W, D)``; ``sample`` trains, else as in use: no latents drawn.

    MONAI's ``AdversarialTrainer`` hands what its inferer returns to the discriminator, so that this
    must be the image alone; what the network returns beside it, mean and deviation of the latents
    or the loss of its codebook, is kept for the loss of the same iteration. With ``sample=False``
    (validation) the network may not be wrapped.
    """

    def __init__(self, sample: bool = True) -> None:
        super().__init__()
        self.sample = sample
        self._beside: list[Tensor] = []

    def __call__(self, inputs: Tensor, network: nn.Module) -> Tensor:  # type: ignore[override]
        """Return reconstructions, shape of ``inputs``."""
        if not self.sample:
            return network.reconstruct(inputs)  # type: ignore[operator]
        reconstruction, *self._beside = network(inputs)
        return reconstruction

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latents of the last call that sampled."""
        if len(self._beside) != 2:
            raise RuntimeError("posterior must be asked for after a call with sample=True")
        mean, deviation = self._beside
        return mean, deviation

    def commitment(self) -> Tensor:
        """Return the loss of the codebook in the last call that sampled."""
        if len(self._beside) != 1:
            raise RuntimeError("commitment must be asked for after a call with sample=True")
        return self._beside[0]

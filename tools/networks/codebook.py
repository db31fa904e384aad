"""Vector quantisation with codes that follow the data, and start again where none chooses them."""

from __future__ import annotations

import math

import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer
from torch import Tensor
from torch.nn import functional

__all__ = ["Codebook"]

# distances held at once: 64 MB
DISTANCES = 2**24
NOISE = 0.01  # of copies, where a batch has fewer vectors than there are codes


class Codebook(EMAQuantizer):
    r"""Replace each vector by its nearest code; in training move the codes after their vectors.

    With :math:`n_k` vectors of sum :math:`s_k` nearest to code :math:`e_k`, and decay
    :math:`\gamma`:

    .. math::
        N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \quad
        m_k \leftarrow \gamma m_k + (1 - \gamma) s_k, \quad
        e_k = m_k \, / \, \Big(\frac{N_k + \epsilon}{N + K \epsilon} N\Big), \quad
        N = \sum_k N_k

    Codes with :math:`N_k` below ``restart_below`` become vectors of the batch, drawn at random;
    the first batch of a training gives all codes, with :math:`N_k = 1`. No gradient reaches the
    codes; that of the result goes to the vectors as it is, and the loss draws them to their codes:
    ``commitment_cost`` times the mean of :math:`(z - e)^2`.

    MONAI's ``EMAQuantizer``, whose names and options these are, does the same but for both kinds
    of new codes, and for memory: it holds one number per pair of vector and code, twice, which is
    1.8 GB for latents of 24^3 and 16384 codes. Sizes that are not positive are a ``ValueError``.

    References:
        van den Oord et al., NeurIPS 2017, appendix A.1. https://arxiv.org/abs/1711.00937

    Example:
        >>> codebook = Codebook(num_embeddings=4, embedding_dim=2).eval()
        >>> codes, loss, indices = codebook(torch.zeros(1, 2, 3, 3, 3))
        >>> codes.shape, indices.shape
        (torch.Size([1, 2, 3, 3, 3]), torch.Size([1, 3, 3, 3]))
    """

    def __init__(
        self,
        num_embeddings: int = 16384,
        embedding_dim: int = 8,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-7,
        restart_below: float = 1.0,
    ) -> None:
        for name, value in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        super().__init__(3, num_embeddings, embedding_dim, commitment_cost, decay, epsilon)
        self.restart_below = restart_below

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes ``(B, C, H, W, D)`` in float32, the loss, and indices ``(B, H, W, D)``."""
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.float()
            flat = inputs.detach().movedim(1, -1).flatten(0, -2)
            if self.training and not self.ema_cluster_size.any():
                self._start(flat)
            nearest = self._nearest(flat)
            indices = nearest.view(inputs[:, 0].shape)
            codes = self.embed(indices)
            if self.training:
                self._follow(flat, nearest)
            loss = self.commitment_cost * functional.mse_loss(inputs, codes)
            return inputs + (codes - inputs).detach(), loss, indices

    @torch.no_grad()
    def snap(self, inputs: Tensor) -> Tensor:
        """Return the nearest codes ``(B, C, H, W, D)``; in training, too, nothing is learnt."""
        flat = inputs.float().movedim(1, -1).flatten(0, -2)
        return self.embed(self._nearest(flat).view(inputs[:, 0].shape))

    @torch.no_grad()
    def _nearest(self, flat: Tensor) -> Tensor:
        codes = self.embedding.weight
        norms = codes.square().sum(1)
        rows = max(1, DISTANCES // len(codes))
        # |z|^2 is the same for all codes
        parts = [torch.addmm(norms, z, codes.t(), alpha=-2).argmin(1) for z in flat.split(rows)]
        return torch.cat(parts)

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        codes = self._draw(flat)
        self.embedding.weight.copy_(codes)
        self.ema_w.copy_(codes)
        self.ema_cluster_size.fill_(1)

    @torch.no_grad()
    def _follow(self, flat: Tensor, nearest: Tensor) -> None:
        counts = torch.bincount(nearest, minlength=self.num_embeddings).to(flat)
        sums = torch.zeros_like(self.ema_w).index_add_(0, nearest, flat)
        self.distributed_synchronization(counts, sums)
        self.ema_cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.ema_w.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.ema_cluster_size.sum()
        smoothed = self.ema_cluster_size + self.epsilon
        smoothed *= total / (total + self.num_embeddings * self.epsilon)
        dead = self.ema_cluster_size[:, None] < self.restart_below
        codes = torch.where(dead, self._draw(flat), self.ema_w / smoothed[:, None])
        self.embedding.weight.copy_(codes)

    def _draw(self, flat: Tensor) -> Tensor:
        """Return as many vectors of a batch as there are codes, the same in all processes."""
        missing = self.num_embeddings - len(flat)
        if missing > 0:
            flat = flat.repeat(math.ceil(self.num_embeddings / len(flat)), 1)
            flat += NOISE / math.sqrt(self.embedding_dim) * torch.randn_like(flat)
        drawn = flat[torch.randperm(len(flat), device=flat.device)[: self.num_embeddings]]
        if self.ddp_sync and torch.distributed.is_initialized():
            torch.distributed.broadcast(drawn, 0)
        return drawn

"""A latent denoiser that is told the lesion's subtype and its histogram."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tools.networks.histogram_condition import HistogramEmbedding, HistogramTokens
from tools.networks.traced_denoiser import TracedDenoiser

__all__ = ["SubtypeUNet"]


class SubtypeUNet(nn.Module):
    r"""Give ``DiffusionModelUNetMaisi`` the call ``network(x, timesteps, condition)``.

    The condition is ``bins`` numbers of a histogram, then the subtype. The subtype's embedding is
    added to that of the time step; the histogram enters by cross-attention (HR-LDM, section 3.2.1):
    as one token, :math:`W_2 \sigma(W_1 h + b_1) + b_2` (Eq. 3), or as one token per bin. One token
    makes the softmax constant, and the attention a bias that is the same everywhere.

    Deviations: the square roots of the bins go in beside the bins; both conditions may be absent
    (-1), which has a learned embedding of its own, so that either can be asked for alone.

    ``network`` has ``with_conditioning=True``, a ``cross_attention_dim`` of ``token_size`` and
    ``num_class_embeds`` of ``subtypes + 1``; ``histogram_tokens`` is ``"one"`` (paper) or
    ``"per_bin"``. Anything else is a ``ValueError``.

    References:
        Kannan et al., HR-LDM, 2026. https://arxiv.org/abs/2605.30631
        Guo et al., MAISI, WACV 2025. https://arxiv.org/abs/2409.11169
    """

    def __init__(
        self,
        network: nn.Module,
        bins: int = 40,
        subtypes: int = 3,
        histogram_tokens: str = "per_bin",
        token_size: int = 64,
    ) -> None:
        super().__init__()
        if network.num_class_embeds != subtypes + 1:
            raise ValueError(
                f"num_class_embeds of network must be subtypes + 1 = {subtypes + 1}, the last for "
                f"none, got {network.num_class_embeds}"
            )
        if histogram_tokens not in ("one", "per_bin"):
            raise ValueError(
                f'histogram_tokens must be "one" or "per_bin", got {histogram_tokens!r}'
            )
        self.network, self.bins, self.subtypes = network, bins, subtypes
        one = histogram_tokens == "one"
        self.tokens = (HistogramEmbedding if one else HistogramTokens)(bins, token_size)

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the prediction ``(B, latent channels, H, W, D)`` for noisy latents, then masks.

        Timesteps of None, for programs that give a network one tensor, are step 0. In the condition
        ``(B, bins + 1)`` bins of -1 are no histogram, a last entry of -1 no subtype; None is
        neither.
        """
        if timesteps is None:
            timesteps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if condition is None:
            condition = x.new_full((len(x), self.bins + 1), -1.0)
        if condition.shape[1] != self.bins + 1:
            raise ValueError(
                f"condition must hold {self.bins} bins and the subtype, got "
                f"{condition.shape[1]} numbers"
            )
        subtype = condition[:, -1].round().long()
        # an exported graph has no branch on values
        if not torch.compiler.is_exporting() and bool((subtype >= self.subtypes).any()):
            raise ValueError(
                f"subtype must be below {self.subtypes}, or -1 for none, got {subtype.tolist()}"
            )
        tokens = self.tokens(condition[:, :-1])
        context = tokens[:, None] if tokens.ndim == 2 else tokens
        labels = torch.where(subtype < 0, self.subtypes, subtype)
        return self.network(x, timesteps, context, labels)

    def __prepare_scriptable__(self) -> nn.Module:  # the upsampling of MONAI's network fails to
        network: Any = self.network
        size = 2 * 2 ** (len(network.block_out_channels) - 1)
        return TracedDenoiser(self, network.in_channels, self.bins + 1, size)

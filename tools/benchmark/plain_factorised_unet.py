"""The factorised 3-D U-Net in its plain form: the yardstick for the fast one's speed and output.

Written as the network is usually described and as the published code computes it: three-dimensional
convolutions on ``(B, C, D, H, W)``, a rearrangement round every attention, scores and probabilities
of all sequences at once, channel statistics written out. Nothing is fused, chunked or in place.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from tools.networks.factorised_unet import FactorisedUNet


def channel_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """Normalise over axis 1 of ``(B, C, D, H, W)``, with a gain ``(1, C, 1, 1, 1)``."""
    variance = torch.var(x, dim=1, unbiased=False, keepdim=True)
    mean = torch.mean(x, dim=1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * gamma


def rotate(x: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last axis by their position along the axis before it."""
    length, size = x.shape[-2:]
    frequency = 10000.0 ** (-torch.arange(0, size, 2).to(x) / size)
    angle = repeat(torch.outer(torch.arange(length).to(x), frequency), "n f -> n (f r)", r=2)
    even, odd = rearrange(x, "... (f r) -> ... f r", r=2).unbind(dim=-1)
    quarter_turn = rearrange(torch.stack((-odd, even), dim=-1), "... f r -> ... (f r)")
    # the published rotary layer joins the turned channels with those left alone (none here): a copy
    return torch.cat((x * angle.cos() + quarter_turn * angle.sin(), x[..., size:]), dim=-1)


class PlainFactorisedUNet(FactorisedUNet):
    """The same network, parameters and call as :class:`FactorisedUNet`, computed the plain way.

    Arguments are those of the parent, so a state dict of one loads into the other.

    Example:
        >>> network = PlainFactorisedUNet(1, 1, base_channels=8, condition_size=None)
        >>> network(torch.zeros(1, 1, 8, 8, 4), torch.tensor([0])).shape
        torch.Size([1, 1, 8, 8, 4])
    """

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the predicted noise; see :meth:`FactorisedUNet.forward`."""
        self._check(x, condition)
        if timesteps is None:
            timesteps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        embedding = self._embed(timesteps, condition, x.dtype)
        bias = self.time_rel_pos_bias(x.shape[-1])
        hidden = self._convolve(self.init_conv, rearrange(x, "b c h w d -> b c d h w"))
        initial = hidden.clone()
        hidden = hidden + self._depth(self.init_temporal_attn, hidden, bias)
        skips = []
        for first, second, within, along, change in self.downs:
            hidden = self._residual(second, self._residual(first, hidden, embedding), embedding)
            hidden = hidden + self._linear(within, hidden)
            hidden = hidden + self._depth(along, hidden, bias)
            skips.append(hidden)
            hidden = self._convolve(change, hidden)
        hidden = self._residual(self.mid_block1, hidden, embedding)
        hidden = hidden + self._slices(self.mid_spatial_attn, hidden)
        hidden = hidden + self._depth(self.mid_temporal_attn, hidden, bias)
        hidden = self._residual(self.mid_block2, hidden, embedding)
        for first, second, within, along, change in self.ups:
            hidden = torch.cat((hidden, skips.pop()), dim=1)
            hidden = self._residual(second, self._residual(first, hidden, embedding), embedding)
            hidden = hidden + self._linear(within, hidden)
            hidden = hidden + self._depth(along, hidden, bias)
            hidden = self._convolve(change, hidden)
        hidden = self._residual(self.final_conv[0], torch.cat((hidden, initial), dim=1), None)
        return rearrange(self._convolve(self.final_conv[1], hidden), "b c d h w -> b c h w d")

    @staticmethod
    def _convolve(layer: Any, x: Tensor) -> Tensor:
        """Apply the layer's weights as a three-dimensional convolution of ``(B, C, D, H, W)``."""
        if isinstance(layer, nn.Identity):
            return x
        function = functional.conv_transpose3d if layer.transposed else functional.conv3d
        stride, padding = layer.stride, layer.padding
        return function(x, layer.weight, layer.bias, stride=stride, padding=padding)

    def _residual(self, block: Any, x: Tensor, embedding: Tensor | None) -> Tensor:
        hidden = block.block1.norm(self._convolve(block.block1.proj, x))
        if block.mlp is not None:
            modulation = rearrange(block.mlp(embedding), "b c -> b c 1 1 1")
            scale, shift = modulation.chunk(2, dim=1)
            hidden = hidden * (scale + 1) + shift
        hidden = self._convolve(block.block2.proj, functional.silu(hidden))
        hidden = functional.silu(block.block2.norm(hidden))
        return hidden + self._convolve(block.res_conv, x)

    def _attend(self, layers: Any, tokens: Tensor, bias: Tensor | None) -> Tensor:
        """Softmax attention of tokens ``(B, sequences, L, C)``; rotary where a bias is given."""
        parts = functional.linear(tokens, layers["to_qkv"].weight).chunk(3, dim=-1)
        heads = self.attention[0]
        query, key, value = (rearrange(p, "... n (h d) -> ... h n d", h=heads) for p in parts)
        query = query * self.attention[1] ** -0.5
        if bias is not None:
            query, key = rotate(query), rotate(key)
        scores = torch.einsum("... h i d, ... h j d -> ... h i j", query, key)
        if bias is not None:
            scores = scores + bias
        scores = scores - scores.amax(dim=-1, keepdim=True).detach()
        mixed = torch.einsum("... h i j, ... h j d -> ... h i d", scores.softmax(dim=-1), value)
        mixed = rearrange(mixed, "... h n d -> ... n (h d)")
        return functional.linear(mixed, layers["to_out"].weight)

    def _depth(self, attention: Any, x: Tensor, bias: Tensor) -> Tensor:
        tokens = rearrange(channel_norm(x, attention.norm.gamma), "b c d h w -> b (h w) d c")
        tokens = self._attend(attention.layers, tokens, bias)
        return rearrange(tokens, "b (h w) d c -> b c d h w", h=x.shape[3])

    def _slices(self, attention: Any, x: Tensor) -> Tensor:
        tokens = rearrange(channel_norm(x, attention.norm.gamma), "b c d h w -> b d (h w) c")
        tokens = self._attend(attention.layers, tokens, None)
        return rearrange(tokens, "b d (h w) c -> b c d h w", h=x.shape[3])

    def _linear(self, attention: Any, x: Tensor) -> Tensor:
        images = rearrange(channel_norm(x, attention.norm.gamma), "b c d h w -> (b d) c h w")
        parts = attention.layers["to_qkv"](images).chunk(3, dim=1)
        heads = self.attention[0]
        query, key, value = (rearrange(p, "n (h c) y x -> n h c (y x)", h=heads) for p in parts)
        query = query.softmax(dim=-2) * self.attention[1] ** -0.5
        context = torch.einsum("n h d p, n h e p -> n h d e", key.softmax(dim=-1), value)
        mixed = torch.einsum("n h d e, n h d p -> n h e p", context, query)
        mixed = rearrange(mixed, "n h c (y x) -> n (h c) y x", y=x.shape[3])
        mixed = attention.layers["to_out"](mixed)
        return rearrange(mixed, "(b d) c y x -> b c d y x", b=x.shape[0])

"""From the tokens of an image, or of a bag of instances, to one vector.

Sources: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, eq. 3 (generalised
mean); Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018, eq. 7-9 (gated attention). Departures:
the hidden layer of the gate is as wide as the features, not 128.

Contract: ``Pool(channels)``. ``forward(x, mask)`` takes tokens ``[B, N, C]`` or an image ``[B, C, *S]`` of two or
three dimensions, and a mask ``[B, N]`` or ``[B, *S]`` that is true for what counts; it returns ``[B, C]``. What does
not count has no influence, even NaN; where nothing counts, the answer is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.attention.dot_product import to_tokens

SMALLEST = 1e-6  # of a feature in the generalised mean, whose powers need positive ones


class Mean(nn.Module):
    """Mean of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return counted_mean(*bag(x, mask))


class GeneralisedMean(nn.Module):
    """(mean x^p)^(1/p) of each channel, p learnt from 3 on; the mean at p = 1, the maximum as p grows.

    Features below 1e-6 count as 1e-6: it is meant for features behind a rectifier.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x, counts = bag(x, mask)
        x = x.clamp(min=SMALLEST)
        # Divided by the largest of each channel, powers stay in range; the answer does not depend on it.
        top = x.detach().masked_fill(~counts, SMALLEST).amax(1, keepdim=True)
        mean = counted_mean((x / top) ** self.p, counts)
        nothing = ~counts.any(1)
        return (top[:, 0] * mean.masked_fill(nothing, 1) ** (1 / self.p)).masked_fill(nothing, 0)


class AttentionPooling(nn.Module):
    """z = sum_k a_k h_k, a = softmax over k of w^T (tanh(V h_k) * sigmoid(U h_k))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.v = nn.Linear(channels, channels)
        self.u = nn.Linear(channels, channels)
        self.w = nn.Linear(channels, 1, bias=False)

    def weights(self, x: Tensor, counts: Tensor) -> Tensor:
        """a ``[B, N, 1]``, which sums to 1 over what counts, of tokens ``[B, N, C]``."""
        nothing = ~counts.any(1, keepdim=True)  # a softmax over nothing would be NaN, and so its gradient
        scores = self.w(self.v(x).tanh() * self.u(x).sigmoid()).masked_fill(~(counts | nothing), -torch.inf)
        return scores.softmax(1).masked_fill(nothing, 0)

    def attention(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """a ``[B, N]`` of tokens, ``[B, 1, *S]`` of an image."""
        weights = self.weights(*bag(x, mask))[..., 0]
        return weights if x.ndim == 3 else weights.unflatten(1, x.shape[2:])[:, None]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x, counts = bag(x, mask)
        return (self.weights(x, counts) * x).sum(1)


def bag(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens ``[B, N, C]``, 0 where they do not count, and whether they do ``[B, N, 1]``."""
    tokens = x if x.ndim == 3 else to_tokens(x)
    if mask is None:
        return tokens, torch.ones_like(tokens[..., :1], dtype=torch.bool)
    counts = mask.flatten(1)[..., None]
    return tokens.masked_fill(~counts, 0), counts


def counted_mean(tokens: Tensor, counts: Tensor) -> Tensor:
    """Mean over the tokens that count, ``[B, C]``."""
    return tokens.masked_fill(~counts, 0).sum(1) / counts.sum(1).clamp(min=1)

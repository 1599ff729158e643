"""Training texts that look alike to the network: nearest neighbours of a prediction by its last hidden state.

A text classifier is compared text with text. A language model is compared at every token of the training texts, each
with the token that follows it, as in nearest-neighbour language models (Khandelwal et al. 2020).

N texts    T tokens    C width
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.data.batching import Example, collate
from gptwo.generate.decoder import evaluating
from gptwo.model.heads import Model

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Neighbour:
    """A place in the training texts.

    Args:
        similarity: cosine of the hidden states, −1 to 1.
        text: index of the training text.
        token: index of its token there.
    """

    similarity: float
    text: int
    token: int


@torch.no_grad()
def nearest(
    model: Model, query: Tensor, texts: Sequence[Sequence[int]], *, every_token: bool, count: int = 5
) -> list[Neighbour]:
    """The nearest places, the nearest first, at most one in each text.

    Args:
        query: (C,) hidden state after the last layer norm.
        texts: N lists of token ids, none empty, none longer than the context.
        every_token: compare at every token but the last; False: at each text's last token only.
    """
    best: list[tuple[float, int, int]] = []
    query = F.normalize(query.float(), dim=0)
    with evaluating(model):
        for places, hidden, lengths in _batches(model, texts):
            similar = F.normalize(hidden.float(), dim=-1) @ query  # (B, T, C) -> (B, T)
            for row, place, length in zip(similar, places, lengths, strict=True):
                if every_token:
                    if length < 2:
                        continue
                    value, token = row[: length - 1].max(0)
                else:
                    value, token = row[length - 1], torch.tensor(length - 1)
                entry = (float(value), place, int(token))
                if len(best) < count:
                    heapq.heappush(best, entry)
                else:
                    heapq.heappushpop(best, entry)
    return [Neighbour(*entry) for entry in sorted(best, key=lambda entry: (-entry[0], entry[1]))]


def _batches(model: Model, texts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Texts of like length together: their places, hidden states (B, T, C), lengths."""
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    start = 0
    while start < len(order):
        size = max(1, BATCH_TOKENS // max(1, len(texts[order[min(start + 63, len(order) - 1)]])))
        places = order[start : start + min(size, 64)]
        batch = collate([Example(texts[i]) for i in places]).to(device)
        yield places, model.transformer(batch.ids, batch.positions, batch.documents), [len(texts[i]) for i in places]
        start += len(places)

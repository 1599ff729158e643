"""The PyTorch backend: prompts are read together, then every text gets a token a step.

R rows (sequences)    T tokens of the longest context    C width of the hidden states    V vocabulary
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.generate.decoder import Decoder, evaluating
from gptwo.model.cache import Cache
from gptwo.model.heads import Model

PAD = -1  # never a row of the embedding
SCORED_LOGITS = 2**24  # logits held at a time while scoring: 64 MiB in float32


class TorchBackend:
    """A language model of ours behind the interface of `backend.py`.

    Args:
        model: with a language head; its device and precision are used as they are.
    """

    def __init__(self, model: Model):
        self.model = model
        self.config = model.config
        weight = model.transformer.wte.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._free: list[Decoder] = []  # a decoder keeps its recorded steps from batch to batch

    @torch.inference_mode()
    def prefill(self, contexts: Sequence[Sequence[int]], room: int) -> tuple[TorchBatch, Tensor]:
        unique: dict[tuple[int, ...], int] = {}
        rows = [unique.setdefault(tuple(context), len(unique)) for context in contexts]
        lengths = [len(context) for context in unique]
        T = max(lengths)
        cache = Cache(self.config, len(unique), T, self.device, self.dtype)
        ids = torch.tensor([[PAD] * (T - len(context)) + list(context) for context in unique], device=self.device)
        positions = documents = None
        if min(lengths) < T:  # shorter rows are padded on the left, so that all end together
            positions = (torch.arange(T) - (T - torch.tensor(lengths))[:, None]).clamp(min=0).to(self.device)
            documents = torch.where(ids < 0, -1, 0)
        last = (torch.arange(len(unique), device=self.device) + 1) * T - 1
        with evaluating(self.model):
            hidden = self.model.transformer(ids, positions, documents, cache, last)  # (R, C)
        decoder = self._free.pop() if self._free else Decoder(self.model)
        decoder.slots.reserve_room(len(rows), T + room)
        decoder.slots.join(cache, rows, [lengths[row] for row in rows])
        batch = TorchBatch(decoder, rows, min(lengths))
        weakref.finalize(batch, self._take_back, decoder)
        return batch, self.logits(hidden[torch.tensor(rows, device=self.device)])

    def _take_back(self, decoder: Decoder) -> None:
        """A batch is over."""
        decoder.slots.clear()
        self._free.append(decoder)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V) in float32, whatever the precision of the weights."""
        return self.model.logits(hidden).float()

    @torch.inference_mode()
    def score(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[tuple[list[float], list[bool]]]:
        T = max(len(row) for row in rows) - 1
        ids = torch.full((len(rows), T), PAD)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row) - 1] = torch.as_tensor(row[:-1])
        with evaluating(self.model):
            hidden = self.model.transformer(ids.to(self.device))  # (R, T, C); padding on the right is never seen
        results = []
        chunk = max(1, SCORED_LOGITS // self.config.vocab_size)
        for line, row, start in zip(hidden, rows, starts, strict=True):
            targets = torch.as_tensor(row[start:], device=self.device)
            judged, likeliest = [], []
            for first in range(0, len(targets), chunk):
                target = targets[first : first + chunk]
                logits = self.logits(line[start - 1 + first : start - 1 + first + len(target)])
                judged += (-F.cross_entropy(logits, target, reduction="none")).tolist()
                likeliest += (logits.argmax(-1) == target).tolist()
            results.append((judged, likeliest))
        return results


class TorchBatch:
    """Sequences that run together.

    Args:
        decoder: holds their keys and values.
        prompts: which prompt each row began with.
        shortest: tokens of the shortest prompt.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[int], shortest: int):
        self._decoder, self._prompts, self._shortest = decoder, list(prompts), shortest

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        with evaluating(self._decoder.model):
            return self._decoder.step(ids)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        prompts = [self._prompts[row] for row in rows]
        self._decoder.slots.select(rows, since=self._shortest if prompts == self._prompts else 0)
        self._prompts = prompts

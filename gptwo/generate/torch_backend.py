"""The PyTorch backend: prefill and step over a static key/value cache.

R rows (sequences)    T tokens of the longest context    C width of the hidden states    V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptwo.model.cache import Cache
from gptwo.model.heads import Model

PAD = -1  # never a row of the embedding
SCORED_LOGITS = 2**24  # logits held at a time while scoring: 64 MiB in float32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; a model in training goes on training afterwards."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


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

    @torch.inference_mode()
    def prefill(self, contexts: Sequence[Sequence[int]], room: int) -> tuple[TorchBatch, Tensor]:
        unique: dict[tuple[int, ...], int] = {}
        rows = [unique.setdefault(tuple(context), len(unique)) for context in contexts]
        lengths = [len(context) for context in unique]
        T = max(lengths)
        cache = Cache(self.config, len(unique), T + room, self.device, self.dtype)
        ids = torch.tensor([[PAD] * (T - len(context)) + list(context) for context in unique], device=self.device)
        positions = documents = None
        if min(lengths) < T:  # shorter rows are padded on the left, so that all end together
            positions = (torch.arange(T) - (T - torch.tensor(lengths))[:, None]).clamp(min=0).to(self.device)
            documents = torch.where(ids < 0, -1, 0)
        last = (torch.arange(len(unique), device=self.device) + 1) * T - 1
        with evaluating(self.model):
            hidden = self.model.transformer(ids, positions, documents, cache, last)  # (R, C)
        batch = TorchBatch(self, cache, lengths)
        if rows != list(range(len(unique))):
            batch.select(rows)
            hidden = hidden[torch.tensor(rows, device=self.device)]
        return batch, self.logits(hidden)

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
    """Sequences that run together, with their cache.

    Args:
        lengths: tokens in each row so far, padding not counted.
    """

    def __init__(self, backend: TorchBackend, cache: Cache, lengths: Sequence[int]):
        self._backend, self._cache = backend, cache
        self._padded = min(lengths) < max(lengths)
        self._lengths = torch.tensor(lengths, device=backend.device)  # (R,)
        self._prompts = list(range(len(lengths)))  # which prompt each row began with
        self._prompt_slots = cache.length

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        positions = None
        if self._padded:
            positions = self._lengths.clamp(max=self._backend.config.n_positions - 1)[:, None]  # (R, 1)
        model = self._backend.model
        with evaluating(model):
            hidden = model.transformer(ids[:, None], positions, None, self._cache)  # (R, 1, C)
        self._lengths += 1
        return self._backend.logits(hidden[:, 0])

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        if list(rows) == list(range(len(self._lengths))):
            return
        index = torch.tensor(rows, dtype=torch.long, device=self._backend.device)
        prompts = [self._prompts[row] for row in rows]
        self._cache.reorder(index, since=self._prompt_slots if prompts == self._prompts else 0)
        self._prompts = prompts
        self._lengths = self._lengths[index]

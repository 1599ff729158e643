"""The native engine behind the interface of backend.py: logits as tensors, for beam search. Imports PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gptwo.generate._native import Sampling

if TYPE_CHECKING:
    from gptwo.generate.native import NativeEngine


class NativeBackend:
    """See `backend.Backend`."""

    def __init__(self, engine: NativeEngine):
        self.engine, self.config, self.device = engine, engine.config, torch.device("cpu")

    def prefill(self, contexts: Sequence[Sequence[int]], room: int) -> tuple[NativeBatch, Tensor]:
        batch = NativeBatch(self.engine)
        for context in contexts:
            number = self.engine.native.open(list(context), len(context), 0, Sampling(), self.engine.way.adapter)
            batch.numbers.append(number)
        return batch, batch.logits()

    def score(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[tuple[list[float], list[bool]]]:
        return self.engine.judge([list(row) for row in rows], starts)


class NativeBatch:
    """See `backend.Batch`; rows that repeat share their pages until they part."""

    def __init__(self, engine: NativeEngine):
        self._native = engine.native
        self.numbers: list[int] = []

    def logits(self) -> Tensor:
        """Logits after the last token of each row; what stands before it goes in by chunks, where it has not yet."""
        size = self._native.max_tokens
        for number in self.numbers:
            while (left := self._native.left(number)) > 1:
                self._native.hidden([(number, min(size, left - 1), [])])
        parts = [self.numbers[start : start + size] for start in range(0, len(self.numbers), size)]
        return torch.cat([torch.from_numpy(self._native.logits([(n, 1, []) for n in part])) for part in parts])

    def step(self, ids: Tensor) -> Tensor:
        for number, token in zip(self.numbers, ids.tolist(), strict=True):
            self._native.append(number, token)
        return self.logits()

    def select(self, rows: Sequence[int]) -> None:
        old, taken = self.numbers, set()
        self.numbers = []
        for row in rows:
            self.numbers.append(self._native.fork(old[row], Sampling()) if row in taken else old[row])
            taken.add(row)
        for row, number in enumerate(old):
            if row not in taken:
                self._native.close(number)

    def __del__(self) -> None:
        for number in self.numbers:
            self._native.close(number)

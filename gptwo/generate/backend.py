"""What generation asks of a backend: logits for the next token of a batch of sequences, and nothing about choosing.

A backend holds the weights and may serve several batches at a time; a batch holds keys and values. Whoever adds
a backend implements these two and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gptwo.model.config import GPT2Config


class Batch(Protocol):
    """Sequences that run together; R rows."""

    def step(self, ids: Tensor) -> Tensor:
        """Add one token to each row, (R,), and return the logits of the next one, (R, V) float32.

        A row that is over may be fed anything as long as it is in the batch; its logits carry no meaning.
        """

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of old row rows[i]: rows are dropped, repeated or change places."""


class Backend(Protocol):
    """The network on a device, in a precision."""

    @property
    def config(self) -> GPT2Config:
        """The shape of the network."""

    @property
    def device(self) -> torch.device:
        """Where the logits lie."""

    def prefill(self, contexts: Sequence[Sequence[int]], room: int) -> tuple[Batch, Tensor]:
        """Begin a batch.

        Args:
            contexts: R lists of token ids, each of 1 to n_positions tokens; equal ones are computed once.
            room: how many tokens `step` will add at most.

        Returns:
            the batch, and the logits of each row's next token, (R, V) float32.
        """

    def score(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[tuple[list[float], list[bool]]]:
        """How likely the tokens rows[i][starts[i]:] are after what stands before them.

        Args:
            rows: lists of 2 to n_positions + 1 token ids; the last token is judged only.
            starts: first judged token of each row, at least 1.

        Returns:
            for each row the log-probabilities of its judged tokens, and whether each was the likeliest token.
        """

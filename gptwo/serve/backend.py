"""What serving asks of a backend: the numeric work of one step, for all texts of one model.

The scheduler decides which prompts are read and who leaves; a backend reads, keeps keys and values, and chooses
tokens. Whoever adds a backend (the native engine, another device) implements this and nothing else.

A backend is used by one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from gptwo.model.config import GPT2Config
from gptwo.serve.work import Chosen, Chunk, Prompt, Row


class StepBackend(Protocol):
    """A language model, or a network with another head, behind the scheduler."""

    @property
    def config(self) -> GPT2Config:
        """The shape of the network."""

    @property
    def token_bytes(self) -> int:
        """What one token takes in the cache."""

    @property
    def held(self) -> int:
        """Tokens in the cache now, of texts and of prompts that are being read; 0 when nothing is left."""

    def room_for(self, lengths: Sequence[int]) -> int:
        """Tokens of cache that texts of at most these lengths may come to take together.

        The scheduler admits a prompt only while this stays within its budget, so a text that has begun never waits
        for cache.
        """

    def step(self, chunks: Sequence[Chunk]) -> list[Chosen]:
        """Read the chunks, and choose one more token for every text that runs.

        A text runs from the step that reads its prompt's last chunk (which also chooses its first token) until
        `release`. The newest token of a running text, `row.text.ids[-1]`, is what the scheduler took of it. Chunks of
        a prompt come in order. Where the prompt is judged, `prompt.judged` grows.

        The token depends on the row alone: on its context, options and key, never on what runs beside it.

        Returns:
            a token for each running text whose limit is not 0.
        """

    def release(self, row: Row) -> None:
        """Forget a text: its keys and values are free when this returns. A text that does not run is no error."""

    def abandon(self, prompt: Prompt) -> None:
        """Forget a prompt that is being read, and its texts."""

    def hidden(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """The mean of the last hidden states of each of several rows of token ids, float32 vectors of width n_embd."""

    def speaking(self) -> AbstractContextManager[None]:
        """For whatever uses `network` in the scheduler's thread: the network is this model, with its adapter."""

    @property
    def network(self) -> Any:
        """What tasks call for whole texts: `.transformer(ids, positions, documents)`, `.logits`, `.head_kind`."""

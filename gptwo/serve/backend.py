"""What serving asks of a backend: the numeric work of one step, for all texts of one model.

The scheduler decides which prompts begin and who leaves; a backend reads, keeps keys and values, and chooses
tokens. Whoever adds a backend (another device) implements this and nothing else.

A backend is used by one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gptwo.model.config import GPT2Config
from gptwo.serve.work import Prompt, Row, Step


class StepBackend(Protocol):
    """A language model, or a network with another head, behind the scheduler."""

    @property
    def config(self) -> GPT2Config:
        """The shape of the network."""

    @property
    def precision(self) -> str:
        """Of the products: "fp32", "bf16", "int8", "int4"."""

    @property
    def token_bytes(self) -> int:
        """What one token takes in the cache."""

    @property
    def held(self) -> int:
        """Tokens in the cache now, of texts and of prompts that are being read."""

    def left_over(self) -> str | None:
        """What is held, in words, though no text runs and no prompt is read; None where nothing is."""

    def room_for(self, lengths: Sequence[int]) -> int:
        """Tokens of cache without which texts of these lengths could not all come to their ends.

        The scheduler admits a prompt only while this stays within its budget.
        """

    def admit(self, prompt: Prompt) -> bool:
        """Take up a prompt where there is cache for it now; whether it was.

        A backend that can put texts off, giving their cache to older ones, asks for less in `room_for` and says no
        here while it does so.
        """

    def step(self, reading: Sequence[Prompt], budget: int) -> Step:
        """Go on reading prompts, and choose one more token for the texts that run.

        A text runs from the step in which its prompt has been read (`prompt.whole`) until `release`. The newest token
        of a running text, `row.text.ids[-1]`, is what the scheduler took of it. Where a prompt is judged,
        `prompt.judged` grows.

        The token depends on the row alone: on its context, options and key, never on what runs beside it.

        Args:
            reading: prompts that were admitted and have not been read, the oldest first.
            budget: tokens of prompts that are read at most.

        Returns:
            tokens for the running texts whose limit is not 0; a text that is put off, or whose prompt has just been
            read, may get its next one in a later step.
        """

    def release(self, row: Row) -> None:
        """Forget a text: its keys and values are free when this returns. A text that does not run is no error."""

    def abandon(self, prompt: Prompt) -> None:
        """Forget a prompt that is being read, and its texts."""

    def hidden(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """The mean of the last hidden states of each of several rows of token ids, float32 vectors of width n_embd."""

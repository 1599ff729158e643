"""The loop of generation: schedule, run, postprocess; one token for every running sequence at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gptwo.errors import GptwoError
from gptwo.generate.backend import Backend
from gptwo.generate.options import SamplingOptions
from gptwo.generate.randomness import uniforms
from gptwo.generate.sampling import History, constrain, draw, shape
from gptwo.generate.scheduler import Scheduler
from gptwo.generate.sequence import Endings, Sequence


class Run:
    """Sequences on their way to their ends, under one set of options.

    Args:
        backend: gives logits.
        options: how tokens are chosen.
        sequences: each with at least one token and a limit of at least one.
        endings: tokens that end a text.
        end_id: the token that min_new_tokens holds back.
        vocab_size: ids from here on have no token (rows an embedding was padded with) and are never chosen.
        max_batch: sequences that run together at most.
    """

    def __init__(
        self,
        backend: Backend,
        options: SamplingOptions,
        sequences: Iterable[Sequence],
        *,
        endings: Endings,
        end_id: int | None,
        vocab_size: int,
        max_batch: int,
    ):
        self._backend, self._options = backend, options
        self._endings, self._end_id, self._vocab_size = endings, end_id, vocab_size
        self._scheduler = Scheduler(sequences, backend.config.n_positions, max_batch)

    @torch.inference_mode()
    def advance(self) -> list[tuple[Sequence, str]] | None:
        """One more token for each running sequence.

        Returns:
            each of them with the piece of text that became certain (often ""); None when all have ended.
        """
        scheduler = self._scheduler
        if scheduler.rows:
            logits = self._batch.step(self._last)
        elif scheduler.next_batch():
            logits = self._begin()
        else:
            return None
        self._last = self._choose(logits[:, : self._vocab_size])
        pieces = self._take(self._last.tolist())
        self._leave()
        return pieces

    def _begin(self) -> Tensor:
        """Prefill the batch the scheduler has taken."""
        running = self._scheduler.running
        self._batch, logits = self._backend.prefill([one.context for one in running], self._scheduler.room())
        check_numbers(logits)
        self._history = History(
            self._options,
            [one.prompt for one in running],
            [one.ids for one in running],
            min(self._vocab_size, logits.shape[-1]),
            self._end_id,
            logits.device,
        )
        return logits

    def _choose(self, logits: Tensor) -> Tensor:
        """The next token of each row, (R, V) -> (R,)."""
        running = self._scheduler.running
        shaped = constrain(logits, self._options, self._history)
        if self._options.greedy:
            ids = shaped.argmax(-1)
        else:
            keys = np.array([one.key for one in running], np.uint64)
            steps = np.array([len(one.ids) for one in running], np.uint64)
            ids = draw(shape(shaped, self._options), torch.from_numpy(uniforms(keys, steps)).to(logits.device))
        if self._options.logprobs:
            logprobs = logits.log_softmax(-1).gather(1, ids[:, None]).squeeze(1).tolist()
            for row in self._scheduler.rows:
                running[row].logprobs.append(logprobs[row])
        return ids

    def _take(self, ids: list[int]) -> list[tuple[Sequence, str]]:
        """Give each running sequence its token."""
        running = self._scheduler.running
        return [(running[row], running[row].take(ids[row], self._endings)) for row in self._scheduler.rows]

    def _leave(self) -> None:
        """Sequences that have ended leave; the batch shrinks when less than half of it goes on."""
        self._history.append(self._last)
        rows = self._scheduler.retire()
        if rows is not None:
            self._batch.select(rows)
            index = torch.tensor(rows, device=self._last.device)
            self._history.select(index)
            self._last = self._last[index]


def check_numbers(logits: Tensor) -> None:
    """Raise `GptwoError` where the logits of a prompt hold NaN."""
    if bool(torch.isnan(logits).any()):
        raise GptwoError(
            "The model's logits are not numbers (NaN).",
            why="Its weights hold NaN or infinite values, or the precision is too small for them.",
            fix="precision float32, or an earlier checkpoint",
        )

"""The loop of generation: schedule, run, postprocess; one token for every running sequence at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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


@dataclass
class Chosen:
    """The next token of each row, (R,), and its log-probability where that was asked for; on the device."""

    ids: Tensor
    logprobs: Tensor | None = None
    _sent: list[Tensor] = field(default_factory=list)

    def send(self) -> None:
        """Begin to bring them here from a GPU, ahead of the work that it is given next."""
        self._sent = [one.to("cpu", non_blocking=True) for one in self._all]
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(self.ids.device))

    def read(self) -> list[list]:
        """Ids, and log-probabilities where they were asked for."""
        if self._sent:
            self._arrived.synchronize()
        return [one.tolist() for one in self._sent or self._all]

    def select(self, rows: Tensor) -> Chosen:
        """Row i becomes old row rows[i]."""
        return Chosen(*(one[rows] for one in self._all))

    @property
    def _all(self) -> list[Tensor]:
        return [self.ids] if self.logprobs is None else [self.ids, self.logprobs]


class Run:
    """Sequences on their way to their ends, under one set of options.

    A GPU works ahead: it is given the next step before the tokens of this one are read, so that it does not wait while
    they become text. What it has done for a sequence that turns out to have ended is dropped.

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
        self._works_ahead = backend.device.type == "cuda"
        self._ahead: Chosen | None = None

    @torch.inference_mode()
    def advance(self) -> list[tuple[Sequence, str]] | None:
        """One more token for each running sequence.

        Returns:
            each of them with the piece of text that became certain (often ""); None when all have ended.
        """
        if self._scheduler.rows:
            chosen = self._ahead or self._step(self._chosen, 0)
        elif self._scheduler.next_batch():
            chosen = self._choose(self._begin(), 0)
        else:
            return None
        self._chosen, self._ahead = chosen, None
        if self._works_ahead and self._room > 0:
            chosen.send()
            self._ahead = self._step(chosen, 1)
        pieces = self._take(*chosen.read())
        self._leave()
        return pieces

    def _begin(self) -> Tensor:
        """Prefill the batch the scheduler has taken."""
        running, self._room = self._scheduler.running, self._scheduler.room()
        self._batch, logits = self._backend.prefill([one.context for one in running], self._room)
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

    def _step(self, chosen: Chosen, untaken: int) -> Chosen:
        """What comes after the tokens chosen, of which so many have not been given to the sequences."""
        self._room -= 1
        self._history.append(chosen.ids)
        return self._choose(self._batch.step(chosen.ids), untaken)

    def _choose(self, logits: Tensor, untaken: int) -> Chosen:
        """The next token of each row, from logits (R, V)."""
        running, logits = self._scheduler.running, logits[:, : self._vocab_size]
        shaped = constrain(logits, self._options, self._history)
        if self._options.greedy:
            ids = shaped.argmax(-1)
        else:
            keys = np.array([one.key for one in running], np.uint64)
            steps = np.array([len(one.ids) + untaken for one in running], np.uint64)
            ids = draw(shape(shaped, self._options), torch.from_numpy(uniforms(keys, steps)).to(logits.device))
        if not self._options.logprobs:
            return Chosen(ids)
        return Chosen(ids, logits.log_softmax(-1).gather(1, ids[:, None]).squeeze(1))

    def _take(self, ids: list[int], logprobs: list[float] | None = None) -> list[tuple[Sequence, str]]:
        """Give each running sequence its token."""
        running, rows = self._scheduler.running, self._scheduler.rows
        if logprobs is not None:
            for row in rows:
                running[row].logprobs.append(logprobs[row])
        return [(running[row], running[row].take(ids[row], self._endings)) for row in rows]

    def _leave(self) -> None:
        """Sequences that have ended leave; the batch shrinks when less than half of it goes on."""
        rows = self._scheduler.retire()
        if rows is not None:
            self._batch.select(rows)
            index = torch.tensor(rows, device=self._chosen.ids.device)
            self._history.select(index)
            self._chosen = self._chosen.select(index)
            if self._ahead is not None:
                self._ahead = self._ahead.select(index)


def check_numbers(logits: Tensor) -> None:
    """Raise `GptwoError` where the logits of a prompt hold NaN."""
    if bool(torch.isnan(logits).any()):
        raise GptwoError(
            "The model's logits are not numbers (NaN).",
            why="Its weights hold NaN or infinite values, or the precision is too small for them.",
            fix="precision float32, or an earlier checkpoint",
        )

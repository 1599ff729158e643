"""What every beam search has: the running texts of all prompts in one batch, and the complete texts of each prompt.

R rows: the running texts of all prompts    V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptwo.generate.backend import Backend
from gptwo.generate.options import SamplingOptions
from gptwo.generate.run import check_numbers
from gptwo.generate.sampling import History, constrain


class Frontier:
    """The running texts, a row each: at first the prompts, then what each step goes on with.

    Args:
        prompts: lists of token ids.
        room: how many tokens `go_on` will add at most.
        end_id: the token that min_new_tokens holds back.
        vocab_size: ids from here on are never chosen.
    """

    def __init__(
        self,
        backend: Backend,
        prompts: Sequence[Sequence[int]],
        room: int,
        options: SamplingOptions,
        *,
        end_id: int | None,
        vocab_size: int,
    ):
        self.options, self.device = options, backend.device
        self._batch, logits = backend.prefill(prompts, room)
        check_numbers(logits)
        self._logits = logits[:, :vocab_size]
        self._history = History(options, prompts, [[] for _ in prompts], self.V, end_id, self.device)

    @property
    def V(self) -> int:
        """Ids that have a token."""
        return self._logits.shape[-1]

    def log_probabilities(self) -> tuple[Tensor, Tensor]:
        """Of every row's next token, (R, V): with bias, penalties and bans, and without."""
        raw = self._logits.log_softmax(-1)
        return constrain(raw, self.options, self._history), raw

    def go_on(self, rows: Sequence[int], ids: Sequence[int]) -> None:
        """Row i becomes old row rows[i] with the token ids[i] behind it."""
        last = torch.tensor(ids, device=self.device)
        self._batch.select(rows)
        self._history.select(torch.tensor(rows, device=self.device))
        self._history.append(last)
        self._logits = self._batch.step(last)[:, : self.V]


@dataclass(frozen=True)
class Hypothesis:
    """A complete text: its new tokens, the end token included, and its score."""

    ids: list[int]
    score: float


@dataclass
class Complete:
    """The complete texts of one prompt, best first: `options.num_beams` at most.

    Args:
        limit: new tokens of a text at most.
    """

    limit: int
    options: SamplingOptions
    texts: list[Hypothesis] = field(default_factory=list)

    def add(self, ids: list[int], total: float) -> None:
        """Take a text with its log-probability, if it is among the best."""
        self.texts.append(Hypothesis(ids, total / len(ids) ** self.options.length_penalty))
        self.texts = sorted(self.texts, key=lambda one: -one.score)[: self.options.num_beams]

    def may_improve(self, total: float, length: int) -> bool:
        """Whether a running text with this log-probability and length is expected to beat the worst one."""
        options = self.options
        if len(self.texts) < options.num_beams:
            return True
        if options.early_stopping is True:
            return False
        hopeful = options.early_stopping == "never" and options.length_penalty > 0
        judged_at = self.limit if hopeful else length
        return total / judged_at**options.length_penalty > self.texts[-1].score

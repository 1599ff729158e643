"""Beam search: the most probable texts instead of a drawn one.

The rules are those of transformers' `generate(num_beams=K, do_sample=False)`, so texts and scores are equal:
2K candidates a step, of which the first K may end a text; score = log-probability / length ** length_penalty
(Wu et al. 2016, section 7, without its constant); a prompt is done when no running beam can beat its worst text.

    P prompts    K beams    V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptwo.generate.backend import Backend, Batch
from gptwo.generate.options import SamplingOptions
from gptwo.generate.run import check_numbers
from gptwo.generate.sampling import History, constrain

IMPOSSIBLE = -1e9


@dataclass(frozen=True)
class Hypothesis:
    """A complete text: its new tokens, the end token included, and its score."""

    ids: list[int]
    score: float


@dataclass
class _Search:
    """The beams of one prompt and its complete texts, best first."""

    limit: int
    options: SamplingOptions
    beams: list[list[int]] = field(default_factory=lambda: [[]])
    complete: list[Hypothesis] = field(default_factory=list)
    open: bool = True

    def advance(
        self, candidates: list[tuple[float, int, int]], ends: Callable[[list[int]], bool]
    ) -> list[tuple[float, int, int]]:
        """Take the candidates of one step, (log-probability, beam, token) best first; returns those that go on."""
        options = self.options
        K, power = options.num_beams, options.length_penalty
        texts = [self.beams[beam] + [token] for _, beam, token in candidates]
        length = len(texts[0])
        over = [length >= self.limit or ends(ids) for ids in texts]

        for (score, _, _), ids, done in list(zip(candidates, texts, over, strict=True))[:K]:
            if done:
                self.complete.append(Hypothesis(ids, score / length**power))
        self.complete = sorted(self.complete, key=lambda one: -one.score)[:K]

        going = sorted(range(len(candidates)), key=lambda i: -(candidates[i][0] + IMPOSSIBLE * over[i]))[:K]
        self.beams = [texts[i] for i in going]
        full = len(self.complete) >= K
        best = candidates[going[0]][0] / (self._longest(length) ** power)
        improvable = not full or best > self.complete[-1].score
        self.open = improvable and not all(over) and not (full and options.early_stopping is True)
        return [(candidates[i][0] + IMPOSSIBLE * over[i], *candidates[i][1:]) for i in going]

    def _longest(self, length: int) -> int:
        """The length at which the best running beam is judged."""
        hopeful = self.options.early_stopping == "never" and self.options.length_penalty > 0
        return self.limit if hopeful else length


def begin(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    options: SamplingOptions,
    end_id: int | None,
    vocab_size: int,
) -> tuple[Batch, Tensor, History]:
    """The batch of prompts, their logits of ids that have a token, (P, V), and what the options must know of them."""
    batch, logits = backend.prefill(prompts, max(limits) - 1)
    check_numbers(logits)
    V = min(vocab_size, logits.shape[-1])
    return batch, logits[:, :V], History(options, prompts, [[] for _ in prompts], V, end_id, backend.device)


@torch.inference_mode()
def beam_search(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    options: SamplingOptions,
    *,
    end_id: int | None,
    vocab_size: int,
    ends: Callable[[list[int]], bool],
) -> list[list[Hypothesis]]:
    """The `options.num_beams` best texts of each prompt, best first.

    Args:
        prompts: P lists of token ids.
        limits: new tokens at most, for each prompt; prompt and new tokens together fit into the context.
        end_id: the token that min_new_tokens holds back.
        vocab_size: ids from here on are never chosen.
        ends: whether a text with these new tokens is complete.
    """
    K, device = options.num_beams, backend.device
    searches = [_Search(limit, options) for limit in limits]
    running = list(searches)
    batch, logits, history = begin(backend, prompts, limits, options, end_id, vocab_size)
    V = logits.shape[-1]
    rows_each = 1  # rows of a prompt in the batch: one after prefill, then K
    scores = torch.full((len(prompts), K), IMPOSSIBLE, device=device)  # (P, K)
    scores[:, 0] = 0.0  # at first all beams are the same: only one may give candidates
    while True:
        log_probabilities = constrain(logits.log_softmax(-1), options, history).view(-1, rows_each, V)
        totals = (log_probabilities + scores[:, :, None]).view(len(running), K * V)  # (P, K * V)
        best, index = totals.topk(min(2 * K, K * V))
        rows, ids, kept, going = [], [], [], []
        for at, (search, values, places) in enumerate(zip(running, best.tolist(), index.tolist(), strict=True)):
            candidates = [(value, place // V, place % V) for value, place in zip(values, places, strict=True)]
            if rows_each == 1:  # the beams still share one row and one empty text
                candidates = [(value, 0, token) for value, _, token in candidates]
            chosen = search.advance(candidates, ends)
            if search.open:
                going.append(search)
                rows += [at * rows_each + beam for _, beam, _ in chosen]
                ids += [token for _, _, token in chosen]
                kept.append([value for value, _, _ in chosen])
        if not going:
            return [search.complete for search in searches]
        running, rows_each = going, K
        last = torch.tensor(ids, device=device)
        scores = torch.tensor(kept, device=device)
        batch.select(rows)
        history.select(torch.tensor(rows, device=device))
        history.append(last)
        logits = batch.step(last)[:, :V]

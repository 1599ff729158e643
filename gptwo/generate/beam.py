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

from gptwo.generate.frontier import Complete, Frontier, Hypothesis

IMPOSSIBLE = -1e9


@dataclass
class _Search:
    """The beams of one prompt, best first."""

    complete: Complete
    beams: list[list[int]] = field(default_factory=lambda: [[]])
    open: bool = True

    def advance(
        self, candidates: list[tuple[float, int, int]], ends: Callable[[list[int]], bool]
    ) -> list[tuple[float, int, int]]:
        """Take the candidates of one step, (log-probability, beam, token) best first; returns those that go on."""
        K = self.complete.options.num_beams
        texts = [self.beams[beam] + [token] for _, beam, token in candidates]
        length = len(texts[0])
        over = [length >= self.complete.limit or ends(ids) for ids in texts]

        for (score, _, _), ids, done in list(zip(candidates, texts, over, strict=True))[:K]:
            if done:
                self.complete.add(ids, score)

        going = sorted(range(len(candidates)), key=lambda i: -(candidates[i][0] + IMPOSSIBLE * over[i]))[:K]
        self.beams = [texts[i] for i in going]
        self.open = not all(over) and self.complete.may_improve(candidates[going[0]][0], length)
        return [(candidates[i][0] + IMPOSSIBLE * over[i], *candidates[i][1:]) for i in going]


def beam_search(frontier: Frontier, limits: Sequence[int], ends: Callable[[list[int]], bool]) -> list[list[Hypothesis]]:
    """The `num_beams` best texts of each prompt, best first.

    Args:
        frontier: the P prompts.
        limits: new tokens at most, for each prompt; prompt and new tokens together fit into the context.
        ends: whether a text with these new tokens is complete.
    """
    K, V, device = frontier.options.num_beams, frontier.V, frontier.device
    searches = [_Search(Complete(limit, frontier.options)) for limit in limits]
    running = list(searches)
    rows_each = 1  # rows of a prompt in the frontier: one at first, then K
    scores = torch.full((len(limits), K), IMPOSSIBLE, device=device)  # (P, K)
    scores[:, 0] = 0.0  # at first all beams are the same: only one may give candidates
    while True:
        log_probabilities = frontier.log_probabilities()[0].view(-1, rows_each, V)
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
            return [search.complete.texts for search in searches]
        running, rows_each = going, K
        scores = torch.tensor(kept, device=device)
        frontier.go_on(rows, ids)

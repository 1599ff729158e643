"""Beam search whose texts hold required words: beams are shared out among those that have come equally far.

Post & Vilar 2018, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation for Neural Machine Translation"
(https://arxiv.org/abs/1804.06609). Beams stand in banks by how many tokens of the required words they hold; each bank
keeps its best ones, so that a text that has paid for a word competes only with those that have paid as much. A beam
whose remaining length would not hold its missing words is dropped, so every text that ends has them all.

    K beams    R rows of all prompts    V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptwo.generate.frontier import Complete, Frontier, Hypothesis
from gptwo.generate.required import Required, State
from gptwo.generate.sampling import MINUS_INFINITY


@dataclass
class Beam:
    """A text on its way: its new tokens, their log-probability, and what it lacks."""

    ids: list[int]
    score: float
    state: State


@dataclass
class _Search:
    """The beams of one prompt, best first."""

    complete: Complete
    required: Required
    beams: list[Beam] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.beams = [Beam([], 0.0, self.required.state([]))]

    def advance(self, scores: Tensor, raw: Tensor, ends: Callable[[list[int]], bool], end_id: int | None) -> list[int]:
        """Take one step; returns for each beam that goes on which old one it continues.

        Args:
            scores: (beams, V) log-probabilities with penalties and bans; raw: without.
            end_id: the token that ends a text, and must not before its time.
        """
        if end_id is not None:
            early = torch.tensor([beam.state.left > 0 for beam in self.beams], device=scores.device)
            scores = scores.clone()
            scores[early, end_id] = MINUS_INFINITY
        best, index = scores.topk(min(self.complete.options.num_beams, scores.shape[-1]))
        found: list[tuple[int, Beam]] = []
        for place, beam in enumerate(self.beams):
            likely = dict(zip(index[place].tolist(), best[place].tolist(), strict=True))
            for token in beam.state.tokens:
                score = float(scores[place, token])
                likely[token] = score if score > MINUS_INFINITY else float(raw[place, token])  # never banned
            for token, score in likely.items():
                if score > MINUS_INFINITY:
                    found += self._continued(place, beam, token, score, ends)
        kept = self._share_out(found)
        self.beams = [beam for _, beam in kept]
        if self.beams and not self.complete.may_improve(self.beams[0].score, len(self.beams[0].ids)):
            self.beams = []
        return [place for place, _ in kept][: len(self.beams)]

    def _continued(
        self, place: int, beam: Beam, token: int, score: float, ends: Callable[[list[int]], bool]
    ) -> list[tuple[int, Beam]]:
        """The beam with one token more, where it may go on; a text that is complete is kept apart."""
        ids, total = [*beam.ids, token], beam.score + score
        if ends(ids):
            if beam.state.left == 0:
                self.complete.add(ids, total)
            return []
        state, room = self.required.state(ids), self.complete.limit - len(ids)
        if room == 0 and state.left == 0:
            self.complete.add(ids, total)
        if room == 0 or state.left > room:
            return []
        return [(place, Beam(ids, total, state))]

    def _share_out(self, candidates: list[tuple[int, Beam]]) -> list[tuple[int, Beam]]:
        """The beams that go on: in turn one of each bank, the fullest bank first, until there are K."""
        K = min(self.complete.options.num_beams, len(candidates))
        banks: dict[int, list[tuple[int, Beam]]] = {}
        for one in sorted(candidates, key=lambda pair: -pair[1].score):
            banks.setdefault(one[1].state.left, []).append(one)
        kept: list[tuple[int, Beam]] = []
        depth = 0
        while len(kept) < K:
            layer = [banks[left][depth] for left in sorted(banks) if depth < len(banks[left])]
            kept += layer[: K - len(kept)]
            depth += 1
        return sorted(kept, key=lambda pair: -pair[1].score)


def constrained_search(
    frontier: Frontier,
    limits: Sequence[int],
    ends: Callable[[list[int]], bool],
    required: Sequence[Required],
    end_id: int | None,
) -> list[list[Hypothesis]]:
    """Up to `num_beams` texts of each prompt, best first, each with all its required words.

    Args:
        frontier, ends: as in `beam_search`.
        limits: new tokens at most, for each prompt; at least `Required.tokens`.
        required: the words of each prompt.
        end_id: the model's end of text.
    """
    stop_id = end_id if end_id is not None and ends([end_id]) else None
    searches = [
        _Search(Complete(limit, frontier.options), words) for limit, words in zip(limits, required, strict=True)
    ]
    running = list(searches)
    while True:
        scores, raw = frontier.log_probabilities()  # (R, V)
        rows: list[int] = []
        start, going = 0, []
        for search in running:
            size = len(search.beams)
            part = slice(start, start + size)
            rows += [start + place for place in search.advance(scores[part], raw[part], ends, stop_id)]
            if search.beams:
                going.append(search)
            start += size
        if not going:
            return [search.complete.texts for search in searches]
        running = going
        frontier.go_on(rows, [beam.ids[-1] for search in running for beam in search.beams])

"""The native backend of the scheduler: prompts and texts share the passes of the C++ engine, and its pages.

A text's tokens are chosen by the engine beside its projection, or from logits where somebody must see them: forms, and
log-probabilities of alternatives. Texts that begin alike share the pages of their beginning.

When the pages run out, the youngest text gives up its own: it is put off, and when there is room again its tokens are
read once more. A token's numbers do not depend on what it is read with, so the text stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gptwo.errors import GptwoError
from gptwo.generate._native import PAGE, OutOfPages, Sampling
from gptwo.generate.native import OWN, NativeEngine
from gptwo.generate.native_lookup import Lookup
from gptwo.generate.native_run import GUESSING
from gptwo.serve.choose import BROKEN, choose, score
from gptwo.serve.work import Chosen, Prompt, Row, Scored, Step, Way

JUDGED = 64  # tokens of a prompt that are judged in a step with their alternatives: their logits are held together

Work = tuple["Place", int, list[int]]
"""A place, how many of its tokens go in, and guesses at those that come next."""


@dataclass(eq=False)
class Place:
    """A sequence of the engine: a text with its prompt, or a prompt that several texts will continue.

    Args:
        number: of the engine.
        prompt, row: whose it is; no row: a prompt whose last token is left to its texts.
        age: the larger, the younger.
        length: its tokens; those of its adapter, which stand before them, not counted.
        left: those without keys and values.
        put_off: whether it waits for pages, and holds none.
        shared: tokens taken over from the prefix cache.
        lookup: guesses at its next tokens.
    """

    number: int
    prompt: Prompt
    row: Row | None
    age: tuple[int, int]
    length: int
    left: int
    put_off: bool = False
    shared: int = 0
    lookup: Lookup | None = None

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        return self.prompt.ids if self.row is None else self.row.text.prompt + self.row.text.ids

    @property
    def start(self) -> tuple[int, ...]:
        """What it begins with: the number of its adapter, and its tokens."""
        return (way_of(self.prompt)[0], *self.ids)

    @property
    def pages(self) -> int:
        """What it takes of the cache when all its tokens are there."""
        return pages_of(self.length + way_of(self.prompt)[1])

    @property
    def judged(self) -> bool:
        """Whether its tokens are judged while they are read."""
        return self.row is None and self.prompt.judge is not None

    @property
    def told(self) -> bool:
        """Whether its tokens are chosen outside the engine."""
        row = self.row
        return row is not None and (row.constraint is not None or (row.options.logprobs and row.top > 0))

    @property
    def kept_back(self) -> int:
        """Tokens at its end that are not for the passes that read."""
        return int(self.row is None or self.told)

    @property
    def held(self) -> int:
        """Tokens with keys and values."""
        return self.length - self.left


class NativeSteps:
    """The native engine behind the interface of `backend.py`.

    Args:
        engine: used by this backend alone.
        share: whether it shares the pages of texts that begin alike, as it was made.
    """

    def __init__(self, engine: NativeEngine, *, share: bool = True):
        self.engine, self.native, self.config = engine, engine.native, engine.config
        self.precision, self.share = engine.precision, share
        usage = self.native.usage()
        self.token_bytes = usage["page_bytes"] // PAGE
        self.pages = usage["limit_pages"]
        self._places: dict[Row | Prompt, Place] = {}
        self._came = 0
        engine.give_way = self._give_way

    @property
    def cache_tokens(self) -> int:
        """Tokens that its cache has room for."""
        return self.pages * PAGE

    @property
    def held(self) -> int:
        return sum(place.held for place in list(self._places.values()))

    def left_over(self) -> str | None:
        usage = self.native.usage()
        own = usage["pages"] - usage["cached_pages"]
        return f"{usage['sequences']} sequences and {own} pages" if usage["sequences"] or own else None

    def room_for(self, lengths: Sequence[int]) -> int:
        """That of the longest: the others can be put off."""
        return pages_of(max(lengths)) * PAGE if lengths else 0

    def admit(self, prompt: Prompt) -> bool:
        places = self._places.values()
        if any(place.put_off for place in places):
            return False
        before = way_of(prompt)[1]
        if places and self._free() < pages_of(len(prompt.ids) + before) + len(places):  # each may want a page soon
            return False
        self._came += 1
        rows = [row for row in prompt.rows if row.text.limit > 0]
        if len(rows) == 1 and prompt.judge is None:
            self._open(prompt, rows[0], (self._came, 0))
        else:
            number = self.native.open(prompt.ids, len(prompt.ids), 0, Sampling(), way_of(prompt)[0])
            self._places[prompt] = Place(number, prompt, None, (self._came, 0), len(prompt.ids), len(prompt.ids))
        return True

    def step(self, reading: Sequence[Prompt], budget: int) -> Step:
        done = Step()
        self._resume()
        for place in [place for place in self._begun() if place.judged]:
            if not place.put_off:
                self._judge(place, budget, done)
        self._draw(budget, done)
        for place in [place for place in self._begun() if place.row is None and place.left == 1]:
            self._part(place)
        self._tell(done)
        return done

    def release(self, row: Row) -> None:
        row.history = None
        self._close(row)

    def abandon(self, prompt: Prompt) -> None:
        self._close(prompt)
        for row in prompt.rows:
            self.release(row)

    def hidden(self, rows: Sequence[Sequence[int]], way: Way | None = None) -> list[np.ndarray]:
        return self.engine.encode(rows, pooling="mean", adapter=None if way is None else way.name)

    # --- sequences come and go

    def _open(self, prompt: Prompt, row: Row, age: tuple[int, int]) -> None:
        text = row.text
        way = way_of(prompt)[0]
        number = self.native.open(text.prompt + text.ids, len(text.prompt), 0, self._sampling(row), way)
        self._places[row] = Place(number, prompt, row, age, text.length, text.length)

    def _sampling(self, row: Row) -> Any:
        return self.engine.sampling(row.options, row.text)

    def _close(self, owner: Row | Prompt) -> None:
        place = self._places.pop(owner, None)
        if place is not None:
            self.native.close(place.number)

    def _part(self, place: Place) -> None:
        """A prompt has been read but for its last token: each of its texts goes on by itself."""
        prompt = place.prompt
        for number, row in enumerate(row for row in prompt.rows if row.text.limit > 0):
            fork = self.native.fork(place.number, self._sampling(row))
            age = (place.age[0], number)
            self._places[row] = Place(fork, prompt, row, age, place.length, 1, shared=place.shared)
        self._close(prompt)
        prompt.read = len(prompt.ids)

    # --- pages

    def _free(self) -> int:
        """Pages that nobody may want soon: those of texts count whole, but for what is shared."""
        return self.pages - sum(place.pages - place.shared // PAGE for place in self._begun())

    def _begun(self) -> list[Place]:
        """All that are not put off, the oldest first."""
        return sorted((place for place in self._places.values() if not place.put_off), key=lambda place: place.age)

    def _resume(self) -> None:
        """Let those go on for whom there is room again, the oldest first."""
        waiting = [place for place in self._places.values() if place.put_off]
        for place in sorted(waiting, key=lambda place: place.age):
            if self._begun() and self._free() < place.pages + 1:
                return
            place.put_off = False

    def _put_off(self, done: Step, least: int = 1) -> Place | None:
        """Take the pages of the youngest, where more than `least` have any."""
        begun = self._begun()
        if len(begun) <= least:
            return None
        place = begun[-1]
        self.native.rewind(place.number)
        place.put_off, place.left, place.shared = True, place.length, 0
        done.put_off += 1
        return place

    def _give_way(self) -> bool:
        """Let what is computed between two steps have the pages of the youngest."""
        return self._put_off(Step(), 0) is not None

    def _pass(self, call: Callable[[list[tuple]], Any], work: list[Work], done: Step) -> tuple[list[Work], Any]:
        """One call of the engine; while it lacks pages, guesses and then the youngest give way.

        Returns:
            the work that was done, and what came of it.
        """
        while work:
            try:
                return work, call([(place.number, count, guesses) for place, count, guesses in work])
            except OutOfPages:
                if any(guesses for _, _, guesses in work):
                    work = [(place, count, []) for place, count, _ in work]
                else:
                    gone = self._put_off(done)
                    if gone is None:
                        raise too_small() from None
                    work = [one for one in work if one[0] is not gone]
        return [], []

    # --- passes

    def _draw(self, budget: int, done: Step) -> None:
        """A pass in which prompts are read and the engine chooses tokens."""
        work, chosen = self._pass(self.native.step, self._plan(budget, done), done)
        for (place, count, guesses), tokens in zip(work, chosen, strict=True):
            if place.left > 1:
                done.read += count
            place.left -= count
            if not tokens:
                continue
            row = place.row
            assert row is not None
            place.prompt.read = len(place.prompt.ids)
            place.length, place.left = place.length + len(tokens), 1
            if place.lookup is not None:
                place.lookup.append([token for token, _ in tokens])
                place.lookup.judge(len(guesses), len(tokens) - 1)
            for token, logprob in tokens:
                scored = Scored(token, logprob) if row.options.logprobs else None
                done.chosen.append(Chosen(row, token, scored, BROKEN if token < 0 else None))

    def _plan(self, budget: int, done: Step) -> list[Work]:
        """One token for every text that runs, and as much of prompts as there is room for, the oldest first."""
        writing, reading = [], []
        for place in self._begun():
            if place.left == 1 and not place.kept_back:
                writing.append(place)
            elif place.left > 1 and not place.judged:
                reading.append(place)
        work: list[Work] = [(place, 1, self._guess(place, len(writing))) for place in writing]
        room = self.native.max_tokens - sum(1 + len(guesses) for _, _, guesses in work)
        room = min(room, budget)
        begun: list[tuple[tuple[int, ...], int]] = []  # what is being read, and from which token on
        for place in reading:
            if room <= 0:
                break
            ids = place.start
            if place.held == 0 and self.share:
                place.left = self.native.left(place.number)
                end = 1 + place.held + PAGE
                if end <= place.length and any(
                    start <= place.held and len(other) >= end and other[:end] == ids[:end] for other, start in begun
                ):
                    self.native.rewind(place.number)  # its next page is being read: it waits for it
                    place.left = place.length
                    continue
                place.shared = place.held
                done.shared += place.held
            count = min(place.left - place.kept_back, room)
            begun.append((ids, place.held))
            if count:
                work.append((place, count, []))
                room -= count
        return work

    def _guess(self, place: Place, writing: int) -> list[int]:
        """Tokens that may come after the one that is due, where so few are written that checking them costs little."""
        if writing > GUESSING or not self.engine.speculate or place.row is None:
            return []
        text = place.row.text
        if place.lookup is None:
            place.lookup = Lookup(text.prompt + text.ids)
        return place.lookup.guess(text.remaining - 1)

    def _tell(self, done: Step) -> None:
        """A pass for the texts whose tokens are chosen from their logits."""
        due = [place for place in self._begun() if place.told and place.left == 1]
        work, logits = self._pass(self.native.logits, [(place, 1, []) for place in due], done)
        if not work:
            return
        rows = [place.row for place, _, _ in work if place.row is not None]
        found = choose(self._tensor(logits), rows, self.engine.codec.end_id)
        for (place, _, _), one in zip(work, found, strict=True):
            place.prompt.read = len(place.prompt.ids)
            if one.error is None:
                self.native.append(place.number, one.token)
                place.length += 1
            done.chosen.append(one)

    def _judge(self, place: Place, budget: int, done: Step) -> None:
        """Some more tokens of a prompt are judged, each by what stands before it; what was judged is only read."""
        prompt = place.prompt
        if prompt.judge is None:
            return
        if not prompt.judged:
            prompt.judged.append(Scored(prompt.ids[0], None))
        at = place.held
        budget = min(budget, self.native.max_tokens)
        again = len(prompt.judged) - 1 - at
        count = min(again if again > 0 else len(prompt.ids) - 1 - at, budget)
        if count <= 0:
            return
        if again > 0:
            work, _ = self._pass(self.native.hidden, [(place, count, [])], done)
        elif prompt.judge == 0:
            work, found = self._pass(lambda items: self.native.score(*items[0][:2]), [(place, count, [])], done)
            if work:
                values = found[0].tolist()
                prompt.judged += [
                    Scored(token, value) for token, value in zip(prompt.ids[at + 1 :], values, strict=False)
                ]
        else:
            count = min(count, JUDGED)
            rows = list(range(count))
            work, logits = self._pass(lambda items: self.native.logits(items, rows), [(place, count, [])], done)
            if work:
                targets = prompt.ids[at + 1 : at + 1 + count]
                prompt.judged += score(self._tensor(logits), targets, [prompt.judge] * count)
        if work:
            place.left -= count
            done.read += count

    def _tensor(self, logits: np.ndarray) -> torch.Tensor:
        """Of ids that have a token."""
        return torch.from_numpy(logits)[:, : self.engine.codec.vocab_size]


def way_of(prompt: Prompt) -> tuple[int, int]:
    """The engine's number of a prompt's adapter, and the virtual tokens of it."""
    return (OWN, 0) if prompt.way is None else (prompt.way.number, prompt.way.before)


def pages_of(tokens: int) -> int:
    """Pages that so many tokens take."""
    return -(-tokens // PAGE)


def too_small() -> GptwoError:
    """Even alone a text does not fit."""
    return GptwoError("The key/value cache is too small.", fix="a larger --cache")

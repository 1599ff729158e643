"""How likely tokens of texts are on the native engine: what texts begin with alike is read once.

the film was dull\nIt is ──┬── good        a stem is read in a pass, its branches go on from its keys and values;
                           └── bad, really  the token that a text ends with is judged only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptwo.errors import GptwoError

SHARED = 8  # tokens alike from which on texts share them: a pass of its own for fewer costs more than it saves


@dataclass(eq=False)
class Stem:
    """A piece of one or several texts, and what follows it.

    Args:
        begin: tokens of its texts that stand before it.
        ids: its tokens.
        asked: what is judged by its tokens, ascending: place of the token before, token, text, which of the text's.
    """

    begin: int
    ids: list[int]
    asked: list[tuple[int, int, int, int]]
    branches: list[Stem] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.begin + len(self.ids)


def stems_of(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Stem]:
    """Texts as trees of what they share; arguments as those of `judged`."""
    texts = [list(row) for row in rows]
    reads = [ids[:-1] for ids in texts]
    order = sorted(range(len(reads)), key=lambda text: reads[text])
    roots: list[Stem] = []
    todo = [(0, len(order), 0, roots)] if order else []
    while todo:
        low, high, begin, siblings = todo.pop()
        first, last = reads[order[low]], reads[order[high - 1]]
        end = alike(first, last, begin)  # of all between them too: they are sorted
        if end - begin >= SHARED or end == len(last):
            asked = [
                (place, texts[text][place + 1], text, place + 1 - starts[text])
                for text in order[low:high]
                for place in range(max(begin, starts[text] - 1), end)
            ]
            stem = Stem(begin, first[begin:end], sorted(asked))
            siblings.append(stem)
            begin, siblings = end, stem.branches
        groups, at = [], low
        while at < high:
            follower, stop = reads[order[at]][end : end + 1], at + 1
            while stop < high and reads[order[stop]][end : end + 1] == follower:
                stop += 1
            if follower or begin < end:
                groups.append((at, stop, begin, siblings))
            at = stop
        todo += reversed(groups)
    return roots


def alike(one: Sequence[int], other: Sequence[int], at: int = 0) -> int:
    """How many tokens two texts begin with alike, of which `at` are known.

    >>> alike([1, 2, 3], [1, 2, 4, 5]), alike([1], [1, 2], 1)
    (2, 1)
    """
    end = min(len(one), len(other))
    while at < end and one[at] == other[at]:
        at += 1
    return at


@dataclass(eq=False)
class _Reading:
    """A stem on its way.

    Args:
        above: the one that it goes on from.
        number: the engine's; 0 before it begins.
        done: tokens with keys and values, those of `above` included.
        told: how much of what is asked has been answered.
        to_come: branches that have not begun.
    """

    stem: Stem
    above: _Reading | None
    number: int = 0
    done: int = 0
    told: int = 0
    to_come: int = 0


def judged(
    native: Any,
    rows: Sequence[Sequence[int]],
    starts: Sequence[int],
    adapter: int,
    give_way: Callable[[], bool] | None = None,
) -> list[tuple[list[float], list[bool]]]:
    """How likely the tokens rows[i][starts[i]:] are after what stands before them.

    What a token gives does not depend on the texts beside it.

    Args:
        native: the C++ engine.
        rows: each of 2 to n_positions + 1 token ids; the last one is judged only.
        starts: first judged token of each, at least 1.
        adapter: the engine's number of the adapter that they go through; 0 for none, -1 for its own.
        give_way: frees pages that others hold, and says whether it could.

    Returns:
        for each row the log-probabilities, and whether each token was the likeliest one.

    Raises:
        GptwoError: the cache is too small for one text.
    """
    sizes = [len(row) - start for row, start in zip(rows, starts, strict=True)]
    found = [([0.0] * size, [False] * size) for size in sizes]
    waiting = [_Reading(stem, None) for stem in reversed(stems_of(rows, starts))]  # the last one is next
    begun: list[_Reading] = []
    parting: list[_Reading] = []  # read, with branches to come
    most = native.max_tokens  # pieces of a pass
    try:
        while waiting or begun:
            work = _fill(native, waiting, begun, parting, adapter, most)
            if not _pass(native, work, found):
                if len(work) > 1:
                    most = len(work) // 2
                    for one in reversed(begun[most:]):
                        _put_off(native, one)
                        waiting.append(one)
                    del begun[most:]
                elif any(one.done for one in parting):
                    for one in parting:
                        _put_off(native, one)
                elif give_way is None or not give_way():
                    raise GptwoError(
                        "The key/value cache is too small for one text.",
                        why=f"its limit is {native.usage()['limit_pages']} pages",
                        fix="a larger cache_bytes",
                    )
                continue
            for one, count in work:
                one.done += count
                if one.done == one.stem.end:
                    begun.remove(one)
                    _part(native, one, waiting, parting)
    finally:
        for one in (*waiting, *begun, *parting):
            if one.number:
                native.close(one.number)
    return found


def _fill(
    native: Any, waiting: list[_Reading], begun: list[_Reading], parting: list[_Reading], adapter: int, most: int
) -> list[tuple[_Reading, int]]:
    """The next pass: pieces and how many of their tokens; those that it begins are added to `begun`."""
    room, work = native.max_tokens, []
    for one in begun:
        count = min(room, one.stem.end - one.done)
        work.append((one, count))
        room -= count
    while waiting and room and len(work) < most:
        one = waiting.pop()
        begun.append(one)
        _begin(native, one, parting, adapter)
        count = min(room, one.stem.end - one.done)
        work.append((one, count))
        room -= count
    return work


def _begin(native: Any, one: _Reading, parting: list[_Reading], adapter: int) -> None:
    """Open a piece, or take it up again; what the engine kept of its beginning is not read once more."""
    from gptwo.generate._native import Sampling

    stem, above = one.stem, one.above
    if not one.number and above is None:
        one.number = native.open(stem.ids, len(stem.ids), 0, Sampling(), adapter)
    elif not one.number:
        assert above is not None
        one.number = native.fork(above.number, Sampling())
        for token in stem.ids:
            native.append(one.number, token)
        above.to_come -= 1
        if not above.to_come:
            native.close(above.number)
            parting.remove(above)
    one.done = stem.end - native.left(one.number)
    if one.told < len(stem.asked) and one.done > stem.asked[one.told][0]:
        _put_off(native, one)  # pages taken over reach into what is judged: without them


def _put_off(native: Any, one: _Reading) -> None:
    native.rewind(one.number)
    one.done = 0


def _part(native: Any, one: _Reading, waiting: list[_Reading], parting: list[_Reading]) -> None:
    """A piece has been read: its branches are next."""
    one.to_come = len(one.stem.branches)
    if one.to_come:
        parting.append(one)
        waiting += [_Reading(branch, one) for branch in reversed(one.stem.branches)]
    else:
        native.close(one.number)


def _pass(native: Any, work: list[tuple[_Reading, int]], found: list[tuple[list[float], list[bool]]]) -> bool:
    """Go through the network once and note what was asked; False where the cache has no room for it."""
    from gptwo.generate._native import OutOfPages

    rows: list[int] = []  # of the pass
    answers: list[tuple[int, int, int, int]] = []  # which of those, token, text, which of the text's
    at = 0
    for one, count in work:
        for place, token, text, slot in one.stem.asked[one.told :]:
            if place >= one.done + count:
                break
            row = at + place - one.done
            if not rows or rows[-1] != row:
                rows.append(row)
            answers.append((len(rows) - 1, token, text, slot))
        at += count
    try:
        logits = native.logits([(one.number, count, []) for one, count in work], rows)
    except OutOfPages:
        return False
    tops = [int(row.argmax()) for row in logits]
    totals = [
        float(row[top]) + float(np.log(np.exp(row - row[top]).sum())) for row, top in zip(logits, tops, strict=True)
    ]
    for which, token, text, slot in answers:
        found[text][0][slot] = float(logits[which][token]) - totals[which]
        found[text][1][slot] = tops[which] == token
    for one, count in work:
        while one.told < len(one.stem.asked) and one.stem.asked[one.told][0] < one.done + count:
            one.told += 1
    return True

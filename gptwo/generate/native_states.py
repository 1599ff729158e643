"""Hidden states of texts from the native engine: texts of any lengths side by side in a pass, without padding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptwo.errors import GptwoError


@dataclass
class _Reading:
    """A text on its way: its place among all, the engine's number, tokens done, states that are there."""

    place: int
    number: int
    done: int
    filled: int = 0


def hidden_states(
    native: Any,
    texts: Sequence[Sequence[int]],
    wanted: Sequence[np.ndarray],
    adapters: Sequence[int],
    width: int,
    give_way: Callable[[], bool] | None = None,
) -> list[np.ndarray]:
    """Hidden states after the last layer norm.

    What a token gives does not depend on the texts beside it. Texts that begin alike, with states wanted of their ends
    only, wait for the first of them and take over what the engine kept of it.

    Args:
        native: the C++ engine.
        texts: token ids, each of 1 to n_positions.
        wanted: for each text the places of the tokens whose states are wanted, ascending, at least one.
        adapters: for each text the engine's number of its adapter, 0 for none.
        width: C of the network.
        give_way: frees pages that others hold, and says whether it could.

    Returns:
        for each text (its wanted tokens, C) float32.

    Raises:
        GptwoError: the cache is too small for one text.
    """
    found = [np.empty((len(places), width), np.float32) for places in wanted]
    waiting = deque(range(len(texts)))
    begun: list[_Reading] = []
    most = native.max_tokens  # texts of a pass
    try:
        while waiting or begun:
            work = _fill(native, texts, wanted, adapters, waiting, begun, most)
            rows, at = [], 0
            for one, count in work:
                places = wanted[one.place]
                rows.append(places[(places >= one.done) & (places < one.done + count)] - one.done + at)
                at += count
            if not _passed(native, work, rows, found):
                if len(work) == 1 and (give_way is None or not give_way()):
                    raise GptwoError(
                        "The key/value cache is too small for one text.",
                        why=f"its limit is {native.usage()['limit_pages']} pages",
                        fix="a larger cache_bytes",
                    )
                most = max(1, len(work) // 2)
                for one, _ in reversed(work):
                    native.close(one.number)
                    waiting.appendleft(one.place)
                begun.clear()
                continue
            for one, count in work:
                one.done += count
                if one.done == len(texts[one.place]):
                    native.close(one.number)
                    begun.remove(one)
    finally:
        for one in begun:
            native.close(one.number)
    return found


def _fill(
    native: Any,
    texts: Sequence[Sequence[int]],
    wanted: Sequence[np.ndarray],
    adapters: Sequence[int],
    waiting: deque[int],
    begun: list[_Reading],
    most: int,
) -> list[tuple[_Reading, int]]:
    """The next pass: texts and how many of their tokens; those that it begins are added to `begun`."""
    from gptwo.generate._native import PAGE, Sampling

    room, work = native.max_tokens, []
    for one in begun:
        count = min(room, len(texts[one.place]) - one.done)
        work.append((one, count))
        room -= count
    starts: set[tuple[int, ...]] = set()  # beginnings that this pass reads
    later = []
    while waiting and room and len(work) < most:
        place = waiting.popleft()
        ids, first = texts[place], int(wanted[place][0])
        start = (adapters[place], *ids[:PAGE])
        if first >= PAGE and start in starts:
            later.append(place)
            continue
        one = _Reading(place, native.open(list(ids), len(ids), 0, Sampling(), adapters[place]), 0)
        begun.append(one)
        if first >= PAGE:
            one.done = len(ids) - native.left(one.number)
            if one.done > first:  # pages taken over reach into what is wanted: without them
                native.rewind(one.number)
                one.done = 0
        if not one.done:
            starts.add(start)
        count = min(room, len(ids) - one.done)
        work.append((one, count))
        room -= count
    waiting.extendleft(reversed(later))
    return work


def _passed(native: Any, work: list[tuple[_Reading, int]], rows: list[np.ndarray], found: list[np.ndarray]) -> bool:
    """Go through the network once and keep the states that are wanted; False where the cache has no room for it."""
    from gptwo.generate._native import OutOfPages

    try:
        states = native.hidden([(one.number, count, []) for one, count in work], np.concatenate(rows).tolist())
    except OutOfPages:
        return False
    at = 0
    for (one, _), part in zip(work, rows, strict=True):
        found[one.place][one.filled : one.filled + len(part)] = states[at : at + len(part)]
        one.filled += len(part)
        at += len(part)
    return True

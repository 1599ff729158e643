"""Texts as token ids for the tasks: with what begins and parts them, and cut to the room there is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gptwo.errors import UsageError
from gptwo.evaluate.text_metrics import CJK
from gptwo.tokenizer import Tokenizer


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text, [CLS] before it where the vocabulary has one; an empty text is the end token alone."""
    ids = tokenizer.encode(text)
    if tokenizer.start_id is not None:
        ids = [tokenizer.start_id, *ids]
    return ids or [tokenizer.end_id or 0]


def encode_pair(tokenizer: Tokenizer, first: str, second: str, max_length: int) -> tuple[list[int], int]:
    """Two texts with a separator between them, [CLS] in front where the vocabulary has one.

    Returns:
        At most `max_length` ids, and how many were cut out: the longer text is cut first, each in its middle.

    Raises:
        UsageError: no room for two tokens and the separator.
    """
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    room = max_length - 1 - len(start)
    if room < 2:
        raise UsageError(
            f"{max_length} tokens are too few for a pair of texts.", where="data.max_length", fix="raise it"
        )
    a, b = tokenizer.encode_batch([first, second])
    room_a, room_b = share_room(len(a), len(b), room)
    (a, cut_a), (b, cut_b) = head_and_tail(a, room_a), head_and_tail(b, room_b)
    return [*start, *a, separator(tokenizer), *b], cut_a + cut_b


def separator(tokenizer: Tokenizer) -> int:
    """The id that parts the texts of a sequence: the end token."""
    return tokenizer.end_id if tokenizer.end_id is not None else 0


def encode_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Ids of each word as it stands in running text: a space before it, but none between Chinese characters."""
    spaced = []
    for i, word in enumerate(words):
        apart = i > 0 and tokenizer.kind == "bpe" and not (is_unspaced(words[i - 1][-1:]) and is_unspaced(word[:1]))
        spaced.append((" " if apart else "") + word)
    fallback = [tokenizer.end_id or 0]  # a word that has no token of its own, as an empty one
    return [ids or fallback for ids in tokenizer.encode_batch(spaced)]


def words_of(text: str) -> list[str]:
    """A running text as data with tags are usually split: Chinese characters and punctuation each alone.

    >>> words_of("Anna lives in (East) Berlin."), words_of("小明去NBA了。")
    (['Anna', 'lives', 'in', '(', 'East', ')', 'Berlin', '.'], ['小', '明', '去', 'NBA', '了', '。'])
    """
    inside = CJK.pattern[1:-1]
    letter = rf"[^\W_{inside}]"
    return re.findall(rf"{letter}(?:[^\s{inside}]*{letter})?|\S", text)


def is_unspaced(character: str) -> bool:
    """Whether a character is written without spaces: Chinese characters and full-width punctuation, kana.

    >>> is_unspaced("中"), is_unspaced("，"), is_unspaced("a"), is_unspaced("")
    (True, True, False, False)
    """
    return CJK.fullmatch(character) is not None


def head_and_tail(ids: list[int], length: int) -> tuple[list[int], int]:
    """At most `length` ids, the first and the last halves, and how many were cut out between them.

    >>> head_and_tail([1, 2, 3, 4, 5, 6], 4)
    ([1, 2, 5, 6], 2)
    """
    if len(ids) <= length:
        return ids, 0
    tail = length // 2
    return ids[: length - tail] + ids[len(ids) - tail :], len(ids) - length


def share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts that fit into `room` together: the longer one gives way first.

    >>> share_room(3, 4, 10), share_room(3, 20, 10), share_room(20, 3, 10), share_room(20, 30, 11)
    ((3, 4), (3, 7), (7, 3), (6, 5))
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= room - half:
        return first, room - first
    if second <= half:
        return room - second, second
    return room - half, half


def overlapping(lengths: Sequence[int], room: int, step: int) -> list[tuple[int, int]]:
    """Windows over items, (first, end), whose lengths add up to at most `room` (a longer item stands alone).

    Args:
        step: length from the beginning of a window to that of the next; where it reaches beyond a window, the next one
            begins where that ends.

    >>> overlapping([2, 2, 3, 9, 1], 5, 5), overlapping([1, 1, 1, 1, 1], 3, 1), overlapping([], 5, 5)
    ([(0, 2), (2, 3), (3, 4), (4, 5)], [(0, 3), (1, 4), (2, 5)], [])
    """
    sizes, windows, first = [min(length, room) for length in lengths], [], 0
    while first < len(sizes):
        end, used = first, 0
        while end < len(sizes) and used + sizes[end] <= max(room, sizes[first]):
            used += sizes[end]
            end += 1
        windows.append((first, end))
        if end == len(sizes):
            break
        passed = sizes[first]
        first += 1
        while first < end and passed < step:
            passed += sizes[first]
            first += 1
    return windows


def shares(windows: Sequence[tuple[int, int]], *, both: bool) -> list[tuple[int, int]]:
    """Which items each window answers for, so that each item is answered for once, where it sees most.

    Args:
        both: an item sees what stands before and behind it; else only what stands before.

    >>> shares([(0, 6), (3, 9)], both=False), shares([(0, 6), (3, 9)], both=True)
    ([(0, 6), (6, 9)], [(0, 5), (5, 9)])
    """
    found, start = [], 0
    for place, (_, end) in enumerate(windows):
        stop = end
        if both and place + 1 < len(windows):  # as far from this one's end as from the next one's beginning
            stop = max(start, (windows[place + 1][0] + end + 1) // 2)
        found.append((start, stop))
        start = stop
    return found

"""Texts as token ids: what stands between them, what is cut, what becomes of words."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.errors import UsageError
from gptwo.tasks.sequences import encode_pair, encode_words, head_and_tail, overlapping, share_room, shares, words_of


def flat(pieces: list[list[int]]) -> list[int]:
    return [i for piece in pieces for i in piece]


# --- one text, two texts


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_head_and_tail_never_exceed_the_length(ids, length):
    kept, cut = head_and_tail(ids, length)
    assert len(kept) == min(len(ids), length)
    assert len(kept) + cut == len(ids)
    if cut:
        assert kept == ids[: length - length // 2] + (ids[-(length // 2) :] if length > 1 else [])


def test_a_pair_of_a_bert_vocabulary_begins_with_its_start_token(chinese):
    ids, _ = encode_pair(chinese, "猫坐", "狗", 32)
    assert ids == [chinese.start_id, *chinese.encode("猫坐"), chinese.end_id, *chinese.encode("狗")]


def test_text_that_looks_like_the_separator_is_text(tokenizer):
    ids, _ = encode_pair(tokenizer, "a<|endoftext|>b", "c", 64)
    assert ids.count(tokenizer.end_id) == 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 30))
def test_two_texts_share_the_room_and_waste_none(first, second, room):
    a, b = share_room(first, second, room)
    assert 0 <= a <= first
    assert 0 <= b <= second
    assert a + b == min(room, first + second)
    assert a == first or a >= min(room // 2, first)
    assert b == second or b >= min(room // 2, second)


def test_too_little_room_is_a_usage_error(tokenizer):
    with pytest.raises(UsageError, match="too few for a pair"):
        encode_pair(tokenizer, "a", "b", 2)


# --- words


def test_words_are_encoded_as_in_running_text(tokenizer):
    assert flat(encode_words(tokenizer, ["Anna", "lives", "in"])) == tokenizer.encode("Anna lives in")


def test_chinese_characters_are_encoded_without_spaces(tokenizer, chinese):
    words = ["猫", "坐", "在", "垫子", "，", "the", "cat"]
    assert tokenizer.decode(flat(encode_words(tokenizer, words))) == "猫坐在垫子， the cat"
    assert flat(encode_words(chinese, words)) == chinese.encode("猫坐在垫子，the cat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n", []),
        ("don't e-mail U.N. envoys!", ["don't", "e-mail", "U.N", ".", "envoys", "!"]),
        ("3.14 (about)", ["3.14", "(", "about", ")"]),
        ("我爱𠮷野家，ＡＢ", ["我", "爱", "𠮷", "野", "家", "，", "Ａ", "Ｂ"]),
        ("去New York吧", ["去", "New", "York", "吧"]),
        ("😀 ok…", ["😀", "ok", "…"]),
    ],
)
def test_running_text_falls_into_words(text, words):
    assert words_of(text) == words


@given(st.text(max_size=40))
def test_words_lose_nothing_but_white_space(text):
    assert "".join(words_of(text)) == "".join(text.split())


def test_a_word_without_a_token_gets_one(tokenizer):
    pieces = encode_words(tokenizer, ["", "the", ""])
    assert all(pieces)


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12), st.integers(1, 20), st.booleans())
def test_windows_overlap_and_answer_for_each_item_once(lengths, room, step, both):
    windows = overlapping(lengths, room, step)
    for first, end in windows:
        assert first < end
        assert sum(min(length, room) for length in lengths[first:end]) <= room
    for (first, end), (later, _) in pairwise(windows):
        assert first < later <= end
    parts = shares(windows, both=both)
    assert [item for begin, stop in parts for item in range(begin, stop)] == list(range(len(lengths)))
    assert all(w[0] <= part[0] <= part[1] <= w[1] for w, part in zip(windows, parts, strict=True))


@pytest.mark.parametrize("both", [True, False])
def test_an_item_is_answered_for_where_it_sees_most(both):
    windows = overlapping([1] * 30, 10, 4)

    def seen(window, item):
        left = item - window[0] if window[0] else 99
        right = window[1] - 1 - item if window[1] < 30 else 99
        return min(left, right) if both else left

    for window, (begin, stop) in zip(windows, shares(windows, both=both), strict=True):
        for item in range(begin, stop):
            assert seen(window, item) == max(seen(one, item) for one in windows if one[0] <= item < one[1])

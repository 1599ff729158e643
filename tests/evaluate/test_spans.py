"""Spans: the best one is found, answers are judged by the rules, the cheap opponents answer."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptwo.evaluate.spans import (
    NO_ANSWER,
    Answer,
    BestSentence,
    FrequentKind,
    answer_values,
    best_span,
    kind_of,
    sentences_of,
)

CONTEXT = "Anna lives in Berlin. She was born in 1985 in the city of Bonn! Tom is her brother."
numbers = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=12)


@given(numbers, st.integers(1, 14))
def test_the_best_span_is_that_of_an_exhaustive_search(rows, longest):
    starts, ends = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    first, last, score = best_span(starts, ends, longest)
    everything = [starts[i] + ends[j] for i in range(len(starts)) for j in range(i, min(len(starts), i + longest))]
    assert score == max(everything) == starts[first] + ends[last]
    assert first <= last < first + longest


def test_answers_are_judged_by_squad_and_chinese_ones_by_characters():
    said = [Answer("the Berlin!"), Answer("in Berlin"), Answer("北京市"), NO_ANSWER, Answer("x")]
    gold = [["Berlin", "Bonn"], ["Bonn", "Berlin"], ["北京"], [], []]
    values = answer_values(said, gold, ["Where?", "Where?", "在哪里？", "Why?", "Why?"])
    assert values["exact_match"].tolist() == [1, 0, 0, 1, 0]
    assert values["f1"].round(4).tolist() == [1, 0.6667, 0.8, 1, 0]


def test_sentences_end_where_they_end():
    assert [CONTEXT[a:b] for a, b in sentences_of(CONTEXT)] == [
        "Anna lives in Berlin.",
        "She was born in 1985 in the city of Bonn!",
        "Tom is her brother.",
    ]
    text = "他说：“来吧！”版本3.5好。\n  下一行 "
    assert [text[a:b] for a, b in sentences_of(text)] == ["他说：“来吧！”", "版本3.5好。", "下一行"]
    assert sentences_of(" \n ") == []


@given(st.text(alphabet="ab .。!\n”", max_size=40))
def test_sentences_lose_nothing_but_white_space(text):
    assert "".join("".join(text[a:b] for a, b in sentences_of(text)).split()) == "".join(text.split())


def test_the_best_sentence_shares_most_with_the_question():
    system = BestSentence([CONTEXT])
    assert system.predict(CONTEXT, "In which city was she born?") == Answer(
        "She was born in 1985 in the city of Bonn!", CONTEXT.index("She")
    )
    assert system.predict("", "What?") == Answer("", 0)


def test_kinds_of_answers():
    assert [kind_of(text) for text in ("", " ", "1985", "3,5 %", "in 1985", "Bonn", "北京")] == [
        *("none", "none", "number", "number", "number", "words", "words")
    ]


def test_the_most_frequent_kind_answers():
    sentences = BestSentence([CONTEXT])
    number = FrequentKind(sentences, ["1985", "12", "Bonn"])
    assert number.predict(CONTEXT, "When was she born?") == Answer("1985", CONTEXT.index("1985"))
    words = FrequentKind(sentences, ["New York", "New York", "", "7"])
    found = words.predict(CONTEXT, "Where does Anna live?")
    assert CONTEXT[found.start : found.start + len(found.text)] == found.text == "lives in"
    none = FrequentKind(sentences, ["", "", "Bonn"])
    assert none.predict(CONTEXT, "When?") == NO_ANSWER
    assert FrequentKind(sentences, []).predict("", "What?").text == ""

"""Answers that are pieces of a text: finding the best one in scores, judging it, and the cheap opponents.

Axis legend: L tokens of a window.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from gptwo.evaluate.ranking import BM25, order_of, terms
from gptwo.evaluate.text_metrics import answer_f1, exact_match, is_cjk

NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*%?")
END = re.compile(r"[。！？!?]+[”’」』\"]*|\.(?=\s|$)|\n+|$")
WORD = re.compile(r"[^\W\d_]+|\d+|\S")


@dataclass(frozen=True)
class Answer:
    """A piece of a text.

    Args:
        text: the piece; empty: there is no answer.
        start: character at which it begins, -1 without an answer.
        probability: how sure the system is, 0..1.
    """

    text: str
    start: int = -1
    probability: float = 1.0


NO_ANSWER = Answer("")


def best_span(starts: np.ndarray, ends: np.ndarray, longest: int) -> tuple[int, int, float]:
    """The span with the highest starts[first] + ends[last]; (first, last, score), both inclusive.

    Args:
        starts, ends: (L,) scores of beginning and ending at each token, L at least 1.
        longest: tokens of a span at most.

    >>> best_span(np.array([1.0, 3.0, 0.0]), np.array([2.0, 0.0, 1.0]), 2)
    (1, 2, 4.0)
    """
    found = (0, 0, -np.inf)
    for more in range(min(longest, len(starts))):
        sums = starts[: len(starts) - more] + ends[more:]
        first = int(sums.argmax())
        if sums[first] > found[2]:
            found = (first, first + more, float(sums[first]))
    return found


def answer_values(
    said: Sequence[Answer], gold: Sequence[Sequence[str]], questions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Exact match and F1 of each answer, 0 to 1, by the rules of SQuAD; of Chinese questions by those of CMRC 2018.

    Args:
        gold: the right answers to each question, any of which will do; none: only an empty answer is right.
    """
    chinese = [is_cjk([question]) for question in questions]
    rows = list(zip(said, gold, chinese, strict=True))
    return {
        "f1": np.array([answer_f1(one.text, known, chinese=zh) for one, known, zh in rows]),
        "exact_match": np.array([exact_match(one.text, known, chinese=zh) for one, known, zh in rows]),
    }


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Where each sentence of a text begins and ends.

    >>> [(a, b) for a, b in sentences_of("It is 3.5 km. 是吗？对。")]
    [(0, 13), (14, 17), (17, 19)]
    """
    found, start = [], 0
    for match in END.finditer(text):
        piece = text[start : match.end()]
        if piece.strip():
            found.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = match.end()
    return found


class BestSentence:
    """The whole sentence that shares most with the question, by BM25.

    Args:
        contexts: texts that word frequencies are counted in.
    """

    name = "BM25-best sentence"

    def __init__(self, contexts: Sequence[str]):
        self.index = BM25(text[a:b] for text in dict.fromkeys(contexts) for a, b in sentences_of(text))

    def sentence(self, context: str, question: str) -> tuple[int, int]:
        """Where that sentence begins and ends."""
        spans = sentences_of(context) or [(0, len(context))]
        return spans[int(order_of(self.index.scores(question, [context[a:b] for a, b in spans]))[0])]

    def predict(self, context: str, question: str) -> Answer:
        """The answer to one question."""
        start, end = self.sentence(context, question)
        return Answer(context[start:end], start)


class FrequentKind:
    """The kind of answer that is most frequent in training: none, a number, or words.

    A number is the first one of the BM25-best sentence that the question does not name; words are the longest run of
    words of it, at most as long as answers usually are, that do not stand in the question.

    Args:
        sentences: finds the sentence.
        answers: the first answer to each training question; empty: none.
    """

    name = "Most frequent kind of answer"

    def __init__(self, sentences: BestSentence, answers: Sequence[str]):
        self.sentences = sentences
        kinds = Counter(kind_of(answer) for answer in answers)
        self.kind = min(kinds, key=lambda kind: (-kinds[kind], kind)) if kinds else "words"
        lengths = sorted(len(WORD.findall(answer)) for answer in answers if kind_of(answer) == "words")
        self.words = max(1, lengths[len(lengths) // 2]) if lengths else 1

    def predict(self, context: str, question: str) -> Answer:
        """The answer to one question."""
        if self.kind == "none":
            return NO_ANSWER
        start, end = self.sentences.sentence(context, question)
        sentence = context[start:end]
        if self.kind == "number":
            for match in NUMBER.finditer(sentence):
                if match.group() not in question:
                    return Answer(match.group(), start + match.start())
        known = set(terms(question))
        pieces = [(match, not set(terms(match.group())) <= known) for match in _words(sentence)]
        runs = [[match for match, _ in run] for new, run in groupby(pieces, key=lambda piece: piece[1]) if new]
        if not runs:
            return Answer(sentence, start)
        run = max(runs, key=len)[: self.words]
        return Answer(sentence[run[0].start() : run[-1].end()], start + run[0].start())


def kind_of(answer: str) -> str:
    """ "none", "number" or "words".

    >>> kind_of(""), kind_of("about 1,200 km"), kind_of("Anna")
    ('none', 'number', 'words')
    """
    if not answer.strip():
        return "none"
    return "number" if NUMBER.search(answer) else "words"


def _words(text: str) -> list[re.Match[str]]:
    """Words of a text, Chinese characters one by one, punctuation left out."""
    return list(re.finditer(r"[\u2e80-\u9fff]|[^\W\u2e80-\u9fff]+", text))

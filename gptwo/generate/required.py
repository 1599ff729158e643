"""Words that a text must hold: when they are met, what is left of them, and which token brings one nearer.

A word is met where it stands as a whole word, in any case and in any tokens; Chinese has no word borders. It is brought
in as the tokens it has in running text: after a space, or without one where the text before it ends no word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from gptwo.errors import UsageError

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

JOINED = r"[^\W\u2e80-\u9fff\uf900-\ufaff]"  # a character that makes one word with those beside it


@lru_cache(maxsize=1024)
def pattern_of(word: str) -> re.Pattern[str]:
    """The expression that finds a word in a text as a whole word, in any case."""
    left = rf"(?<!{JOINED})" if re.match(JOINED, word[:1]) else ""
    right = rf"(?!{JOINED})" if re.match(JOINED, word[-1:]) else ""
    return re.compile(left + re.escape(word) + right, re.IGNORECASE)


def holds(text: str, word: str) -> bool:
    """Whether a text holds a word as a whole word, in any case.

    >>> holds("The Cat sat.", "cat"), holds("cats", "cat"), holds("大模型GPT很好", "GPT"), holds("木头猫", "猫")
    (True, False, True, True)
    """
    return pattern_of(word).search(text) is not None


@dataclass(frozen=True)
class State:
    """How far a text has come.

    Args:
        left: tokens that the missing words still need at most; 0 where all are there.
        tokens: those that begin a missing word or go on with one.
    """

    left: int
    tokens: frozenset[int] = frozenset()


class Required:
    """The words that the continuation of one prompt must hold.

    Args:
        words: texts that are not empty.
        tokenizer: of the model.
        before: the last characters of the prompt.

    Raises:
        UsageError: a word that the vocabulary cannot write.
    """

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer, before: str = ""):
        self._tokenizer, self._before = tokenizer, before[-1:]
        self._patterns = [pattern_of(word) for word in words]
        self._anywhere: list[tuple[int, ...]] = []  # tokens of each word after any text
        self._fresh: list[tuple[int, ...]] = []  # and where no word stands before it; often the same
        for word in words:
            plain = tuple(tokenizer.encode(word))
            spaced = tuple(tokenizer.encode(f" {word}")) if re.match(JOINED, word[:1]) else plain
            for ids in (plain, spaced):
                if not ids or not holds(tokenizer.decode(ids), word):
                    raise UsageError(
                        f"The vocabulary cannot write {word!r}.",
                        where="required",
                        why=f"its tokens give {tokenizer.decode(ids)!r}",
                        fix="another word, or a model with a byte-level vocabulary",
                    )
            self._anywhere.append(spaced)
            self._fresh.append(plain)
        self.tokens = sum(map(len, self._anywhere))

    def state(self, ids: Sequence[int]) -> State:
        """What is left after these new tokens."""
        text = self._before + self._tokenizer.decode(ids, skip_special=True)
        missing = [place for place, found in enumerate(self._patterns) if found.search(text, len(self._before)) is None]
        if not missing:
            return State(0)
        tokens, saved = set(), 0
        for place in missing:
            for variant in {self._anywhere[place], self._fresh[place]}:
                for begun in range(min(len(variant) - 1, len(ids)), -1, -1):
                    start = len(ids) - begun
                    if tuple(ids[start:]) == variant[:begun] and self._may_begin(place, variant, ids[:start]):
                        tokens.add(variant[begun])
                        saved = max(saved, begun + len(self._anywhere[place]) - len(variant) if begun else 0)
        return State(sum(len(self._anywhere[place]) for place in missing) - saved, frozenset(tokens))

    def _may_begin(self, place: int, variant: tuple[int, ...], ids: Sequence[int]) -> bool:
        """Whether a variant may stand after these tokens: no word must run into it."""
        if variant == self._anywhere[place]:
            return True
        text = self._before + self._tokenizer.decode(ids, skip_special=True)
        return re.match(JOINED, text[-1:]) is None

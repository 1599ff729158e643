"""Texts of a required form: JSON, JSON of a schema, a regular expression, one of several texts.

Before each token the form says which tokens may come next; the others get no probability. The work is done by
llguidance (https://github.com/guidance-ai/llguidance), which needs a vocabulary of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.errors import GptwoError, UsageError, require

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

LONGEST = 1 << 16  # characters of a description


class Constraint:
    """One text's form: asked before each token, told of each token that was taken.

    Args:
        matcher: of llguidance.
        end_id: the token that ends a text.
    """

    def __init__(self, matcher: Any, end_id: int):
        self._matcher, self._end_id = matcher, end_id

    def copy(self) -> Constraint:
        """The same form for another text, from where this one stands."""
        return Constraint(self._matcher.deep_copy(), self._end_id)

    def allowed(self, vocab_size: int) -> np.ndarray:
        """Which ids may come next, (V,) boolean; at the end of the form the end token alone."""
        mask = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        found = np.zeros(vocab_size, bool)
        found[: min(vocab_size, mask.size)] = mask[:vocab_size].astype(bool)
        if self._matcher.is_error():
            raise GptwoError("The text cannot be kept in its form.", why=_first_line(self._matcher.get_error()))
        if not found.any():
            found[self._end_id] = True
        return found

    def take(self, token: int) -> None:
        """A token was chosen."""
        if token != self._end_id and not self._matcher.is_stopped():
            self._matcher.consume_token(token)


class Constrainer:
    """Makes constraints for the texts of one vocabulary; made once, it costs a second for a large vocabulary.

    Args:
        tokenizer: of a byte-level vocabulary with an end token.

    Raises:
        UsageError: another vocabulary.
        MissingError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.kind != "bpe" or tokenizer.end_id is None:
            raise UsageError(
                "Texts of a required form need a byte-level vocabulary with an end token.",
                why=f"this model's vocabulary is of kind {tokenizer.kind!r}",
            )
        self._library = require("llguidance", "serve")
        self.tokenizer, self.end_id = tokenizer, tokenizer.end_id

    @cached_property
    def _vocabulary(self) -> Any:
        wrapped = self._library.TokenizerWrapper(_Vocabulary(self.tokenizer))
        return self._library.LLTokenizer(wrapped, n_vocab=self.tokenizer.vocab_size)

    def json(self, schema: dict[str, Any] | bool | None = None) -> Constraint:
        """A JSON object, or JSON of a schema.

        Raises:
            UsageError: the schema is none, or has what is not supported.
        """
        try:
            text = json.dumps({"type": "object"} if schema is None else schema)
            self._check_length(text)
            grammar = self._library.LLMatcher.grammar_from_json_schema(text)
        except ValueError as error:
            raise UsageError("The JSON schema cannot be used.", why=_first_line(error)) from None
        return self._made(grammar, "JSON schema")

    def regex(self, pattern: str) -> Constraint:
        """A text that a regular expression (of Rust's kind: no look-around) matches as a whole.

        Raises:
            UsageError: it is no regular expression.
        """
        self._check_length(pattern)
        return self._made(self._library.LLMatcher.grammar_from_regex(pattern), "regular expression")

    def choice(self, texts: Sequence[str]) -> Constraint:
        """One of several texts.

        Raises:
            UsageError: there are none, or an empty one.
        """
        if not texts or not all(texts):
            raise UsageError("A choice needs texts that are not empty.")
        self._check_length("".join(texts))
        lark = "start: " + " | ".join(_lark_string(text) for text in texts)
        return self._made(self._library.LLMatcher.grammar_from_lark(lark), "choice")

    def _check_length(self, text: str) -> None:
        if len(text) > LONGEST:
            raise UsageError(f"The form is described in {len(text):,} characters; {LONGEST:,} are allowed.")

    def _made(self, grammar: str, what: str) -> Constraint:
        matcher = self._library.LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise UsageError(f"The {what} cannot be used.", why=_first_line(matcher.get_error()))
        return Constraint(matcher, self.end_id)


class _Vocabulary:
    """Our tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.end_id
        self.bos_token_id = tokenizer.start_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.tokens = [_bytes_of(tokenizer, token) for token in range(tokenizer.vocab_size)]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes of a token; of an id without one, bytes that no text has."""
    try:
        return tokenizer.token_bytes(token)
    except UsageError:
        return b"\xff" + str(token).encode()


def _lark_string(text: str) -> str:
    """A text as a literal of Lark: a JSON string whose characters all stand for themselves."""
    return json.dumps(text, ensure_ascii=False)


def _first_line(error: object) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0][:300]

"""BERT vocabularies (vocab.txt), as the Chinese GPT-2 checkpoints use them: one token per Chinese character.

Latin words fall into WordPiece tokens ("playing" is "play", "##ing"). Devlin et al. 2018, "BERT", section 3.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gptwo.tokenizer.base import Tokenizer

UNKNOWN, START, END = "[UNK]", "[CLS]", "[SEP]"
CONTINUATION = "##"
_NO_SPACE_BEFORE = frozenset(".,!?:;)]}%'’”»…—-/")
_NO_SPACE_AFTER = frozenset("([{'‘’“«…—-/")


def build_backend(
    vocab: Mapping[str, int],
    *,
    lowercase: bool = True,
    chinese_characters: bool = True,
    strip_accents: bool | None = None,
    unknown: str = UNKNOWN,
) -> tokenizers.Tokenizer:
    """A `tokenizers` backend with BERT's splitting rule over a vocabulary (keyword defaults are BERT's)."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=dict(vocab), unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese_characters, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return backend


class BertTokenizer(Tokenizer):
    """WordPiece over characters and words; `decode` writes Chinese without spaces and Latin words with them.

    A vocabulary of this kind does not hold every text: what it lacks becomes [UNK], and letters may be lowered.
    The checkpoints expect the start token [CLS] in front of a text; `encode` leaves that to the caller (`start_id`).
    """

    kind = "bert"

    @cached_property
    def _table(self) -> list[str]:
        """Token string of every id; "" for ids that no token has."""
        table = [""] * self.vocab_size
        for token, token_id in self.vocab.items():
            table[token_id] = token
        return table

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        stream = WordStream(self)
        return "".join([stream.push(i) for i in self._known(ids, skip_special)])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def token_bytes(self, token_id: int) -> bytes:
        self._check_id(token_id)
        return self._table[token_id].removeprefix(CONTINUATION).encode("utf-8")

    def stream(self, *, skip_special: bool = False) -> WordStream:
        return WordStream(self, skip_special)


class WordStream:
    """Joins tokens into text: the space before a token depends only on what stands before it, so nothing waits."""

    def __init__(self, tokenizer: BertTokenizer, skip_special: bool = False):
        self._table = tokenizer._table
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._last = ""  # the character that stands last, "" at the start of the text

    def push(self, token_id: int) -> str:
        token_id = int(token_id)
        if not 0 <= token_id < len(self._table) or token_id in self._skipped:
            return ""
        token = self._table[token_id]
        if not token:
            return ""
        if token.startswith(CONTINUATION) and len(token) > len(CONTINUATION):
            text = token.removeprefix(CONTINUATION)
        else:
            text = " " + token if self._last and _spaced(self._last, token[0]) else token
        self._last = text[-1]
        return text

    def finish(self) -> str:
        self._last = ""
        return ""


def _spaced(left: str, right: str) -> bool:
    """Whether a space stands between two tokens that end and begin with these characters."""
    if left in _NO_SPACE_AFTER or right in _NO_SPACE_BEFORE:
        return False
    return not (_is_wide(left) or _is_wide(right))


def _is_wide(character: str) -> bool:
    """Chinese and Japanese characters, full-width forms and emoji; Korean is wide too but written with spaces."""
    if "\uac00" <= character <= "\ud7a3" or "\u1100" <= character <= "\u11ff":
        return False
    return unicodedata.east_asian_width(character) in ("W", "F")

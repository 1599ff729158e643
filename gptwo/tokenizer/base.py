"""What every tokenizer offers, whatever its vocabulary: encoding, decoding, special tokens, fingerprint, saving."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from gptwo.errors import UsageError

PAD_ID = -1
"""The id of padding. It is no row of the embedding, so it can never be taken for a token of the text."""

PIECE_CHARACTERS = 1 << 16
GROUP_CHARACTERS = 1 << 20

_SPACE_AFTER_WORD = re.compile(r"(?<=\S)[ \n]")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")


class StreamDecoder(Protocol):
    """Decodes tokens as they come; everything returned, joined, equals `Tokenizer.decode` of all ids."""

    def push(self, token_id: int) -> str:
        """The text that is certain after this token: whole characters only, often an empty string."""

    def finish(self) -> str:
        """What was held back; the decoder is then ready for a new sequence."""


class Tokenizer(ABC):
    """Base of `ByteLevelTokenizer` and `BertTokenizer`; get one from `load_tokenizer` or `train_bpe`.

    Ids run from 0 to `vocab_size - 1`, added tokens included. Text that looks like a special token is plain text
    unless the caller says `special=True`, so a user's input cannot forge the end of a text or a chat role.

    Python strings may hold lone surrogates, which no encoding of Unicode can express. They are replaced before
    tokenizing: a pair of surrogates becomes the character it stands for, a lone one becomes U+FFFD. Nothing raises.

    Args:
        backend: a `tokenizers.Tokenizer`; it is changed (truncation and padding off) and then owned.
        end_token: the token that closes a text, or None where the vocabulary has none.
        start_token: the token that opens a text, or None.
    """

    kind: str

    def __init__(self, backend: tokenizers.Tokenizer, *, end_token: str | None = None, start_token: str | None = None):
        backend.no_truncation()
        backend.no_padding()
        special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        named = [name for name in (start_token, end_token) if name is not None and name not in special]
        backend.add_special_tokens([special_token(name) for name in named])
        backend.encode_special_tokens = True  # special tokens in the text are plain text
        self._backend = backend
        self._end_token, self._start_token = end_token, start_token

    # --- the vocabulary

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token string to id, added tokens included. Byte-level tokens are in GPT-2's printable alphabet."""
        return self._backend.get_vocab(with_added_tokens=True)

    @cached_property
    def vocab_size(self) -> int:
        """Rows an embedding needs: the largest id plus one."""
        count = self._backend.get_vocab_size(with_added_tokens=True)
        if all(self._backend.id_to_token(i) is not None for i in range(count)):  # no gaps: without a copy of the whole
            return count
        return max(self.vocab.values(), default=-1) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens: those that plain text never encodes to."""
        return frozenset(i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)

    @property
    def end_id(self) -> int | None:
        return None if self._end_token is None else self._backend.token_to_id(self._end_token)

    @property
    def start_id(self) -> int | None:
        return None if self._start_token is None else self._backend.token_to_id(self._start_token)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token string as it stands in the vocabulary, None where there is none."""
        return self.vocab.get(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The token string of an id as it stands in the vocabulary, None where there is none."""
        return self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None

    def add_special_tokens(self, names: Sequence[str]) -> list[int]:
        """Add tokens such as "<|user|>" at the end of the vocabulary and return their ids, in the order given.

        A name that is special already keeps its id. The model's embedding must then have `vocab_size` rows.

        Raises:
            UsageError: a name is empty, or ordinary text already encodes to it as one token.
        """
        for name in names:
            if not name or name != repair_surrogates(name):
                raise UsageError(f"{name!r} cannot be a special token.", fix="Give a name such as '<|user|>'.")
            known = self.vocab.get(name)
            if known is not None and known not in self.special_ids and self.encode(name) == [known]:
                raise UsageError(
                    f"{name!r} cannot be a special token.",
                    why=f"Ordinary text already encodes to it (id {known}), so a user's input could forge it.",
                    fix=f"Choose a name that text does not hold, for example '<|{name.strip()}|>'.",
                )
        self._backend.add_special_tokens([special_token(name) for name in names])
        self._forget()
        return [self.vocab[name] for name in names]

    # --- text to ids

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text; no start or end token is added.

        Args:
            text: any string; lone surrogates are replaced (see the class).
            special: recognise special tokens written in the text, e.g. "<|endoftext|>". Only for trusted text.
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Ids of each text, encoded in parallel; equal to `encode` of one after the other.

        Long texts are encoded in parts, so that memory beyond the ids stays within some 200 MB.
        """
        backend = self._recognising if special else self._backend
        counts, parts = [], []
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"text must be str, got {type(text).__name__}")
            pieces = self._pieces(text) if len(text) > PIECE_CHARACTERS and not special else [text]
            counts.append(len(pieces))
            parts += pieces
        encoded = (ids for group in _groups(parts) for ids in _encode_group(backend, group))
        return [next(encoded) if count == 1 else list(chain.from_iterable(islice(encoded, count))) for count in counts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text and, for each, the half-open range of characters of `text` it comes from.

        Tokens that share a character (an emoji of several byte-level tokens) share its range. The space that a
        byte-level token begins with belongs to its range.
        """
        repaired = repair_surrogates(text)
        encoding = self._backend.encode(repaired, add_special_tokens=False)
        offsets = encoding.offsets
        if len(repaired) != len(text):  # surrogate pairs were joined: two characters of `text` became one
            starts = [match.start() for match in _CHARACTERS.finditer(text)] + [len(text)]
            offsets = [(starts[start], starts[end]) for start, end in offsets]
        return encoding.ids, offsets

    # --- ids to text

    @abstractmethod
    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids. Ids that are negative (padding) or beyond the vocabulary give nothing; nothing raises.

        Args:
            ids: integers, a list or an array of one dimension.
            skip_special: leave special tokens out of the text.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of ids; for byte-level vocabularies exact even where they are no valid UTF-8."""

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """Bytes that one token stands for.

        Raises:
            UsageError: the id is not in the vocabulary.
        """

    @abstractmethod
    def stream(self, *, skip_special: bool = False) -> StreamDecoder:
        """A decoder that is fed one id at a time and returns whole characters as soon as they are certain."""

    # --- identity and disk

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of all that decides the ids; the same for one vocabulary whatever files it came from."""
        content = json.dumps(self._content(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load_tokenizer` and transformers' `AutoTokenizer` read back with equal ids.

        Raises:
            DataError: the folder cannot be written.
        """
        from gptwo.tokenizer.save import save_tokenizer

        save_tokenizer(self, Path(folder))

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, end_id={self.end_id}, start_id={self.start_id})"

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self._backend.to_str(), "end_token": self._end_token, "start_token": self._start_token}

    def __setstate__(self, state: dict[str, Any]) -> None:
        backend = tokenizers.Tokenizer.from_str(state["backend"])
        Tokenizer.__init__(self, backend, end_token=state["end_token"], start_token=state["start_token"])

    # --- inside

    @cached_property
    def _recognising(self) -> tokenizers.Tokenizer:
        """A second backend that recognises special tokens: switching one to and fro would not be thread-safe."""
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.encode_special_tokens = False
        return backend

    def _pieces(self, text: str) -> list[str]:
        """A long text in parts whose ids, joined, are those of the whole; one part where that is not certain."""
        if not self._parts_at_spaces:
            return [text]
        places = [0]
        while match := _SPACE_AFTER_WORD.search(text, places[-1] + PIECE_CHARACTERS):
            places.append(match.start())
        return [text[start:end] for start, end in pairwise([*places, len(text)])]

    @cached_property
    def _parts_at_spaces(self) -> bool:
        """Whether no token can reach over the place between a word and the space or newline after it."""
        rule, added = self._backend.pre_tokenizer, self._backend.get_added_tokens_decoder().values()
        if any(re.search(r"\s", token.content) for token in added if not token.special):
            return False
        if isinstance(rule, tokenizers.pre_tokenizers.ByteLevel):
            return self._backend.normalizer is None and rule.use_regex and not rule.add_prefix_space
        return isinstance(rule, tokenizers.pre_tokenizers.BertPreTokenizer)

    def _forget(self) -> None:
        """Drop everything derived from the vocabulary after it has changed."""
        for name in ("vocab", "vocab_size", "special_ids", "fingerprint", "_recognising", "_parts_at_spaces", "_table"):
            self.__dict__.pop(name, None)

    def _content(self) -> dict[str, Any]:
        state = json.loads(self._backend.to_str())
        model = state["model"]
        added = {token["id"]: (token["content"], token["special"]) for token in state["added_tokens"]}
        vocab = {i: token for token, i in model["vocab"].items() if i not in added}
        if self.kind == "bpe":  # every byte is known, so an unknown token never comes into play
            model["unk_token"] = None
        return {
            "kind": self.kind,
            "model": {
                key: value for key, value in model.items() if value and key not in ("vocab", "merges", "dropout")
            },
            "vocab": sorted(vocab.items()),
            "merges": [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])],
            "added": sorted(added.items()),
            "normalizer": state["normalizer"],
            "pre_tokenizer": _without(state["pre_tokenizer"], "trim_offsets"),
            "end": self.end_id,
            "start": self.start_id,
        }

    def _known(self, ids: Iterable[int], skip_special: bool = False) -> list[int]:
        """The ids that stand for something, as plain integers."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        size, special = self.vocab_size, self.special_ids if skip_special else frozenset()
        return [i for i in ids if 0 <= i < size and i not in special]

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise UsageError(f"Token id {token_id} is not in the vocabulary.", why=f"Ids are 0..{self.vocab_size - 1}.")


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """The texts in groups of about `GROUP_CHARACTERS`: what is encoded at once."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _encode_group(backend: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    try:
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    except TypeError:  # a lone surrogate
        encodings = backend.encode_batch_fast([repair_surrogates(text) for text in texts], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


_CHARACTERS = re.compile("[\ud800-\udbff][\udc00-\udfff]|.", re.DOTALL)


def repair_surrogates(text: str) -> str:
    """The text as Unicode can express it: surrogate pairs joined, lone surrogates replaced by U+FFFD."""

    def character(match: re.Match[str]) -> str:
        found = match.group()
        return found.encode("utf-16-le", "surrogatepass").decode("utf-16-le") if len(found) == 2 else "\ufffd"

    return text if text.isascii() else _SURROGATES.sub(character, text)


def special_token(name: str) -> tokenizers.AddedToken:
    """A special token of the backend, matched as it is written."""
    return tokenizers.AddedToken(name, special=True, normalized=False)


def _without(value: Any, key: str) -> Any:
    """A JSON value with one key left out at every depth."""
    if isinstance(value, dict):
        return {k: _without(v, key) for k, v in value.items() if k != key}
    return [_without(item, key) for item in value] if isinstance(value, list) else value

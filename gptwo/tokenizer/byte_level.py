"""GPT-2's byte-level BPE: every byte is in the vocabulary, so every text has ids and comes back unchanged.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptwo.tokenizer.base import Tokenizer

END_OF_TEXT = "<|endoftext|>"


@cache
def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where it prints, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in alphabet)
    return alphabet | {byte: chr(256 + n) for n, byte in enumerate(others)}


@cache
def alphabet_bytes() -> dict[str, int]:
    """The byte behind each printable character: the inverse of `byte_alphabet`."""
    return {character: byte for byte, character in byte_alphabet().items()}


def printable(content: bytes) -> str:
    """Bytes in GPT-2's printable alphabet, as vocabulary files hold them: b" a" is "Ġa"."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in content)


def build_backend(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], *, add_prefix_space: bool = False
) -> tokenizers.Tokenizer:
    """A `tokenizers` backend with GPT-2's splitting rule over a vocabulary and its merges."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


class ByteLevelTokenizer(Tokenizer):
    """Byte-level BPE; `decode` turns bytes that are no valid UTF-8 into U+FFFD, `decode_bytes` keeps them."""

    kind = "bpe"

    def __init__(self, backend: tokenizers.Tokenizer, *, end_token: str | None = None, start_token: str | None = None):
        super().__init__(backend, end_token=end_token, start_token=start_token)
        lacking = [character for character in byte_alphabet().values() if backend.token_to_id(character) is None]
        if lacking:
            warnings.warn(
                f"This vocabulary lacks {len(lacking)} of the 256 bytes; text that holds them loses them when encoded.",
                stacklevel=2,
            )

    @cached_property
    def _table(self) -> TokenBytes:
        """Bytes of every id; b"" for ids that no token has."""
        return TokenBytes(self._backend)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        table = self._table
        return b"".join([table[i] for i in self._known(ids, skip_special)]).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        table = self._table
        return b"".join([table[i] for i in self._known(ids)])

    def token_bytes(self, token_id: int) -> bytes:
        self._check_id(token_id)
        return self._table[token_id]

    def stream(self, *, skip_special: bool = False) -> ByteStream:
        return ByteStream(self, skip_special)


class TokenBytes(dict[int, bytes]):
    """Bytes of each id, found when they are first asked for; b"" for ids that no token has."""

    def __init__(self, backend: tokenizers.Tokenizer):
        super().__init__()
        self._backend, self._added = backend, backend.get_added_tokens_decoder()

    def __missing__(self, token_id: int) -> bytes:
        token, to_byte = self._backend.id_to_token(token_id) or "", alphabet_bytes()
        if token_id in self._added or not all(character in to_byte for character in token):
            found = token.encode("utf-8")  # added tokens are written as they are, not in the alphabet
        else:
            found = bytes(to_byte[character] for character in token)
        self[token_id] = found
        return found


class ByteStream:
    """Holds back the bytes of an unfinished character until the token that completes it."""

    def __init__(self, tokenizer: ByteLevelTokenizer, skip_special: bool = False):
        self._table, self._size = tokenizer._table, tokenizer.vocab_size
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        token_id = int(token_id)
        if not 0 <= token_id < self._size or token_id in self._skipped:
            return ""
        return self._decoder.decode(self._table[token_id])

    def finish(self) -> str:
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest

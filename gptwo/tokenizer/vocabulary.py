"""Readers of vocabulary files: each returns plain dictionaries and lists, or says which row is wrong."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from gptwo.errors import DataError, MissingError
from gptwo.tokenizer.byte_level import END_OF_TEXT, printable

Merges = list[tuple[str, str]]


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file opened for reading; a byte order mark is left out, line ends become "\\n".

    Raises:
        DataError: a byte is not UTF-8, wherever in the file it is read.
        MissingError: the file is not there or cannot be opened.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(
            "The file is not UTF-8 text.", where=path, why=str(error), fix="Convert it to UTF-8, e.g. with iconv."
        ) from error
    except FileNotFoundError as error:
        raise MissingError(f"{path.name} is missing.", where=path, fix=f"Place {path.name} there.") from error
    except OSError as error:
        raise MissingError(f"{path.name} cannot be read.", where=path, why=str(error)) from error


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file (see `open_text`)."""
    with open_text(path) as file:
        return file.read()


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{path.name} is not valid JSON.",
            where=path,
            why=str(error) or "it is nested too deeply",
            fix="Fetch the file again; a download that was cut off or a Git LFS pointer looks like this.",
        ) from error


def read_vocab_json(path: Path) -> dict[str, int]:
    """vocab.json or encoder.json: token string to id, every id once."""
    vocab = read_json(path)
    if not isinstance(vocab, dict) or not vocab:
        raise DataError(f"{path.name} is no vocabulary.", where=path, why="It should hold an object of token: id.")
    owners: dict[int, str] = {}
    for token, token_id in vocab.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise DataError("A token has no usable id.", where=f"{path}: {token!r}", why=f"Its id is {token_id!r}.")
        if token_id in owners:
            why = f"{owners[token_id]!r} and {token!r} both have id {token_id}"
            raise DataError("Two tokens share one id.", where=path, why=why)
        owners[token_id] = token
    return vocab


def read_merges(path: Path, vocab: dict[str, int]) -> Merges:
    """merges.txt or vocab.bpe: one pair of tokens a line, the most frequent first, after an optional version line."""
    merges: Merges = []
    for row, line in enumerate(read_text(path).split("\n"), start=1):
        if not line or (row == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise DataError("A merge is not a pair of tokens.", where=f"{path}:{row}", why=f"The line is {line!r}.")
        lacking = [token for token in (*pair, "".join(pair)) if token not in vocab]
        if lacking:
            raise DataError(
                f"A merge names a token that the vocabulary lacks: {lacking[0]!r}.",
                where=f"{path}:{row}",
                fix="Take both files from the same model.",
            )
        merges.append((pair[0], pair[1]))
    return merges


def read_tiktoken(path: Path) -> tuple[dict[str, int], Merges]:
    """A .tiktoken file (base64 token and rank a line): vocabulary with <|endoftext|>, and the merges behind it.

    A rank is both the id and the priority of a merge, so each merge is found by running BPE with the lower ranks.
    GPT-2's splitting rule is assumed; it is that of gpt2, r50k_base and p50k_base.
    """
    ranks: dict[bytes, int] = {}
    for row, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            encoded, number = line.split()
            ranks[base64.b64decode(encoded, validate=True)] = int(number)
        except (ValueError, binascii.Error) as error:
            why = f"The line is {line[:60]!r}; expected a base64 token, a space and its rank."
            raise DataError("A line is no token.", where=f"{path}:{row}", why=why) from error
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if lacking or len(set(ranks.values())) != len(ranks):
        why = f"{len(lacking)} of the 256 single bytes are missing" if lacking else "a rank occurs twice"
        raise DataError(f"{path.name} is not complete.", where=path, why=why, fix="Fetch the file again.")
    if len(ranks) > 100_000:
        raise DataError(
            f"{path.name} is no GPT-2 vocabulary.",
            where=path,
            why=f"Its {len(ranks):,} tokens belong to a later encoding, which splits text by another rule.",
            fix="Use the tokenizer.json of that model.",
        )
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _split(token, ranks, rank)
            if len(parts) != 2:
                why = f"{token!r} (rank {rank}) is not made of two earlier tokens"
                raise DataError(f"{path.name} is not a BPE vocabulary.", where=path, why=why)
            merges.append((printable(parts[0]), printable(parts[1])))
    vocab = {printable(token): rank for token, rank in ranks.items()}
    taken = set(ranks.values())
    vocab[END_OF_TEXT] = next(token_id for token_id in range(len(ranks) + 1) if token_id not in taken)
    return vocab, merges


def _split(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The parts BPE leaves of a token when only merges of a rank below `limit` are applied."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        rank, at = min((ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1))
        if rank >= limit:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def read_vocab_txt(path: Path) -> dict[str, int]:
    """BERT's vocab.txt: the token of id n on line n + 1. Of a repeated token the last line counts, as in BERT.

    Only "\\n" ends a line: U+2028 is a token of the Chinese vocabularies.
    """
    lines = read_text(path).split("\n")
    return {token: token_id for token_id, token in enumerate(lines) if token}

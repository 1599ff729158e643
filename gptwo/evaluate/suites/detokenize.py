"""WikiText's tokenized text as plain text, and back: the invertible de-tokenizer of word-level perplexity.

WikiText stands in tokens parted by spaces: " The 24 @-@ inch gun , known as " Bess " ( 1 @,@ 200 kg ) , 's … ".
A byte-level model has never seen such text, so Radford et al. 2019 (section 3.1) measured it on text made natural
by rules that can be undone; then the probability of the one is the probability of the other, and nats divided by
the words of the tokenized text compare with word-level models. Their rules were not published; these are ours.

Tokens are glued into chunks (a word with its punctuation), and a chunk is kept only where `retokenize` gives its
tokens back; otherwise its tokens stay apart.

    >>> detokenize(' The 24 @-@ inch gun , known as " Bess " ( 1 @,@ 200 kg ) . ')
    'The 24-inch gun, known as "Bess" (1,200 kg).'
    >>> retokenize('(1,200 kg).')
    ['(', '1', '@,@', '200', 'kg', ')', '.']
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_INFIX = {"@-@": "-", "@,@": ",", "@.@": "."}
_MARK = {mark: token for token, mark in _INFIX.items()}
_CLOSING = frozenset((",", ".", ";", ":", "!", "?", "%", ")", "]", "}"))
_OPENING = frozenset(("(", "[", "{"))
_CONTRACTION = re.compile(r"'[a-z]{1,2}")  # 's 't 're 've 'll 'd 'm
_TAIL = re.compile(r"(?:\.{2,}|[\",.;:!?%)\]}]|'[a-z]{1,2})$")
_ABBREVIATION = re.compile(r"(?:[A-Za-z]\.)+|(?:Mrs?|Ms|Dr|St|Jr|Sr|Lt|Gen|Col|Sgt|Capt|Prof|Inc|Co|Ltd|vs)\.")
_BETWEEN = re.compile(r"(?<=[^-,.])([-,.])(?=[^-,.])")


@dataclass(frozen=True)
class Detokenized:
    """A text made natural.

    Args:
        text: the natural text, line for line.
        words: tokens parted by spaces in the tokenized text.
        lines: line ends of the tokenized text; word-level models predict one token for each.
        unrestored: tokens that `retokenize` does not give back.
    """

    text: str
    words: int
    lines: int
    unrestored: int


def detokenize_text(text: str) -> Detokenized:
    """A whole tokenized text, with the counts its perplexity is divided by."""
    lines = text.split("\n")
    natural = [detokenize(line) for line in lines]
    tokens = [line.split() for line in lines]
    lost = sum(
        sum(retokenize(token) != [token] for token in line)
        for written, line in zip(natural, tokens, strict=True)
        if retokenize(written) != line
    )
    # what follows the last line end is no line of its own
    return Detokenized("\n".join(natural), sum(map(len, tokens)), len(lines) - 1, lost)


def detokenize(line: str) -> str:
    """A line of WikiText as natural text."""
    chunks: list[list[str]] = []
    quoted = glued = False
    for token in line.split():
        to_left, to_right = False, False
        if token in _INFIX:
            to_left = to_right = True
        elif token in _CLOSING or _CONTRACTION.fullmatch(token):
            to_left = True
        elif token in _OPENING:
            to_right = True
        elif token == '"':  # opening and closing take turns within a line
            to_left, to_right = quoted, not quoted
            quoted = not quoted
        elif token == "=":  # = = Heading = =
            to_left = bool(chunks) and chunks[-1][-1] == "="
        if chunks and (to_left or glued):
            chunks[-1].append(token)
        else:
            chunks.append([token])
        glued = to_right
    return " ".join(part for chunk in chunks for part in _written(chunk))


def _written(tokens: list[str]) -> list[str]:
    """Glued tokens as one chunk where that can be undone, else one by one."""
    glued = "".join(_INFIX.get(token, token) for token in tokens)
    return [glued] if len(tokens) > 1 and _split(glued) == tokens else tokens


def retokenize(text: str) -> list[str]:
    """The tokens of a line that `detokenize` made natural."""
    return [token for chunk in text.split() for token in _split(chunk)]


def _split(chunk: str) -> list[str]:
    """The tokens of one chunk."""
    if chunk in _INFIX:
        return [chunk]
    if set(chunk) == {"="}:
        return list(chunk)
    before, after = [], []
    while chunk and chunk[0] in '"([{':
        before.append(chunk[0])
        chunk = chunk[1:]
    while not _ABBREVIATION.fullmatch(chunk) and (tail := _TAIL.search(chunk)):
        after.append(tail.group())
        chunk = chunk[: tail.start()]
    if _ABBREVIATION.fullmatch(chunk):
        middle = [chunk]
    else:
        middle = [_MARK.get(part, part) for part in _BETWEEN.split(chunk) if part]
    return [*before, *middle, *reversed(after)]

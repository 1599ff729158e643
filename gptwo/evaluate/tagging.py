"""Entities in tag sequences: schemes, conversion, and entity-level and token-level tables.

Two readings of a tag sequence, with the conventions of seqeval (https://github.com/chakki-works/seqeval):
- lenient (default), the rules of the CoNLL script conlleval: any scheme, and broken sequences, are read as well as
  can be; `I-LOC` after `O` begins an entity;
- strict, by a named scheme: only entities that the scheme allows count.

Further prefixes are read as their equals: L as E, U as S, M as I (BMES).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.evaluate.metrics import ClassTable, check_lengths, class_table, table_from_counts

SCHEMES = ("IOB1", "IOB2", "IOE2", "BIOES", "BILOU")
_ALIASES = {
    "BIO": "IOB2",
    "IOB": "IOB1",
    "IO": "IOB1",
    "IOBES": "BIOES",
    "BMES": "BIOES",
    "BMEOS": "BIOES",
    "BILUO": "BILOU",
}
_EQUAL_PREFIX = {"L": "E", "U": "S", "M": "I"}


class Entity(NamedTuple):
    """Tokens start..end-1 of one sentence are an entity of this type."""

    type: str
    start: int
    end: int


def scheme_name(scheme: str) -> str:
    """The canonical name of a scheme ("BIO" is "IOB2", …); raises `UsageError` for an unknown one."""
    name = scheme.upper()
    name = _ALIASES.get(name, name)
    if name not in SCHEMES:
        raise UsageError(f"Unknown tagging scheme {scheme!r}.", fix=did_you_mean(scheme, SCHEMES))
    return name


def split_tag(tag: str) -> tuple[str, str]:
    """("B", "LOC") of "B-LOC"; ("O", "") of "O"; the type of a bare prefix is "_". Raises `DataError` otherwise."""
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    if prefix not in {"B", "I", "E", "S", "L", "U", "M"} or (dash and not kind):
        raise DataError(
            f"{tag!r} is no entity tag.",
            why="An entity tag is O or PREFIX-TYPE, such as B-LOC.",
            fix="Give tags of one scheme: " + ", ".join(SCHEMES) + ".",
        )
    return prefix, kind or "_"


def _split(tags: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [split_tag(tag) for tag in tags]
    return [(_EQUAL_PREFIX.get(prefix, prefix), kind) for prefix, kind in pairs]


def entities(tags: Sequence[str], *, scheme: str | None = None) -> list[Entity]:
    """The entities of one sentence, in order.

    Args:
        tags: a tag for each token.
        scheme: None reads leniently (conlleval); a name of `SCHEMES` reads strictly.
    """
    return _lenient(_split(tags)) if scheme is None else _strict(tags, scheme_name(scheme))


def _lenient(pairs: list[tuple[str, str]]) -> list[Entity]:
    found: list[Entity] = []
    begin = 0
    before, kind_before = "O", ""
    for place, (prefix, kind) in enumerate([*pairs, ("O", "")]):
        changed = kind != kind_before
        closed = before in "ES" or prefix in "BSO" or changed
        if before != "O" and closed:
            found.append(Entity(kind_before, begin, place))
        if prefix != "O" and (prefix in "BS" or before in "OES" or changed):
            begin = place
        before, kind_before = prefix, kind
    return found


# For each scheme: the prefixes it allows; then whether (previous prefix, prefix, same type) starts an entity,
# continues one, and may end one (the prefix is the first one after the entity).
_RULES = {
    "IOB1": (
        "IOB",
        lambda p, c, same: (c == "I" and (p in "OB" or not same)) or (c == "B" and p in "IB" and same),
        lambda p, c, same: c == "I" and p in "BI" and same,
        lambda p, c, same: p != "O" and (c == "O" or (c == "I" and not same) or (c == "B" and (p == "I" or same))),
    ),
    "IOB2": (
        "IOB",
        lambda p, c, same: c == "B",
        lambda p, c, same: c == "I" and p in "BI" and same,
        lambda p, c, same: True,
    ),
    "IOE2": (
        "IOE",
        lambda p, c, same: c in "IE" and (p in "OE" or not same),
        lambda p, c, same: c in "IE" and p == "I" and same,
        lambda p, c, same: p == "E",
    ),
    "BIOES": (
        "IOBESM",
        lambda p, c, same: c in "BS",
        lambda p, c, same: c in "IE" and p in "BI" and same,
        lambda p, c, same: p in "ES",
    ),
}
_RULES["BILOU"] = ("IOBLU", *_RULES["BIOES"][1:])


def _strict(tags: Sequence[str], scheme: str) -> list[Entity]:
    allowed, starts, inside, ends = _RULES[scheme]
    pairs = [*_split(tags), ("O", "")]
    for tag in tags:
        if tag[0] not in allowed:
            raise DataError(
                f"{tag!r} is no tag of the scheme {scheme}.",
                fix="Convert with convert_tags(tags, to=...); detect_scheme(sequences) names the scheme.",
            )
    found, place = [], 0
    before = ("O", "")
    while place < len(pairs):
        now = pairs[place]
        if starts(before[0], now[0], before[1] == now[1]):
            end = place + 1
            while inside(pairs[end - 1][0], pairs[end][0], pairs[end - 1][1] == pairs[end][1]):
                end += 1
            if ends(pairs[end - 1][0], pairs[end][0], pairs[end - 1][1] == pairs[end][1]):
                found.append(Entity(now[1], place, end))
            place = end
        else:
            place += 1
        before = pairs[place - 1]
    return found


def detect_scheme(sequences: Sequence[Sequence[str]]) -> str | None:
    """The scheme of a data set: one of `SCHEMES`, "mixed" (IOB1 and IOB2 habits both occur), or None.

    None: the tags mark no entities (part-of-speech tags, or nothing but O), so only a token table makes sense.
    """
    prefixes: set[str] = set()
    try:
        for tags in sequences:
            prefixes.update(split_tag(tag)[0] for tag in tags)
    except DataError:
        return None
    if not prefixes - {"O"}:
        return None
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"S", "M"} or {"B", "E"} <= prefixes:
        return "BIOES"
    if "E" in prefixes:
        return "IOE2"
    i_starts = b_is_free = False
    for tags in sequences:
        kind_before = ""
        for prefix, kind in map(split_tag, tags):
            i_starts |= prefix == "I" and kind != kind_before
            b_is_free |= prefix == "B" and kind != kind_before
            kind_before = kind
    return "mixed" if i_starts and b_is_free else "IOB1" if i_starts else "IOB2"


def tags_of(found: Sequence[Entity], length: int, scheme: str) -> list[str]:
    """Entities of one sentence of `length` tokens as tags of `scheme`; the inverse of `entities`."""
    scheme = scheme_name(scheme)
    last, single = ("L", "U") if scheme == "BILOU" else ("E", "S")
    tags = ["O"] * length
    for entity in sorted(found, key=lambda entity: entity.start):
        prefixes = ["I"] * (entity.end - entity.start)
        if scheme == "IOB1":
            touches = entity.start > 0 and tags[entity.start - 1].partition("-")[2] == entity.type
            prefixes[0] = "B" if touches else "I"
        elif scheme == "IOE2":
            prefixes[-1] = "E"
        else:
            prefixes[0] = "B"
            if scheme in ("BIOES", "BILOU"):
                prefixes[-1] = last if len(prefixes) > 1 else single
        tags[entity.start : entity.end] = [f"{prefix}-{entity.type}" for prefix in prefixes]
    return tags


def convert_tags(tags: Sequence[str], to: str, *, scheme: str | None = None) -> list[str]:
    """The tags of one sentence in another scheme; read leniently, or strictly where `scheme` names their scheme."""
    return tags_of(entities(tags, scheme=scheme), len(tags), to)


def check_sequences(gold: Sequence[Sequence], predicted: Sequence[Sequence]) -> None:
    """Raise `DataError` unless each sentence has one predicted tag for each gold tag."""
    check_lengths(gold, predicted)
    for number, (truth, guess) in enumerate(zip(gold, predicted, strict=True), start=1):
        if len(truth) != len(guess):
            raise DataError(f"{len(guess)} predicted tags for {len(truth)} tokens.", where=f"sentence {number}")


def entity_counts(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, scheme: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Entity types (sorted) and (sentences, types, 3) counts of correct, predicted and gold entities."""
    check_sequences(gold, predicted)
    pairs = [
        (set(entities(truth, scheme=scheme)), set(entities(guess, scheme=scheme)))
        for truth, guess in zip(gold, predicted, strict=True)
    ]
    types = sorted({entity.type for pair in pairs for entity in pair[0] | pair[1]})
    index = {name: number for number, name in enumerate(types)}
    counts = np.zeros((len(pairs), len(types), 3), dtype=np.int64)
    for row, (truth, guess) in enumerate(pairs):
        for column, group in enumerate((truth & guess, guess, truth)):
            for entity in group:
                counts[row, index[entity.type], column] += 1
    return types, counts


def entity_table(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, scheme: str | None = None
) -> ClassTable:
    """Entity-level precision, recall and F1 for each type, with micro, macro and weighted averages.

    An entity is correct where type, first and last token all agree. `scheme` as in `entities`.
    """
    types, counts = entity_counts(gold, predicted, scheme=scheme)
    return table_from_counts(types, *counts.sum(0).T) if types else table_from_counts([], [], [], [])


def token_table(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, labels: Sequence[str] | None = None
) -> ClassTable:
    """Token-level table, a row for each tag (B-LOC … O). `.text(accuracy_row=False)` prints its "micro avg" row."""
    check_sequences(gold, predicted)
    flat = [[tag for tags in column for tag in tags] for column in (gold, predicted)]
    return class_table(*flat, labels=labels)

"""Checks of texts: encoding problems, lengths in tokens, what the model would not see."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gptwo.data.finding import Finding, Item, places
from gptwo.errors import amount

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,6});|<br\s*/?>|</?(?:p|div|span|a)\b[^<>]{0,200}>", re.IGNORECASE)
_WIDE = re.compile(r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_NARROW = re.compile(r"[0-9A-Za-z]")
_WIDE_MARK = re.compile(r"[\u4e00-\u9fff][，！？；：（）]")
_NARROW_MARK = re.compile(r"[\u4e00-\u9fff][,!?;:()](?=[\u4e00-\u9fff])")

# What the bytes 0x80..0xBF look like when UTF-8 was read as Windows-1252 (or Latin-1).
_TAIL = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MISREAD = re.compile(f"[\xc2-\xdf][{_TAIL}]|[\xe0-\xef][{_TAIL}]{{2}}|[\xf0-\xf4][{_TAIL}]{{3}}")
_PLAUSIBLE = re.compile(
    "[\xa0-\u017f\u0400-\u04ff\u2010-\u205e\u20ac\u2122\u3000-\u9fff\uff00-\uffef\U0001f300-\U0001faff]"
)
_CLOSING = "‘’“”–—…»›"
_MISREAD_CHINESE = re.compile("锟斤拷|烫烫烫|鈥[檚渟檛滄斺]")


def misread(text: str) -> tuple[str, str] | None:
    """The first place where UTF-8 was once read as another encoding, as (what stands there, what it was); else None."""
    for found in _MISREAD.finditer(text):
        if len(found.group()) == 2 and found.group()[0] not in "ÂÃÐÑ" and found.group()[1] in _CLOSING:
            continue  # a letter before a quotation mark or a dash, as in „Ä”
        raw = bytearray()
        for character in found.group():
            try:
                raw += character.encode("cp1252")
            except UnicodeEncodeError:
                raw += character.encode("latin-1", "ignore")
        was = raw.decode("utf-8", "ignore")
        if len(was) == 1 and _PLAUSIBLE.match(was):
            return found.group(), was
    if chinese := _MISREAD_CHINESE.search(text):
        return chinese.group(), "?"
    return None


def encoding_findings(items: Sequence[Item]) -> list[Finding]:
    """Characters that tell of a wrong encoding or that a model should not have to learn."""
    findings = []

    def look(check: str, severity: str, what: str, fix: str, wrong: Callable[[str], object]) -> None:
        found = [item for item in items if wrong(item.text)]
        if found:
            noun = "record holds" if len(found) == 1 else "records hold"
            findings.append(Finding(check, severity, f"{len(found):,} {noun} {what}", len(found), places(found), fix))

    look(
        "replacement-characters",
        "warning",
        "U+FFFD, the mark of bytes that were no text",
        "Read the original file again with its real encoding (--encoding gb18030, latin-1, …).",
        lambda text: "\ufffd" in text,
    )
    found = [(item, pair) for item in items if (pair := misread(item.text))]
    if found:
        there, was = found[0][1]
        findings.append(
            Finding(
                "mojibake",
                "warning",
                f"{amount(len(found), 'record')} read in a wrong encoding at some time, e.g. {there!r} for {was!r}",
                len(found),
                places(item for item, _ in found),
                "Read the original file as UTF-8, or repair it (text.encode('cp1252').decode('utf-8')).",
            )
        )
    look(
        "byte-order-marks",
        "warning",
        "a byte order mark (U+FEFF) inside the text",
        "Remove U+FEFF; it comes from joining files that begin with one.",
        lambda text: "\ufeff" in text,
    )
    look(
        "control-characters",
        "warning",
        "control or invisible characters",
        "Remove them: re.sub(r'[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u200b\\u2060]', '', text).",
        _CONTROL.search,
    )
    look(
        "markup",
        "info",
        "HTML tags or entities",
        "Unescape and strip them (html.unescape), unless the model will meet them in use.",
        _MARKUP.search,
    )
    findings += _widths(items)
    return findings


def _widths(items: Sequence[Item]) -> list[Finding]:
    """Full-width and half-width forms of the same characters in one data set are different tokens."""
    findings = []
    wide = [item for item in items if _WIDE.search(item.text)]
    if wide and any(_NARROW.search(item.text) for item in items):
        what = f"{amount(len(wide), 'record')} with full-width letters or digits (ＡＢＣ１２３) beside half-width ones"
        fix = "Use one form, here and in use: unicodedata.normalize('NFKC', text)."
        findings.append(Finding("mixed-width", "info", what, len(wide), places(wide), fix))
    narrow = [item for item in items if _NARROW_MARK.search(item.text)]
    usual = sum(1 for item in items if _WIDE_MARK.search(item.text))
    if narrow and usual:
        what = (
            f"{amount(len(narrow), 'record')} with half-width marks (,.?) between Chinese characters, "
            f"{usual:,} with full-width ones"
        )
        fix = "Fine if it is so in use too; else use one form."
        findings.append(Finding("mixed-punctuation", "info", what, len(narrow), places(narrow), fix))
    return findings


def length_findings(
    items: Sequence[Item], tokenizer: Tokenizer | None = None, max_length: int | None = None
) -> list[Finding]:
    """Empty and one-token texts, lengths, and how many records are longer than the model reads.

    Args:
        tokenizer: counts tokens; without one characters are counted, and truncation is not checked.
        max_length: tokens the model reads of a record.
    """
    findings = []
    empty = [item for item in items if not item.text.strip()]
    if empty:
        what, fix = f"{amount(len(empty), 'record')} without text", "Fill them in or remove them."
        findings.append(Finding("empty-texts", "error", what, len(empty), places(empty), fix))
    if tokenizer is None:
        lengths, unit = np.array([len(item.text) for item in items]), "character"
    else:
        lengths, unit = _token_counts([item.text for item in items], tokenizer), "token"
    tiny = [item for item, length in zip(items, lengths, strict=True) if length <= 1 and item.text.strip()]
    if tiny:
        what = f"{amount(len(tiny), 'record')} of a single {unit}"
        fix = "Look whether something was cut off."
        findings.append(Finding("one-token-texts", "warning", what, len(tiny), places(tiny), fix))
    for split in ("train", "valid", "test"):
        own = [(item, length) for item, length in zip(items, lengths.tolist(), strict=True) if item.split == split]
        if not own:
            continue
        values = [length for _, length in own]
        low, middle, high, top = (int(x) for x in np.quantile(values, [0, 0.5, 0.95, 1], method="higher"))
        what = f"{split}: {len(own):,} records of {low:,} to {top:,} {unit}s, median {middle:,}, 95 % up to {high:,}"
        detail = {
            "split": split,
            "unit": unit,
            "records": len(own),
            "min": low,
            "median": middle,
            "p95": high,
            "max": top,
        }
        findings.append(Finding("lengths", "info", what, len(own), [], "", detail))
        if tokenizer is not None and max_length is not None:
            findings += _truncation(split, own, max_length, high)
    return findings


def _truncation(split: str, own: list[tuple[Item, int]], max_length: int, high: int) -> list[Finding]:
    cut = [item for item, length in own if length > max_length]
    if not cut:
        return []
    share = len(cut) / len(own)
    lost = sum(length - max_length for _, length in own if length > max_length) / sum(length for _, length in own)
    severity = "warning" if share > 0.05 else "info"
    return [
        Finding(
            "truncation",
            severity,
            f"{amount(len(cut), split + ' record')} ({share:.1%}) are longer than {max_length:,} tokens; "
            f"{lost:.1%} of all tokens would be cut off",
            len(cut),
            places(cut),
            f"Raise the maximal length (95 % need {high:,}), or split or shorten the texts.",
            {"split": split, "max_length": max_length, "share": share, "tokens_lost": lost},
        )
    ]


def _token_counts(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    counts: list[int] = []
    for start in range(0, len(texts), 1000):
        counts += [len(ids) for ids in tokenizer.encode_batch(texts[start : start + 1000])]
    return np.array(counts, dtype=np.int64)

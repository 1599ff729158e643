"""Personal numbers in text: e-mail, phone, identity card, bank card; international and Chinese.

What has a check digit is checked, so that an order number is not taken for a card; what has none (phones) must have
the form of one. A pattern finds forms, never meanings: names and addresses stay.

    >>> found = find("Call 13812345678 or write to li@example.cn")
    >>> [(one.kind, one.text) for one in found]
    [('phone', '13812345678'), ('email', 'li@example.cn')]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

KINDS = ("email", "phone", "id", "card")
# Full-width digits and signs, as Chinese input methods write them, one character for one.
_NARROW = {ord("０") + i: str(i) for i in range(10)} | {ord("＠"): "@", ord("．"): ".", ord("－"): "-", ord("　"): " "}
_NARROW |= {ord("＋"): "+", ord("（"): "(", ord("）"): ")", ord("Ｘ"): "X", ord("ｘ"): "x"}


@dataclass(frozen=True)
class Found:
    """A place in a text.

    Args:
        kind: one of `KINDS`.
        form: what it looks like, e.g. "Chinese mobile".
        start, end: in characters.
        text: what stands there.
    """

    kind: str
    form: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Pattern:
    """A form to look for; `holds` decides about what matched."""

    kind: str
    form: str
    expression: re.Pattern[str]
    holds: Callable[[str], bool] = lambda text: True


def _compiled(expression: str) -> re.Pattern[str]:
    """Not inside a longer number or word."""
    return re.compile(rf"(?<![0-9A-Za-z])(?:{expression})(?![0-9A-Za-z])")


def is_chinese_id(text: str) -> bool:
    """A resident identity number of 18 places: a birth date and a check digit (GB 11643, ISO 7064 MOD 11-2).

    >>> is_chinese_id("11010519491231002X"), is_chinese_id("110105194912310021")
    (True, False)
    """
    if not re.fullmatch(r"[1-8][0-9]{16}[0-9Xx]", text) or not _is_date(text[6:14]):
        return False
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def is_old_chinese_id(text: str) -> bool:
    """An identity number of 15 places, issued until 1999: no check digit, but a birth date."""
    return bool(re.fullmatch(r"[1-8][0-9]{14}", text)) and _is_date("19" + text[6:12])


def is_luhn(text: str) -> bool:
    """Whether a number of 13 to 19 digits has the check digit of bank cards (ISO/IEC 7812-1).

    >>> is_luhn("4111 1111 1111 1111"), is_luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """An international bank account number (ISO 13616, MOD 97-10).

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    plain = text.replace(" ", "").upper()
    if not re.fullmatch(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", plain):
        return False
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def is_long_enough(text: str) -> bool:
    """A phone number with its country has 8 to 17 digits (ITU-T E.164, with the two zeros)."""
    return 8 <= sum(character.isdigit() for character in text) <= 17


def _is_date(text: str) -> bool:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) <= date(2100, 1, 1)
    except ValueError:
        return False


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_IBAN = _compiled(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?")
_CARD = _compiled(
    r"[1-9][0-9]{12,18}|[1-9][0-9]{3}(?:[ -][0-9]{4}){3}(?:[ -]?[0-9]{1,3})?|3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5}"
)
_SOCIAL_SECURITY = _compiled(r"(?!000|666|9[0-9]{2})[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}")
_MOBILE = _compiled(r"(?:(?:\+|00)?86[ -]?)?1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4})")
_LANDLINE = _compiled(r"(?:\(0[0-9]{2,3}\) ?|0[0-9]{2,3}[ -])[2-9][0-9]{6,7}(?:-[0-9]{1,5})?")
_NORTH_AMERICAN = _compiled(r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[ .-][0-9]{4}")
_INTERNATIONAL = re.compile(
    r"(?<![0-9A-Za-z+])(?:\+|00(?=[1-9]))[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,5}\)?){2,6}(?![0-9A-Za-z])"
)

# The order decides where two would overlap: the more certain form first.
PATTERNS = (
    Pattern("email", "e-mail address", _EMAIL),
    Pattern("id", "Chinese identity card", _compiled(r"[1-8][0-9]{16}[0-9Xx]"), is_chinese_id),
    Pattern("card", "IBAN", _IBAN, is_iban),
    Pattern("card", "bank card", _CARD, is_luhn),
    Pattern("id", "Chinese identity card, 15 places", _compiled(r"[1-8][0-9]{14}"), is_old_chinese_id),
    Pattern("id", "US social security number", _SOCIAL_SECURITY),
    Pattern("phone", "Chinese mobile", _MOBILE),
    Pattern("phone", "Chinese landline", _LANDLINE),
    Pattern("phone", "Chinese service number", _compiled(r"[48]00[ -][0-9]{3}[ -][0-9]{4}")),
    Pattern("phone", "North American", _NORTH_AMERICAN),
    Pattern("phone", "international", _INTERNATIONAL, is_long_enough),
)


def find(text: str, kinds: Sequence[str] = KINDS) -> list[Found]:
    """Places of personal numbers in a text, in order, none over another."""
    narrow = text.translate(_NARROW)
    taken = bytearray(len(text))
    found = []
    for pattern in PATTERNS:
        if pattern.kind not in kinds:
            continue
        for start, end in _matches(pattern, narrow):
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Found(pattern.kind, pattern.form, start, end, text[start:end]))
    return sorted(found, key=lambda one: one.start)


def _matches(pattern: Pattern, text: str) -> Iterator[tuple[int, int]]:
    for match in pattern.expression.finditer(text):
        if pattern.holds(match.group()):
            yield match.span()


def redact(text: str, kinds: Sequence[str] = KINDS) -> tuple[str, list[Found]]:
    """A text with "[EMAIL]", "[PHONE]", "[ID]", "[CARD]" in place of personal numbers, and what stood there.

    >>> redact("write to li@example.cn")[0]
    'write to [EMAIL]'
    """
    found = find(text, kinds)
    parts, done = [], 0
    for one in found:
        parts += [text[done : one.start], f"[{one.kind.upper()}]"]
        done = one.end
    return "".join([*parts, text[done:]]), found

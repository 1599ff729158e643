"""Forms of Chinese verse that can be told by counting: how many lines, of how many characters.

    五言绝句    4 lines of 5        七言绝句    4 lines of 7
    五言律诗    8 lines of 5        七言律诗    8 lines of 7

A line ends at a punctuation mark or with the row, so two halves of a couplet are two lines. Tones and rhyme are not
looked at.
"""

from __future__ import annotations

import re

FORMS = {"五言绝句": (5,) * 4, "七言绝句": (7,) * 4, "五言律诗": (5,) * 8, "七言律诗": (7,) * 8}
TRADITIONAL = str.maketrans("絕詩", "绝诗")
_BREAK = re.compile(r"[\s，。！？；、：,.!?;:]+")
_CHARACTER = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def metre(text: str) -> tuple[int, ...]:
    """Characters of each line; 0 for a line in which something else stands.

    >>> metre("春眠不觉晓，处处闻啼鸟。\\n夜来风雨声，花落知多少。")
    (5, 5, 5, 5)
    """
    lines = [line for line in _BREAK.split(text) if line]
    return tuple(len(line) if len(_CHARACTER.findall(line)) == len(line) else 0 for line in lines)


def is_form(name: str) -> bool:
    """Whether that is the name of a form, in simplified or traditional characters."""
    return name.translate(TRADITIONAL) in FORMS


def keeps(text: str, form: str) -> bool:
    """Whether a text has the lines of a form.

    Args:
        form: a name for which `is_form` holds.
    """
    return metre(text) == FORMS[form.translate(TRADITIONAL)]

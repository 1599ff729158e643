"""Indentation that a small vocabulary can write: a tab for each level, whatever the program was indented with.

A vocabulary without tokens for runs of spaces writes each space alone, and a network that must count them gets lost;
Codex added such tokens (Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 3.2).
"""

from __future__ import annotations

import io
import tokenize


def indented(code: str, unit: str) -> str:
    r"""A Python program with `unit` for each level of indentation; other text as it is.

    Lines that go on with an expression or a string keep their white space.

    >>> indented("if x:\n   y = 1\n   if z:\n      y = 2", "\t")
    'if x:\n\ty = 1\n\tif z:\n\t\ty = 2'
    >>> indented("if x:\n  for (", "\t")
    'if x:\n  for ('
    """
    code = code.replace("\r\n", "\n")
    lines = code.split("\n")
    level, begins = 0, True
    try:
        for token in tokenize.generate_tokens(io.StringIO(code + "\n").readline):
            if token.type == tokenize.INDENT:
                level += 1
            elif token.type == tokenize.DEDENT:
                level -= 1
            elif token.type == tokenize.NEWLINE:
                begins = True
            elif begins and token.type not in (tokenize.NL, tokenize.ENDMARKER):
                number = token.start[0] - 1
                lines[number] = unit * level + lines[number].lstrip(" \t\f")
                begins = token.type == tokenize.COMMENT
    except (tokenize.TokenError, SyntaxError):
        return code
    return "\n".join(lines)

"""A few sound records of every task, and what its recipe needs beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ("cat", "dog")


def _text(i: int) -> str:
    return f"the {WORDS[i % 2]} sat {i}"


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "language": lambda i: {"text": _text(i)},
    "classify": lambda i: {"text": _text(i), "label": WORDS[i % 2]},
    "ordinal": lambda i: {"text": _text(i), "label": str(i % 3)},
    "hierarchy": lambda i: {"text": _text(i), "label": f"pet/{WORDS[i % 2]}" if i % 3 else "wild/bird"},
    "multi-label": lambda i: {"text": _text(i), "label": [WORDS[i % 2], "pet"][: 1 + i % 2]},
    "tag": lambda i: {"tokens": ["the", WORDS[i % 2], "sat"], "tags": ["O", f"B-{WORDS[i % 2].upper()}", "O"]},
    "match": lambda i: {"text_a": _text(i), "text_b": _text(i // 2), "label": "same" if i % 3 else "other"},
    "rank": lambda i: {"query": WORDS[i % 2], "candidates": ["cat a", "dog b"], "relevant": [1 - i % 2, i % 2]},
    "choice": lambda i: {"stem": f"{i} the ___ sat", "choices": list(WORDS), "answer": WORDS[i % 2]},
    "extract": lambda i: {"context": f"{_text(i)} on the mat", "question": "who?", "answers": [WORDS[i % 2]]},
    "joint": lambda i: {"text": _text(i), "topic": WORDS[i % 2], "mood": ("good", "bad")[i // 2 % 2]},
    "translate": lambda i: {"source": _text(i), "target": WORDS[i % 2]},
    "summarize": lambda i: {"document": _text(i), "summary": WORDS[i % 2]},
    "answer": lambda i: {"context": _text(i), "question": "who?", "answers": [WORDS[i % 2]]},
    "dialogue": lambda i: {
        "messages": [{"role": "user", "content": _text(i)}, {"role": "assistant", "content": WORDS[i % 2]}]
    },
    "control": lambda i: {"control": {"pet": WORDS[i % 2]}, "text": _text(i)},
    "code": lambda i: {"prompt": f"add {i}", "code": f"x = {i}", "tests": [f"assert x == {i}"]},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ordinal": {"task.ordinal": True},
    "hierarchy": {"task.hierarchy": "/"},
    "multi-label": {"task.multi_label": True},
    "joint": {"task.kinds": ["topic", "mood"]},
}
SHAPES = {"ordinal": "classify", "hierarchy": "classify", "multi-label": "classify"}  # rows to the task they are of


def rows_of(kind: str, count: int = 24) -> list[dict[str, Any]]:
    """Records of a kind in `ROWS`."""
    return [ROWS[kind](i) for i in range(count)]


def settings_of(kind: str) -> dict[str, Any]:
    """Recipe keys of a kind."""
    return {"task.name": SHAPES.get(kind, kind), **SETTINGS.get(kind, {})}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path

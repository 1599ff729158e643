"""Lists to rank, for the recipe rank.toml, out of questions with answers in SQuAD's format.

    python recipes/finetune/rank_data.py QUESTIONS.json OUT

The candidates of a question are the sentences of its paragraph; relevant is the one that holds the answer. OUT gets
train.jsonl and test.jsonl: every fifth paragraph is for the test.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end."""
    found = [match.span() for match in re.finditer(r"[^。！？!?.]+(?:[.](?!\s|$)[^。！？!?.]*)*[。！？!?.]*", text)]
    return [(start, end) for start, end in found if text[start:end].strip()]


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {"train": [], "test": []}
    paragraphs = [
        p for article in json.loads(source.read_text(encoding="utf-8"))["data"] for p in article["paragraphs"]
    ]
    for number, paragraph in enumerate(paragraphs):
        text, spans = paragraph["context"], sentences_of(paragraph["context"])
        for question in paragraph["qas"]:
            starts = [answer["answer_start"] for answer in question["answers"]]
            grades = [int(any(start <= place < end for place in starts)) for start, end in spans]
            if len(spans) > 1 and any(grades):
                record = {
                    "query": question["question"],
                    "candidates": [text[start:end].strip() for start, end in spans],
                    "relevant": grades,
                }
                parts["test" if number % 5 == 4 else "train"].append(json.dumps(record, ensure_ascii=False))
    for part, lines in parts.items():
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(lines):,} questions")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Questions with their contexts, for the recipe extract.toml, out of a file in SQuAD's format.

    python recipes/finetune/extract_data.py QUESTIONS.json OUT

OUT gets train.jsonl, valid.jsonl and test.jsonl: every tenth paragraph is for valid, every fifth for the test, so that
no context stands in two parts. A wrong place of an answer is corrected where its text occurs in the context only once;
other questions with a wrong place are left out, and counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def placed(context: str, answer: dict) -> dict | None:
    """An answer with its right place, None where that is not certain."""
    text, start = answer["text"], answer["answer_start"]
    if context[start : start + len(text)] == text:
        return {"text": text, "answer_start": start}
    return {"text": text, "answer_start": context.find(text)} if context.count(text) == 1 else None


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    left_out = 0
    articles = json.loads(source.read_text(encoding="utf-8"))["data"]
    for number, paragraph in enumerate(paragraph for article in articles for paragraph in article["paragraphs"]):
        part = "test" if number % 5 == 4 else "valid" if number % 10 == 0 else "train"
        context = paragraph["context"]
        for question in paragraph["qas"]:
            found = [placed(context, answer) for answer in question["answers"]]
            answers = list({answer["text"]: answer for answer in found if answer is not None}.values())
            if found and not answers:
                left_out += 1
                continue
            record = {"context": context, "question": question["question"], "answers": answers}
            parts[part].append(json.dumps(record, ensure_ascii=False))
    for part, lines in parts.items():
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(lines):,} questions")
    print(f"left out, their answer not being in the context: {left_out:,}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

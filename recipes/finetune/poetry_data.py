"""Poems for the recipes language-poetry.toml (宋词) and control-poetry.toml (forms of 全唐诗).

    python recipes/finetune/poetry_data.py DATA/chinese_poetry OUT
    python recipes/finetune/poetry_data.py DATA/chinese_poetry OUT forms

OUT gets train.jsonl and test.jsonl. 宋词 have title (词牌), author and text; their test is the files that gptwo-mini
was not pretrained on. With "forms" the records are poems of four forms, told by their lines, with form and title as
the control; the last two files give the test, 50 poems of each form.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

from gptwo.tasks.forms import FORMS, metre

TEST_FILES = ("ci.song.20000.json", "ci.song.21000.json")
FORM_TEST_FILES = ("poet.tang.56000.json", "poet.tang.57000.json")
TEST_OF_EACH = 50
Parts = dict[str, list[dict]]


def songs(source: Path) -> Parts:
    """宋词 by title and author."""
    parts: Parts = {"train": [], "test": []}
    for path in sorted(source.glob("宋词/ci.song.*.json")):
        part = "test" if path.name in TEST_FILES else "train"
        for poem in json.loads(path.read_text(encoding="utf-8")):
            text = "\n".join(poem["paragraphs"])
            if text and "□" not in text:  # □ marks characters that are lost
                parts[part].append({"title": poem["rhythmic"], "author": poem["author"], "text": text})
    return parts


def forms(source: Path) -> Parts:
    """Poems of known forms by form and title, in an order drawn once."""
    names = {lines: name for name, lines in FORMS.items()}
    parts: Parts = {"train": [], "test": []}
    for path in sorted(source.glob("全唐诗/poet.tang.*.json")):
        part = "test" if path.name in FORM_TEST_FILES else "train"
        for poem in json.loads(path.read_text(encoding="utf-8")):
            text = "\n".join(poem["paragraphs"])
            form = names.get(metre(text))
            if form and poem["title"]:
                parts[part].append({"control": {"form": form, "title": poem["title"]}, "text": text})
    for records in parts.values():
        random.Random(0).shuffle(records)
    counts: Counter[str] = Counter()
    few = []
    for record in parts["test"]:
        counts[record["control"]["form"]] += 1
        if counts[record["control"]["form"]] <= TEST_OF_EACH:
            few.append(record)
    return {"train": parts["train"], "test": few}


def main(source: Path, out: Path, kind: str = "songs") -> None:
    out.mkdir(parents=True, exist_ok=True)
    parts = {"songs": songs, "forms": forms}[kind](source)
    lines = {part: [json.dumps(record, ensure_ascii=False) for record in records] for part, records in parts.items()}
    seen = set(lines["train"])
    lines["test"] = [line for line in lines["test"] if line not in seen]
    for part, found in lines.items():
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(found):,} poems")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])

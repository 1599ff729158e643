"""Records of 宋词 for the recipe language-poetry.toml: title (词牌), author, text.

    python recipes/finetune/poetry_data.py DATA/chinese_poetry OUT

OUT gets train.jsonl, and test.jsonl from the files that gptwo-mini was not pretrained on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TEST_FILES = ("ci.song.20000.json", "ci.song.21000.json")


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for path in sorted(source.glob("宋词/ci.song.*.json")):
        part = "test" if path.name in TEST_FILES else "train"
        for poem in json.loads(path.read_text(encoding="utf-8")):
            text = "\n".join(poem["paragraphs"])
            if text and "□" not in text:  # □ marks characters that are lost
                record = {"title": poem["rhythmic"], "author": poem["author"], "text": text}
                parts[part].append(json.dumps(record, ensure_ascii=False))
    seen = set(parts["train"])
    parts["test"] = [line for line in parts["test"] if line not in seen]
    for part, lines in parts.items():
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(lines):,} poems")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Lay out the text that gptwo-mini is trained and judged on.

    python recipes/pretrain/mini_corpus.py DATA OUT

DATA holds the unpacked sets `corpus` (required), `chinese_poetry`, `crosswoz` and `sgd` (used where present).
OUT gets train/*.txt and valid/en.txt, valid/zh.txt: the last 100 documents of each language, which nothing else of
the recipe reads. Documents are separated by a line <|endoftext|>.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

SEPARATOR = "<|endoftext|>"
HELD_OUT = 100
HELD_OUT_POEMS = ("ci.song.20000.json", "ci.song.21000.json", "ci.song.2019y.json")


def documents(path: Path) -> list[str]:
    return [part.strip("\n") for part in path.read_text(encoding="utf-8").split(f"\n{SEPARATOR}\n") if part.strip()]


def poems(folder: Path) -> Iterator[str]:
    """宋词 as 词牌, author and lines; the last files stay out, to fine-tune and judge poem generation on."""
    for path in sorted(folder.glob("宋词/ci.song.*.json")):
        if path.name in HELD_OUT_POEMS:
            continue
        for poem in json.loads(path.read_text(encoding="utf-8")):
            yield f"《{poem['rhythmic']}》\n{poem['author']}\n" + "\n".join(poem["paragraphs"])


def dialogues(crosswoz: Path, sgd: Path) -> Iterator[str]:
    """Turns as `用户:` / `客服:` and `User:` / `Assistant:` lines."""
    archive = crosswoz / "val.json.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as file:
            for dialogue in json.loads(file.read("val.json")).values():
                names = {"usr": "用户", "sys": "客服"}
                yield "\n".join(f"{names[turn['role']]}：{turn['content']}" for turn in dialogue["messages"])
    for path in sorted(sgd.glob("dev/dialogues_*.json")):
        for dialogue in json.loads(path.read_text(encoding="utf-8")):
            names = {"USER": "User", "SYSTEM": "Assistant"}
            yield "\n".join(f"{names[turn['speaker']]}: {turn['utterance']}" for turn in dialogue["turns"])


def write(path: Path, texts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(f"{text}\n{SEPARATOR}\n")
            count += 1
    print(f"{path}: {count:,} documents, {path.stat().st_size:,} bytes")


def main(data: Path, out: Path) -> None:
    for language in ("en", "zh"):
        texts = documents(data / "corpus" / f"{language}.txt")
        write(out / "train" / f"{language}.txt", texts[:-HELD_OUT])
        write(out / "valid" / f"{language}.txt", texts[-HELD_OUT:])
    write(out / "train" / "poetry.txt", poems(data / "chinese_poetry"))
    write(out / "train" / "dialogue.txt", dialogues(data / "crosswoz", data / "sgd"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

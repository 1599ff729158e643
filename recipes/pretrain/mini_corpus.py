"""Lay out the text that gptwo-mini is trained and judged on.

    python recipes/pretrain/mini_corpus.py DATA OUT

DATA holds the unpacked sets `corpus` (required), `chinese_poetry`, `crosswoz`, `sgd`, `clue_corpus_sample` and
`llama_factory_demo` (used where present). OUT gets train/*.txt and valid/en.txt, valid/zh.txt: the last 100 documents
of each language, which nothing else of the recipe reads. Documents are separated by a line <|endoftext|>.
"""

from __future__ import annotations

import json
import random
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

SEPARATOR = "<|endoftext|>"
HELD_OUT = 100
HELD_OUT_PAIRS = 2000
PAIRS_IN_A_DOCUMENT = 16
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


def pairs(path: Path) -> Iterator[str]:
    """English sentences and their Chinese, in documents of random pairs; the last pairs of the file stay out."""
    lines = path.read_text(encoding="utf-8").splitlines()[:-HELD_OUT_PAIRS] if path.exists() else []
    random.Random(0).shuffle(lines)
    for start in range(0, len(lines), PAIRS_IN_A_DOCUMENT):
        yield "\n".join("\n".join(line.split("\t")[:2]) for line in lines[start : start + PAIRS_IN_A_DOCUMENT])


def instructions(folder: Path) -> Iterator[str]:
    """Questions and answers in the turns of `dialogues`."""
    for name, user, assistant in (("en", "User: ", "Assistant: "), ("zh", "用户：", "客服：")):
        path = folder / f"alpaca_{name}_demo.json"
        for record in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
            question = "\n".join(part for part in (record["instruction"], record["input"]) if part)
            yield f"{user}{question}\n{assistant}{record['output']}"


def web(path: Path) -> Iterator[str]:
    """Chinese news and web pages, a line each."""
    if path.exists():
        yield from filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines()))


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
    write(out / "train" / "pairs.txt", pairs(data / "corpus" / "pairs_en_zh.tsv"))
    write(out / "train" / "instructions.txt", instructions(data / "llama_factory_demo"))
    write(out / "train" / "web.txt", web(data / "clue_corpus_sample" / "CLUECorpusSmall_sampled.txt"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

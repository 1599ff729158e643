"""Records for the recipes match.toml, joint.toml and classify.toml, out of Chinese data sets as they are published.

    python recipes/finetune/label_data.py csl DATA/fewclue/csl OUT
    python recipes/finetune/label_data.py tnews DATA/fewclue/tnews OUT
    python recipes/finetune/label_data.py smp2020 DATA/smp2020_ewect OUT

csl asks whether all keywords are those of an abstract: pairs of texts. tnews are headlines; their 15 labels are put
under three areas, "economy/finance". smp2020 are posts with two kinds of labels: about the epidemic or not, and one of
six emotions. OUT gets train.jsonl, valid.jsonl and test.jsonl.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

FEWCLUE = {"train": "train_few_all.json", "valid": "dev_few_all.json", "test": "test_public.json"}
AREAS = {
    "economy": ("finance", "stock", "house", "car", "tech", "agriculture"),
    "leisure": ("story", "culture", "entertainment", "sports", "game", "travel"),
    "society": ("edu", "military", "world"),
}
Parts = dict[str, list[dict]]


def fewclue(folder: Path, record: Callable[[dict], dict]) -> Parts:
    """The labelled parts of a FewCLUE task, all of its draws together."""
    lines = {part: (folder / name).read_text(encoding="utf-8").splitlines() for part, name in FEWCLUE.items()}
    return {part: [record(json.loads(line)) for line in found if line.strip()] for part, found in lines.items()}


def csl(folder: Path) -> Parts:
    """An abstract and keywords, and whether these are its own."""
    return fewclue(
        folder, lambda row: {"text_a": row["abst"], "text_b": "；".join(row["keyword"]), "label": row["label"]}
    )


def tnews(folder: Path) -> Parts:
    """Headlines; a label is a path of area and topic."""
    area_of = {topic: area for area, topics in AREAS.items() for topic in topics}

    def record(row: dict) -> dict:
        topic = row["label_desc"].removeprefix("news_")
        return {"text": row["sentence"], "label": f"{area_of[topic]}/{topic}"}

    return fewclue(folder, record)


def smp2020(folder: Path) -> Parts:
    """Posts in an order drawn once, so that any number of them from the beginning is a fair sample."""
    lines = (folder / "usual" / "labels.json").read_text(encoding="utf-8").splitlines()
    names = {row["label"]: row["label_desc"] for row in map(json.loads, filter(None, lines))}

    def posts(name: str) -> Iterator[dict]:
        for topic in ("usual", "virus"):
            with (folder / topic / name).open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                    if row["text_a"]:
                        yield {"text": row["text_a"], "topic": topic, "emotion": names[row["label"]]}

    parts = {"train": list(posts("train.tsv")), "valid": list(posts("dev.tsv")), "test": list(posts("test.tsv"))}
    for records in parts.values():
        random.Random(0).shuffle(records)
    return parts


def main(kind: str, source: Path, out: Path) -> None:
    readers: dict[str, Callable[[Path], Parts]] = {"csl": csl, "tnews": tnews, "smp2020": smp2020}
    out.mkdir(parents=True, exist_ok=True)
    for part, records in readers[kind](source).items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(lines):,} records")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

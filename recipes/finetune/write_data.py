"""Records for the recipes of tasks that write, out of data sets as they are published.

    python recipes/finetune/write_data.py multi30k DATA/multi30k OUT [en de]
    python recipes/finetune/write_data.py news DATA/news_commentary_en_zh_sample/FILE.txt OUT [en zh]
    python recipes/finetune/write_data.py squad DATA/xquad/xquad.en.json OUT
    python recipes/finetune/write_data.py dailydialog DATA/dailydialog OUT
    python recipes/finetune/write_data.py crosswoz DATA/crosswoz OUT
    python recipes/finetune/write_data.py e2e DATA/e2e_nlg OUT
    python recipes/finetune/write_data.py mbpp DATA/mbpp/mbpp.jsonl OUT
    python recipes/finetune/write_data.py conala DATA/conala OUT
    python recipes/finetune/write_data.py humaneval DATA/humaneval/HumanEval.jsonl.gz OUT DATA/mbpp/mbpp.jsonl

OUT gets train.jsonl, valid.jsonl where there is one, and test.jsonl. SQuAD-like files have one part: their contexts are
parted four to one, so that no context of test is learned from; so are the orders of E2E's validation part. CrossWOZ has
no training part here: its validation part is learned from. Of the news, lines of English and Chinese parted by a tab,
the last hundred are for the test and the fifty before them for validation. HumanEval is a test only: functions of MBPP,
written as it writes them, are learned from. SciTLDR needs none of this; see summarize.toml.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Parts = dict[str, Iterable[dict]]


def multi30k(folder: Path, source: str = "en", target: str = "de") -> Parts:
    """Captions of pictures in two languages, line by line."""

    def pairs(part: str) -> Iterator[dict]:
        columns = [
            gzip.decompress((folder / f"{part}.{language}.gz").read_bytes()).decode("utf-8").splitlines()
            for language in (source, target)
        ]
        for one, other in zip(*columns, strict=True):
            yield {"source": one.strip(), "target": other.strip()}

    return {"train": pairs("train"), "valid": pairs("val"), "test": pairs("test_2016_flickr")}


def news(file: Path, source: str = "en", target: str = "zh") -> Parts:
    """Sentences of articles in their order, English and Chinese."""
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    columns = ("en", "zh")
    pairs = [{column: text.strip() for column, text in zip(columns, row, strict=True)} for row in rows]
    records = [{"source": pair[source], "target": pair[target]} for pair in pairs if all(pair.values())]
    return {"train": records[:-150], "valid": records[-150:-100], "test": records[-100:]}


def squad(file: Path) -> Parts:
    """Questions about paragraphs; every fifth paragraph is for the test."""
    parts: dict[str, list[dict]] = {"train": [], "test": []}
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    for number, paragraph in enumerate(paragraphs):
        for asked in paragraph["qas"]:
            answers = [answer["text"] for answer in asked["answers"] if answer["text"].strip()]
            record = {"context": paragraph["context"], "question": asked["question"], "answers": answers}
            parts["test" if number % 5 == 4 else "train"].append(record)
    return dict(parts)


def dailydialog(folder: Path) -> Parts:
    """Talk between two; the second speaker is the assistant."""

    def dialogues(part: str) -> Iterator[dict]:
        with zipfile.ZipFile(folder / f"{part}.zip") as packed:
            lines = packed.read(f"{part}/dialogues_{part}.txt").decode("utf-8").splitlines()
        for line in lines:
            turns = [" ".join(turn.split()) for turn in line.split("__eou__") if turn.strip()]
            if len(turns) > 1:
                roles = ("user", "assistant") * len(turns)
                yield {"messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]}

    return {"train": dialogues("train"), "valid": dialogues("validation"), "test": dialogues("test")}


def crosswoz(folder: Path) -> Parts:
    """A user looks for sights, hotels and restaurants; the system answers."""

    def dialogues(part: str) -> Iterator[dict]:
        with zipfile.ZipFile(folder / f"{part}.json.zip") as packed:
            found = json.loads(packed.read(f"{part}.json"))
        for dialogue in found.values():
            yield {
                "messages": [
                    {"role": "user" if turn["role"] == "usr" else "assistant", "content": turn["content"]}
                    for turn in dialogue["messages"]
                ]
            }

    return {"train": dialogues("val"), "test": dialogues("test")}


def e2e(folder: Path) -> Parts:
    """Facts about a restaurant and texts that say them; every fifth order is for the test, with all of its texts.

    The published test part is left alone: its places are pubs and restaurants, of which this part has none.
    """
    orders: dict[str, list[str]] = {}
    with (folder / "devset.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            orders.setdefault(row["mr"], []).append(row["ref"].strip())
    parts: dict[str, list[dict]] = {"train": [], "test": []}
    for number, (order, texts) in enumerate(orders.items()):
        if number % 5 == 4:
            parts["test"].append({"control": order, "text": texts})
        else:
            parts["train"] += [{"control": order, "text": text} for text in texts]
    return dict(parts)


def mbpp(file: Path) -> Parts:
    """Small functions in Python; tasks 11 to 510 are for the test, as their authors have it.

    The first test stands in the prompt (Austin et al. 2021 give all): the description alone does not name the function.
    """
    parts: dict[str, list[dict]] = {"train": [], "test": []}
    for line in file.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        code, setup = (task[key].replace("\r\n", "\n").strip() for key in ("code", "test_setup_code"))
        prompt = f"{task['text']}\n{task['test_list'][0]}"
        record = {"prompt": prompt, "code": code, "tests": task["test_list"], "setup": setup}
        parts["test" if 11 <= task["task_id"] <= 510 else "train"].append(record)
    return dict(parts)


def conala(folder: Path) -> Parts:
    """A line of Python for what is asked in a sentence; there are no tests to run."""

    def read(part: str) -> Iterator[dict]:
        for row in json.loads((folder / f"conala-{part}.json").read_text(encoding="utf-8")):
            yield {"prompt": row["rewritten_intent"] or row["intent"], "code": row["snippet"].strip()}

    return {"train": read("train"), "test": read("test")}


def humaneval(file: Path, more: str) -> Parts:
    """The body of a function for its head and description."""

    def learned() -> Iterator[dict]:
        for line in Path(more).read_text(encoding="utf-8").splitlines():
            task = json.loads(line)
            code = task["code"].replace("\r\n", "\n").replace("\t", "    ").strip()
            heads = list(re.finditer(r"^def (\w+)\(.*\):[ ]*\n", code, re.MULTILINE))
            heads = [head for head in heads if f"{head[1]}(" in task["test_list"][0]]
            if len(heads) == 1 and code[heads[0].end() :].strip():
                about = task["text"].strip().replace("\\", "")
                prompt = f'{code[: heads[0].end()]}    """ {about}\n    """\n'
                tests = [task["test_setup_code"].replace("\r\n", "\n"), *task["test_list"]]
                yield {
                    "prompt": prompt,
                    "code": code[heads[0].end() :],
                    "tests": [one for one in tests if one],
                    "entry_point": heads[0][1],
                }

    def asked() -> Iterator[dict]:
        for line in gzip.decompress(file.read_bytes()).decode("utf-8").splitlines():
            task = json.loads(line)
            renamed = {"code": task["canonical_solution"], "tests": task["test"]}
            yield {"prompt": task["prompt"], **renamed, "entry_point": task["entry_point"]}

    return {"train": learned(), "test": asked()}


def main(kind: str, source: str, out: Path, *more: str) -> None:
    readers: dict[str, Callable[..., Parts]] = {
        "multi30k": multi30k,
        "news": news,
        "squad": squad,
        "dailydialog": dailydialog,
        "crosswoz": crosswoz,
        "e2e": e2e,
        "mbpp": mbpp,
        "conala": conala,
        "humaneval": humaneval,
    }
    out.mkdir(parents=True, exist_ok=True)
    for part, records in readers[kind](Path(source), *more).items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(lines):,} records")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])

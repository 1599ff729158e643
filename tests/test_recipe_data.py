"""The scripts that make records of published data sets: what they write is what the recipes read."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

from gptwo.data.sources import Record
from gptwo.evaluate.sandbox import Limits, run_program
from gptwo.tasks.code import program_of
from gptwo.tasks.forms import keeps

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "finetune"


def script(name):
    found = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_trec_has_its_coarse_labels(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"TREC.{part}").write_text("NUM:dist How far is it ?\nHUM:ind Who was it ?\n", encoding="utf-8")
    script("augment_data").main(tmp_path, tmp_path / "out")
    assert read(tmp_path / "out" / "train.jsonl") == [
        {"text": "How far is it ?", "label": "NUM"},
        {"text": "Who was it ?", "label": "HUM"},
    ]


def test_poems_are_told_by_their_form(tmp_path):
    line = {5: "猫坐木头上，狗坐垫子上。", 7: "猫猫猫坐木头上，狗狗狗坐垫子上。"}
    poems = [
        {"title": f"{place} {size}", "author": "x", "paragraphs": [line[size]] * count}
        for place, (size, count) in enumerate(((5, 2), (7, 2), (5, 4), (7, 4), (5, 3)))
    ]
    folder = tmp_path / "全唐诗"
    folder.mkdir()
    for name in ("poet.tang.0.json", "poet.tang.57000.json"):
        named = [{**poem, "title": f"{poem['title']} {name}"} for poem in poems]
        (folder / name).write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
    script("poetry_data").main(tmp_path, tmp_path / "out", "forms")
    for part in ("train", "test"):
        records = read(tmp_path / "out" / f"{part}.jsonl")
        assert {one["control"]["form"] for one in records} == {"五言绝句", "七言绝句", "五言律诗", "七言律诗"}
        assert len(records) == 4
        assert all(keeps(one["text"], one["control"]["form"]) for one in records)


def test_functions_to_complete_pass_their_own_tests(tmp_path):
    task = {
        "text": "Write a function to add one.",
        "code": "import math\r\ndef add(x):\r\n\treturn x + 1",
        "test_setup_code": "",
        "test_list": ["assert add(1) == 2"],
    }
    (tmp_path / "mbpp.jsonl").write_text(json.dumps({**task, "task_id": 11}) + "\n", encoding="utf-8")
    script("write_data").main("mbpp", tmp_path / "mbpp.jsonl", tmp_path / "functions")
    (whole,) = read(tmp_path / "functions" / "test.jsonl")
    assert whole["prompt"] == "Write a function to add one.\nassert add(1) == 2"
    assert run_program(program_of(Record(whole, "test", 1), whole["code"]), Limits()).passed
    asked = {
        "prompt": 'def double(x):\n    """ Twice x. """\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "double",
    }
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress((json.dumps(asked) + "\n").encode()))
    script("write_data").main("humaneval", tmp_path / "HumanEval.jsonl.gz", tmp_path / "out", tmp_path / "mbpp.jsonl")
    for part in ("train", "test"):
        (row,) = read(tmp_path / "out" / f"{part}.jsonl")
        record = Record(row, part, 1)
        assert run_program(program_of(record, row["code"]), Limits()).passed
        assert not run_program(program_of(record, "    return None"), Limits()).passed
    (learned,) = read(tmp_path / "out" / "train.jsonl")
    assert learned["prompt"].startswith("import math\ndef add(x):\n")

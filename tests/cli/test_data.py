"""`gptwo data` and `gptwo doctor`: output where it belongs, exit codes that tell what happened."""

from __future__ import annotations

import json
import sys

import pytest

from gptwo.cli.main import main
from gptwo.tokenizer import train_bpe


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(["the cat sat on the mat. 猫坐在垫子上。 " * 20], 300).save(folder)
    return folder


@pytest.fixture
def gptwo(monkeypatch, capsys):
    """Run the command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gptwo", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_pack_then_show(gptwo, tmp_path, tokenizer_folder):
    text = tmp_path / "a.txt"
    text.write_text("the cat\n<|endoftext|>\n猫坐在垫子上", encoding="utf-8")
    out = tmp_path / "out"
    code, stdout, _ = gptwo(
        "data", "pack", text, "--out", out, "--tokenizer", tokenizer_folder, "--workers", 0, "--json"
    )
    assert code == 0
    manifest = json.loads(stdout)["splits"]["all"]
    assert manifest["documents"] == 2
    code, stdout, stderr = gptwo("data", "show", out, "--tokenizer", tokenizer_folder, "--verify")
    assert code == 0
    assert stdout == "the cat<|endoftext|>猫坐在垫子上<|endoftext|>\n"
    assert f"{manifest['tokens']} tokens" in stderr
    code, stdout, _ = gptwo("data", "show", out, "--tokens", 3, "--json")
    assert len(json.loads(stdout)[0]["first_tokens"]) == 3


def test_pack_with_held_out_documents(gptwo, tmp_path, tokenizer_folder):
    text = tmp_path / "a.txt"
    text.write_text("\n<|endoftext|>\n".join(["one", "two", "three"]))
    out = tmp_path / "out"
    code, _, stderr = gptwo(
        "data", "pack", text, "-o", out, "--tokenizer", tokenizer_folder, "--held-out", 1, "--workers", 0
    )
    assert code == 0
    assert "train" in stderr
    code, stdout, _ = gptwo("data", "show", out, "--tokenizer", tokenizer_folder)
    assert stdout.splitlines() == ["one<|endoftext|>two<|endoftext|>", "three<|endoftext|>"]


def test_records_shows_the_first_and_counts_rejects(gptwo, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review,stars\n很好,5\nbad\nfine,3\n", encoding="utf-8")
    code, stdout, _ = gptwo("data", "records", path, "--columns", "text=review,label=stars", "--json")
    said = json.loads(stdout)
    assert (code, said["records"], said["rejects"]["total"]) == (0, 2, 1)
    assert said["first"][0] == {"file": str(path), "row": 2, "fields": {"text": "很好", "label": "5"}}
    code, stdout, stderr = gptwo("data", "records", path)
    assert (code, stdout) == (0, "")
    assert "2 records; 1 row rejected" in stderr
    assert gptwo("data", "records", path, "--strict")[0] == 3
    assert gptwo("data", "records", path, "--columns", "text")[0] == 2
    assert gptwo("data", "records", path, "--columns", "text=reviw")[0] == 3


def test_doctor_exit_codes(gptwo, tmp_path, tokenizer_folder):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    texts = ["a film of rare beauty", "dull from start to end", "worth every minute", "the plot never begins"] * 2
    lines = [f"{text} {n},{'yes' if n % 2 else 'no'}" for n, text in enumerate(texts)]
    good.write_text("\n".join(["text,label", *lines]))
    bad.write_text("\n".join(["text,label", *lines, "again,Yes", "one,two,three"]))
    code, stdout, stderr = gptwo("doctor", "data", good)
    assert (code, stdout) == (0, "")
    assert "0 errors" in stderr
    code, stdout, _ = gptwo("doctor", "data", bad, "--test", good, "--tokenizer", tokenizer_folder, "--json")
    said = json.loads(stdout)
    assert code == 3
    assert not said["ok"]
    errors = {finding["check"] for finding in said["findings"] if finding["severity"] == "error"}
    assert errors == {"label-spelling", "rejected-rows", "leakage"}
    bad.write_text("\n".join(["text,label", *lines, "one,two,three"]))
    assert "1 error, " in gptwo("doctor", "data", bad)[2]
    assert gptwo("doctor", "data", good, "--max-length", 5)[0] == 2
    assert gptwo("doctor", "data", good, "--task", "clasify")[0] == 2
    assert gptwo("doctor", "data", tmp_path / "none.csv")[0] == 3


def test_doctor_of_several_kinds_of_labels(gptwo, tmp_path):
    posts = tmp_path / "posts.csv"
    rows = [f"text {i},{'food' if i % 2 else 'hotel'},{'good' if i % 3 else 'bad'}\n" for i in range(20)]
    posts.write_text("text,topic,mood\n" + "".join(rows) + "text 20,,\n", encoding="utf-8")
    code, stdout, _ = gptwo("doctor", "data", posts, "--task", "joint", "--kinds", "topic,mood", "--json")
    findings = json.loads(stdout)["findings"]
    assert code == 3
    (unusable,) = [one for one in findings if one["check"] == "unusable-records"]
    assert unusable["rows"] == [f"{posts}:22"]
    assert [one["what"][:5] for one in findings if one["check"] == "class-balance"] == ["topic", "mood:"]
    assert gptwo("doctor", "data", posts, "--task", "joint")[0] == 2
    assert gptwo("doctor", "data", posts, "--kinds", "topic,mood")[0] == 2


def test_doctor_knows_the_task_by_the_file(gptwo, tmp_path):
    tagged, text = tmp_path / "a.conll", tmp_path / "a.txt"
    tagged.write_text("EU B-ORG\nsays O\n\nUN B-ORG\n")
    text.write_text("one\n<|endoftext|>\ntwo")
    labels = tmp_path / "a.jsonl"
    labels.write_text('{"text": "a b", "labels": ["x", "y"]}\n{"text": "c d", "labels": ["x"]}\n')
    assert json.loads(gptwo("doctor", "data", tagged, "--json")[1])["task"] == "tag"
    said = json.loads(gptwo("doctor", "data", text, "--json")[1])
    assert (said["task"], said["records"]) == ("language", {"train": 2})
    said = json.loads(gptwo("doctor", "data", labels, "--columns", "text=text,labels=labels", "--json")[1])
    assert said["task"] == "classify"
    assert "unequal-lengths" not in {finding["check"] for finding in said["findings"]}


@pytest.mark.parametrize("name", ["label", "labels"])
def test_doctor_counts_each_of_several_labels_under_the_tasks_own_name(gptwo, tmp_path, name):
    (tmp_path / "a.csv").write_text("text,topics\na b,x|y\nc d,x\ne f,\n")
    options = ("--columns", f"text=text,{name}=topics", "--list-separator", "|", "--json")
    said = json.loads(gptwo("doctor", "data", tmp_path / "a.csv", *options)[1])
    (balance,) = (finding for finding in said["findings"] if finding["check"] == "class-balance")
    assert said["records"] == {"train": 3}
    assert balance["detail"]["train"] == {"x": 2, "y": 1}

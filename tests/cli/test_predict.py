"""`gptwo predict` and `gptwo evaluate`: a tuned model on new texts, and on texts with answers."""

from __future__ import annotations

import json

import pytest


def rows(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_texts_as_arguments(command, tuned):
    code, out, err = command("predict", "--model", tuned, "猫坐在垫子上 99", "狗坐在木头上 99")
    assert (code, err) == (0, "")
    found = rows(out)
    assert [row["label"] for row in found] == ["好评", "差评"]
    assert [(row["row"], row["text"]) for row in found] == [(1, "猫坐在垫子上 99"), (2, "狗坐在木头上 99")]
    assert all(0.5 <= row["probability"] <= 1 for row in found)


def test_the_run_folder_its_best_model_and_a_copy_of_it_are_the_same(command, tuned, tmp_path):
    import shutil

    wanted = command("predict", "--model", tuned, "猫")
    assert command("predict", "--model", tuned / "best", "猫") == wanted
    shutil.copytree(tuned / "best", tmp_path / "copy")
    assert command("predict", "--model", "copy", "猫") == wanted


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_lines_of_standard_input(command, tuned, arguments):
    code, out, _ = command("predict", "--model", tuned, *arguments, stdin="\ufeff猫坐\r\n\n狗坐\n")
    assert code == 0
    assert [(row["row"], row["text"]) for row in rows(out)] == [(1, "猫坐"), (2, ""), (3, "狗坐")]


def test_nothing_on_standard_input_is_nothing(command, tuned):
    assert command("predict", "--model", tuned) == (0, "", "")


def test_input_that_is_no_text_names_its_line(command, tuned):
    code, out, err = command("predict", "--model", tuned, stdin=b"good\n\xff\xfe\n")
    assert (code, out) == (3, "")
    assert "standard input:2" in err
    assert "iconv" in err


def test_records_of_a_file_are_read_as_in_training(command, tuned, tmp_path):
    (tmp_path / "new.csv").write_text("正文,其他\n猫坐在垫子上 1,x\n狗坐在木头上 2,y\n", encoding="utf-8")
    code, out, _ = command("predict", "--model", tuned, "--file", "new.csv")
    assert code == 0
    assert [(row["row"], row["label"]) for row in rows(out)] == [(2, "好评"), (3, "差评")]
    (tmp_path / "other.jsonl").write_text('{"words": "猫坐在垫子上 1"}\n', encoding="utf-8")
    code, out, _ = command("predict", "--model", tuned, "--file", "other.jsonl", "--columns", "text=words")
    assert (code, rows(out)[0]["label"]) == (0, "好评")


def test_files_in_another_encoding(command, base, quick, tmp_path):
    (tmp_path / "gbk.csv").write_text("text,label\n" + "猫坐,好评\n狗坐,差评\n" * 9, encoding="gb18030")
    flags = ("--model", base, "--task", "classify", "--train", "gbk.csv", "--out", "run", *quick)
    code, _, err = command("finetune", *flags)
    assert code == 3
    assert "give the encoding" in err
    assert command("finetune", *flags, "--encoding", "gb18030")[0] == 0
    code, out, _ = command("predict", "--model", "run", "--file", "gbk.csv", "--encoding", "gb18030")
    assert (code, [row["text"] for row in rows(out)][:2]) == (0, ["猫坐", "狗坐"])
    assert command("evaluate", "gbk.csv", "--model", "run", "--encoding", "gb18030")[0] == 0
    assert command("evaluate", "gbk.csv", "--model", "run")[0] == 3
    assert command("evaluate", "gbk.csv", "--model", "run", "--encoding", "gbx")[0] == 2


def test_one_json_object(command, tuned, one_object):
    code, out, _ = command("predict", "--model", tuned, "--json", "猫坐", "狗坐")
    assert code == 0
    assert [row["text"] for row in one_object(out)["predictions"]] == ["猫坐", "狗坐"]


def test_into_a_file(command, tuned, tmp_path, one_object):
    assert command("predict", "--model", tuned, "--out", "said.jsonl", "猫坐", "狗坐") == (0, "", "")
    assert len(rows((tmp_path / "said.jsonl").read_text())) == 2
    code, out, _ = command("predict", "--model", tuned, "--out", "said.jsonl", "--json", "猫坐")
    assert one_object(out) == {"model": str(tuned), "records": 1, "out": "said.jsonl"}
    code, _, err = command("predict", "--model", tuned, "--out", "nowhere/said.jsonl", "猫坐")
    assert code == 1
    assert "where: nowhere/said.jsonl\n" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["猫"], 2, "--model"),
        (["--model", "nowhere", "猫"], 4, "nowhere"),
        (["--model", "BASE", "猫"], 2, "gptwo generate --model"),
        (["--model", "TUNED", "--file", "bad.csv"], 3, r"bad.csv:3"),
        (["--model", "TUNED", "--file", "other.csv"], 3, "no column '正文'"),
        (["--model", "TUNED", "--file", "bad.csv", "猫"], 2, "cannot both be given"),
        (["--model", "TUNED", "--threads", "-2", "猫"], 2, "--threads"),
    ],
)
def test_a_mistake_has_its_words_and_its_exit_code(command, base, tuned, tmp_path, arguments, code, words):
    (tmp_path / "bad.csv").write_text("正文\n猫\n\n".replace("\n\n", '\n""\n'), encoding="utf-8")
    (tmp_path / "other.csv").write_text("words\n猫\n", encoding="utf-8")
    names = {"BASE": base, "TUNED": tuned}
    found, out, err = command("predict", *(names.get(argument, argument) for argument in arguments))
    assert (found, out) == (code, "")
    assert words in err


# --- evaluate


def test_a_tuned_model_is_measured_on_records(command, tuned, reviews, tmp_path, one_object):
    lines = reviews.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "test.csv").write_text("".join([lines[0], *lines[4:]]), encoding="utf-8")
    code, out, err = command("evaluate", "test.csv", "--model", tuned, "--out", "said")
    assert (code, out) == (0, "")
    assert "Accuracy" in err
    assert {path.name for path in (tmp_path / "said").iterdir()} == {"report.json", "report.html"}
    code, out, _ = command("evaluate", "test.csv", "--model", tuned, "--json")
    assert one_object(out)["records"] == 24
    assert command("evaluate", "test.csv", "--model", tuned, "--fail-under", "accuracy=0.9")[0] == 0
    assert command("evaluate", "test.csv", "--model", tuned, "--fail-under", "accuracy=1.1")[0] == 5


def test_a_language_model_is_measured_on_running_text(command, base, tmp_path, one_object):
    (tmp_path / "a.txt").write_text("the cat sat on the mat.", encoding="utf-8")
    code, out, _ = command("evaluate", "a.txt", "--model", base, "--stride", "8", "--json")
    assert code == 0
    (system,) = one_object(out)["systems"]
    assert system["metrics"].keys() == {"loss", "perplexity", "bits_per_byte"}
    assert command("evaluate", "a.txt", "--model", base, "--stride", "99")[0] == 2


def test_what_cannot_be_measured(command, base, tuned, reviews, tmp_path):
    code, _, err = command("evaluate", reviews, "--model", tuned)
    assert code == 3
    assert f"{reviews}:4" in err
    (tmp_path / "test.csv").write_text("正文,标签\n猫,中评\n", encoding="utf-8")
    code, _, err = command("evaluate", "test.csv", "--model", tuned)
    assert code == 3
    assert "test.csv:2" in err
    assert "'中评' is not among the model's labels" in err
    (tmp_path / "empty.txt").write_text("")
    assert command("evaluate", "empty.txt", "--model", base)[0] == 3
    assert command("evaluate", "test.csv")[0] == 2


def test_a_text_that_names_a_file_is_said_to_be_taken_as_a_text(command, tuned, tmp_path):
    (tmp_path / "texts.csv").write_text("text\n猫\n", encoding="utf-8")
    code, out, err = command("predict", "--model", tuned, "texts.csv", "猫" * 300, "a\0b")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "'texts.csv' is taken as a text" in err
    assert "--file" in err
    assert err.count("note:") == 1

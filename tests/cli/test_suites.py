"""`gptwo evaluate --suite`, `--shots`, `gptwo explain` and `gptwo data redact`, as a shell calls them."""

from __future__ import annotations

import json


def test_a_suite_prints_its_report_and_its_protocol(command, base, one_object, tmp_path):
    (tmp_path / "lambada.jsonl").write_text('{"text": "the cat sat on the mat"}\n', encoding="utf-8")
    code, out, _ = command("evaluate", "--suite", "lambada", "--model", base, "lambada.jsonl", "--json")
    report = one_object(out)
    assert code == 0
    assert report["task"] == "lambada"
    assert report["recipe"]["protocol"]["normaliser"] == "1 passages"
    assert "accuracy/last word" in report["systems"][0]["metrics"]
    assert report["machine"]
    code, _, err = command(
        "evaluate", "--suite", "lambada", "--model", base, "lambada.jsonl", "--out", "seen", "--fail-under",
        "accuracy/last word=1.1",
    )  # fmt: skip
    assert code == 5
    assert "last token" in err
    assert (tmp_path / "seen" / "report.html").is_file()


def test_bytes_of_any_file(command, base, one_object, tmp_path):
    (tmp_path / "notes.log").write_text("the cat sat on the mat. " * 9, encoding="utf-8")
    code, out, _ = command("evaluate", "--suite", "bits-per-byte", "--model", base, "notes.log", "--json")
    assert code == 0
    assert one_object(out)["systems"][0]["metrics"]["bits_per_byte"]["value"] > 0


def test_shots_need_examples_and_report_the_spread(command, base, reviews, one_object):
    columns = ("--columns", "text=正文,label=标签")
    code, _, err = command("evaluate", "--shots", "2", "--model", base, reviews, *columns)
    assert code == 2
    assert "--train" in err
    code, out, _ = command(
        "evaluate", "--shots", "2", "--train", reviews, "--model", base, reviews, *columns, "--limit", "4",
        "--draws", "2", "--prompt", r"{text}\n{label}", "--words", "好评=好,差评=坏", "--json",
    )  # fmt: skip
    report = one_object(out)
    assert code == 0
    assert report["recipe"]["seeds"] == [0, 1]
    assert report["recipe"]["protocol"]["prompt"] == repr("{text}\n{label}")
    assert "accuracy_spread" in report["systems"][0]["metrics"]


def test_bias_takes_a_classifier_and_writes_the_card(command, base, tuned, tmp_path):
    import shutil

    shutil.copytree(base, tmp_path / "mine")
    code, out, err = command(
        "evaluate", "--suite", "bias", "--model", "mine", "--languages", "zh", "--classifier", tuned,
        "--toxic-label", "差评", "--canary", "code 12", "--card", "--json",
    )  # fmt: skip
    assert code == 0, err
    metrics = json.loads(out)["systems"][0]["metrics"]
    assert "toxic_share/classifier, neutral prompts" in metrics
    assert "exposure/canary 1" in metrics
    assert "## Bias, toxicity, memorisation" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    code, _, err = command("evaluate", "--suite", "bias", "--model", "mine", "--classifier", tuned)
    assert code == 2
    assert "'toxic'" in err


def test_wrong_use_of_evaluate_is_told(command, base, tmp_path):
    for words, message in [
        (("--suite", "lambda", "--model", base), "lambada"),
        (("--suite", "lambada", "--shots", "1", "--model", base), "not both"),
        (("--model", base), "Which data"),
        (("--suite", "lambada", "--model", base), "local file"),
    ]:
        code, out, err = command("evaluate", *words)
        assert (code, out) == (2, "")
        assert message in err


def test_explain_prints_json_colours_and_a_page(command, base, tuned, reviews, one_object, tmp_path):
    code, out, _ = command("explain", base, "the cat sat on", "--json", "--steps", "4", "--html", "seen/page.html")
    found = one_object(out)
    assert code == 0
    assert "".join(found["tokens"]) == "the cat sat on"
    assert (tmp_path / "seen" / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "train.txt").write_text("the dog sat on the log\n<|endoftext|>\nthe cat", encoding="utf-8")
    code, out, err = command("explain", base, "the cat", "--train", "train.txt", "--steps", "4")
    assert (code, out) == (0, "")
    assert "Nearest in the training texts" in err
    code, out, _ = command(
        "explain", tuned, "猫坐在垫子上", "--target", "差评", "--train", reviews, "--columns", "text=正文,label=标签",
        "--steps", "4", "--json",
    )  # fmt: skip
    found = one_object(out)
    assert found["target"]["name"] == "差评"
    assert found["neighbours"][0]["label"] in ("好评", "差评")
    code, _, err = command("explain", tuned, "猫", "--target", "好")
    assert code == 2
    assert "'好评'" in err


def test_redact_copies_files_and_says_what_it_replaced(command, one_object, tmp_path):
    (tmp_path / "a.txt").write_text("call 13812345678\nplain\n", encoding="utf-8")
    code, out, _ = command("data", "redact", "a.txt", "--out", "clean", "--json")
    assert code == 0
    assert one_object(out)["kinds"] == {"phone": 1}
    assert (tmp_path / "clean" / "a.txt").read_text() == "call [PHONE]\nplain\n"
    code, _, err = command("data", "redact", "a.txt", "--out", "clean")
    assert code == 2
    assert "--overwrite" in err
    code, out, err = command("data", "redact", "a.txt", "--out", "clean", "--overwrite", "--kinds", "email")
    assert (code, out) == (0, "")
    assert "0 of 2 rows changed" in err


def test_few_records_are_tuned_on_as_often_as_asked(command, base, reviews, one_object, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        '[task]\nname = "classify"\n[train]\nsteps = 2\nprecision = "fp32"\n', encoding="utf-8"
    )
    words = ("evaluate", reviews, "--model", base, "--columns", "text=正文,label=标签", "--tune", "recipe.toml")
    few = ("--shots", "2", "--train", reviews, "--draws", "2", "--out", "few", "--threads", "1", "--json")
    code, out, err = command(*words, *few)
    assert code == 0, err
    report = one_object(out)
    assert len(report["recipe"]["runs"]["Tuned"]) == 2
    assert (tmp_path / "few" / "seed-1" / "run" / "report.json").is_file()
    assert (tmp_path / "few" / "report.html").is_file()
    recipe = (tmp_path / "few" / "seed-0" / "run" / "recipe.toml").read_text(encoding="utf-8")
    assert "\nthreads = 1\n" in recipe
    code, _, err = command(*words)
    assert code == 2
    assert "--shots" in err

"""`gptwo pretrain` and `gptwo init`."""

from __future__ import annotations

import re

import pytest

from gptwo.cli.init import STARTERS
from gptwo.recipe import load_recipe


@pytest.fixture
def pretrain(command, base, quick, tmp_path):
    """`pretrain("--flag", …)` of the tiny model on a text, into the folder `run`."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat. 猫坐在垫子上。\n" * 90, encoding="utf-8")

    def call(*more: object):
        return command("pretrain", "--model", base, "--train", "text.txt", "--out", "run", *quick, *more)

    return call


def test_text_in_and_a_model_out(pretrain, command, tmp_path):
    code, out, err = pretrain("--valid", "text.txt")
    assert (code, out) == (0, "")
    for words in ("step 6/6", "bits_per_byte", "model: run/best", "gptwo generate --model run"):
        assert words in err
    code, out, _ = command("generate", "--model", "run", "the cat", "--max-new-tokens", "3", "--temperature", "0")
    assert code == 0


def test_json_is_one_object_on_stdout(pretrain, one_object):
    code, out, _ = pretrain("--json")
    assert code == 0
    assert one_object(out)["model"] == "run/best"


def test_resuming(pretrain, command):
    assert pretrain()[0] == 0
    assert pretrain()[0] == 2
    code, _, err = command("pretrain", "--resume", "--out", "run")
    assert code == 0
    assert "resumed at step 6" in err
    code, _, err = command("pretrain", "--resume", "--out", "elsewhere")
    assert code == 2
    assert "no run to go on with" in err
    assert pretrain("--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--train", "nowhere.txt", "--model", "BASE"], 3, "no such file"),
        (["--train", "text.txt"], 2, "gptwo tokenizer train"),
        (["--train", "text.txt", "--tokenizer", "BASE"], 2, "Fresh weights need a size"),
        (["--train", "text.txt", "--tokenizer", "BASE", "--preset", "gpt2-midium"], 2, "Did you mean 'gpt2-medium'"),
        (["--train", "text.txt", "--tokenizer", "nowhere"], 4, "nowhere"),
        (["--train", "empty.txt", "--model", "BASE"], 3, "empty.txt|no text|too few"),
        (["--train", "text.txt", "--model", "BASE", "--batch-size", "1000"], 3, "too few for a batch"),
        (["--train", "text.txt", "--model", "BASE", "--set", "train.patience=3"], 2, "needs held-out text"),
        ([], 2, "no text to train on"),
    ],
)
def test_a_mistake_has_its_words_and_its_exit_code(command, base, tmp_path, arguments, code, words):
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 90)
    (tmp_path / "empty.txt").write_text("")
    found, out, err = command("pretrain", *(base if a == "BASE" else a for a in arguments), "--out", "run")
    assert (found, out) == (code, ""), err
    assert re.search(words, err), err


# --- init


@pytest.mark.parametrize("task", STARTERS)
def test_init_writes_a_recipe_that_can_be_read(command, tmp_path, task):
    code, out, err = command("init", task, "--out", "my.toml")
    assert (code, out) == (0, "")
    assert f"gptwo {'pretrain' if task == 'pretrain' else 'finetune'} my.toml --out runs/mine" in err
    recipe = load_recipe(tmp_path / "my.toml", environment={})
    assert recipe.task.name == ("language" if task == "pretrain" else task)


def test_init_leaves_a_file_alone(command, tmp_path):
    (tmp_path / "recipe.toml").write_text("mine")
    code, _, err = command("init", "tag")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "recipe.toml").read_text() == "mine"
    assert command("init", "tag", "--overwrite")[0] == 0
    code, _, err = command("init", "clasify", "--out", "other.toml")
    assert code == 2
    assert "Did you mean 'classify'" in err
    code, _, err = command("init", "tag", "--out", "nowhere/recipe.toml")
    assert code == 1
    assert "nowhere/recipe.toml" in err

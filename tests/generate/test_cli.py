"""`gptwo generate` prints what the engine writes."""

from __future__ import annotations

import io
import json
import sys

import pytest

from gptwo.cli.common import run
from gptwo.cli.main import app
from gptwo.model.pretrained import save


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return str(save(tiny, tmp_path_factory.mktemp("cli") / "model"))


@pytest.fixture
def gptwo(folder, monkeypatch, capsys):
    """Call the command; returns exit code, stdout and stderr."""

    def call(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["gptwo", "generate", "--model", folder, *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            run(app)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


GREEDY = ("--temperature", "0", "--max-new-tokens", "8", "--precision", "fp32")


def test_one_prompt_prints_its_text(gptwo, engine):
    (text,) = engine.generate("the quick", temperature=0, max_new_tokens=8)
    assert gptwo("the quick", *GREEDY) == (0, text.text + "\n", "")
    assert gptwo("the quick", "--stream", *GREEDY) == (0, text.text + "\n", "")
    assert gptwo("the quick", "--echo", *GREEDY) == (0, "the quick" + text.text + "\n", "")


def test_a_prompt_comes_from_standard_input(gptwo):
    asked = gptwo("the quick", *GREEDY)
    assert gptwo("-", *GREEDY, stdin="the quick\n") == asked
    assert gptwo(*GREEDY, stdin="the quick") == asked


def test_json_is_one_object_with_every_text(gptwo, engine):
    code, out, _ = gptwo(
        "the", "--json", "-n", "2", "--seed", "3", "--max-new-tokens", "5", "--logprobs", "--precision", "fp32"
    )  # fmt: skip
    found = json.loads(out)["generations"]
    texts = engine.generate("the", n=2, seed=3, max_new_tokens=5)
    assert code == 0
    assert [one["ids"] for one in found] == [text.ids for text in texts]
    assert found[0]["seed"] == 3
    assert len(found[0]["logprobs"]) == len(found[0]["ids"])


def test_a_file_of_prompts(gptwo, tmp_path):
    (tmp_path / "a.txt").write_text("the quick\n\n春眠\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"prompt": "the quick"}\n"春眠"\n', encoding="utf-8")
    lines, records = (gptwo("--file", str(tmp_path / name), *GREEDY) for name in ("a.txt", "a.jsonl"))
    assert lines == records
    assert "--- 2.1 春眠" in lines[1]


def test_a_bad_record_is_named_by_its_row(gptwo, tmp_path):
    (tmp_path / "a.jsonl").write_text('"good"\n{"text": "no prompt"}\n', encoding="utf-8")
    code, _, err = gptwo("--file", str(tmp_path / "a.jsonl"))
    assert code == 3
    assert "a.jsonl:2" in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("the", "--top-p", "7"), 2, "0 < top_p <= 1"),
        (("the", "--early-stopping", "maybe"), 2, "never"),
        (("the", "--file", "nowhere.txt"), 2, "--file"),
        (("--file", "nowhere.txt"), 4, "nowhere.txt"),
        (("the", "--stream", "-n", "2", "--temperature", "0"), 2, "greedy"),
    ],
)
def test_wrong_use_is_told_in_one_message(gptwo, arguments, code, told):
    ended, out, err = gptwo(*arguments)
    assert (ended, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_a_stop_string_may_be_a_new_line(gptwo):
    code, out, _ = gptwo("the", "--stop", r"\n", "--stop", "e", "--json", "--max-new-tokens", "20", "--seed", "1")
    (text,) = json.loads(out)["generations"]
    assert code == 0
    assert "\n" not in text["text"]
    assert "e" not in text["text"]


def test_notices_go_to_stderr_once(gptwo):
    _, out, err = gptwo("the quick " * 60, "-n", "3", "--max-new-tokens", "4", "--seed", "1")
    assert err.count("notice") == 1
    assert "notice" not in out


def test_interrupt_exits_130(gptwo, monkeypatch):
    from gptwo.generate.results import Stream

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "__next__", interrupted)
    code, _, err = gptwo("the", "--stream")
    assert code == 130
    assert "Traceback" not in err

"""`gptwo tokenizer`: what train and inspect print, save and refuse."""

from __future__ import annotations

import io
import json
import sys

import pytest

from gptwo.cli.main import main
from gptwo.tokenizer import load_tokenizer
from tests.tokenizer.conftest import TEXTS


@pytest.fixture
def gptwo(monkeypatch, capsys):
    """Run `gptwo tokenizer …`; gives exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gptwo", "tokenizer", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(TEXTS * 30), encoding="utf-8")
    return path


@pytest.fixture
def folder(small_bpe, tmp_path):
    small_bpe.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_train_saves_and_reports_per_file_and_in_total(gptwo, corpus, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 30), encoding="utf-8")
    code, out, _ = gptwo(
        "train", corpus, rows, "--vocab-size", 350, "--out", tmp_path / "new", "--held-out", 0.1, "--json"
    )
    assert code == 0
    report = json.loads(out)
    tokenizer = load_tokenizer(tmp_path / "new")
    assert (report["vocab_size"], report["end_id"]) == (350, 349) == (tokenizer.vocab_size, tokenizer.end_id)
    assert report["fingerprint"] == tokenizer.fingerprint
    files = report["held_out"]["files"]
    assert [entry["file"] for entry in files] == [str(corpus), str(rows)]
    assert report["held_out"]["tokens"] == sum(entry["tokens"] for entry in files)
    assert files[0]["bytes"] > 0
    assert files[0]["bytes_per_token"] == pytest.approx(files[0]["bytes"] / files[0]["tokens"], abs=1e-4)


def test_train_measures_on_files_given(gptwo, corpus, tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("今天天气", encoding="utf-8")
    code, out, err = gptwo("train", corpus, "--vocab-size", 300, "--out", tmp_path / "new", "--held-out", held)
    assert (code, out) == (0, "")
    assert "held-out text" in err
    assert str(held) in err
    assert "inspect" in err


def test_train_from_standard_input(gptwo, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(TEXTS).encode() * 3), encoding="utf-8"))
    code, _, err = gptwo("train", "-", "--vocab-size", 300, "--out", tmp_path / "new")
    assert code == 2
    assert "read only once" in err
    assert gptwo("train", "-", "--vocab-size", 300, "--out", tmp_path / "new", "--held-out", 0)[0] == 0
    assert load_tokenizer(tmp_path / "new").vocab_size == 300


def test_train_says_where_the_text_is_too_little(gptwo, tmp_path):
    (tmp_path / "little.txt").write_text("abab", encoding="utf-8")
    code, _, err = gptwo("train", tmp_path / "little.txt", "--out", tmp_path / "new")
    assert code == 0
    assert "Nothing was held out" in err
    assert "258 entries, not 12,288" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--vocab-size", 100], 2, "256 bytes"),
        (["--held-out", "1.5"], 2, "share of 1.5"),
        (["--held-out", "0.1", "--held-out", "0.2"], 2, "one share, or files"),
        (["--held-out", "absent.txt"], 3, "absent.txt"),
    ],
)
def test_train_refuses(gptwo, corpus, tmp_path, arguments, code, message):
    found = gptwo("train", corpus, "--out", tmp_path / "new", *arguments)
    assert found[0] == code
    assert message in found[2]
    assert not (tmp_path / "new" / "tokenizer.json").exists()


def test_train_keeps_a_tokenizer_that_is_there(gptwo, corpus, folder):
    before = load_tokenizer(folder).fingerprint
    code, _, err = gptwo("train", corpus, "--vocab-size", 300, "--out", folder)
    assert code == 2
    assert "--overwrite" in err
    assert load_tokenizer(folder).fingerprint == before
    assert gptwo("train", corpus, "--vocab-size", 300, "--out", folder, "--overwrite")[0] == 0
    assert load_tokenizer(folder).vocab_size == 300


def test_train_finds_out_first_whether_it_can_save(gptwo, corpus):
    code, _, err = gptwo("train", corpus, "--out", corpus / "below")
    assert code == 3
    assert "cannot be written" in err


def test_inspect_shows_tokens_ids_and_bytes(gptwo, folder):
    code, out, _ = gptwo("inspect", folder, "The 😀 [b]<|endoftext|>", "--json")
    assert code == 0
    report = json.loads(out)
    tokenizer = load_tokenizer(folder)
    assert [token["id"] for token in report["tokens"]] == tokenizer.encode("The 😀 [b]<|endoftext|>")
    assert bytes.fromhex("".join(token["bytes"] for token in report["tokens"])).decode() == "The 😀 [b]<|endoftext|>"
    assert report["same"] is True
    code, out, err = gptwo("inspect", folder, "\n[b]<|endoftext|>", "--special")
    assert (code, out) == (0, "")
    assert "3c 7c 65 6e 64" in err
    assert "\\n" in err
    assert "400" in err


def test_inspect_reads_standard_input(gptwo, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert json.loads(gptwo("inspect", folder, "-", "--json")[1])["decoded"] == "a\ufffd"


def test_inspect_of_a_folder_without_tokenizer(gptwo, tmp_path):
    code, _, err = gptwo("inspect", tmp_path, "text")
    assert code == 4
    assert "tokenizer.json" in err

"""The command, called as a shell would, and a tiny model with data in two languages to call it on."""

from __future__ import annotations

import io
import json
import sys

import pytest

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。"]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """`command("predict", …, stdin="")` in tmp_path: exit code, stdout and stderr."""
    from gptwo.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("GPTWO_DEBUG", raising=False)
    monkeypatch.setattr("gptwo.runtime.matmul_rate", lambda precision, device: 1e9)

    def call(*arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]:
        given = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["gptwo", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a language model."""
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import create, save
    from gptwo.tokenizer import train_bpe

    tokenizer = train_bpe(iter(TEXTS * 20), 290)
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=16, n_layer=2, n_head=2)
    return save(create(config, tokenizer, seed=5), tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """A csv of Chinese texts and labels; a row without a text on line 4."""
    path = tmp_path_factory.mktemp("data") / "评论.csv"
    rows = [f"猫坐在垫子上 {i},好评\n狗坐在木头上 {i},差评\n" for i in range(12)]
    path.write_text("正文,标签\n猫坐,好评\n狗坐,差评\n,好评\n" + "".join(rows), encoding="utf-8")
    return path


COLUMNS = ("--columns", "text=正文,label=标签")
QUICK = ("--steps", "6", "--batch-size", "8", "--learning-rate", "0.02", "--threads", "1", "--precision", "fp32")


@pytest.fixture(scope="session")
def quick():
    """Flags of a short training run."""
    return QUICK


@pytest.fixture(scope="session")
def tuned(base, reviews, tmp_path_factory):
    """The folder of a run that was tuned on `reviews`."""
    from gptwo.train.finetune import finetune

    out = tmp_path_factory.mktemp("tuned") / "run"
    settings = {
        "data.columns": {"text": "正文", "label": "标签"},
        "train.steps": 12,
        "train.threads": 1,
        "train.precision": "fp32",
        "optimizer.learning_rate": 0.02,
        "track.trackers": ["events"],
    }
    finetune(base, task="classify", train=reviews, out=out, settings=settings)
    return out


@pytest.fixture(scope="session")
def one_object():
    """Parse stdout that must be one JSON object and nothing else."""

    def parse(out: str) -> dict:
        assert out.startswith("{")
        assert out.endswith("}\n")
        return json.loads(out)

    return parse

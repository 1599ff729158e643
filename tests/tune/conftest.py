"""A tiny model, records of two labels, and a call of `tune` that takes a second."""

from __future__ import annotations

import json

import pytest

from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, save
from gptwo.tokenizer import train_bpe

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。"]
RATE = "optimizer.learning_rate"
QUICK = {
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "track.trackers": ["events"],
    "model.dropout": 0.0,
    "search.sampler": "random",
    "search.pruner": "none",
    "search.trials": 3,
}


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    """The machine is not measured: it takes half a second."""
    monkeypatch.setattr("gptwo.runtime.matmul_rate", lambda precision, device: 1e9)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    tokenizer = train_bpe(iter(TEXTS * 20), 290)
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=16, n_layer=2, n_head=2)
    return save(create(config, tokenizer, seed=5), tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """jsonl of two labels: train (32 records), valid (12), test (12)."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"text": f"the {word} sat {i}", "label": word} for i in range(28) for word in ("cat", "dog")]
    for name, part in (("train", rows[:32]), ("valid", rows[32:44]), ("test", rows[44:])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part), encoding="utf-8")
    return folder


@pytest.fixture
def search(base_folder, labelled, tmp_path):
    """`search("name", ranges, **settings)`: a search in tmp_path/name; "__" stands for a dot."""
    from gptwo.tune.search import tune

    def run(name="search", ranges=None, *, test=False, resume=False, overwrite=False, say=lambda line: None, **given):
        settings = {**QUICK, **{key.replace("__", "."): value for key, value in given.items()}}
        settings["search.ranges"] = ranges or {RATE: {"low": 1e-3, "high": 3e-2, "log": True}}
        return tune(
            base_folder,
            task="classify",
            train=labelled / "train.jsonl",
            valid=labelled / "valid.jsonl",
            test=labelled / "test.jsonl" if test else None,
            out=tmp_path / name,
            settings=settings,
            resume=resume,
            overwrite=overwrite,
            say=say,
        )

    return run

"""A network of a few thousand weights, a text to learn, and a tracker that remembers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gptwo.data.batching import Batch
from gptwo.model.config import GPT2Config
from gptwo.model.heads import Model
from gptwo.model.pretrained import create, save
from gptwo.recipe import Recipe, load_recipe
from gptwo.tokenizer import train_bpe
from gptwo.train.track import Trackers

CONFIG = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=3, n_head=2).with_dropout(0.0)
TEXTS = [
    "the cat sat on the mat. the dog sat on the log. ",
    "猫坐在垫子上，狗坐在木头上。",
    "a bird sang in the old tree and the cat looked up. ",
]


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    """The machine is not measured: it takes half a second, and what it says must not choose the precision."""
    monkeypatch.setattr("gptwo.runtime.matmul_rate", lambda precision, device: 1e9)


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 290)


@pytest.fixture(scope="session")
def base_folder(tokenizer, tmp_path_factory):
    """A saved language model with a tokenizer."""
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=16, n_layer=2, n_head=2)
    return save(create(config, tokenizer, seed=5), tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def texts_folder(tmp_path_factory):
    """Text files to pretrain on: train.txt and valid.txt."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.txt").write_text("\n".join(TEXTS * 12), encoding="utf-8")
    (folder / "valid.txt").write_text("\n".join(reversed(TEXTS)), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """jsonl of two labels that are easy to tell apart: train (48 records) and test (12)."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"text": f"the {word} sat {i}", "label": word} for i in range(30) for word in ("cat", "dog")]
    for name, part in (("train", rows[:48]), ("test", rows[48:])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part), encoding="utf-8")
    return folder


class Recorder:
    """A tracker that keeps every event."""

    name = "recorder"

    def __init__(self):
        self.events = []

    def on_event(self, event):
        self.events.append(event)

    def close(self):
        pass

    def of(self, kind: str) -> list[dict]:
        return [event for event in self.events if event["kind"] == kind]


class Rows:
    """A source of batches of random tokens, always the same for a seed; the next token is to be learned."""

    def __init__(self, rows: int = 4, length: int = 12, batches: int = 5, vocab: int = 32):
        self.batches_per_epoch = batches
        self.rows, self.length, self.vocab = rows, length, vocab

    def epoch(self, epoch: int):
        tokens = np.random.default_rng((7, epoch)).integers(
            0, self.vocab, (self.batches_per_epoch, self.rows, self.length + 1)
        )

        def batch(number: int) -> Batch:
            text = torch.from_numpy(tokens[number])
            return Batch(ids=text[:, :-1].contiguous(), labels=text[:, 1:].contiguous())

        return batch


class Case:
    """Everything a call of `train` needs; `run` calls it and keeps the events."""

    def __init__(self, folder, settings: dict):
        self.folder = folder
        self.recipe: Recipe = load_recipe(
            None,
            {"train.precision": "fp32", "train.log_every": 1, "train.steps": 10, "schedule.warmup": 0, **settings},
            environment={},
        )
        self.recorder = Recorder()

    def model(self, dropout: float = 0.0) -> Model:
        return create(CONFIG.with_dropout(dropout), seed=3).model

    def run(self, model: Model | None = None, source=None, objective=None, *, dropout: float = 0.0, seed=1, **given):
        from gptwo.train.pretrain import NextToken
        from gptwo.train.trainer import train

        self.trained = model or self.model(dropout)
        torch.manual_seed(seed)
        return train(
            self.trained,
            objective or NextToken(),
            source or Rows(),
            recipe=self.recipe,
            folder=self.folder,
            trackers=Trackers([self.recorder]),
            **given,
        )

    @property
    def losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.recorder.of("step")}


@pytest.fixture
def case(tmp_path):
    """`case(name, **settings)`: a call of `train` with recipe keys, in a folder of its own; "__" stands for a dot."""

    def make(name: str = "run", **settings) -> Case:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Case(folder, {key.replace("__", "."): value for key, value in settings.items()})

    return make


@pytest.fixture(scope="session")
def rows():
    """The class `Rows`."""
    return Rows


@pytest.fixture(scope="session")
def same_weights():
    """Whether two networks are equal bit for bit."""

    def same(a, b) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

    return same

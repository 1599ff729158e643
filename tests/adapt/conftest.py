"""A small base in a folder, with every parameter random, and adapters of every kind over it."""

from __future__ import annotations

import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.base import base_of
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, load, save
from gptwo.tokenizer import train_bpe
from tests.adapt.kinds import config_of, shake

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。", "Anna lives in Berlin. "]
SIZES = {"n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.1}


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    """The machine is not measured."""
    monkeypatch.setattr("gptwo.runtime.matmul_rate", lambda precision, device: 1e9)


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 290)


@pytest.fixture(scope="session")
def base_folder(tokenizer, tmp_path_factory):
    """A language model whose biases and layer norms are random too."""
    made = create(GPT2Config(vocab_size=tokenizer.vocab_size, **SIZES), tokenizer, seed=5)
    shake(made.model, 0.1)
    return save(made, tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def base(base_folder):
    return load(base_folder)


@pytest.fixture
def adapted(base_folder):
    """`adapted(kind, head=…, labels=…, moved=0.3)`: a model that carries an adapter whose weights were moved."""

    def make(kind, head="language", labels=None, moved=0.3, **more):
        start = load(base_folder, head=head, labels=labels)
        known = base_of(load(base_folder))
        adapter = apply_adapter(start.model, config_of(kind, **more), seed=3)
        adapter.base = known
        start.adapter, start.config = adapter, start.model.config
        if moved:
            shake(start.model, moved)
        return start

    return make


@pytest.fixture(scope="session")
def ids(tokenizer):
    """(3, 24) token ids."""
    return torch.randint(0, tokenizer.vocab_size, (3, 24), generator=torch.Generator().manual_seed(2))

"""Tiny models of every kind, with every parameter random and scores far apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained, create, save
from gptwo.tokenizer import train_bpe
from tests.adapt.kinds import shake

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。", "Anna lives in Berlin. "]
SIZES = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 320)


@pytest.fixture(scope="session")
def make(tokenizer) -> Callable[..., Pretrained]:
    """`make("sequence", n_layer=3, …)`: a model in memory."""

    def make(head="language", *, rows=0, **sizes):
        config = GPT2Config(vocab_size=tokenizer.vocab_size + rows, **{**SIZES, **sizes})
        labels = () if head == "language" else ("bad", "good", "neither")
        made = create(config, tokenizer, head=head, labels=labels, seed=5)
        shake(made.model, 0.2)
        return made

    return make


@pytest.fixture(scope="session")
def folders(make, tmp_path_factory):
    """A folder for each head: `folders["language"]`."""
    place = tmp_path_factory.mktemp("models")
    return {head: save(make(head), place / head) for head in ("language", "sequence", "token")}

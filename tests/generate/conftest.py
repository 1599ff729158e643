"""A tiny random model with a tokenizer, and the same weights in transformers."""

from __future__ import annotations

import pytest

from gptwo.generate.engine import Engine
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained, create, save
from gptwo.tokenizer import train_bpe

TEXTS = [
    "the quick brown fox jumps over the lazy dog. ",
    "春眠不觉晓，处处闻啼鸟。 ",
    "Once upon a time there was 🙂. ",
]


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 300)


@pytest.fixture(scope="session")
def tiny(tokenizer) -> Pretrained:
    """48 positions; weights large enough that its texts are varied and its choices clear."""
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=16, n_layer=2, n_head=2, initializer_range=0.6
    )
    made = create(config, tokenizer, seed=5)
    made.model.eval()
    return made


@pytest.fixture(scope="session")
def engine(tiny) -> Engine:
    return Engine(tiny)


@pytest.fixture(scope="session")
def reference(tiny, tmp_path_factory):
    """The same network in transformers."""
    from transformers import GPT2LMHeadModel

    folder = save(tiny, tmp_path_factory.mktemp("tiny") / "model")
    return GPT2LMHeadModel.from_pretrained(folder).eval()

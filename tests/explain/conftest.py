"""Tiny models of every head to look into, with weights large enough that their choices differ."""

from __future__ import annotations

import pytest

from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained, create
from gptwo.tokenizer import train_bpe

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。", "Anna lives in Berlin. "]


@pytest.fixture(scope="session")
def made():
    """`made(head, labels, **config)`: a random model."""
    tokenizer = train_bpe(iter(TEXTS * 20), 290)

    def make(head="language", labels=(), **sizes) -> Pretrained:
        sizes = {"n_positions": 48, "n_embd": 16, "n_layer": 3, "n_head": 2, "initializer_range": 0.3} | sizes
        found = create(GPT2Config(tokenizer.vocab_size, **sizes), tokenizer, head=head, labels=labels, seed=6)
        if head == "token":
            found.info |= {"task": "tag", "context": "both", "scheme": "IOB2", "source_scheme": "IOB2"}
        return found

    return make

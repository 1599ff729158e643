"""A tokenizer, a tiny network, and records to try a task on."""

from __future__ import annotations

import pytest

from gptwo.data.sources import Record
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, save
from gptwo.tokenizer import train_bpe

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "猫坐在垫子上，狗坐在木头上。", "Anna lives in Berlin. "]


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 290)


@pytest.fixture(scope="session")
def chinese(tmp_path_factory):
    """A BERT vocabulary: one token a character, [CLS] in front."""
    from gptwo.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"猫坐在垫子上，狗木头。小明去北京", "the", "cat"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def network(tokenizer):
    """`network(head, labels, tokenizer=…)`: a random network whose scores differ clearly."""

    def make(head, labels=(), words=None):
        config = GPT2Config(
            vocab_size=(words or tokenizer).vocab_size,
            n_positions=32,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=0.5,
        )
        return create(config, words or tokenizer, head=head, labels=labels, seed=4).model

    return make


@pytest.fixture(scope="session")
def record():
    """`record(row, text=…, label=…)`: one of data.csv."""
    return lambda row=1, **fields: Record(fields, "data.csv", row)


@pytest.fixture
def known_speed(monkeypatch):
    """The machine is not measured."""
    monkeypatch.setattr("gptwo.runtime.matmul_rate", lambda precision, device: 1e9)


@pytest.fixture(scope="session")
def base_folder(tokenizer, tmp_path_factory):
    """Folder of a language model to tune."""
    sizes = {"n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
    config = GPT2Config(vocab_size=tokenizer.vocab_size, **sizes)
    return save(create(config, tokenizer, seed=5), tmp_path_factory.mktemp("base") / "tiny")

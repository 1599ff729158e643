"""Small vocabularies trained here, the real ones where this machine has them, and one of transformers beside each."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from gptwo.tokenizer import Tokenizer, load_tokenizer, train_bpe

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's what they'd call 1,234 words, isn't it?",
    "今天天气很好，我们去公园散步。明天天气也会很好，我们再去公园。",
    "Ünïcödé größer straße, naïve café; привет, мир! 안녕하세요 세계 😀😀 👩‍👩‍👧",
    "def f(x):\n    return x + 1\n\n\n# done\t\ttabs",
]

BERT_WORDS = [
    *("[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", *"!\"'(),-./:?“”，。《》"),
    *("##好", "##a", "##b", "##s", "hello", "world", "play", "##ing", "##ed", "it", "cafe", "##1", "세", "##계", "gpt"),
    *"的一是不我你好今天气诗abs32",
]


@pytest.fixture(scope="session")
def small_bpe() -> Tokenizer:
    return train_bpe(TEXTS * 3, 400)


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("".join(word + "\n" for word in BERT_WORDS), encoding="utf-8", newline="\n")
    return load_tokenizer(path)


@pytest.fixture(scope="session")
def gpt2_files(data_set) -> Path:
    """OpenAI's own files: encoder.json, vocab.bpe, gpt2.tiktoken."""
    return data_set("gpt2_bpe")


@pytest.fixture(scope="session")
def gpt2(gpt2_files) -> Tokenizer:
    return load_tokenizer(gpt2_files)


@pytest.fixture(params=["small_bpe", "gpt2"])
def bpe(request) -> Tokenizer:
    """A vocabulary of 400 entries, then GPT-2's own. Tests leave it unchanged."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def chinese_bert(data_set) -> Tokenizer:
    """The vocabulary of the Chinese GPT-2 checkpoints."""
    return load_tokenizer(data_set("zh_vocab") / "google_zh_vocab.txt")


@pytest.fixture(params=["small_bert", "chinese_bert"])
def bert(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["small_bpe", "small_bert"])
def either(request) -> Tokenizer:
    """One of each kind, small."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def transformers_of(tmp_path_factory):
    """The tokenizer of transformers that is built, by its own rules, from the vocabulary files of one of ours."""
    from transformers import BertTokenizer, GPT2Tokenizer

    @cache
    def build(ours):
        folder = tmp_path_factory.mktemp("vocabulary")
        ours.save(folder)
        if ours.kind == "bert":
            rows = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
            return BertTokenizer(vocab={token: row for row, token in enumerate(rows)})
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        rows = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
        return GPT2Tokenizer(vocab=vocab, merges=[tuple(row.split(" ")) for row in rows])

    return build

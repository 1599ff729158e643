"""A tokenizer that takes milliseconds to build: a few merges over all bytes, one of them Chinese."""

from __future__ import annotations

import pytest

from gptwo.tokenizer import load_tokenizer, train_bpe

TEXTS = ["the cat sat on the mat, and the dog sat on the log.\n" * 20, "猫坐在垫子上，狗坐在木头上。\n" * 20]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """Folder of a byte-level BPE of 300 entries with <|endoftext|>."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(TEXTS, 300).save(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    return load_tokenizer(tokenizer_folder)

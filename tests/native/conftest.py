"""Tiny random models for the native engine; where it was not built for want of a compiler, its tests are skipped."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from gptwo.generate.native import NativeEngine, isas
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained, create
from gptwo.tokenizer import train_bpe

TEXTS = [
    "the quick brown fox jumps over the lazy dog. ",
    "春眠不觉晓，处处闻啼鸟。 ",
    "Once upon a time there was 🙂. ",
]


def pytest_collection_modifyitems(items):
    if not isas() and not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        for item in items:
            if "native" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="the native engine was not built: there is no C++ compiler"))


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 300)


def made(tokenizer=None, seed=5, **sizes) -> Pretrained:
    """A network whose choices are clear; sizes that fill no vector evenly unless they are given."""
    shape = {"vocab_size": 300, "n_positions": 96, "n_embd": 40, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    model = create(GPT2Config(**{**shape, **sizes}), tokenizer, seed=seed)
    torch.manual_seed(seed)
    for name, parameter in model.model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="session")
def tiny(tokenizer) -> Pretrained:
    return made(tokenizer, vocab_size=tokenizer.vocab_size)


@pytest.fixture(scope="session")
def engine(tiny) -> NativeEngine:
    return NativeEngine(tiny, precision="fp32", threads=2)


def all_logits(engine: NativeEngine, ids: list[int], chunk: int = 10**6) -> np.ndarray:
    """Logits after the last token, its tokens read in chunks."""
    number = engine.native.open(ids, len(ids), 0, sampling())
    try:
        while (left := engine.native.left(number)) > chunk:
            engine.native.hidden([(number, chunk, [])])
        return engine.native.logits([(number, left, [])])[0]
    finally:
        engine.native.close(number)


def sampling():
    from gptwo.generate._native import Sampling

    return Sampling()


def idle(engine: NativeEngine) -> bool:
    """No sequence is left, and no page held but the prefix cache's."""
    usage = engine.native.usage()
    return usage["sequences"] == 0 and usage["pages"] == usage["cached_pages"]


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request):
    """After every test the engines that it used are idle."""
    yield
    for name in ("engine", "half"):
        if name in request.fixturenames:
            assert idle(request.getfixturevalue(name))

"""The largest logits by way of a screen in eight bits are those of the whole projection, to the last bit."""

from __future__ import annotations

import pytest

from gptwo.generate.native import NativeEngine, isas
from tests.native.conftest import made

PROMPTS = [[5, 6, 7], [9], [11, 3, 4, 8], [2, 2]]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.2, "top_k": 7, "seed": 1}], ids=str)
@pytest.mark.parametrize("count", [1, 4])
def test_a_screen_changes_nothing(isa, precision, options, count):
    engine = NativeEngine(made(vocab_size=1003), precision=precision, isa=isa, threads=2, speculate=False)
    texts = engine.generate(PROMPTS[:count], max_new_tokens=30, ignore_end=True, **options)
    assert engine.native.usage()["screened"] > 10
    whole = engine.generate(PROMPTS[:count], max_new_tokens=30, ignore_end=True, logprobs=True, **options)
    assert [text.ids for text in texts] == [text.ids for text in whole]


def test_a_token_or_two_need_no_screen():
    engine = NativeEngine(made(vocab_size=1003), precision="bf16", threads=1)
    before = engine.native.usage()["weight_bytes"]
    engine.generate(PROMPTS[:1], max_new_tokens=3, temperature=0)
    assert engine.native.usage()["screened"] == 0
    assert engine.native.usage()["weight_bytes"] == before


def test_where_a_screen_leaves_too_much_it_is_given_up():
    engine = NativeEngine(made(vocab_size=40), precision="bf16", threads=1, speculate=False)  # three panels
    engine.generate(PROMPTS * 10, max_new_tokens=20, temperature=0, ignore_end=True)
    assert 0 < engine.native.usage()["screened"] < 200

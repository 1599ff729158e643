"""A smaller model that guesses ahead changes the number of steps, and no token."""

from __future__ import annotations

import pytest

from gptwo.errors import UsageError
from gptwo.generate.native import NativeEngine
from tests.native.conftest import made

PROMPTS = [[5, 6, 7], [9, 40, 41, 42]]


class Counted:
    """An engine that counts its steps."""

    def __init__(self, native):
        self._native, self.steps = native, 0

    def __getattr__(self, name):
        return getattr(self._native, name)

    def step(self, work):
        self.steps += 1
        return self._native.step(work)


def written(engine: NativeEngine, prompts, **options) -> tuple[list[list[int]], int]:
    engine.native = Counted(engine.native)
    texts = engine.generate(prompts, ignore_end=True, **options)
    assert engine.native.usage()["sequences"] == 0
    if engine._draft:
        assert engine._draft[0].usage()["sequences"] == 0
    return [text.ids for text in texts], engine.native.steps


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0, "top_k": 40, "seed": 4}], ids=str)
@pytest.mark.parametrize("draft", [5, 6], ids=["itself", "another"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_text_stays_the_same(precision, options, draft, count):
    model, guesser = made(), made(seed=draft)
    plain, steps = written(
        NativeEngine(model, precision=precision, threads=1, speculate=False),
        PROMPTS[:count],
        max_new_tokens=40,
        **options,
    )
    engine = NativeEngine(model, precision=precision, threads=1, draft=guesser)
    text, fewer = written(engine, PROMPTS[:count], max_new_tokens=40, **options)
    assert text == plain
    if draft == 5:
        assert fewer < steps / 3  # all its guesses are right


def test_texts_that_outgrow_the_draft_go_on_without_it():
    model = made()
    options = {"max_new_tokens": 150, "temperature": 0.9, "seed": 1}  # the window of 96 slides
    plain, _ = written(NativeEngine(model, precision="fp32", threads=1, speculate=False), PROMPTS[:1], **options)
    engine = NativeEngine(model, precision="fp32", threads=1, draft=made(n_positions=32))
    assert written(engine, PROMPTS[:1], **options)[0] == plain


def test_a_draft_has_the_same_vocabulary():
    with pytest.raises(UsageError, match="another vocabulary"):
        NativeEngine(made(), draft=made(vocab_size=200))

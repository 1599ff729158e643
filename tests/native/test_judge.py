"""How likely texts are on the native engine: PyTorch's numbers, alone and in any batch; beginnings are read once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gptwo.adapt.apply import apply_adapter
from gptwo.data.sources import Record
from gptwo.errors import DataError, GptwoError, UsageError
from gptwo.evaluate.shots import Shots, few_shot
from gptwo.evaluate.suites.base import Subject, judge_pairs
from gptwo.generate.engine import Engine
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_build import page_bytes
from gptwo.generate.native_judge import SHARED, judged, stems_of
from gptwo.generate.native_network import model_of, on_native
from gptwo.tasks.choice import Choice
from gptwo.tasks.runner import ModelRunner
from tests.adapt.kinds import KINDS, config_of, shake

from .conftest import idle, made

STEMS = [
    ("the quick brown fox jumps over", ["the lazy dog.", "the", "Once upon a time there was 🙂. Once"]),
    ("Once ___ there was a fox.", ["upon a time", "the dog"]),
    ("春眠不觉晓，处处___啼鸟。", ["闻", "晓", "the fox", "眠不觉"]),
    ("", ["the fox", "闻啼鸟"]),
    ("the lazy dog. " * 20, ["the quick", "a fox"]),
]


def questions():
    return [Record({"stem": s, "choices": c, "answer": 0}, "x.jsonl", i) for i, (s, c) in enumerate(STEMS, 1)]


def texts_like(seed):
    """Texts of which many begin alike, and the first judged token of each."""
    draw = random.Random(seed)
    base = [draw.randrange(300) for _ in range(60)]
    rows, starts = [], []
    for _ in range(draw.randrange(1, 40)):
        own = [draw.randrange(draw.choice([2, 300])) for _ in range(draw.randrange(2, 38))]
        rows.append(base[: draw.choice([0, 1, 5, 20, 33, 60])] + own)
        starts.append(draw.randrange(1, len(rows[-1])))
    return rows, starts


class Counted:
    """The C++ engine, which says how many tokens went through it and how many passes that took."""

    def __init__(self, native):
        self._native, self.read, self.passes = native, 0, 0

    def __getattr__(self, name):
        return getattr(self._native, name)

    def logits(self, items, rows):
        found = self._native.logits(items, rows)
        self.read, self.passes = self.read + sum(count for _, count, _ in items), self.passes + 1
        return found


def narrow(model, pages):
    """The engine with a cache of so many pages."""
    return NativeEngine(model, precision="fp32", threads=1, cache_bytes=pages * page_bytes(model.config, "fp32"))


# --- numbers


@pytest.mark.parametrize("seed", range(8))
def test_tokens_are_as_likely_as_with_pytorch_alone_and_in_any_batch(tiny, seed):
    rows, starts = texts_like(seed)
    engine = NativeEngine(tiny, precision="fp32", threads=1)
    found = engine.judge(rows, starts)
    for (logprobs, likeliest), (expected, first) in zip(found, Engine(tiny).judge(rows, starts), strict=True):
        assert logprobs == pytest.approx(expected, abs=1e-4)
        assert likeliest == first
    assert [engine.judge([row], [start])[0] for row, start in zip(rows, starts, strict=True)] == found
    assert idle(engine)


@pytest.mark.parametrize("pages", [3, 4, 7])
def test_a_small_cache_changes_no_number(tiny, engine, pages):
    rows, starts = texts_like(pages)
    small = narrow(tiny, pages)
    assert small.judge(rows, starts) == engine.judge(rows, starts)
    assert idle(small)
    assert small.native.usage()["cache_bytes"] <= pages * small.native.usage()["page_bytes"]


def test_a_cache_too_small_for_one_text_is_an_error_and_others_may_give_way(tiny, engine):
    small, ids = narrow(tiny, 2), list(range(90))
    with pytest.raises(GptwoError, match="too small"):
        small.judge([ids[:20], ids], [1, 80])
    assert idle(small)
    held = small.native.open(ids[:40], 40, 0, _sampling())
    small.native.hidden([(held, 40, [])])
    asked = []

    def give_way():
        asked.append(small.native.rewind(held))
        return True

    assert judged(small.native, [ids[:50]], [3], 0, give_way) == engine.judge([ids[:50]], [3])
    assert len(asked) == 1
    small.native.close(held)


def test_a_network_with_tokens_out_of_its_vocabulary_leaves_nothing_behind(tiny):
    engine = NativeEngine(tiny, precision="fp32", threads=1)
    with pytest.raises(ValueError, match="vocabulary"):
        engine.judge([[1, 2, 3], [1, 10**6, 3]], [1, 1])
    assert idle(engine)


# --- what is shared


def test_beginnings_are_read_once(tiny):
    prompt = list(range(50))
    rows = [[*prompt, 60 + i, 70 + i, 80] for i in range(6)]
    counted = Counted(NativeEngine(tiny, precision="fp32", threads=1).native)
    judged(counted, rows, [50] * 6, 0)
    assert (counted.read, counted.passes) == (50 + 6 * 2, 2)
    counted = Counted(NativeEngine(tiny, precision="fp32", threads=1).native)
    judged(counted, [[*prompt, 60], [*prompt, 61], [*prompt, 60]], [50] * 3, 0)
    assert (counted.read, counted.passes) == (50, 1)  # the last token is judged only


def test_stems_hold_every_token_and_judge_each_that_is_asked_for():
    long, short = list(range(SHARED + 2)), [7, 7]
    rows = [[*long, 1, 2, 3], [*long, 1, 5], [*short, 1], [*short, 2], long]
    starts = [3, SHARED + 2, 2, 2, 1]
    roots = stems_of(rows, starts)
    first, second = sorted(roots, key=lambda stem: -len(stem.ids))
    assert (first.ids, first.begin) == (long[:-1], 0)
    assert (second.ids, second.branches) == (short, [])
    branches = [(stem.begin, stem.ids) for stem in first.branches]
    assert branches == [(SHARED + 1, [long[-1], 1]), (SHARED + 1, [long[-1], 1, 2])]  # so little is read twice
    told = []
    todo = list(roots)
    while todo:
        stem = todo.pop()
        told += [(text, slot) for _, _, text, slot in stem.asked]
        assert all(stem.begin <= place < stem.end for place, *_ in stem.asked)
        todo += stem.branches
    assert sorted(told) == [(i, slot) for i, row in enumerate(rows) for slot in range(len(row) - starts[i])]
    assert stems_of([], []) == []


# --- tasks


@pytest.mark.parametrize("max_length", [96, 24])
def test_a_choice_by_likelihood_is_pytorch_s(tiny, tokenizer, max_length):
    task = Choice("likelihood")
    expected = task.predict(ModelRunner(tiny.model.eval(), tokenizer, max_length), questions())
    native = ModelRunner(on_native(tiny, precision="fp32", threads=1).model, tokenizer, max_length)
    bare = NativeEngine(tiny, precision="fp32", threads=1)
    found = task.predict(native, questions())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for runner in (native, ModelRunner(model_of(bare), tokenizer, max_length)):
        alone = [task.predict(runner, [record])[0] for record in questions()]
        assert all(np.array_equal(one, other) for one, other in zip(alone, found, strict=True))
    assert task.evaluate(native, questions()) == pytest.approx(
        task.evaluate(ModelRunner(tiny.model, tokenizer, max_length), questions()), abs=1e-4
    )
    assert idle(bare)


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_through_an_adapter_is_pytorch_s(tokenizer, kind):
    model = made(tokenizer, vocab_size=tokenizer.vocab_size)
    model.adapter = apply_adapter(model.model, config_of(kind), seed=3)
    model.config = model.model.config
    shake(model.model, 0.05)
    native = on_native(model, precision="fp32", threads=1)
    task, length = Choice("likelihood"), model.config.n_positions
    expected, found = (
        task.predict(ModelRunner(one.model.eval(), tokenizer, length), questions()) for one in (model, native)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_records_that_cannot_be_judged_are_the_same_errors(tiny, tokenizer):
    for model in (tiny.model, on_native(tiny, precision="fp32", threads=1).model):
        task = Choice("likelihood")
        with pytest.raises(DataError, match="no choice"):
            task.predict(ModelRunner(model, tokenizer, 96), [Record({"stem": "a", "choices": ["b"]}, "x", 1)])
        with pytest.raises(UsageError, match="too few"):
            task.predict(ModelRunner(model, tokenizer, 1), questions())


def test_examples_in_the_prompt_and_continuations_cost_what_they_cost_with_pytorch(tiny):
    records = [Record({"text": f"the {word} {i}", "label": word}, "x", i) for i in range(6) for word in ("fox", "dog")]
    engines = Engine(tiny), NativeEngine(tiny, precision="fp32", threads=1)
    for count in (1, 6):
        shots = Shots(count, (0, 1))
        expected, found = (few_shot(Subject("x", one), records, records[:5], shots, resamples=20) for one in engines)
        assert found.recipe == expected.recipe
        assert found.notes == expected.notes
        assert any("longer than the context" in note for note in found.notes) == (count == 6)
    pairs = [("", "the fox"), ("春眠不觉晓", "，处处闻啼鸟"), ("Once ", "upon"), ("the dog", " the lazy dog." * 30)] * 2
    for ours, theirs in zip(judge_pairs(engines[1], pairs), judge_pairs(engines[0], pairs), strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
        assert (ours.likeliest, ours.truncated) == (theirs.likeliest, theirs.truncated)


def _sampling():
    from gptwo.generate._native import Sampling

    return Sampling()

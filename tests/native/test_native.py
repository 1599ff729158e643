"""Texts of the native engine: equal to PyTorch's, alone and in any batch, with shared pages and without."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from gptwo.errors import DataError, GptwoError, MissingError, UsageError
from gptwo.generate.engine import Engine
from gptwo.generate.native import NativeEngine, isas, why_not
from gptwo.generate.native_build import page_bytes
from gptwo.generate.native_lookup import Lookup
from gptwo.model.pretrained import create, save

from .conftest import idle, made

ALWAYS = {"logit_bias": {5: 100.0}, "ignore_end": True}  # writes the same token again and again
PROMPTS = ["the quick", "春眠", "Once upon a time there was a fox over the dog", "🙂"]


@pytest.fixture(scope="module")
def torch_engine(tiny):
    return Engine(tiny)


@pytest.fixture(scope="module")
def half(tiny):
    return NativeEngine(tiny, precision="bf16", threads=2)


def test_it_was_built_where_there_is_a_compiler():
    assert isas()[0] == "plain"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 1.3},
        {"temperature": 0, "presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"temperature": 0, "no_repeat_ngram": 2, "min_new_tokens": 5},
        {"temperature": 0, "logit_bias": {7: 3.0, 9: -100.0}},
        {"seed": 1},
        {"seed": 8, "n": 3, "temperature": 0.7},
        {"seed": 3, "top_k": 5},
        {"seed": 4, "top_p": 0.8, "temperature": 1.5},
        {"seed": 5, "min_p": 0.1},
        {"seed": 6, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.1},
        {"seed": 7, "stop": ["e"]},
        {"temperature": 0, "max_new_tokens": 0},
    ],
    ids=str,
)
def test_texts_equal_the_torch_engine(engine, torch_engine, options):
    chosen = {"max_new_tokens": 20, "logprobs": True, **options}
    ours, theirs = engine.generate(PROMPTS, **chosen), torch_engine.generate(PROMPTS, **chosen)
    assert [text.ids for text in ours] == [text.ids for text in theirs]
    assert [(text.text, text.finish_reason, text.stop) for text in ours] == [
        (text.text, text.finish_reason, text.stop) for text in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_a_text_that_outgrows_the_context_goes_on_as_the_torch_engine_does(engine, torch_engine):
    options = {"max_new_tokens": 200, "temperature": 0, "ignore_end": True}
    (ours,), (theirs,) = (one.generate("the quick brown fox", **options) for one in (engine, torch_engine))
    assert (ours.ids, ours.notices) == (theirs.ids, theirs.notices)
    long = "the lazy dog. " * 60
    (ours,), (theirs,) = (one.generate(long, **options) for one in (engine, torch_engine))
    assert (ours.ids, ours.notices) == (theirs.ids, theirs.notices)


def test_beams_equal_the_torch_engine(engine, torch_engine):
    prompts = ["the quick", "", *PROMPTS[1:]]  # one has nothing to be read before its only token
    options = {"num_beams": 4, "n": 2, "max_new_tokens": 12, "logprobs": True}
    for ours, theirs in zip(
        engine.generate(prompts, **options), torch_engine.generate(prompts, **options), strict=True
    ):
        assert ours.ids == theirs.ids
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_likelihoods_equal_the_torch_engine(engine, torch_engine):
    prompts, texts = ["the quick", "春眠", "", "the"], [" brown fox", "不觉晓，处处", "the", " quick brown fox" * 60]
    for ours, theirs in zip(
        engine.loglikelihood(prompts, texts), torch_engine.loglikelihood(prompts, texts), strict=True
    ):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
        assert ours.greedy == theirs.greedy


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_a_text_is_the_same_alone_in_any_batch_and_streamed(tiny, precision):
    engine = NativeEngine(tiny, precision=precision, threads=2, max_batch=5)
    options = {"max_new_tokens": 30, "seed": 3, "temperature": 0.9, "ignore_end": True}
    together = engine.generate(PROMPTS * 3, **options)
    for prompt, text in zip(PROMPTS, together, strict=False):
        (alone,) = engine.generate(prompt, **options)
        assert alone.ids == text.ids
        stream = engine.stream(prompt, **options)
        assert "".join(stream) == text.text
    assert idle(engine)


def test_shared_pages_change_nothing(tiny):
    prompts = [[5 + i % 9 for i in range(70)] + [tail] for tail in (1, 2, 1, 3)]
    options = {"max_new_tokens": 15, "temperature": 0, "ignore_end": True}
    shared, apart = (NativeEngine(tiny, precision="bf16", threads=2, share=share) for share in (True, False))
    texts = [[text.ids for text in one.generate(prompts, **options)] for one in (shared, apart, shared)]
    assert texts[0] == texts[1] == texts[2]
    assert shared.native.usage()["cached_pages"] > 0
    assert apart.native.usage()["pages"] == 0


def test_a_beginning_is_read_once(half):
    ids = [5 + i % 9 for i in range(80)]
    half.native.forget()
    half.generate([ids], max_new_tokens=1)
    number = half.native.open(ids, len(ids), 0, half.sampling(half.options(), half._prepare([ids], {})[1][0]))
    assert half.native.left(number) == 80 - 64
    half.native.close(number)
    half.native.forget()
    assert half.native.usage()["pages"] == 0


def test_forks_part_where_they_are_written_to(half):
    from .conftest import all_logits, sampling

    ids = [3, 4, 5, 6, 7]
    first = half.native.open(ids, len(ids), 0, sampling())
    half.native.logits([(first, 5, [])])
    second = half.native.fork(first, sampling())
    before = half.native.usage()["pages"]
    half.native.append(first, 8)
    half.native.append(second, 9)
    found = half.native.logits([(first, 1, []), (second, 1, [])])
    assert half.native.usage()["pages"] == before + 1
    half.native.close(first)
    half.native.close(second)
    assert np.array_equal(found, np.stack([all_logits(half, [*ids, 8]), all_logits(half, [*ids, 9])]))


def test_logits_of_a_whole_text_are_those_of_one_token_at_a_time(half):
    from .conftest import sampling

    ids, other = [3, 4, 5, 6, 7, 8], [9, 10]
    numbers = [half.native.open(text, len(text), 0, sampling()) for text in (ids, other)]
    found = half.native.logits([(numbers[0], 6, []), (numbers[1], 2, [])], [0, 2, 5, 6, 7])
    for number in numbers:
        half.native.close(number)
    number = half.native.open(ids, len(ids), 0, sampling())
    with pytest.raises(ValueError, match="rows"):
        half.native.logits([(number, 2, [])], [2])
    alone = np.concatenate([half.native.logits([(number, 1, [])]) for _ in ids])
    half.native.close(number)
    assert np.array_equal(found[:3], alone[[0, 2, 5]])


def test_guesses_change_nothing_but_the_number_of_steps(half):
    from .conftest import sampling

    (text,) = half.generate([[3, 4, 5]], max_new_tokens=12, temperature=0, ignore_end=True)
    plain = sampling()
    plain.vocab_size = half.codec.vocab_size
    number = half.native.open([3, 4, 5], 3, 0, plain)
    half.native.step([(number, 3, [])])
    wrong = (text.ids[4] + 1) % half.codec.vocab_size
    ((found),) = half.native.step([(number, 1, [*text.ids[1:4], wrong, text.ids[5]])])
    assert [token for token, _ in found] == text.ids[1:5]
    ((found),) = half.native.step([(number, 1, text.ids[5:11])])
    assert [token for token, _ in found] == text.ids[5:12]
    half.native.close(number)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 3}, {"seed": 4, "repetition_penalty": 1.2, "n": 2}])
def test_looking_back_changes_nothing_but_the_number_of_steps(tiny, options):
    guessing, plain = (NativeEngine(tiny, precision="bf16", threads=1, speculate=on) for on in (True, False))
    prompts = ["the quick brown fox the quick brown fox the quick", "春眠"]
    chosen = {"max_new_tokens": 120, "ignore_end": True, **options}  # longer than the context: it slides
    for prompt in prompts:
        ours, theirs = (one.generate(prompt, **chosen) for one in (guessing, plain))
        assert [text.ids for text in ours] == [text.ids for text in theirs]
    assert idle(guessing)


def test_a_text_that_repeats_itself_needs_fewer_steps(half):
    steps = 0
    pieces = half._run(*half._prepare([[5, 6, 7, 8] * 6], {"max_new_tokens": 24, "temperature": 0, **ALWAYS})[::-1])
    while pieces.advance() is not None:
        steps += 1
    assert steps < 15


def test_guesses_are_what_followed_before():
    lookup = Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.guess(2) == [4, 5]
    lookup.append([7])
    assert lookup.guess(5) == []
    lookup.append([1, 2, 3])
    assert lookup.guess(1) == [7]
    lookup.judge(30, 1)
    assert lookup.guess(5) == []


def test_more_is_guessed_after_all_was_right_and_less_after_that_was_not():
    lookup = Lookup([1, 2, 3, 4, 5, 6] * 6)
    assert [len(lookup.guess(50)), len(lookup.guess(3))] == [7, 3]
    for expected in (15, 23, 23):
        lookup.judge(7, 7)
        assert len(lookup.guess(50)) == expected
    lookup.judge(23, 22)
    assert len(lookup.guess(50)) == 7


def test_the_cache_is_bounded_and_texts_wait_for_room(tiny):
    page = page_bytes(tiny.config, "bf16")
    options = {"max_new_tokens": 60, "temperature": 0, "ignore_end": True}
    small = NativeEngine(tiny, precision="bf16", threads=2, cache_bytes=4 * page)
    large = NativeEngine(tiny, precision="bf16", threads=2)
    prompts = [[token] * 20 for token in range(5, 12)]
    assert [text.ids for text in small.generate(prompts, **options)] == [
        text.ids for text in large.generate(prompts, **options)
    ]
    assert small.native.usage()["cache_bytes"] <= 4 * page
    assert idle(small)


def test_a_cache_too_small_for_one_text_is_an_error(tiny):
    page = page_bytes(tiny.config, "bf16")
    engine = NativeEngine(tiny, precision="bf16", threads=1, cache_bytes=2 * page)
    with pytest.raises(GptwoError, match="too small"):
        engine.generate([[5] * 80], max_new_tokens=1)
    assert idle(engine)
    assert len(engine.generate([[5] * 20], max_new_tokens=3, ignore_end=True)[0].ids) == 3
    with pytest.raises(UsageError, match="cache_bytes"):
        NativeEngine(tiny, cache_bytes=100)


def test_an_abandoned_stream_gives_its_pages_back(half):
    stream = half.stream("the quick", max_new_tokens=50, ignore_end=True)
    next(stream)
    assert not idle(half)
    del stream
    assert idle(half)


def test_several_threads_may_use_one_engine(half):
    expected = half.generate("the quick", max_new_tokens=20, seed=1)[0].ids
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(half.generate("the quick", max_new_tokens=20, seed=1)[0].ids))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return save(tiny, tmp_path_factory.mktemp("native") / "model")


def test_a_folder_gives_what_the_loaded_model_gives_without_pytorch(folder, engine):
    expected = engine.generate("the quick", max_new_tokens=10, temperature=0)[0].ids
    code = f"""
import sys
from gptwo.generate.native_lookup import Lookup
from gptwo.generate.native import NativeEngine
print(NativeEngine({str(folder)!r}, precision="fp32").generate("the quick", max_new_tokens=10, temperature=0)[0].ids)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_sharded_files_are_read(tiny, tmp_path, dtype):
    import torch

    folder = save(tiny, tmp_path / "model", dtype=getattr(torch, dtype), max_shard_size=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    ours, theirs = NativeEngine(folder, precision="fp32", threads=1), Engine(folder)
    options = {"max_new_tokens": 10, "temperature": 0, "logprobs": True}
    (mine,), (other,) = ours.generate("the", **options), theirs.generate("the", **options)
    assert mine.ids == other.ids


def test_a_damaged_file_is_an_error_that_names_it(folder, tmp_path):
    import shutil

    for cut in (4, 200, 5000):
        copy = tmp_path / f"cut{cut}"
        shutil.copytree(folder, copy)
        with open(copy / "model.safetensors", "r+b") as file:
            file.truncate(cut)
        with pytest.raises(DataError, match=r"model\.safetensors"):
            NativeEngine(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="safetensors"):
        NativeEngine(copy)


def test_what_it_cannot_serve_is_refused_and_explained(tiny, monkeypatch):
    with pytest.raises(UsageError, match="int3"):
        NativeEngine(tiny, precision="int3")
    with pytest.raises(UsageError, match="sse9"):
        NativeEngine(tiny, isa="sse9")
    with pytest.raises(UsageError, match="cannot write"):
        NativeEngine(create(tiny.config, head="sequence", labels=["a", "b"]))
    assert why_not(tiny) is None
    assert "CPU" in why_not(tiny, "cuda")
    monkeypatch.setattr("gptwo.generate.native.isas", list)
    assert "not built" in why_not(tiny)
    with pytest.raises(MissingError, match="not here"):
        NativeEngine(tiny)


@pytest.mark.parametrize("isa", isas())
def test_an_instruction_set_that_is_chosen_writes_the_texts_of_pytorch(isa, tiny, torch_engine, monkeypatch):
    monkeypatch.setitem(os.environ, "GPTWO_ISA", isa)
    chosen = NativeEngine(tiny, precision="fp32", threads=2)
    assert chosen.native.isa == isa
    options = {"max_new_tokens": 12, "temperature": 0, "ignore_end": True}
    ours, theirs = (engine.generate(PROMPTS, **options) for engine in (chosen, torch_engine))
    assert [text.ids for text in ours] == [text.ids for text in theirs]


def test_the_fastest_instruction_set_is_taken_where_none_is_chosen(tiny, monkeypatch):
    monkeypatch.delitem(os.environ, "GPTWO_ISA", raising=False)
    assert NativeEngine(tiny).native.isa == isas()[-1]


def test_weights_that_are_not_numbers_are_an_error():
    import torch

    broken = made()
    torch.nn.init.constant_(broken.model.transformer.ln_f.weight, float("nan"))
    engine = NativeEngine(broken, precision="fp32")
    with pytest.raises(GptwoError, match="NaN"):
        engine.generate([[1]])
    assert idle(engine)


def test_wrong_calls_are_refused_and_leave_nothing(half):
    from .conftest import sampling

    native = half.native
    with pytest.raises(ValueError, match="vocabulary"):
        native.open([10**6], 1, 0, sampling())
    with pytest.raises(ValueError, match="at least one"):
        native.open([], 0, 0, sampling())
    number = native.open([1, 2], 2, 0, sampling())
    for work in ([(number, 3, [])], [(number, 0, [])], [(number, 1, [5])], [(77777, 1, [])]):
        with pytest.raises(ValueError, match="sequence"):
            native.step(work)
    native.close(number)

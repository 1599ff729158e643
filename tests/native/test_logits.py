"""The native network gives the logits of the PyTorch network, on every instruction set, in every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.errors import GptwoError
from gptwo.generate.native import NativeEngine, isas
from gptwo.generate.native_build import PRECISIONS, page_bytes

from .conftest import all_logits, idle, made, sampling

SHAPES = [
    {},
    {"n_embd": 8, "n_head": 4, "n_layer": 1, "vocab_size": 17},
    {"n_embd": 64, "n_head": 1, "n_layer": 1, "n_inner": 100},
    {"n_embd": 128, "n_head": 2, "n_layer": 2, "tie_word_embeddings": False},
    {"n_embd": 96, "n_head": 1, "n_layer": 3, "scale_attn_by_inverse_layer_idx": True},
    {"n_embd": 144, "n_head": 3, "n_layer": 1},
]


def reference(model, ids):
    with torch.inference_mode():
        return model.model(torch.tensor([ids]))[0].numpy()


def ids_of(model, count, seed=1):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, count).tolist()


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("sizes", SHAPES)
def test_float32_logits_equal_pytorch(sizes, isa):
    model = made(**sizes)
    engine = NativeEngine(model, precision="fp32", threads=2, isa=isa)
    for count in (1, 2, 5, 33, 96):
        ids = ids_of(model, count)
        assert all_logits(engine, ids) == pytest.approx(reference(model, ids)[-1], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9995), ("int8", 0.998), ("int4", 0.95)])
def test_packed_precisions_are_near_float32(precision, least, isa):
    model = made(n_embd=128, n_head=2, initializer_range=0.08)
    engine = NativeEngine(model, precision=precision, threads=2, isa=isa)
    ids = ids_of(model, 60)
    assert correlation(all_logits(engine, ids), reference(model, ids)[-1]) > least


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("cache", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("int8", 0.999)])
def test_keys_and_values_are_kept_in_any_precision(cache, least, isa):
    model = made()
    engine = NativeEngine(model, precision="fp32", cache=cache, threads=1, isa=isa, share=False)
    ids = ids_of(model, 70)
    found = all_logits(engine, ids)
    assert correlation(found, reference(model, ids)[-1]) > least
    assert np.array_equal(all_logits(engine, ids, chunk=9), found)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_every_instruction_set_gives_the_numbers_of_the_plain_one(sizes, precision, isa):
    """Quantised products are sums of whole numbers and equal to rounding; bf16 rounds in other places."""
    model = made(**sizes)
    plain, fast = (NativeEngine(model, precision=precision, threads=1, isa=name) for name in ("plain", isa))
    ids = ids_of(model, 50)
    expected, found = all_logits(plain, ids), all_logits(fast, ids)
    if precision == "fp32":
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-4)
    else:  # a number at the border of two codes may fall to either side
        assert correlation(found, expected) > 0.998


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_chunked_prompt_gives_the_very_numbers_of_a_whole_one(precision):
    model = made(n_embd=96, n_head=3)
    engine = NativeEngine(model, precision=precision, threads=2, share=False)
    ids = ids_of(model, 90)
    whole = all_logits(engine, ids)
    for chunk in (1, 7, 32, 50):
        assert np.array_equal(all_logits(engine, ids, chunk), whole)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_gives_the_very_numbers_of_single_sequences(precision, isa):
    model = made(n_embd=96, n_head=3)
    engine = NativeEngine(model, precision=precision, threads=2, isa=isa)
    from .conftest import sampling

    contexts = [ids_of(model, 3 + 7 * i, seed=i) for i in range(11)]
    alone = [all_logits(engine, ids) for ids in contexts]
    engine.native.forget()
    numbers = [engine.native.open(ids, len(ids), 0, sampling()) for ids in contexts]
    for number, ids in zip(numbers[:6], contexts, strict=False):  # some have only their last token left
        if len(ids) > 1:
            engine.native.hidden([(number, len(ids) - 1, [])])
    work = [(number, engine.native.left(number), []) for number in numbers]
    halves = [engine.native.logits(part) for part in (work[:9], work[9:])]
    assert np.array_equal(np.concatenate(halves), np.stack(alone))
    for number in numbers:
        engine.native.close(number)


def test_threads_do_not_change_the_numbers():
    model = made(n_embd=96, n_head=3)
    ids = ids_of(model, 70)
    one, three = (all_logits(NativeEngine(model, precision="int8", threads=n), ids) for n in (1, 3))
    assert np.array_equal(one, three)


def test_hidden_states_equal_pytorch(engine, tiny):
    texts = ["the quick", "春眠不觉晓", "the lazy dog. " * 5]
    for text, states in zip(texts, engine.encode(texts), strict=True):
        ids = torch.tensor([tiny.tokenizer.encode(text)])
        with torch.inference_mode():
            expected = tiny.model.transformer(ids)[0].numpy()
        assert states == pytest.approx(expected, abs=1e-4)


def test_many_texts_are_encoded_as_each_alone(tiny):
    engine = NativeEngine(tiny, precision="bf16", threads=2)
    texts = [[1 + i % 7] * (1 + 13 * i % 90) for i in range(30)]
    for ids, states in zip(texts, engine.encode(texts), strict=True):
        assert np.array_equal(states, engine.encode([ids])[0])


@pytest.mark.parametrize("share", [True, False])
def test_states_are_pooled_and_read_in_one_go(tiny, share):
    engine = NativeEngine(tiny, precision="bf16", threads=2, share=share)
    start = [1 + i % 7 for i in range(64)]
    texts = [[*start, *range(n, n + 5)] for n in range(40)] + [[3], [3, 4], start, start[:32], start]
    alone = [NativeEngine(tiny, precision="bf16", threads=1, share=False).encode([ids])[0] for ids in texts[::9]]
    whole = engine.encode(texts)
    for ids, states, last, mean in zip(
        texts, whole, engine.encode(texts, pooling="last"), engine.encode(texts, pooling="mean"), strict=True
    ):
        assert states.shape == (len(ids), tiny.config.n_embd)
        assert np.array_equal(states[-1], last)
        assert np.array_equal(states.mean(0), mean)
    for states, expected in zip(whole[::9], alone, strict=True):
        assert np.array_equal(states, expected)
    assert engine.encode([]) == []


def test_many_texts_go_through_a_small_cache(tiny):
    page = page_bytes(tiny.config, "bf16")
    small = NativeEngine(tiny, precision="bf16", threads=1, cache_bytes=3 * page)
    large = NativeEngine(tiny, precision="bf16", threads=1)
    texts = [[1 + (n * i) % 250 for i in range(1 + n * 7 % 96)] for n in range(50)]
    for ours, theirs in zip(small.encode(texts, pooling="last"), large.encode(texts, pooling="last"), strict=True):
        assert np.array_equal(ours, theirs)
    tiny_cache = NativeEngine(tiny, precision="bf16", threads=1, cache_bytes=2 * page)
    with pytest.raises(GptwoError, match="too small for one text"):
        tiny_cache.encode([[5] * 90, [4]])
    assert idle(tiny_cache)
    assert idle(small)


@pytest.mark.parametrize(("precision", "weight"), [("fp32", 4), ("bf16", 2), ("int8", 1), ("int4", 0.5625)])
def test_reading_through_reads_every_matrix_of_a_step(precision, weight):
    model = made(n_embd=64, vocab_size=320)
    native = NativeEngine(model, precision=precision, threads=2).native
    in_blocks, vocabulary = 2 * 12 * 64 * 64, 320 * 64
    at_least = (in_blocks + vocabulary) * weight
    assert at_least <= native.read_through() <= native.usage()["weight_bytes"]


def test_int4_gives_the_likeliest_tokens_their_logits_from_eight_bits():
    model = made(n_embd=64, vocab_size=4000)
    table = model.model.transformer.wte.weight.detach().numpy()
    native = NativeEngine(model, precision="int4", threads=2).native
    prompts = [[5, 6, 7], [900, 31, 7, 7], [3999]]
    numbers = [native.open(ids, len(ids), 0, sampling()) for ids in prompts]
    found = native.logits([(number, len(ids), []) for number, ids in zip(numbers, prompts, strict=True)])
    again = [native.open(ids, len(ids), 0, sampling()) for ids in prompts]
    hidden = native.hidden([(number, len(ids), []) for number, ids in zip(again, prompts, strict=True)])
    for ids, logits, state in zip(prompts, found, hidden[np.cumsum([len(ids) for ids in prompts]) - 1], strict=True):
        exact = table @ state
        order = np.argsort(-exact)
        apart = np.abs(logits - exact) / np.linalg.norm(state)
        assert apart[order[:20]].max() < 0.015 < 0.05 < apart[order[2000:]].max()
        assert np.array_equal(logits, all_logits_of(native, ids))  # alone as beside others


def all_logits_of(native, ids: list[int]) -> np.ndarray:
    number = native.open(ids, len(ids), 0, sampling())
    return native.logits([(number, len(ids), [])])[0]

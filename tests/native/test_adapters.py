"""Adapters on the native engine: per request equal to PyTorch and to merged, and exactly the same in any batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.base import base_of
from gptwo.adapt.store import save
from gptwo.errors import DataError, UsageError
from gptwo.generate.engine import Engine
from gptwo.generate.native import NativeEngine, isas, why_not
from gptwo.generate.native_adapters import add_adapter
from gptwo.generate.native_build import PRECISIONS
from tests.adapt.kinds import KINDS, config_of, shake

from .conftest import idle, made, sampling

SIZES = {"n_embd": 96, "n_head": 3}
BRANCHES = ["lora", "lora of some layers", "rank-stabilised", "adalora", "houlsby", "pfeiffer", "parallel"]
CHOSEN = [*BRANCHES, "prefix", "prompt"]


def adapted(kind, seed=1, **sizes):
    """The network of `made` with a moved adapter of a kind."""
    model = made(**{**SIZES, **sizes})
    model.adapter = apply_adapter(model.model, config_of(kind), seed=seed)
    model.config = model.model.config
    shake(model.model, 0.05, seed)
    model.model.eval()
    return model


def reference(carrying, ids):
    with torch.inference_mode():
        return carrying.model.transformer(torch.tensor([ids]))[0].numpy()


def hidden(engine, ids, adapter, chunk=10**6):
    """(T, C) hidden states of one text, read in chunks."""
    number = engine.native.open(ids, len(ids), 0, sampling(), adapter)
    try:
        parts = []
        for start in range(0, len(ids), chunk):
            parts.append(engine.native.hidden([(number, min(chunk, len(ids) - start), [])]))
        return np.concatenate(parts)
    finally:
        engine.native.close(number)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", CHOSEN)
def test_an_adapter_gives_the_hidden_states_of_pytorch(kind, isa):
    carrying, ids = adapted(kind), list(range(5, 55))
    engine = NativeEngine(made(**SIZES), precision="fp32", threads=2, isa=isa)
    number = add_adapter(engine.native, carrying)
    plain = hidden(engine, ids, 0)
    found = hidden(engine, ids, number)
    assert found == pytest.approx(reference(carrying, ids), abs=1e-4)
    assert np.abs(found - plain).max() > 0.01
    assert np.array_equal(hidden(engine, ids, number, chunk=7), found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_that_mixes_adapters_gives_the_very_numbers_of_each_alone(precision):
    engine = NativeEngine(made(**SIZES), precision=precision, threads=2)
    numbers = [0, *(add_adapter(engine.native, adapted(kind, seed)) for seed, kind in enumerate(CHOSEN, 1)), 0]
    texts = [[5 + (i * 7 + len(numbers)) % 40 for i in range(9 + place)] for place in range(len(numbers))]
    alone = [hidden(engine, ids, number) for ids, number in zip(texts, numbers, strict=True)]
    engine.native.forget()
    opened = [engine.native.open(ids, len(ids), 0, sampling(), n) for ids, n in zip(texts, numbers, strict=True)]
    together = engine.native.hidden([(place, len(ids) - 1, []) for place, ids in zip(opened, texts, strict=True)])
    assert np.array_equal(together, np.concatenate([states[:-1] for states in alone]))
    last = engine.native.hidden([(place, 1, []) for place in opened])  # few rows go another way through the code
    assert np.array_equal(last, np.stack([states[-1] for states in alone]))
    for place in opened:
        engine.native.close(place)
    assert idle(engine)


def test_only_the_states_asked_for_come_back_and_are_the_same():
    engine = NativeEngine(made(**SIZES), precision="bf16", threads=2, share=False)
    numbers = [0, add_adapter(engine.native, adapted("lora")), add_adapter(engine.native, adapted("houlsby"))]
    texts = [list(range(5 + n, 20 + 4 * n)) for n in numbers]
    whole = np.concatenate([hidden(engine, ids, number) for ids, number in zip(texts, numbers, strict=True)])
    for rows in ([], [3], [0, 14, 15, 16, 30], list(range(len(whole)))):
        opened = [engine.native.open(ids, len(ids), 0, sampling(), n) for ids, n in zip(texts, numbers, strict=True)]
        work = [(place, len(ids), []) for place, ids in zip(opened, texts, strict=True)]
        assert np.array_equal(engine.native.hidden(work, rows), whole[rows])
        for place in opened:
            engine.native.close(place)
    place = engine.native.open([5, 6], 2, 0, sampling())
    with pytest.raises(ValueError, match="rows"):
        engine.native.hidden([(place, 2, [])], [1, 0])


def test_equal_texts_share_no_pages_across_adapters():
    engine = NativeEngine(made(**SIZES), precision="bf16", threads=1)
    ids = [5 + i % 9 for i in range(70)]
    numbers = [0, *(add_adapter(engine.native, adapted("lora", seed)) for seed in (1, 2))]
    first = [hidden(engine, ids, number)[-1] for number in numbers]
    for number, expected in zip(numbers, first, strict=True):
        place = engine.native.open(ids, len(ids), 0, sampling(), number)
        assert engine.native.left(place) == 70 - 64
        assert np.array_equal(engine.native.hidden([(place, 6, [])])[-1], expected)
        engine.native.close(place)
    assert not np.array_equal(first[1], first[2])


def test_forks_behind_a_prefix_part_where_they_are_written_to():
    engine = NativeEngine(made(**SIZES), precision="fp32", threads=1)
    number = add_adapter(engine.native, adapted("prefix"))
    first = engine.native.open([3, 4, 5], 3, 0, sampling(), number)
    engine.native.hidden([(first, 3, [])])
    second = engine.native.fork(first, sampling())
    engine.native.append(first, 8)
    engine.native.append(second, 9)
    found = engine.native.hidden([(first, 1, []), (second, 1, [])])
    assert np.array_equal(found[0], hidden(engine, [3, 4, 5, 8], number)[-1])
    assert np.array_equal(found[1], hidden(engine, [3, 4, 5, 9], number)[-1])
    engine.native.rewind(first)
    assert np.array_equal(engine.native.hidden([(first, 4, [])])[-1], found[0])
    with pytest.raises(ValueError, match="adapter"):
        engine.native.drop_adapter(number)
    engine.native.close(first)
    engine.native.close(second)
    engine.native.drop_adapter(number)
    with pytest.raises(ValueError, match="no adapter"):
        engine.native.open([3], 1, 0, sampling(), number)
    assert idle(engine)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(CHOSEN)))
def test_what_changes_the_weights_cannot_be_chosen_and_says_so(kind):
    engine = NativeEngine(made(**SIZES), threads=1)
    with pytest.raises(UsageError, match="cannot be chosen for each text"):
        add_adapter(engine.native, adapted(kind))


def test_an_adapter_of_another_network_is_refused():
    engine = NativeEngine(made(**SIZES), threads=1)
    with pytest.raises(UsageError, match="other sizes"):
        add_adapter(engine.native, adapted("lora", n_embd=48))


# --- by name


def reference_ids(carrying, prompts, **options):
    return [text.ids for text in Engine(carrying).generate(prompts, **options)]


@pytest.fixture(scope="module")
def base(tokenizer):
    return made(tokenizer, vocab_size=tokenizer.vocab_size)


def over(base, kind, seed=1):
    """An adapter of a kind over a base, in a copy of it."""
    copied = made(base.tokenizer, vocab_size=base.config.vocab_size)
    copied.adapter = apply_adapter(copied.model, config_of(kind), seed=seed)
    copied.config = copied.model.config
    shake(copied.model, 0.05, seed)
    copied.model.eval()
    return copied


PROMPTS = ["the quick", "春眠", "Once upon a time there was a fox over the dog", "the"]


@pytest.mark.parametrize("kind", CHOSEN)
def test_chosen_merged_and_pytorch_write_the_same(base, kind):
    carrying = over(base, kind)
    options = {"max_new_tokens": 12, "temperature": 0, "ignore_end": True}
    expected = reference_ids(carrying, PROMPTS, **options)
    engine = NativeEngine(base, precision="fp32", threads=1)
    engine.add_adapter("mine", carrying)
    assert [text.ids for text in engine.generate(PROMPTS, adapter="mine", **options)] == expected
    own = NativeEngine(carrying, precision="fp32", threads=1)  # merged, or every text goes through it
    beams = {"num_beams": 3, "max_new_tokens": 6}
    searched = reference_ids(carrying, PROMPTS[:2], **beams)
    (judged,) = Engine(carrying).loglikelihood(["the quick"], [" brown fox"])
    for one in (own, engine.through("mine")):
        assert [text.ids for text in one.generate(PROMPTS, **options)] == expected
        stream = one.stream(PROMPTS[0], **options)
        assert "".join(stream) == stream.result.text
        assert stream.result.ids == expected[0]
        assert [text.ids for text in one.generate(PROMPTS[:2], **beams)] == searched
        (found,) = one.loglikelihood(["the quick"], [" brown fox"])
        assert found.logprobs == pytest.approx(judged.logprobs, abs=1e-3)
    assert idle(engine)
    assert idle(own)


def test_a_text_behind_a_prefix_slides_as_with_pytorch(base):
    carrying = over(base, "prefix")
    options = {"max_new_tokens": 120, "temperature": 0, "ignore_end": True}
    engine = NativeEngine(base, precision="fp32", threads=1)
    engine.add_adapter("mine", carrying)
    (found,) = engine.generate("the quick brown fox", adapter="mine", **options)
    assert [found.ids] == reference_ids(carrying, ["the quick brown fox"], **options)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_batch_of_several_adapters_writes_what_each_writes(base, precision):
    engine = NativeEngine(base, precision=precision, threads=1)
    names = [None, "lora", "houlsby", "prefix", None, "lora"]
    for name in ("lora", "houlsby", "prefix"):
        engine.add_adapter(name, over(base, name))
    prompts = [*PROMPTS, *PROMPTS[:2]]
    options = {"max_new_tokens": 10, "seed": 4, "ignore_end": True}
    together = engine.generate(prompts, adapter=names, **options)
    for prompt, name, text in zip(prompts[:4], names, together, strict=False):
        (alone,) = engine.generate(prompt, adapter=name, **options)
        assert alone.ids == text.ids
    states = engine.encode(prompts, pooling="last", adapter=names)
    for prompt, name, state in zip(prompts, names, states, strict=True):
        assert np.array_equal(engine.encode(prompt, pooling="last", adapter=name)[0], state)
    engine.drop_adapter("lora")
    with pytest.raises(UsageError, match="no adapter 'lora'"):
        engine.encode(prompts, adapter="lora")
    assert idle(engine)


def test_adapters_come_from_their_folders_over_their_own_base(base, tokenizer, tmp_path):
    folder = save(base, tmp_path / "base")
    for name, kind in (("poems", "lora"), ("mails", "pfeiffer"), ("scaled", "ia3")):
        carrying = over(base, kind)
        carrying.adapter.base = base_of(replace(base, folder=folder))
        save(carrying, tmp_path / name)
    engine = NativeEngine(folder, precision="fp32", threads=1)
    options = {"max_new_tokens": 10, "temperature": 0, "ignore_end": True}
    for name in ("poems", "mails"):
        engine.add_adapter(name, tmp_path / name)
        expected = [text.ids for text in Engine(tmp_path / name).generate(PROMPTS, **options)]
        assert [text.ids for text in engine.generate(PROMPTS, adapter=name, **options)] == expected
    with pytest.raises(UsageError, match="already"):
        engine.add_adapter("poems", tmp_path / "poems")
    with pytest.raises(UsageError, match="cannot be chosen"):
        engine.add_adapter("scaled", tmp_path / "scaled")
    for name in ("poems", "mails", "scaled"):
        assert why_not(tmp_path / name) is None
        own = NativeEngine(tmp_path / name, precision="fp32", threads=1)
        expected = [text.ids for text in Engine(tmp_path / name).generate(PROMPTS, **options)]
        assert [text.ids for text in own.generate(PROMPTS, **options)] == expected
    other = save(made(tokenizer, seed=8, vocab_size=tokenizer.vocab_size), tmp_path / "other")
    with pytest.raises(DataError, match="another base"):
        NativeEngine(other, threads=1).add_adapter("poems", tmp_path / "poems")


def test_wrong_choices_are_refused(base):
    engine = NativeEngine(base, threads=1)
    engine.add_adapter("mine", over(base, "lora"))
    for options in ({"adapter": "min"}, {"adapter": ["mine"]}, {"adapter": ["mine", None], "num_beams": 2}):
        with pytest.raises(UsageError):
            engine.generate(["the", "quick"], **options)
    with pytest.raises(UsageError, match="pooling"):
        engine.encode("the", pooling="middle")
    with pytest.raises(UsageError, match="carries no adapter"):
        NativeEngine(base, threads=1).add_adapter("mine", base)

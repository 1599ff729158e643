"""Generation equals transformers', and a text is the same alone, in a batch, streamed, and with or without cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptwo.errors import GptwoError, MissingError, UsageError
from gptwo.generate.engine import Engine
from gptwo.generate.results import Likelihood
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, save

PROMPTS = ["the quick", "春眠", "Once upon a time there was a fox over the dog", "🙂"]
few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def continuation(reference, ids, **options):
    """What transformers writes after the prompt, up to the end token."""
    given = torch.tensor([ids])
    mask = torch.ones_like(given)  # transformers takes tokens equal to the pad id for padding
    out = reference.generate(given, attention_mask=mask, do_sample=False, pad_token_id=0, **options)
    return out[0, len(ids) :].tolist()


# --- equal to transformers


@given(st.integers(0, 10**6), st.integers(1, 20))
@few
def test_greedy_equals_transformers(engine, reference, seed, length):
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    (ours,) = engine.generate([ids], max_new_tokens=20, temperature=0)
    assert ours.ids == continuation(reference, ids, max_new_tokens=20)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"min_new_tokens": 15}, {"min_new_tokens": 15}),
        ({"logit_bias": {7: 30.0}, "no_repeat_ngram": 3}, {"sequence_bias": {(7,): 30.0}, "no_repeat_ngram_size": 3}),
        ({"max_length": 30, "max_new_tokens": None}, {"max_length": 30}),
    ],
)
def test_greedy_with_penalties_equals_transformers(engine, reference, ours, theirs):
    for prompt in PROMPTS:
        ids = engine.tokenizer.encode(prompt)
        (text,) = engine.generate([ids], **{"max_new_tokens": 20, "temperature": 0, **ours})
        limit = {} if "max_length" in theirs else {"max_new_tokens": 20}
        assert text.ids == continuation(reference, ids, **limit, **theirs)


def test_cached_equals_uncached(engine, tiny):
    ids = engine.tokenizer.encode("the lazy")
    (cached,) = engine.generate([ids], max_new_tokens=20, temperature=0, ignore_end=True)
    for _ in range(20):
        ids = [*ids, int(tiny.model(torch.tensor([ids]))[0, -1].argmax())]
    assert cached.ids == ids[-20:]


# --- the same alone or in company


@given(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=6, unique=True), st.integers(0, 99), st.integers(1, 3))
@few
def test_a_batch_gives_the_texts_of_each_prompt_alone(tiny, prompts, seed, max_batch):
    options = {"max_new_tokens": 12, "seed": seed, "temperature": 1.5, "top_p": 0.9, "n": 2, "logprobs": True}
    together = Engine(tiny, max_batch=max_batch).generate(prompts, **options)
    alone = [text for prompt in prompts for text in Engine(tiny).generate(prompt, **options)]
    assert [text.ids for text in together] == [text.ids for text in alone]
    assert [(text.prompt_index, text.sample_index) for text in together] == [
        (row, sample) for row in range(len(prompts)) for sample in range(2)
    ]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram": 2},
        {"temperature": 0, "frequency_penalty": 1.0, "presence_penalty": 1.0, "min_new_tokens": 10},
        {"temperature": 2.0, "top_k": 20, "min_p": 0.01, "seed": 4},
    ],
)
def test_texts_that_end_early_or_outgrow_the_context_leave_the_others_alone(engine, options):
    prompts = [*PROMPTS, "the " * 30, "dog. " * 60, ""]
    together = engine.generate(prompts, max_new_tokens=70, **options)
    for prompt, text in zip(prompts, together, strict=True):
        (alone,) = engine.generate(prompt, max_new_tokens=70, **options)
        assert (text.ids, text.text, text.finish_reason) == (alone.ids, alone.text, alone.finish_reason)


def test_one_seed_one_text_and_another_seed_another(engine):
    options = {"max_new_tokens": 20, "temperature": 2.0}
    first, again, other = (engine.generate("the", seed=seed, **options)[0].ids for seed in (1, 1, 2))
    assert first == again != other
    fresh = engine.generate("the", **options)[0]
    assert engine.generate("the", seed=fresh.seed, **options)[0].ids == fresh.ids


def test_the_nth_text_does_not_depend_on_n_nor_on_how_it_was_asked_for(engine):
    options = {"max_new_tokens": 10, "temperature": 2.0, "seed": 3}
    three = [text.ids for text in engine.generate("the", n=3, **options)]
    assert three[:2] == [text.ids for text in engine.generate("the", n=2, **options)]
    assert three == [text.ids for text in engine.generate(["the"] * 3, **options)]
    assert len({tuple(ids) for ids in three}) == 3


def test_torch_random_state_is_left_alone(engine):
    before = torch.get_rng_state()
    engine.generate("the", max_new_tokens=3)
    assert torch.equal(before, torch.get_rng_state())


# --- how texts end


def test_the_end_token_ends_a_text_unless_it_is_ignored(engine):
    end = engine.tokenizer.end_id
    biased = {"max_new_tokens": 6, "temperature": 0, "logit_bias": {end: 100.0}}
    (text,) = engine.generate("the", **biased)
    assert (text.finish_reason, text.ids, text.text) == ("end", [end], "")
    (text,) = engine.generate("the", ignore_end=True, **biased)
    assert (text.finish_reason, text.ids, text.text) == ("length", [end] * 6, "")
    (text,) = engine.generate("the", min_new_tokens=4, **biased)
    assert text.ids.index(end) == 4


def test_stop_strings_end_a_text_before_them(engine):
    (whole,) = engine.generate("the quick", max_new_tokens=30, temperature=0)
    stop = whole.text[5:8]
    (text,) = engine.generate("the quick", max_new_tokens=30, temperature=0, stop=[stop, "never met"])
    assert text.text == whole.text[: whole.text.index(stop)]
    assert (text.finish_reason, text.stop) == ("stop", stop)
    assert text.ids == whole.ids[: len(text.ids)]


def test_a_stop_string_that_is_a_special_token_ends_a_text(tokenizer):
    import pickle

    own = pickle.loads(pickle.dumps(tokenizer))  # the shared one stays as it is
    (user,) = own.add_special_tokens(["<|user|>"])
    made = create(GPT2Config(vocab_size=own.vocab_size, n_positions=16, n_embd=8, n_layer=1, n_head=1), own)
    (text,) = Engine(made).generate("the", logit_bias={user: 100.0}, stop="<|user|>", max_new_tokens=5)
    assert (text.finish_reason, text.stop, text.text) == ("stop", "<|user|>", "")


def test_max_length_counts_the_prompt(engine):
    (text,) = engine.generate([[5, 6, 7]], max_length=5, temperature=0, ignore_end=True)
    assert len(text.ids) == 2
    (text,) = engine.generate([[5, 6, 7]], max_length=3)
    assert (text.ids, text.finish_reason) == ([], "length")


# --- streaming


@pytest.mark.parametrize("options", [{}, {"stop": ["e", "o "]}, {"temperature": 3.0}])
def test_a_stream_gives_the_same_text_in_whole_characters(engine, options):
    options = {"max_new_tokens": 40, "seed": 11, **options}
    (whole,) = engine.generate("春眠", **options)
    stream = engine.stream("春眠", **options)
    assert stream.result.finish_reason is None
    pieces = list(stream)
    assert "".join(pieces) == whole.text
    assert all(pieces)
    assert stream.result == whole


def test_a_stream_is_of_one_text(engine):
    with pytest.raises(UsageError, match="n=2"):
        engine.stream("the", n=2)


# --- the context


def test_a_prompt_longer_than_the_context_is_continued_from_its_end_with_one_notice(engine, reference):
    ids = engine.tokenizer.encode("the quick brown fox jumps over the lazy dog. " * 20)
    (text,) = engine.generate([ids], max_new_tokens=8, temperature=0)
    kept = ids[-(48 - 8) :]
    assert text.ids == continuation(reference, kept, max_new_tokens=8)
    assert len(text.notices) == 1
    assert "48" in text.notices[0]
    assert text.prompt_tokens == len(ids)


def test_a_text_outgrows_the_context_by_moving_its_window(engine, tiny):
    (text,) = engine.generate([[9]], max_new_tokens=150, temperature=0, ignore_end=True)
    assert len(text.ids) == 150
    assert len(text.notices) == 1
    ids, first = [9], 0  # the same rule, without a cache
    for _ in range(150):
        if len(ids) - first > 48:
            first = len(ids) - (48 - min(150 - len(ids) + 1, 12))
        ids.append(int(tiny.model(torch.tensor([ids[first:]]))[0, -1].argmax()))
    assert text.ids == ids[1:]


def test_a_text_that_fits_exactly_does_not_slide(engine):
    (text,) = engine.generate([[9] * 40], max_new_tokens=9, temperature=0, ignore_end=True)
    assert (len(text.ids), text.notices) == (9, [])
    (text,) = engine.generate([[9] * 40], max_new_tokens=10, temperature=0, ignore_end=True)
    assert (len(text.ids), len(text.notices)) == (10, 1)


def test_an_empty_prompt_begins_after_the_end_token(engine):
    (empty,) = engine.generate("", max_new_tokens=5, temperature=0)
    (ended,) = engine.generate([[engine.tokenizer.end_id]], max_new_tokens=5, temperature=0)
    assert empty.ids == ended.ids
    assert (empty.prompt, empty.prompt_tokens) == ("", 1)


# --- models and options


def test_text_that_looks_like_a_special_token_is_plain_text(engine):
    (text,) = engine.generate("<|endoftext|>", max_new_tokens=1)
    assert text.prompt_tokens > 1


def test_a_model_without_tokenizer_takes_token_ids(tiny):
    bare = create(tiny.config)
    (text,) = Engine(bare).generate([[1, 2]], max_new_tokens=3, ignore_end=True)
    assert (len(text.ids), text.text) == (3, "")
    with pytest.raises(MissingError, match="tokenizer"):
        Engine(bare).generate("the")
    with pytest.raises(MissingError, match="stop"):
        Engine(bare).generate([[1]], stop="x")


def test_rows_without_a_token_are_never_chosen(tokenizer):
    made = create(GPT2Config(vocab_size=1024, n_positions=16, n_embd=8, n_layer=1, n_head=1), tokenizer)
    (text,) = Engine(made).generate("the", max_new_tokens=200, temperature=50.0, ignore_end=True)
    assert max(text.ids) < tokenizer.vocab_size


@pytest.mark.parametrize("ids", [[-1], [300000]])
def test_a_token_id_outside_the_vocabulary_is_refused(engine, ids):
    with pytest.raises(UsageError, match=r"prompts\[1\]"):
        engine.generate([[1], ids])
    with pytest.raises(UsageError, match="logit_bias"):
        engine.generate([[1]], logit_bias={10**6: 1.0})


def test_a_model_in_training_goes_on_training_and_writes_without_dropout(tiny, tokenizer):
    made = create(tiny.config.with_dropout(0.9), tokenizer, seed=5)
    made.model.train()
    texts = [Engine(made).generate("the", max_new_tokens=10, temperature=0)[0].ids for _ in range(3)]
    assert texts[0] == texts[1] == texts[2]
    assert all(module.training for module in made.model.modules())


def test_a_label_model_cannot_write(tiny):
    with pytest.raises(UsageError, match="cannot write"):
        Engine(create(tiny.config, head="sequence", labels=["a", "b"]))


def test_an_unknown_backend_or_option_is_refused(tiny, engine):
    with pytest.raises(UsageError, match="backend"):
        Engine(tiny, backend="quick")
    with pytest.raises(UsageError, match="top_p"):
        engine.generate("the", topp=1)


def test_weights_that_are_not_numbers_are_an_error(tiny):
    broken = create(tiny.config)
    torch.nn.init.constant_(broken.model.transformer.ln_f.weight, float("nan"))
    with pytest.raises(GptwoError, match="NaN"):
        Engine(broken).generate([[1]])


def test_a_folder_is_loaded_with_what_its_generation_config_asks_for(tiny, tmp_path):
    folder = save(tiny, tmp_path / "model")
    assert Engine(folder).options().temperature == 1.0
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.5, "max_new_tokens": 3}')
    loaded = Engine(folder)
    assert loaded.options().temperature == 0.5
    assert loaded.options(temperature=0.9).temperature == 0.9
    assert loaded.options(num_beams=2).temperature == 1.0
    assert loaded.options(max_length=9).max_new_tokens is None
    assert len(loaded.generate("the", ignore_end=True)[0].ids) == 3


def test_bf16_is_close_to_fp32_and_leaves_the_given_model_alone(tiny, engine):
    half = Engine(tiny, precision="bf16")
    assert tiny.model.transformer.wte.weight.dtype == torch.float32
    ours, theirs = (one.loglikelihood("the quick", " brown fox")[0].logprob for one in (half, engine))
    assert ours == pytest.approx(theirs, rel=0.05)
    assert len(half.generate(["the", "once upon a"], max_new_tokens=5, ignore_end=True)) == 2


# --- likelihood


def test_logprobs_of_a_text_are_its_likelihood(engine):
    (text,) = engine.generate("the quick", max_new_tokens=8, temperature=0, logprobs=True, ignore_end=True)
    context = engine.tokenizer.encode("the quick")
    ((scores, likeliest),) = engine.backend.score([context + text.ids], [len(context)])
    assert text.logprobs == pytest.approx(scores, abs=1e-4)
    assert all(likeliest)


def test_likelihoods_of_a_batch_equal_those_alone_and_transformers(engine, reference):
    pairs = [("the quick", " brown fox"), ("春眠", "不觉晓，处处"), ("", "the"), ("the ", "dog"), ("the", "")]
    together = engine.loglikelihood([prompt for prompt, _ in pairs], [text for _, text in pairs])
    for (prompt, text), ours in zip(pairs, together, strict=True):
        (alone,) = engine.loglikelihood(prompt, text)
        assert ours.logprob == pytest.approx(alone.logprob, abs=1e-4)
        whole, start = engine.codec.joined(prompt, text)
        with torch.no_grad():
            logprobs = reference(torch.tensor([whole])).logits[0].log_softmax(-1)
        theirs = [logprobs[i - 1, whole[i]].item() for i in range(start, len(whole))]
        assert ours.logprobs == pytest.approx(theirs, abs=1e-4)
    assert together[-1] == Likelihood(0, [], True)


def test_a_continuation_longer_than_the_context_is_judged_whole(engine):
    text = " the quick brown fox" * 60
    (ours,) = engine.loglikelihood("dog.", text)
    whole, start = engine.codec.joined("dog.", text)
    assert len(ours.logprobs) == len(whole) - start > 100
    assert ours.logprob == pytest.approx(sum(ours.logprobs))


def test_greedy_text_is_called_greedy(engine):
    (text,) = engine.generate("the quick", max_new_tokens=6, temperature=0, ignore_end=True)
    whole = engine.tokenizer.encode("the quick" + text.text)
    found = engine.loglikelihood("the quick", text.text)[0]
    if whole == engine.tokenizer.encode("the quick") + text.ids:
        assert found.greedy
    assert not engine.loglikelihood("the quick", "🙂🙂 fox")[0].greedy

"""The logits pipeline equals transformers' processors, and a draw depends on seed, sequence and step only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from gptwo.generate import sampling
from gptwo.generate.options import SamplingOptions
from gptwo.generate.randomness import stream_key, uniforms

SEEDS = st.integers(0, 2**31)


def random_logits(seed, rows=3, vocab=40, scale=3.0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def random_ids(seed, rows=3, width=12, vocab=40):
    return torch.randint(vocab, (rows, width), generator=torch.Generator().manual_seed(seed))


def same(ours, theirs):
    """Equal distributions: the same tokens stay, with the same probabilities."""
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-4, atol=1e-6)
    assert torch.equal(ours == -torch.inf, theirs == -torch.inf)


@given(SEEDS, st.floats(0.05, 5))
def test_temperature(seed, temperature):
    logits = random_logits(seed)
    same(sampling.scale_temperature(logits, temperature), reference.TemperatureLogitsWarper(temperature)(None, logits))


def test_a_tiny_temperature_does_not_overflow():
    probabilities = sampling.scale_temperature(random_logits(0), 1e-40).softmax(-1)
    assert torch.equal(probabilities.argmax(-1), random_logits(0).argmax(-1))
    assert torch.isfinite(probabilities).all()


@given(SEEDS, st.integers(1, 60))
def test_top_k(seed, k):
    logits = random_logits(seed)
    same(sampling.keep_top_k(logits, k), reference.TopKLogitsWarper(k)(None, logits))


@given(SEEDS, st.floats(0.01, 0.99), st.sampled_from([4, 20, 512]))
def test_top_p(seed, p, candidates):
    logits = random_logits(seed)
    usual, sampling.CANDIDATES = sampling.CANDIDATES, candidates  # sorting few tokens first changes nothing
    try:
        ours = sampling.keep_top_p(logits, p)
    finally:
        sampling.CANDIDATES = usual
    same(ours, reference.TopPLogitsWarper(p)(None, logits))


@given(SEEDS, st.floats(0.01, 1))
def test_min_p(seed, p):
    logits = random_logits(seed)
    same(sampling.keep_min_p(logits, p), reference.MinPLogitsWarper(p)(None, logits))


@given(SEEDS, st.floats(0.2, 3))
def test_repetition_penalty(seed, penalty):
    logits, ids = random_logits(seed), random_ids(seed)
    options = SamplingOptions(repetition_penalty=penalty)
    history = sampling.History(options, ids[:, :5].tolist(), ids[:, 5:].tolist(), 40, None)
    same(sampling.constrain(logits, options, history), reference.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits))


@given(SEEDS, st.integers(1, 5))
def test_no_repeat_ngram(seed, size):
    logits, ids = random_logits(seed, vocab=8), random_ids(seed, vocab=4, width=10)
    theirs = reference.NoRepeatNGramLogitsProcessor(size)(ids, logits)
    same(sampling.ban_repeated_ngrams(logits, ids, size), theirs)
    padded = torch.cat([torch.full((3, 4), -1), ids], 1)  # padding is no text
    same(sampling.ban_repeated_ngrams(logits, padded, size), theirs)


def test_padding_bans_nothing_for_a_row_shorter_than_the_ngram():
    logits = random_logits(1, rows=1, vocab=8)
    ids = torch.tensor([[-1, -1, -1, -1, 5]])
    assert torch.equal(sampling.ban_repeated_ngrams(logits, ids, 3), logits)


@given(SEEDS)
def test_logit_bias_and_min_new_tokens(seed):
    logits, ids = random_logits(seed), random_ids(seed)
    options = SamplingOptions(logit_bias={3: 2.5, 7: -4.0}, min_new_tokens=8)
    history = sampling.History(options, ids[:, :5].tolist(), ids[:, 5:].tolist(), 40, 9)
    theirs = reference.SequenceBiasLogitsProcessor({(3,): 2.5, (7,): -4.0})(ids, logits)
    theirs = reference.MinNewTokensLengthLogitsProcessor(5, 8, 9)(ids, theirs)
    same(sampling.constrain(logits, options, history), theirs)


@given(SEEDS)
def test_the_whole_pipeline_in_transformers_order(seed):
    logits, ids = random_logits(seed), random_ids(seed)
    options = SamplingOptions(
        logit_bias={1: 1.0}, repetition_penalty=1.3, no_repeat_ngram=2, temperature=0.7, top_k=12, top_p=0.9, min_p=0.05
    )
    history = sampling.History(options, ids[:, :5].tolist(), ids[:, 5:].tolist(), 40, None)
    ours = sampling.shape(sampling.constrain(logits, options, history), options)
    theirs = logits
    for process in (
        reference.SequenceBiasLogitsProcessor({(1,): 1.0}),
        reference.RepetitionPenaltyLogitsProcessor(1.3),
        reference.NoRepeatNGramLogitsProcessor(2),
        reference.TemperatureLogitsWarper(0.7),
        reference.TopKLogitsWarper(12),
        reference.TopPLogitsWarper(0.9),
        reference.MinPLogitsWarper(0.05),
    ):
        theirs = process(ids, theirs)
    same(ours, theirs)


def test_presence_and_frequency_count_generated_tokens_only():
    options = SamplingOptions(presence_penalty=0.5, frequency_penalty=0.25)
    history = sampling.History(options, [[1, 1, 2]], [[3, 3]], 5, None)
    history.append(torch.tensor([4]))
    ours = sampling.constrain(torch.zeros(1, 5), options, history)
    assert ours.tolist() == [[0, 0, 0, -1.0, -0.75]]


@given(SEEDS, st.integers(1, 4))
def test_history_grown_token_by_token_equals_history_built_at_once(seed, size):
    ids = random_ids(seed, vocab=6)
    options = SamplingOptions(
        repetition_penalty=1.5, presence_penalty=1, frequency_penalty=0.5, no_repeat_ngram=size, min_new_tokens=6
    )
    grown = sampling.History(options, ids[:, :4].tolist(), [[], [], []], 6, 2)
    for column in ids[:, 4:].T:
        grown.append(column)
    grown.select(torch.tensor([2, 0]))
    whole = sampling.History(options, ids[[2, 0], :4].tolist(), ids[[2, 0], 4:].tolist(), 6, 2)
    logits = random_logits(seed, rows=2, vocab=6)
    same(sampling.constrain(logits, options, grown), sampling.constrain(logits, options, whole))


def test_bans_that_leave_nothing_are_lifted():
    options = SamplingOptions(no_repeat_ngram=1)
    history = sampling.History(options, [[0, 1, 2]], [[]], 3, None)
    logits = random_logits(0, rows=1, vocab=3)
    assert torch.equal(sampling.constrain(logits, options, history), logits)


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.1, 0.0, 0.5, 0.4]).log().expand(20000, 4)
    keys = np.array([stream_key(3, row) for row in range(20000)], np.uint64)
    drawn = sampling.draw(logits, torch.from_numpy(uniforms(keys, np.zeros(20000))))
    shares = torch.bincount(drawn, minlength=4) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.0, 0.5, 0.4]), atol=0.015, rtol=0)
    assert shares[1] == 0


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform):
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert sampling.draw(logits, torch.tensor([uniform], dtype=torch.float64)).item() in (1, 2)


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_random_number_depends_on_seed_stream_and_step_only(seed, stream, step):
    keys = np.array([stream_key(seed, one) for one in (stream + 1, stream)], np.uint64)
    alone = uniforms(keys[1:], np.array([step]))
    beside = uniforms(keys, np.array([step + 5, step]))
    assert alone[0] == beside[1]
    assert 0 <= alone[0] < 1
    assert alone[0] != beside[0]


def test_random_numbers_are_uniform_and_uncorrelated():
    keys = np.array([stream_key(0, 0)] * 50000, np.uint64)
    first = uniforms(keys, np.arange(50000))
    second = uniforms(np.full(50000, stream_key(0, 1), np.uint64), np.arange(50000))
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(first.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02


def test_random_numbers_never_change():
    """A seed written down today gives the same text tomorrow."""
    key = np.array([stream_key(1, 2)], np.uint64)
    assert uniforms(key, np.array([3])).tolist() == GOLDEN


GOLDEN = [0.5551518603845336]

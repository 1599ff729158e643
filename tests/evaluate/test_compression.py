"""The n-gram model is a distribution and equals a plain dictionary implementation; xz counts what xz counts."""

from __future__ import annotations

import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.errors import DataError
from gptwo.evaluate import compression
from gptwo.evaluate.ngram import KneserNey

START = -1


class Naive:
    """Interpolated modified Kneser-Ney with dictionaries, written from the formulas."""

    def __init__(self, tokens, vocab_size, order):
        self.vocab_size, self.order = vocab_size, min(order, len(tokens))
        self.counts = []
        for n in range(1, self.order + 1):
            if n == self.order:
                counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            else:
                before = defaultdict(set)
                for i in range(len(tokens) - n + 1):
                    before[tuple(tokens[i : i + n])].add(tokens[i - 1] if i else START)
                counts = Counter({ngram: len(seen) for ngram, seen in before.items()})
            self.counts.append(counts)
        self.discounts = [self.estimate(counts) for counts in self.counts]

    @staticmethod
    def estimate(counts):
        n1, n2, n3, n4 = (sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
            if all(0 < d <= k for k, d in enumerate(found, start=1)):
                return found
        return (0.5, 1.0, 1.5)

    def probability(self, history, token):
        history = tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        return self.at(len(history) + 1, history, token)

    def at(self, n, history, token):
        if n == 0:
            return 1 / self.vocab_size
        lower = self.at(n - 1, history[1:], token)
        followers = {g[-1]: c for g, c in self.counts[n - 1].items() if g[:-1] == history}
        total = sum(followers.values())
        if not total:
            return lower
        discount = [self.discounts[n - 1][min(c, 3) - 1] for c in followers.values()]
        count = followers.get(token, 0)
        kept = count - self.discounts[n - 1][min(count, 3) - 1] if count else 0
        return kept / total + sum(discount) / total * lower


texts = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(texts, st.lists(st.integers(0, 4), max_size=8), st.integers(1, 5))
def test_probabilities_sum_to_one_after_every_history(tokens, history, order):
    model = KneserNey.fit(tokens, vocab_size=5, order=order)
    distribution = model.distribution(np.array(history, dtype=np.int64))
    assert distribution.sum() == pytest.approx(1.0, abs=1e-12)
    assert (distribution > 0).all()


@settings(max_examples=30)
@given(texts, st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(1, 5))
def test_equals_the_plain_implementation(tokens, held_out, order):
    model = KneserNey.fit(tokens, vocab_size=5, order=order)
    naive = Naive(tokens, 5, order)
    wanted = [math.log2(naive.probability(held_out[:i], token)) for i, token in enumerate(held_out)]
    assert model.log2_probabilities(held_out) == pytest.approx(wanted)


def test_equals_the_plain_implementation_where_discounts_are_estimated():
    generator = np.random.default_rng(0)
    tokens = np.minimum(generator.geometric(0.15, size=1500) - 1, 29)
    tokens[1:] = np.where(generator.random(1499) < 0.5, (tokens[:-1] * 7 + 3) % 30, tokens[1:])
    model, naive = KneserNey.fit(tokens, vocab_size=30, order=4), Naive(tokens.tolist(), 30, 4)
    assert any(order.discounts[1] not in (0.5,) for order in model.orders)
    held_out = tokens[200:230][::-1]
    wanted = [math.log2(naive.probability(held_out[:i].tolist(), int(t))) for i, t in enumerate(held_out)]
    assert model.log2_probabilities(held_out) == pytest.approx(wanted)


def test_a_stream_equals_its_histories():
    generator = np.random.default_rng(1)
    tokens, held_out = generator.integers(0, 6, 300), generator.integers(0, 6, 25)
    model = KneserNey.fit(tokens, vocab_size=6)
    wanted = [math.log2(model.distribution(held_out[:i])[token]) for i, token in enumerate(held_out)]
    assert model.log2_probabilities(held_out) == pytest.approx(wanted)


def test_a_token_never_seen_is_possible():
    model = KneserNey.fit([0, 1, 0, 1], vocab_size=100)
    assert np.isfinite(model.log2_probabilities([99, 98])).all()


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(DataError, match=r"outside 0\.\.3"):
        KneserNey.fit([0, 4], vocab_size=4)
    with pytest.raises(DataError, match="no training tokens"):
        KneserNey.fit([], vocab_size=4)


def test_xz_is_the_size_of_the_file():
    text = "春眠不觉晓，处处闻啼鸟。".encode() * 50
    result = compression.xz(text)
    assert result.total_bits == 8 * len(lzma.compress(text, preset=9))
    assert result.bits_per_byte == result.total_bits / len(text)


def test_order_and_context_pay_on_bytes():
    text = b"the cat sat on the mat, the dog sat on the log. " * 40
    by_order = [compression.kneser_ney_bytes(text[:1500], text[1500:], order=n).bits_per_byte for n in (1, 3, 5)]
    assert by_order[0] > by_order[1] > by_order[2]
    tokens = np.frombuffer(text, dtype=np.uint8)
    model = KneserNey.fit(tokens[:1500], vocab_size=256)
    assert -model.log2_probabilities(tokens[1500:]).mean() == pytest.approx(by_order[2])


def test_an_empty_held_out_text_is_a_data_error():
    with pytest.raises(DataError, match="empty"):
        compression.xz(b"")

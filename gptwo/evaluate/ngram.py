"""An interpolated modified Kneser-Ney n-gram model in numpy.

Chen and Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling, section 3.

Counts. An n-gram of the highest order counts how often it occurs; a shorter one counts how many different tokens
precede it (its continuation count; the start of the stream counts as one such token). Every order has three
discounts D1, D2, D3+ from its counts of counts. With c the count of h·w and h' = h without its first token:

    p(w | h) = max(0, c − D(c)) / C(h) + (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / C(h) · p(w | h')

where C(h) sums c over w and Nk(h) counts the w with c = k. Below the unigram stands 1 / V; an h that was never seen
is skipped. So the probabilities of all V tokens sum to 1 after every h.

Storage. The n-grams of each order are one sorted array of keys; the key of h·w is rank(h) · V + w, where rank(h) is
the place of h in the array of the order below. So keys fit 64 bits at any order, prefixes are key // V, and lookups
are binary searches.

Axis legend: T tokens of training text, M held-out tokens, V vocabulary, U distinct n-grams of one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gptwo.errors import DataError

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where the text is too small to estimate them, as in KenLM


@dataclass
class _Order:
    keys: np.ndarray  # (U,) int64, sorted
    counts: np.ndarray  # (U,) int32
    discounts: np.ndarray  # (4,): of counts 0, 1, 2, 3 and more
    context_total: np.ndarray  # (U of the order below,) int32: C(h)
    context_backoff: np.ndarray  # (U of the order below,) float64: the share left to the order below


class KneserNey:
    """A fitted model; make one with `KneserNey.fit`."""

    def __init__(self, vocab_size: int, orders: list[_Order]):
        self.vocab_size, self.orders = vocab_size, orders

    @classmethod
    def fit(cls, tokens: Any, *, vocab_size: int, order: int = 5) -> KneserNey:
        """Count a stream of token ids.

        Args:
            tokens: (T,) integers 0..vocab_size-1.
            order: longest n-gram, at least 1.
        Raises `DataError` for an empty stream or ids outside the vocabulary.
        """
        tokens = _check_ids(tokens, vocab_size)
        if not len(tokens):
            raise DataError("There are no training tokens.")
        order = min(order, len(tokens))
        tables = _count(tokens, vocab_size, order)

        orders, contexts = [], 1
        for keys, counts in tables:
            discounts = _discounts(counts)
            prefix = keys // vocab_size
            total = np.bincount(prefix, weights=counts, minlength=contexts)
            left = np.bincount(prefix, weights=discounts[np.minimum(counts, 3)], minlength=contexts)
            backoff = np.divide(left, total, out=np.ones(contexts), where=total > 0)
            orders.append(_Order(keys, counts, discounts, total.astype(np.int32), backoff))
            contexts = len(keys)
        return cls(vocab_size, orders)

    def log2_probabilities(self, tokens: Any) -> np.ndarray:
        """(M,) log2 p(token | up to order−1 tokens before it in `tokens`)."""
        tokens = _check_ids(tokens, self.vocab_size)
        probability = np.full(len(tokens), 1.0 / self.vocab_size)
        context = np.zeros(len(tokens), dtype=np.int64)  # rank of the n−1 tokens before each token, −1 if never seen
        for order in self.orders:
            found, probability = self._refine(order, context, tokens, probability)
            context = np.concatenate([[-1], found[:-1]])
        return np.log2(probability)

    def distribution(self, history: Any) -> np.ndarray:
        """(V,) probabilities of the next token after `history` (any length; the last order−1 tokens are used)."""
        history = _check_ids(history, self.vocab_size)
        everything = np.arange(self.vocab_size)
        probability = np.full(self.vocab_size, 1.0 / self.vocab_size)
        for n, order in enumerate(self.orders):
            if n > len(history):
                break
            rank = self._rank(history[len(history) - n :])
            _, probability = self._refine(order, np.full(self.vocab_size, rank), everything, probability)
        return probability

    def _rank(self, ngram: np.ndarray) -> int:
        rank = 0
        for order, token in zip(self.orders, ngram, strict=False):
            rank = int(_find(order.keys, np.array([rank * self.vocab_size + int(token)]))[0])
            if rank < 0:
                return -1
        return rank

    def _refine(
        self, order: _Order, context: np.ndarray, tokens: np.ndarray, lower: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One order up: (rank of context·token or −1, probability), from the probabilities one order below."""
        known = context >= 0
        safe = np.where(known, context, 0)
        found = np.where(known, _find(order.keys, safe * self.vocab_size + tokens), -1)
        count = np.where(found >= 0, order.counts[found], 0)
        total = order.context_total[safe]
        kept = np.divide(
            count - order.discounts[np.minimum(count, 3)], total, out=np.zeros(len(tokens)), where=total > 0
        )
        return found, np.where(known, kept + order.context_backoff[safe] * lower, lower)


def _check_ids(tokens: Any, vocab_size: int) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size):
        raise DataError(f"Token ids reach from {tokens.min()} to {tokens.max()}, outside 0..{vocab_size - 1}.")
    return tokens if tokens.dtype == np.uint8 else tokens.astype(np.int32, copy=False)


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Places of `wanted` in sorted `keys`, −1 where absent."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _count(tokens: np.ndarray, vocab_size: int, order: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For n = 1..order the sorted keys of all n-grams and their counts (continuation counts below the highest)."""
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    context = np.zeros(len(tokens), dtype=np.int32)  # rank of the n−1 tokens before each token
    previous = None
    for n in range(1, order + 1):
        keys, ranks, counts = _rank_all(context, tokens[n - 1 :], vocab_size)
        if previous is not None:
            # the n-gram that ends at a token has the (n−1)-gram that ends there as its suffix
            suffix = np.empty(len(keys), dtype=np.int32)
            suffix[ranks] = previous[1:]
            continuation = np.bincount(suffix, minlength=len(tables[-1][0])).astype(np.int32)
            continuation[previous[0]] += 1  # the start of the stream precedes it
            tables[-1] = (tables[-1][0], continuation)
        tables.append((keys, counts))
        previous, context = ranks, ranks[:-1]
    return tables


def _rank_all(context: np.ndarray, tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct keys (U,), the rank of each position's key, and the counts (U,) int32."""
    keys = context.astype(np.int64)
    keys *= vocab_size
    keys += tokens
    by_key = np.argsort(keys)
    keys = keys[by_key]
    first = np.empty(len(keys), dtype=bool)
    first[0] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    ranks = np.empty(len(keys), dtype=np.int32)
    ranks[by_key] = np.cumsum(first, dtype=np.int32) - 1
    starts = np.flatnonzero(first)
    counts = np.diff(starts, append=len(keys)).astype(np.int32)
    return keys[starts], ranks, counts


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D of counts 0 (always 0), 1, 2, 3+ from the counts of counts; `FALLBACK_DISCOUNTS` where these do not serve."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return np.array([0.0, *FALLBACK_DISCOUNTS])
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    fair = (estimate[1:] > 0).all() and (estimate[1:] <= (1, 2, 3)).all()
    return estimate if fair else np.array([0.0, *FALLBACK_DISCOUNTS])

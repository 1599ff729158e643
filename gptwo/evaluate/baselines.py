"""Cheap opponents that every tuned model is measured against.

Each has a `name` and one method, `fit_predict(train_texts, train_labels, test_texts) -> Predictions`. Labels are one
string for each record, a list of strings (multi-label), or for tagging a list of tags for each list of tokens.

    >>> TfidfLogisticRegression().fit_predict(["good film", "bad film"], ["pos", "neg"], ["a good one"]).labels
    ['pos']
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gptwo.errors import DataError
from gptwo.evaluate.metrics import Predictions, check_lengths, indicator

MIXED = 0.05  # share of letters from which a second script counts


class Baseline(Protocol):
    """What a baseline looks like."""

    name: str

    def fit_predict(self, train_texts: Sequence, train_labels: Sequence, test_texts: Sequence) -> Predictions:
        """Learn from the training records, predict the test records."""
        ...


class Majority:
    """Always the most frequent label (multi-label: the most frequent label set); probabilities are the frequencies."""

    name = "Majority class"

    def fit_predict(self, train_texts: Sequence, train_labels: Sequence, test_texts: Sequence) -> Predictions:
        """See `Baseline`; ties go to the label that sorts first."""
        _check(train_texts, train_labels)
        if _is_multilabel(train_labels):
            sets = Counter(tuple(sorted(labels)) for labels in train_labels)
            said: Any = list(min(sets, key=lambda chosen: (-sets[chosen], chosen)))
            classes = sorted(set().union(*train_labels))
            shares = indicator(train_labels, classes).mean(0)
        else:
            counts = Counter(train_labels)
            said = min(counts, key=lambda label: (-counts[label], label))
            classes = sorted(counts)
            shares = np.array([counts[label] / len(train_labels) for label in classes])
        return Predictions([said] * len(test_texts), np.tile(shares, (len(test_texts), 1)), classes)


class TfidfLogisticRegression:
    """TF-IDF features and logistic regression.

    Features are words and word pairs; character 1- to 3-grams where the training texts are Chinese, Japanese or Korean,
    which write no spaces; both where the texts are mixed. Multi-label trains one regression for each label and predicts
    every label of probability 0.5 or more.

    Args:
        inverse_regularization: scikit-learn's C.
        max_iterations: of the solver.
    """

    name = "TF-IDF + logistic regression"

    def __init__(self, inverse_regularization: float = 10.0, max_iterations: int = 1000):
        self.inverse_regularization, self.max_iterations = inverse_regularization, max_iterations

    def fit_predict(self, train_texts: Sequence[str], train_labels: Sequence, test_texts: Sequence[str]) -> Predictions:
        """See `Baseline`. Where the training data holds a single class this is `Majority`."""
        _check(train_texts, train_labels)
        if not test_texts:
            return Majority().fit_predict(train_texts, train_labels, test_texts)
        features = self._features(train_texts, test_texts)
        if features is None:
            return Majority().fit_predict(train_texts, train_labels, test_texts)
        if _is_multilabel(train_labels):
            return self._multilabel(*features, train_labels)
        if len(set(train_labels)) < 2:
            return Majority().fit_predict(train_texts, train_labels, test_texts)
        model = self._regression().fit(features[0], list(train_labels))
        probabilities = model.predict_proba(features[1])
        classes = model.classes_.tolist()
        return Predictions([classes[place] for place in probabilities.argmax(1)], probabilities, classes)

    def _features(self, train_texts: Sequence, test_texts: Sequence):
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        # single letters ("a", "I") and runs of punctuation ("!!") are words too
        words = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]+"}
        characters = {"analyzer": "char", "ngram_range": (1, 3)}
        share = cjk_share(train_texts)
        chosen = [words] if share < MIXED else [characters] if share > 1 - MIXED else [words, characters]
        vectorizers = [TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **kind) for kind in chosen]
        try:
            train = hstack([vectorizer.fit_transform(train_texts) for vectorizer in vectorizers]).tocsr()
        except ValueError:  # "empty vocabulary": no text holds a feature
            return None
        return train, hstack([vectorizer.transform(test_texts) for vectorizer in vectorizers]).tocsr()

    def _regression(self):
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.inverse_regularization, max_iter=self.max_iterations)

    def _multilabel(self, train_features, test_features, train_labels: Sequence) -> Predictions:
        classes = sorted(set().union(*train_labels))
        truth = indicator(train_labels, classes)
        probabilities = np.zeros((test_features.shape[0], len(classes)))
        for column in range(len(classes)):
            if truth[:, column].all():
                probabilities[:, column] = 1.0
            else:
                model = self._regression().fit(train_features, truth[:, column])
                probabilities[:, column] = model.predict_proba(test_features)[:, 1]
        labels = [[classes[place] for place in np.flatnonzero(row >= 0.5)] for row in probabilities]
        return Predictions(labels, probabilities, classes)


class MostFrequentTag:
    """Tagging: the most frequent tag of each token in training; an unknown token gets the most frequent tag of all."""

    name = "Most frequent tag"

    def fit_predict(
        self,
        train_texts: Sequence[Sequence[str]],
        train_labels: Sequence[Sequence[str]],
        test_texts: Sequence[Sequence[str]],
    ) -> Predictions:
        """See `Baseline`; a text is a list of tokens here. No probabilities."""
        _check(train_texts, train_labels)
        seen: dict[str, Counter] = defaultdict(Counter)
        overall: Counter = Counter()
        for number, (tokens, tags) in enumerate(zip(train_texts, train_labels, strict=True), start=1):
            if len(tokens) != len(tags):
                raise DataError(f"{len(tags)} tags for {len(tokens)} tokens.", where=f"training sentence {number}")
            overall.update(tags)
            for token, tag in zip(tokens, tags, strict=True):
                seen[token][tag] += 1

        def top(counts: Counter) -> str:
            return min(counts, key=lambda tag: (-counts[tag], -overall[tag], tag))

        usual = top(overall) if overall else "O"
        best = {token: top(counts) for token, counts in seen.items()}
        return Predictions(
            [[best.get(token, usual) for token in tokens] for tokens in test_texts], None, sorted(overall)
        )


def cjk_share(texts: Sequence[str], *, sample: int = 1000) -> float:
    """Share of Chinese, Japanese and Korean among the letters of up to `sample` texts, spread over all."""
    letters = cjk = 0
    for text in texts[:: max(1, len(texts) // sample)]:
        for character in text:
            if character.isalpha():
                letters += 1
                cjk += character > "\u2e7f" and unicodedata.name(character, "").startswith(
                    ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")
                )
    return cjk / max(1, letters)


def _is_multilabel(labels: Sequence) -> bool:
    return bool(labels) and isinstance(labels[0], (list, tuple, set, frozenset))


def _check(train_texts: Sequence, train_labels: Sequence) -> None:
    check_lengths(train_texts, train_labels)
    if not len(train_texts):
        raise DataError("There are no training records for the baselines.")

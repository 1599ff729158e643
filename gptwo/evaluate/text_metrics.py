"""Metrics of written text: BLEU and chrF, ROUGE, exact match and F1 of answers, distinct n-grams.

A metric of a whole test set is a function of counts that add up over its records, so every function here gives the
counts, or one value, of each record: a bootstrap then resamples records. The sums give the figures of sacrebleu
(Post 2018) and rouge-score, from which tokens and n-grams come.

Axis legend: N records, R rows of sums.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptwo.errors import DataError, MissingError
from gptwo.evaluate.baselines import cjk_share

BLEU_ORDER = 4  # words in an n-gram at most
CHRF_ORDER = 6  # characters in an n-gram at most
CHRF_BETA = 2  # recall counts so much more than precision
CJK = re.compile("[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]")


# --- translation


def bleu_counts(said: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a") -> np.ndarray:
    """(N, 10) counts of sacrebleu: words written, words of the closest reference, 4 x matches, 4 x n-grams written.

    Args:
        said: N texts.
        references: at least one for each of them.
        tokenize: sacrebleu's name of the tokenizer: "13a", "zh" (`bleu_tokenizer` chooses), "char", "intl", …

    Raises:
        MissingError: the package sacrebleu is not installed.
    """
    check_references(said, references)
    metric = sacrebleu().metrics.BLEU(tokenize=tokenize, effective_order=True)
    rows = []
    for text, known in zip(said, references, strict=True):
        found = metric.sentence_score(text, list(known))
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return np.array(rows, dtype=float).reshape(len(rows), 2 + 2 * BLEU_ORDER)


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """BLEU (R,), 0 to 100, of summed `bleu_counts` (R, 10), with sacrebleu's smoothing of orders without a match.

    Papineni et al. 2002, https://aclanthology.org/P02-1040
    """
    sums = np.asarray(sums, dtype=float)
    written, wanted = sums[:, 0], sums[:, 1]
    correct, total = sums[:, 2 : 2 + BLEU_ORDER], sums[:, 2 + BLEU_ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(written < wanted, np.exp(1 - wanted / written), 1.0)
        halvings = np.cumsum(correct == 0, axis=1)  # the k-th order without a match counts 1 / 2^k matches
        precision = np.where(correct > 0, correct, 0.5**halvings) / total
        score = 100 * brevity * np.exp(np.log(precision).mean(1))
    return np.where((correct.sum(1) > 0) & (total > 0).all(1), score, 0.0)


def bleu_tokenizer(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's tokenizer for the language of the references: "zh" parts Chinese characters, "13a" words."""
    return "zh" if is_cjk(known[0] for known in references) else "13a"


def chrf_counts(said: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, 18) for each order 1 to 6 the character n-grams written, in the reference, in both; of several references
    the one with the best score."""
    check_references(said, references)
    rows = []
    for text, known in zip(said, references, strict=True):
        written = _character_ngrams(text)
        found = np.array([_matches(written, _character_ngrams(one)) for one in known], dtype=float)
        rows.append(found[int(chrf_of_sums(found).argmax())])
    return np.array(rows).reshape(len(rows), 3 * CHRF_ORDER)


def chrf_of_sums(sums: np.ndarray) -> np.ndarray:
    """chrF2 (R,), 0 to 100, of summed `chrf_counts` (R, 18).

    Popović 2015, https://aclanthology.org/W15-3049
    """
    written, wanted, both = np.moveaxis(np.asarray(sums, dtype=float).reshape(len(sums), CHRF_ORDER, 3), 2, 0)
    counted = (written > 0) & (wanted > 0)  # (R, orders)
    orders = np.maximum(counted.sum(1), 1)
    precision = _ratio(both, written, counted).sum(1) / orders
    recall = _ratio(both, wanted, counted).sum(1) / orders
    weighted = CHRF_BETA**2 * precision + recall
    return 100 * _ratio((1 + CHRF_BETA**2) * precision * recall, weighted, weighted > 0)


def _character_ngrams(text: str) -> list[Counter]:
    text = "".join(text.split())
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, CHRF_ORDER + 1)]


def _matches(written: list[Counter], wanted: list[Counter]) -> list[int]:
    row = []
    for ours, theirs in zip(written, wanted, strict=True):
        row += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return row


# --- summaries


def rouge_scores(
    said: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL")
) -> dict[str, np.ndarray]:
    """F-measures (N,), 0 to 1, for each kind: stemmed English words, or single characters where the references are
    Chinese; of several references the best.

    Raises:
        MissingError: the package rouge-score is not installed.

    Lin 2004, https://aclanthology.org/W04-1013
    """
    check_references(said, references)
    by_character = is_cjk(known[0] for known in references)
    scorer = rouge_scorer().RougeScorer(
        list(kinds), use_stemmer=not by_character, tokenizer=Characters() if by_character else None
    )
    found = [scorer.score_multi(list(known), text) for text, known in zip(said, references, strict=True)]
    return {kind: np.array([scores[kind].fmeasure for scores in found]) for kind in kinds}


class Characters:
    """A tokenizer for rouge-score: Chinese characters one by one, other words and numbers whole, no punctuation."""

    def tokenize(self, text: str) -> list[str]:
        """See `segments`."""
        return segments(text)


# --- answers


def normalize_answer(text: str) -> str:
    """An answer as SQuAD compares it: lower case, without punctuation, articles and further white space.

    Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, evaluation script 2.0.

    >>> normalize_answer("The  Eiffel-Tower!")
    'eiffeltower'
    """
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def segments(text: str) -> list[str]:
    """Chinese characters one by one, runs of other letters and digits whole; lower case, without punctuation.

    >>> segments("在NBA打球，1998年。")
    ['在', 'nba', '打', '球', '1998', '年']
    """
    letter = rf"[^\W_{CJK.pattern[1:]}"
    found = re.findall(rf"{CJK.pattern}|{letter}+", text.lower())
    return [one for one in found if unicodedata.category(one[0])[0] not in "PSZ"]


def exact_match(said: str, references: Sequence[str], *, chinese: bool = False) -> float:
    """1 where an answer is equal to one of the references after normalising, else 0.

    Args:
        references: none at all: there is no answer, and an empty text is right.
        chinese: compare `segments` (CMRC 2018) and not words (SQuAD).
    """
    reduce: Callable[[str], Any] = segments if chinese else normalize_answer
    return float(any(reduce(said) == reduce(one) for one in references or [""]))


def answer_f1(said: str, references: Sequence[str], *, chinese: bool = False) -> float:
    """Overlap of an answer with the closest of the references, 0 to 1.

    SQuAD counts common words. Chinese, as in CMRC 2018 (Cui et al. 2019, https://arxiv.org/abs/1810.07366): the
    longest run of common characters. Without an answer it is 1 for an empty text and 0 for any other.
    """
    score = _run_f1 if chinese else _word_f1
    return max(score(said, one) for one in references or [""])


def _word_f1(said: str, reference: str) -> float:
    ours, theirs = normalize_answer(said).split(), normalize_answer(reference).split()
    return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def _run_f1(said: str, reference: str) -> float:
    ours, theirs = segments(said), segments(reference)
    longest, last = 0, [0] * (len(theirs) + 1)  # last[j]: common run that ends at theirs[j - 1]
    for one in ours:
        last = [0, *(last[j] + 1 if one == other else 0 for j, other in enumerate(theirs))]
        longest = max(longest, *last)
    return _f1(longest, len(ours), len(theirs))


def _f1(both: int, written: int, wanted: int) -> float:
    if not written or not wanted:
        return float(written == wanted)
    return 2 * both / (written + wanted)


# --- variety


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words (of characters where the texts are Chinese) over all n-grams of the texts, 0 to 1.

    Li et al. 2016, https://aclanthology.org/N16-1014

    >>> distinct(["I do not know .", "I do not ."], 2)
    0.7142857142857143
    """
    cut: Callable[[str], list[str]] = segments if is_cjk(texts) else lambda text: text.lower().split()
    seen: Counter[tuple[str, ...]] = Counter()
    for words in map(cut, texts):
        seen.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(seen) / max(1, seen.total())


def self_bleu(texts: Sequence[str]) -> float:
    """How alike texts are, 0 to 1: the mean BLEU of each against all others; 0 for fewer than two.

    Zhu et al. 2018, https://arxiv.org/abs/1802.01886

    Args:
        texts: time grows with the square of their number.

    Raises:
        MissingError: the package sacrebleu is not installed.
    """
    if len(texts) < 2:
        return 0.0
    tokenize = bleu_tokenizer([[text] for text in texts])
    metric = sacrebleu().metrics.BLEU(tokenize=tokenize, effective_order=True)
    scores = [
        metric.sentence_score(text, [*texts[:place], *texts[place + 1 :]]).score for place, text in enumerate(texts)
    ]
    return float(np.mean(scores)) / 100


# --- what they share


def is_cjk(texts: Any) -> bool:
    """Whether most letters of texts are Chinese, Japanese or Korean."""
    return cjk_share(list(texts)) > 0.5


def check_references(said: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise `DataError` unless every text has a reference."""
    if len(said) != len(references):
        raise DataError(f"{len(said)} texts for {len(references)} records.", why="One is needed for each.")
    for place, known in enumerate(references, start=1):
        if not known:
            raise DataError("There is no reference to compare with.", where=f"record {place}")


def sacrebleu() -> Any:
    """The package sacrebleu, or `MissingError` with its install line."""
    try:
        import sacrebleu as package
        import sacrebleu.metrics
    except ImportError as error:
        raise _missing("BLEU", "sacrebleu", error) from error
    return package


def rouge_scorer() -> Any:
    """The module rouge_score.rouge_scorer, or `MissingError` with its install line."""
    try:
        from rouge_score import rouge_scorer as module
    except ImportError as error:
        raise _missing("ROUGE", "rouge-score", error) from error
    return module


def _missing(what: str, package: str, error: ImportError) -> MissingError:
    return MissingError(
        f"{what} needs the package {package}.",
        why=str(error),
        fix=f'pip install {package}, or all that tasks need: pip install "gptwo[tasks]"',
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=where)

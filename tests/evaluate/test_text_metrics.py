"""Metrics of written text are those of sacrebleu, rouge-score and the SQuAD script, from counts that add up."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gptwo.errors import DataError, MissingError
from gptwo.evaluate import text_metrics as metrics

ENGLISH = [
    ("The cat sat on the mat.", ["The cat is sitting on the mat.", "A cat sat on the mat."]),
    ("A man plays the guitar, loudly", ["A man is playing a guitar."]),
    ("", ["Two dogs run."]),
    ("dogs", ["Two dogs run over the grass!"]),
]
CHINESE = [("猫坐在垫子上。", ["一只猫坐在垫子上。"]), ("狗跑了", ["两只狗在草地上奔跑。", "狗跑了。"])]
FAR = [("xyz", ["The cat"]), ("q", ["dogs run"])]


def columns(pairs):
    """Texts, references of each, and references as sacrebleu wants them: one list for each of several."""
    said, references = [text for text, _ in pairs], [known for _, known in pairs]
    most = max(map(len, references))
    return said, references, [[known[min(i, len(known) - 1)] for known in references] for i in range(most)]


@pytest.mark.parametrize("pairs", [ENGLISH, ENGLISH[:1], ENGLISH[1:2], CHINESE, FAR, [("", ["a"])]])
def test_bleu_and_chrf_are_those_of_sacrebleu(pairs):
    sacrebleu = pytest.importorskip("sacrebleu")
    said, references, columnwise = columns(pairs)
    tokenize = metrics.bleu_tokenizer(references)
    assert tokenize == ("zh" if pairs is CHINESE else "13a")
    wanted = sacrebleu.corpus_bleu(said, columnwise, tokenize=tokenize).score
    found = metrics.bleu_of_sums(metrics.bleu_counts(said, references, tokenize).sum(0)[None])
    assert found.shape == (1,)
    assert found[0] == pytest.approx(wanted, abs=1e-9)
    wanted = sacrebleu.corpus_chrf(said, columnwise).score
    found = metrics.chrf_of_sums(metrics.chrf_counts(said, references).sum(0)[None])
    assert found[0] == pytest.approx(wanted, abs=1e-9)


def test_equal_texts_have_the_full_score():
    said = ["The cat sat on the mat.", "Two dogs run over the grass."]
    references = [[text] for text in said]
    assert metrics.bleu_of_sums(metrics.bleu_counts(said, references).sum(0)[None])[0] == pytest.approx(100)
    assert metrics.chrf_of_sums(metrics.chrf_counts(said, references).sum(0)[None])[0] == pytest.approx(100)
    for scores in metrics.rouge_scores(said, references).values():
        assert scores.tolist() == [1.0, 1.0]


def test_rouge_is_that_of_rouge_score_with_the_best_reference():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    said, references, _ = columns(ENGLISH)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = metrics.rouge_scores(said, references)
    for kind, values in found.items():
        wanted = [max(scorer.score(one, text)[kind].fmeasure for one in known) for text, known in ENGLISH]
        assert values.tolist() == pytest.approx(wanted)


def test_rouge_of_chinese_is_by_character():
    pytest.importorskip("rouge_score")
    found = metrics.rouge_scores(["猫坐在垫子上。"], [["一只猫坐在垫子上！"]])
    assert found["rouge1"][0] == pytest.approx(2 * 6 / (6 + 8))
    assert found["rouge2"][0] == pytest.approx(2 * 5 / (5 + 7))
    assert found["rougeL"][0] == pytest.approx(2 * 6 / (6 + 8))


@pytest.mark.parametrize(
    ("said", "references", "exact", "f1"),
    [
        ("The Eiffel Tower", ["Eiffel tower."], 1, 1),
        ("tower", ["Eiffel tower", "the bridge"], 0, 2 / 3),
        ("in Paris", ["London", "Paris"], 0, 2 / 3),
        ("no", ["yes"], 0, 0),
        ("", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
    ],
)
def test_answers_by_the_rules_of_squad(said, references, exact, f1):
    assert metrics.exact_match(said, references) == exact
    assert metrics.answer_f1(said, references) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("said", "references", "exact", "f1"),
    [
        ("1998年。", ["1998年"], 1, 1),
        ("北京大学", ["北京"], 0, 2 * 2 / 6),
        ("北大京", ["北京"], 0, 2 * 1 / 5),  # the longest common run, not the common characters
        ("", [], 1, 1),
    ],
)
def test_chinese_answers_by_character(said, references, exact, f1):
    assert metrics.exact_match(said, references, chinese=True) == exact
    assert metrics.answer_f1(said, references, chinese=True) == pytest.approx(f1)


def test_distinct_counts_different_ngrams():
    assert metrics.distinct(["a b a b"], 1) == 0.5
    assert metrics.distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert metrics.distinct(["不知道", "不知道"], 1) == 0.5
    assert metrics.distinct(["", "a"], 2) == 0


def test_self_bleu_is_high_where_all_texts_are_alike():
    pytest.importorskip("sacrebleu")
    alike = ["the cat sat on the mat", "the cat sat on the mat", "the cat sat on the mat"]
    assert metrics.self_bleu(alike) == pytest.approx(1)
    assert metrics.self_bleu([*alike[:1], "two dogs run over green grass"]) < 0.2
    assert metrics.self_bleu(alike[:1]) == 0


def test_a_text_without_a_reference_is_named():
    with pytest.raises(DataError, match="record 2"):
        metrics.chrf_counts(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="2 texts for 1 records"):
        metrics.chrf_counts(["a", "b"], [["a"]])


@pytest.mark.parametrize(
    ("package", "call"),
    [("sacrebleu", lambda: metrics.bleu_counts(["a"], [["a"]])), ("rouge_score", metrics.rouge_scorer)],
)
def test_a_missing_package_gives_its_install_line(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match=rf"pip install {package.replace('_', '-')}"):
        call()


def test_counts_add_up_over_any_split():
    said, references, _ = columns(ENGLISH)
    rows = metrics.chrf_counts(said, references)
    sums = np.stack([rows[:2].sum(0) + rows[2:].sum(0), rows.sum(0)])
    assert metrics.chrf_of_sums(sums)[0] == metrics.chrf_of_sums(sums)[1]

"""Ranking: what counts as relevant, and lists that do not depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.data.batching import collate
from gptwo.errors import DataError
from gptwo.evaluate.ranking import ranking_values
from gptwo.tasks.rank import Rank
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import encode_pair


@pytest.fixture
def queries(record):
    return [
        record(1, query="the cat", candidates=["sat", "ran", "the cat sat"], relevant=["0", "0", "1"]),
        record(2, query="the dog", candidates=["the dog ran away from the log", "猫"], relevant=["猫"]),
        record(3, query="", candidates=["only one"], relevant=["3"]),
    ]


@pytest.mark.parametrize(
    ("candidates", "relevant", "grades"),
    [
        (["a", "b", "c"], ["0", "2", "1"], [0, 2, 1]),
        (["a", "b", "c"], ["c", "a"], [1, 0, 1]),
        (["a", "b"], ["b"], [0, 1]),
        (["0", "1"], ["0", "1"], [0, 1]),  # numbers for all of them are grades
        (["0", "1", "2"], ["0"], [1, 0, 0]),
    ],
)
def test_relevance_is_a_number_for_each_or_the_relevant_ones(record, candidates, relevant, grades):
    assert Rank().grades_of(record(query="q", candidates=candidates, relevant=relevant)) == grades


@pytest.mark.parametrize(
    ("candidates", "relevant", "words"),
    [
        (["a", "b"], ["c"], "'c' in `relevant` is not one of the 2 candidates"),
        (["a", "b", "c"], ["0", "1"], "'0' in `relevant`"),
        (["a", "b"], ["0", "0"], "None of the candidates is relevant"),
        (["a", "b"], [], "None of the candidates is relevant"),
        ([], ["a"], "no candidates"),
    ],
)
def test_lists_that_cannot_be_learned_from_name_file_and_row(record, candidates, relevant, words):
    with pytest.raises(DataError, match=rf"{words}[\s\S]*data\.csv:9"):
        Rank().fit([record(9, query="q", candidates=candidates, relevant=relevant)])


def test_each_candidate_is_a_pair_with_the_query(queries, tokenizer):
    (example,) = Rank().encode(queries[0], tokenizer, 32)
    pairs = [encode_pair(tokenizer, "the cat", text, 32)[0] for text in queries[0].fields["candidates"]]
    assert list(example.ids) == [i for pair in pairs for i in pair]
    assert [label - 1 for label in example.labels if label > 0] == [0, 0, 1]


def test_what_is_cut_is_counted(record, tokenizer):
    (example,) = Rank().encode(record(query="the cat", candidates=["a", "b " * 99], relevant=["a"]), tokenizer, 16)
    assert len(example.ids) == len(encode_pair(tokenizer, "the cat", "a", 16)[0]) + 16
    assert example.truncated == encode_pair(tokenizer, "the cat", "b " * 99, 16)[1] > 0


def test_a_list_does_not_depend_on_the_others(queries, tokenizer, network):
    task, model = Rank(), network("sequence", ["relevance"])
    together = task.predict(ModelRunner(model, tokenizer, 20), queries)
    assert [len(scores) for scores in together] == [3, 2, 1]
    for one, scores in zip(queries, together, strict=True):
        np.testing.assert_allclose(task.predict(ModelRunner(model, tokenizer, 20), [one])[0], scores, atol=1e-5)


def test_predictions_are_ranked_lists(queries, tokenizer, network):
    task = Rank()
    said = task.predict(ModelRunner(network("sequence", ["relevance"]), tokenizer, 20), queries)
    rows = task.rows(queries, said)
    assert rows[0]["query"] == "the cat"
    scores = [found["score"] for found in rows[0]["ranked"]]
    assert scores == sorted(scores, reverse=True)
    assert {found["candidate"] for found in rows[0]["ranked"]} == set(queries[0].fields["candidates"])
    assert task.predict(ModelRunner(network("sequence", ["relevance"]), tokenizer, 20), []) == []


@pytest.mark.parametrize("kind", ["listwise", "pairwise"])
@pytest.mark.parametrize("row_tokens", [None, 64])
def test_packed_and_padded_lists_have_the_same_loss(queries, tokenizer, network, kind, row_tokens):
    task, model = Rank(kind), network("sequence", ["relevance"])
    examples = [task.encode(one, tokenizer, 32, i)[0] for i, one in enumerate(queries)]
    alone = sum(task.loss(model, collate([example])) for example in examples)
    batch = collate(examples, row_tokens=row_tokens)
    torch.testing.assert_close(task.loss(model, batch), alone, atol=1e-5, rtol=1e-5)
    assert task.count(batch) == 3


@pytest.mark.parametrize("kind", ["listwise", "pairwise"])
def test_the_figures_are_those_that_are_promised(queries, tokenizer, network, kind):
    task, model = Rank(kind), network("sequence", ["relevance"])
    task.fit(queries)
    found = task.evaluate(ModelRunner(model, tokenizer, 32), queries)
    assert set(found) == set(task.figures)
    said = task.predict(ModelRunner(model, tokenizer, 32), queries)
    values = ranking_values([task.grades_of(one) for one in queries], said)
    assert found["mrr"] == pytest.approx(values["mrr"].mean())
    batch = collate([task.encode(one, tokenizer, 32, i)[0] for i, one in enumerate(queries)])
    assert found["loss"] == pytest.approx(float(task.loss(model, batch).detach()) / 3, rel=1e-4)


def test_the_report_compares_with_chance_and_bm25(queries, tokenizer, network):
    task = Rank()
    said = task.opinion(ModelRunner(network("sequence", ["relevance"]), tokenizer, 32), queries)
    report = task.report("lists", queries, {"Before tuning": said, "Tuned": said, **task.baselines(queries, queries)})
    assert [system.name for system in report.systems] == ["Before tuning", "Tuned", "Random order", "BM25"]
    assert report.primary == "mrr"
    assert {comparison.metric for comparison in report.comparisons} >= {"mrr", "ndcg_10", "hits_1"}
    assert report.to_dict()["verdicts"]

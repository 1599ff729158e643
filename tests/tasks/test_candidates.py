"""Candidates of a record stay together, whatever the batch looks like, and each is read alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from gptwo.data.batching import collate
from gptwo.tasks.candidates import (
    head_scores,
    join,
    likelihoods,
    listwise_loss,
    pairwise_loss,
    table_of,
    unfold,
)

LISTS = [[[3, 4, 5], [6]], [[7, 8], [9, 9, 9, 9], [1, 2]], [[5]], [[1, 2, 3, 4, 5, 6], [2, 2]]]
GRADES = [[0, 1], [2, 0, 1], [1], [0, 3]]


def examples():
    return [join(rows, grades, i) for i, (rows, grades) in enumerate(zip(LISTS, GRADES, strict=True))]


@pytest.mark.parametrize("row_tokens", [None, 12, 100])
def test_a_batch_unfolds_into_the_candidates_of_each_record(row_tokens):
    found = unfold(collate(examples(), row_tokens=row_tokens))
    rows = [[i for i in row if i >= 0] for row in found.ids.tolist()]
    assert rows == [sequence for rows in LISTS for sequence in rows]
    assert found.sizes == [2, 3, 1, 2]
    assert found.lengths.tolist() == [len(row) for row in rows]
    assert [[g for g in row if g >= 0] for row in found.grades.tolist()] == GRADES


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=5), st.integers(1, 30))
def test_any_lists_survive_any_packing(lengths, row_tokens):
    lists = [[[i + 1] * length for i, length in enumerate(row)] for row in lengths]
    packed = collate([join(rows, [0] * len(rows), 0) for rows in lists], row_tokens=row_tokens)
    rows = [[i for i in row if i >= 0] for row in unfold(packed).ids.tolist()]
    assert rows == [sequence for row in lists for sequence in row]


def test_a_candidate_is_scored_as_if_it_were_alone(network):
    model = network("sequence", ["relevance"])
    together = head_scores(model, unfold(collate(examples(), row_tokens=16)))
    alone = [model(torch.tensor([sequence]))[0, -1] for rows in LISTS for sequence in rows]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_the_likelihood_is_the_mean_over_the_counted_tokens(network):
    model = network("language").requires_grad_(False)
    weight = model.projection.weight
    example = join([[3, 4, 5, 6], [7, 8]], [1, 0], 0, counted_from=[2, 1])
    found = likelihoods(model, unfold(collate([example])), weight)
    logp = model(torch.tensor([[3, 4, 5, 6]])).log_softmax(2)[0]
    assert float(found[0]) == pytest.approx(float(logp[1, 5] + logp[2, 6]) / 2, rel=1e-4)
    logp = model(torch.tensor([[7, 8]])).log_softmax(2)[0]
    assert float(found[1]) == pytest.approx(float(logp[0, 8]), rel=1e-4)


# --- losses

SCORES = [np.array([1.0, 2.0]), np.array([0.5, -1.0, 3.0]), np.array([2.0]), np.array([0.0, 0.0])]


def test_the_listwise_loss_with_one_right_candidate_is_the_cross_entropy():
    scores, grades = table_of(SCORES, [[0, 1], [0, 0, 1], [1], [1, 0]])
    for smoothing in (0.0, 0.2):
        wanted = sum(
            F.cross_entropy(torch.tensor(row), torch.tensor(right), label_smoothing=smoothing)
            for row, right in zip(SCORES, (1, 2, 0, 0), strict=True)
        )
        torch.testing.assert_close(listwise_loss(scores, grades, smoothing), wanted.float())


def test_the_listwise_loss_shares_the_target_by_grades():
    scores, grades = table_of([SCORES[1]], [[2, 0, 1]])
    logp = torch.tensor(SCORES[1]).log_softmax(0)
    torch.testing.assert_close(listwise_loss(scores, grades), -(2 * logp[0] + logp[2]).float() / 3)


def test_the_pairwise_loss_is_the_mean_over_pairs():
    scores, grades = table_of([SCORES[1], SCORES[0]], [[2, 0, 1], [0, 1]])
    a, b, c = SCORES[1]
    first = np.log1p(np.exp([b - a, c - a, b - c])).mean()
    assert float(pairwise_loss(scores, grades)) == pytest.approx(first + np.log1p(np.exp(-1.0)), rel=1e-5)


@pytest.mark.parametrize("loss", [listwise_loss, pairwise_loss])
def test_a_list_that_is_shorter_does_not_change_the_gradient(loss):
    scores, grades = table_of(SCORES, GRADES)
    scores.requires_grad_()
    loss(scores, grades).backward()
    assert torch.isfinite(scores.grad).all()
    for i, (row, known) in enumerate(zip(SCORES, GRADES, strict=True)):
        alone = torch.tensor(row)[None].float().requires_grad_()
        loss(alone, torch.tensor([known])).backward()
        torch.testing.assert_close(scores.grad[i, : len(row)], alone.grad[0])
        assert not scores.grad[i, len(row) :].any()

"""Ranked lists: equal to scikit-learn, chance for equal scores, BM25 by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from gptwo.evaluate.ranking import (
    BM25,
    hit,
    ndcg,
    order_of,
    random_scores,
    ranking_values,
    reciprocal_rank,
    terms,
)

lists = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-1000, 1000)), min_size=2, max_size=15, unique_by=lambda x: x[1]
)


@given(lists, st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn(rows, depth):
    grades, scores = zip(*rows, strict=True)
    wanted = ndcg_score([[2**grade - 1 for grade in grades]], [scores], k=depth) if any(grades) else 0.0
    assert ndcg(grades, order_of(scores), depth) == pytest.approx(wanted)


def test_the_figures_by_hand():
    values = ranking_values([[0, 0, 1, 0], [1, 0, 2]], [[4, 3, 2, 1], [1, 3, 2]])
    assert values["mrr"].tolist() == [1 / 3, 1 / 2]
    assert values["hits_1"].tolist() == [0, 0]
    assert values["hits_3"].tolist() == [1, 1]
    gain = (3 / math.log2(3) + 1 / math.log2(4)) / (3 + 1 / math.log2(3))
    assert values["ndcg_10"].tolist() == pytest.approx([1 / math.log2(4), gain])


def test_a_list_without_anything_relevant_counts_as_nothing():
    assert (reciprocal_rank([0, 0], [0, 1]), ndcg([0, 0], [0, 1]), hit([0, 0], [0, 1], 2)) == (0, 0, 0)


def test_equal_scores_give_what_chance_gives_wherever_the_right_one_stands():
    for place in (0, 4):
        grades = [[int(i == place) for i in range(5)]] * 2000
        values = ranking_values(grades, [np.zeros(5)] * 2000)
        assert values["hits_1"].mean() == pytest.approx(0.2, abs=0.04)


def test_the_same_scores_are_always_ordered_alike():
    assert order_of([1, 1, 1, 2, 1], 7).tolist() == order_of([1, 1, 1, 2, 1], 7).tolist()
    assert order_of([1, 1, 1, 2, 1], 7)[0] == 3


def test_chance_has_a_seed():
    first, again = random_scores([3, 1, 4]), random_scores([3, 1, 4])
    assert [len(row) for row in first] == [3, 1, 4]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


# --- BM25


def test_bm25_by_hand():
    documents = ["the cat sat", "the dog ran far away", "a bird"]
    index = BM25(documents, saturation=1.2, length_weight=0.5)
    weight = math.log(1 + (3 - 1 + 0.5) / 1.5)  # cat is in one of three
    norm = 0.5 + 0.5 * 3 / (10 / 3)
    assert index.scores("Cat!", documents) == pytest.approx([weight * 2.2 / (1 + 1.2 * norm), 0, 0])


def test_a_rare_word_outweighs_a_common_one_and_nothing_is_negative():
    index = BM25(["the cat", "the dog", "the log", "the mat"])
    common, rare = index.scores("the cat", ["the mouse", "a cat"])
    assert 0 < common < rare


def test_a_word_of_the_query_counts_once_and_an_unknown_one_not_at_all():
    index = BM25(["the cat", "a dog"])
    assert (index.scores("cat cat mouse", ["the cat"]) == index.scores("cat", ["the cat"])).all()


def test_chinese_counts_by_characters_and_pairs():
    assert terms("猫坐在NBA") == ["猫", "坐", "在", "nba", "猫坐", "坐在"]
    together, apart = BM25(["北京大学", "南京", "大人学"]).scores("北京", ["在北京的人", "京在北的人"])
    assert together > apart > 0


def test_empty_texts_have_no_score():
    assert BM25([]).scores("a", ["", "b"]).tolist() == [0, 0]
    assert BM25(["a b"]).scores("", ["a"]).tolist() == [0]

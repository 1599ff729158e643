"""Each baseline learns what it should from a few records, in every shape of label."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.errors import DataError
from gptwo.evaluate.baselines import Majority, MostFrequentTag, TfidfLogisticRegression, cjk_share

ENGLISH = ["a good film", "good and warm", "so good", "a bad film", "bad and dull"]
CHINESE = ["这家酒店很好", "服务很好，好评", "房间真好", "太差了", "服务很差"]
SENTIMENT = ["pos", "pos", "pos", "neg", "neg"]


def test_majority_says_the_most_frequent_label():
    result = Majority().fit_predict(ENGLISH, SENTIMENT, ["x", "y"])
    assert result.labels == ["pos", "pos"]
    assert result.classes == ["neg", "pos"]
    assert result.probabilities.tolist() == [[0.4, 0.6], [0.4, 0.6]]


def test_majority_of_label_sets():
    result = Majority().fit_predict(["a", "b", "c"], [["x", "y"], ["y", "x"], []], ["d"])
    assert result.labels == [["x", "y"]]
    assert result.probabilities == pytest.approx(np.array([[2 / 3, 2 / 3]]))


@pytest.mark.parametrize(("texts", "test"), [(ENGLISH, ["good", "bad"]), (CHINESE, ["很好吃", "质量差"])])
def test_tfidf_learns_words_and_characters(texts, test):
    result = TfidfLogisticRegression().fit_predict(texts, SENTIMENT, test)
    assert result.labels == ["pos", "neg"]
    assert result.probabilities.sum(1) == pytest.approx([1, 1])


def test_tfidf_learns_label_sets():
    texts = ["rain and wind", "rain", "wind", "calm", "rain wind"]
    labels = [["rain", "wind"], ["rain"], ["wind"], [], ["wind", "rain"]]
    result = TfidfLogisticRegression(100).fit_predict(texts * 4, labels * 4, ["rain", "wind and rain", "calm"])
    assert result.labels == [["rain"], ["rain", "wind"], []]
    assert result.probabilities.shape == (3, 2)


def test_tfidf_with_a_label_on_every_record():
    result = TfidfLogisticRegression().fit_predict(["a b", "c d"], [["x"], ["x", "y"]], ["c d"])
    assert "x" in result.labels[0]
    assert result.probabilities[0, 0] == 1


def test_tfidf_falls_back_where_nothing_can_be_learned():
    assert TfidfLogisticRegression().fit_predict(["a", "b"], ["x", "x"], ["c"]).labels == ["x"]
    assert TfidfLogisticRegression().fit_predict(["", " "], ["x", "y"], ["c"]).labels == ["x"]
    assert TfidfLogisticRegression().fit_predict(["a", "b"], ["x", "y"], []).labels == []


def test_tags_by_token():
    train = [["Paris", "is", "in", "France"], ["Paris", "won"], ["Paris"]]
    tags = [["B-LOC", "O", "O", "B-LOC"], ["B-ORG", "O"], ["B-LOC"]]
    result = MostFrequentTag().fit_predict(train, tags, [["Paris", "unknown"], []])
    assert result.labels == [["B-LOC", "O"], []] or result.labels == [["B-LOC", "B-LOC"], []]
    assert result.labels[0][0] == "B-LOC"


def test_the_share_of_chinese_letters_is_told():
    assert 0.5 < cjk_share(["今天 weather 很好，我们去公园散步吧"]) < 0.95
    assert cjk_share(["ひらがなとカタカナ", "한국어"]) == 1
    assert 0 < cjk_share(["the word 好 means good"]) < 0.1
    assert cjk_share(["", "123"]) == 0


def test_no_or_uneven_training_records_are_data_errors():
    with pytest.raises(DataError, match="no training records"):
        Majority().fit_predict([], [], ["x"])
    with pytest.raises(DataError):
        TfidfLogisticRegression().fit_predict(["a"], [], ["x"])
    with pytest.raises(DataError, match="sentence 1"):
        MostFrequentTag().fit_predict([["a", "b"]], [["O"]], [])


def test_texts_in_two_scripts_are_judged_by_words_and_by_characters():
    chinese = ["退款什么时候到账", "我要退款", "包裹到哪里了", "我的包裹呢"]
    train = [*chinese, "refund please", "my refund", "where is the parcel", "parcel lost"]
    labels = ["refund", "refund", "parcel", "parcel"] * 2
    said = TfidfLogisticRegression().fit_predict(train, labels, ["想退款了", "这个包裹", "a refund", "no parcel"])
    assert said.labels == ["refund", "parcel", "refund", "parcel"]

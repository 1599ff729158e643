"""The doctor finds what is wrong, says where, and is quiet about what is right."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gptwo.data.doctor import has_errors, inspect_records
from gptwo.data.duplicates import _shingles, near_pairs, normalised
from gptwo.data.sources import Record, Rejects
from gptwo.data.tag_checks import illegal, scheme_of
from gptwo.data.text_checks import misread
from gptwo.errors import DataError, UsageError


def rows(texts, labels, file="train.csv"):
    pairs = zip(texts, labels, strict=True)
    return [Record({"text": text, "label": label}, file, row) for row, (text, label) in enumerate(pairs, 2)]


def sentences(*tagged, file="train.conll"):
    return [
        Record({"tokens": [f"w{n}{i}" for i in range(len(tags.split()))], "tags": tags.split()}, file, n)
        for n, tags in enumerate(tagged, 1)
    ]


GOOD_TEXTS = [
    "a film of rare beauty",
    "dull from start to end",
    "我很喜欢这本书",
    "质量太差了不推荐",
    "worth every minute of it",
]
GOOD_TEXTS += [
    "the plot never begins",
    "酒店干净服务热情",
    "房间又小又吵",
    "I would watch it again",
    "sleep is the better choice",
]
GOOD_LABELS = ["good", "bad"] * 5


def found(findings, check, severity=None):
    return [f for f in findings if f.check == check and severity in (None, f.severity)]


def only(findings, check):
    (finding,) = found(findings, check)
    return finding


def test_good_data_has_no_error_and_no_warning(tokenizer):
    findings = inspect_records(rows(GOOD_TEXTS, GOOD_LABELS), tokenizer=tokenizer, max_length=100)
    assert [f.check for f in findings] == ["class-balance", "lengths"]
    assert not has_errors(findings)
    assert only(findings, "lengths").detail["unit"] == "token"


def test_labels_that_differ_by_case_space_width_or_number_form():
    labels = ["good", "bad", "Good", "bad ", "ｇｏｏｄ", "bad", "good", "bad", "good", "bad"]
    findings = inspect_records(rows(GOOD_TEXTS, labels))
    good, bad = sorted(found(findings, "label-spelling", "error"), key=lambda f: -f.count)
    assert good.detail["spellings"] == {"good": 3, "Good": 1, "ｇｏｏｄ": 1}
    assert good.rows == ["train.csv:4", "train.csv:6"]
    assert bad.rows == ["train.csv:5"]
    assert "'good'" in good.fix
    assert found(inspect_records(rows(GOOD_TEXTS, ["1", "0", "1.0", "0", 1, 0, "1", "0", "1", "0"])), "label-spelling")


def test_duplicates_and_texts_with_two_labels():
    texts = [*GOOD_TEXTS, "A  film of rare BEAUTY ", "我很喜欢这本书"]
    findings = inspect_records(rows(texts, [*GOOD_LABELS, "good", "bad"]))
    assert only(findings, "duplicates").rows == ["train.csv:12", "train.csv:13"]
    conflict = only(findings, "conflicting-labels")
    assert conflict.rows == ["train.csv:4", "train.csv:13"]
    assert conflict.detail["texts"] == 1


def test_the_order_of_several_labels_is_no_conflict():
    records = [Record({"text": "same", "labels": labels}, "a", n) for n, labels in enumerate([["a", "b"], ["b", "a"]])]
    assert not found(inspect_records(records), "conflicting-labels")


def test_test_records_that_stand_in_the_training_data():
    test = rows(
        ["new text here", "DULL from start to end", "这家酒店的早餐种类很多味道也不错"],
        ["good", "bad", "good"],
        "test.csv",
    )
    train = rows([*GOOD_TEXTS, "这家酒店的早餐种类很多味道也不错！"], [*GOOD_LABELS, "good"])
    findings = inspect_records(train, test=test)
    leak = only(findings, "leakage")
    assert (leak.severity, leak.rows, leak.count) == ("error", ["test.csv:3"], 1)
    assert only(findings, "near-leakage").rows == ["test.csv:4 ~ train.csv:12"]
    many = rows(
        [f"test number {n} is {n * 7919 % 1000} and {n * 104729 % 9973}" for n in range(200)], ["good"] * 200, "t"
    )
    few = inspect_records(train, test=[*many, test[1]])
    assert only(few, "leakage").severity == "warning"


def test_classes():
    findings = inspect_records(
        rows(GOOD_TEXTS, ["good"] * 7 + ["bad"] * 2 + ["odd"]), test=rows(["x y"], ["strange"], "test.csv")
    )
    assert only(findings, "rare-classes").detail["classes"] == {"bad": 2, "odd": 1}
    unknown = only(findings, "unknown-classes")
    assert (unknown.severity, unknown.rows) == ("error", ["test.csv:2"])
    assert only(findings, "unmeasured-classes").detail["classes"] == ["bad", "good", "odd"]
    assert only(findings, "class-balance").severity == "info"
    lopsided = rows([f"text {n}" for n in range(60)], ["a"] * 55 + ["b"] * 5)
    assert only(inspect_records(lopsided), "class-balance").severity == "warning"
    assert found(inspect_records(rows(GOOD_TEXTS, ["a"] * 10)), "one-class", "error")


def test_lengths_and_truncation(tokenizer):
    texts = ["the cat", "x", " ", "the cat sat on the mat " * 30, *GOOD_TEXTS]
    findings = inspect_records(rows(texts, ["a", "b"] * 7), tokenizer=tokenizer, max_length=40)
    assert only(findings, "empty-texts").rows == ["train.csv:4"]
    assert only(findings, "one-token-texts").rows == ["train.csv:3"]
    cut = only(findings, "truncation")
    assert (cut.severity, cut.rows, cut.detail["share"]) == ("warning", ["train.csv:5"], 1 / 14)
    lengths = only(findings, "lengths").detail
    assert lengths["max"] == len(tokenizer.encode(texts[3]))
    assert 0 < lengths["median"] <= lengths["p95"] <= lengths["max"]


def test_encoding_problems():
    texts = {
        "replacement-characters": "caf\ufffd",
        "mojibake": "it wasnâ€™t good",
        "byte-order-marks": "\ufeffstart",
        "control-characters": "a\x00b",
        "markup": "a &amp; b<br/>",
        "mixed-width": "ＡＢＣ公司",
        "mixed-punctuation": "很好,不错",
    }
    records = rows([*GOOD_TEXTS, *texts.values(), "好，不错"], ["a", "b"] * 9)
    findings = inspect_records(records)
    for row, check in enumerate(texts, 12):
        assert only(findings, check).rows == [f"train.csv:{row}"], check


@pytest.mark.parametrize(
    "text",
    [
        "café",
        "naïve “quote”",
        "don’t — café”",
        "„Spaß»",
        "„Ä”",
        "ÉCOLE",
        "中文“引号”",
        "Größe–Ä–",
        "🙂",
        "Привет",
        "ÄÖÜ",
    ],
)
def test_right_text_is_not_taken_for_misread(text):
    assert misread(text) is None


@given(st.text(alphabet="éüñçàöêЖя’“–…€中文字🙂", min_size=1))
def test_misread_text_is_seen(text):
    wrong = text.encode("utf-8").decode("cp1252", "replace") if "\ufffd" not in text else text
    assert "\ufffd" in wrong or misread(f"the {wrong} end") is not None


def test_the_example_shows_what_it_was():
    assert misread("cafÃ© au lait") == ("Ã©", "é")
    assert misread("ä¸­æ–‡") == ("ä¸\xad", "中")
    assert misread("锟斤拷") is not None


def test_tags_that_do_not_fit_the_tokens():
    records = sentences("B-PER I-PER O", "O O", "B-LOC O")
    records[1].fields["tags"].append("O")
    records[2].fields["tokens"][0] = " "
    findings = inspect_records(records, task="tag")
    assert only(findings, "unequal-lengths").rows == ["train.conll:2"]
    assert only(findings, "empty-tokens").rows == ["train.conll:3"]
    assert only(findings, "entity-types").detail["train"] == {"PER": 1, "LOC": 1}


@pytest.mark.parametrize(
    ("tagged", "scheme"),
    [
        (["B-PER I-PER O", "O B-LOC"], "IOB2"),
        (["I-PER I-PER O", "I-LOC B-LOC"], "IOB1"),
        (["B-PER E-PER O S-LOC", "B-LOC I-LOC E-LOC"], "BIOES"),
        (["B-PER L-PER O U-LOC"], "BILOU"),
        (["NN VB O", "NN"], "plain"),
        (["O O"], "none"),
        (["B-PER X-PER O"], "unknown"),
        (["B-PER PER O"], "unknown"),
    ],
)
def test_schemes(tagged, scheme):
    tags = [sentence.split() for sentence in tagged]
    assert scheme_of(tags) == scheme
    if scheme not in ("plain", "none", "unknown"):
        assert [illegal(sentence, scheme) for sentence in tags] == [None] * len(tags)


@pytest.mark.parametrize(
    ("tags", "scheme", "index"),
    [
        ("O I-PER", "IOB2", 1),
        ("B-PER I-LOC", "IOB2", 1),
        ("B-PER B-PER I-PER", "IOB2", None),
        ("O B-PER", "IOB1", 1),
        ("I-PER B-PER", "IOB1", None),
        ("B-PER O", "BIOES", 1),
        ("B-PER", "BIOES", 1),
        ("B-PER E-LOC", "BIOES", 1),
        ("E-PER", "BIOES", 0),
        ("S-PER I-PER", "BIOES", 1),
        ("S-PER S-PER B-LOC I-LOC E-LOC", "BIOES", None),
        ("U-PER L-PER", "BILOU", 1),
    ],
)
def test_illegal_transitions(tags, scheme, index):
    assert illegal(tags.split(), scheme) == index


def test_transitions_schemes_and_types_are_told():
    train = sentences("B-PER I-PER O B-LOC", "O I-LOC O", "B-per O O")
    findings = inspect_records(train, task="tag", test=sentences("I-ORG I-ORG", "I-PER O", file="test.conll"))
    assert only(findings, "illegal-transitions").rows == ["train.conll:2"]
    assert only(findings, "mixed-schemes").detail == {"train": "IOB2", "test": "IOB1"}
    assert only(findings, "label-spelling").rows == ["train.conll:3"]
    assert only(findings, "unknown-classes").rows == ["test.conll:1"]
    assert found(inspect_records(sentences("B-PER X-PER"), task="tag"), "unknown-scheme", "error")


def test_rejected_rows_are_errors():
    rejects = Rejects()
    rejects.add("train.csv", 7, "3 columns instead of 2", "a,b,c")
    findings = inspect_records(rows(GOOD_TEXTS, GOOD_LABELS), rejects={"train": rejects})
    assert (findings[0].check, findings[0].rows) == ("rejected-rows", ["train.csv:7"])


def test_language_needs_text_only():
    findings = inspect_records([Record({"text": "one text"}, "a.txt", 1)], task="language")
    assert [f.check for f in findings] == ["lengths"]


def test_what_cannot_be_inspected():
    with pytest.raises(UsageError, match="mean 'classify'"):
        inspect_records(rows(["a"], ["b"]), task="clasify")
    with pytest.raises(DataError, match="no training records"):
        inspect_records([])
    with pytest.raises(DataError, match=r"lacks tokens and tags(.|\n)*train\.csv:2"):
        inspect_records(rows(["a"], ["b"]), task="tag")


def test_normalised_texts_are_equal_without_case_width_and_space():
    assert normalised(" Ｆｕｌｌ　WIDTH \n text") == "full width text"


def jaccard(a: str, b: str) -> float:
    x, y = set(_shingles(a).tolist()), set(_shingles(b).tolist())
    return len(x & y) / len(x | y)


def test_near_pairs_are_the_pairs_above_the_threshold():
    generator = np.random.default_rng(0)
    words = ["red", "green", "blue", "house", "river", "walks", "sings", "over", "under", "slowly"]
    texts = [" ".join(generator.choice(words, 40)) for _ in range(60)]
    texts += [text[:cut] + "!" + text[cut:] for text in texts[:30] for cut in [int(generator.integers(20, 100))]]
    texts += [
        "这家酒店的位置很好，交通方便，早餐也不错，下次还会再来",
        "这家酒店的位置很好，交通方便，早餐也不错，下次还会来",
    ]
    expected = {
        (a, b) for a in range(len(texts)) for b in range(a + 1, len(texts)) if jaccard(texts[a], texts[b]) >= 0.8
    }
    pairs, complete = near_pairs(texts)
    assert set(pairs) == expected
    assert len(expected) >= 31
    assert complete


@given(st.lists(st.text(max_size=12), max_size=8))
def test_near_pairs_takes_any_text(texts):
    pairs, _ = near_pairs(texts)
    assert all(a < b and jaccard(texts[a], texts[b]) >= 0.8 for a, b in pairs)


def test_the_work_is_bounded(monkeypatch):
    from gptwo.data import duplicates

    monkeypatch.setattr(duplicates, "MAX_PAIRS", 5)
    pairs, complete = near_pairs([f"the very same long text of number {n}" for n in range(50)])
    assert not complete
    assert len(pairs) <= 5
    monkeypatch.setattr(duplicates, "MAX_TEXTS", 3)
    assert not near_pairs(["a text", "b text", "c text", "d text"])[1]


def test_findings_are_plain_json():
    findings = inspect_records(rows(GOOD_TEXTS, ["a"] * 10))
    assert json.loads(json.dumps([f.as_json() for f in findings]))[0]["severity"] == "error"


def test_conll2003_as_it_is(data_set):
    """The set is IOB1 with two sentences that break it; 132 test sentences stand in the training data."""
    from gptwo.data.sources import read_records

    folder = data_set("conll2003")
    train, test = (list(read_records(folder / name, rejects=Rejects())) for name in ("eng.train", "eng.testb"))
    findings = inspect_records(train, test=test, task="tag")
    assert only(findings, "entity-types").detail["scheme"] == "IOB1"
    assert only(findings, "entity-types").detail["train"] == {"LOC": 7140, "PER": 6600, "ORG": 6321, "MISC": 3438}
    assert only(findings, "illegal-transitions").count == 2
    texts = {normalised(" ".join(record.fields["tokens"])) for record in train}
    leaked = sum(normalised(" ".join(record.fields["tokens"])) in texts for record in test)
    assert only(findings, "leakage").count == leaked


def test_each_kind_of_joint_labels_is_looked_at_by_itself():
    topics, moods = ["hotel", "food"] * 5, ["good", "Good", "", *["good"] * 7]
    fields = zip(GOOD_TEXTS, topics, moods, strict=True)
    train = [Record({"text": t, "topic": a, "mood": b}, "train.csv", row) for row, (t, a, b) in enumerate(fields, 2)]
    test = [Record({"text": "another", "topic": "film", "mood": "good"}, "test.csv", 2)]
    findings = inspect_records(train, test=test, task="joint", kinds=("topic", "mood"))
    (spelling,) = [one for one in findings if one.check == "label-spelling"]
    (unknown,) = [one for one in findings if one.check == "unknown-classes"]
    assert spelling.what.startswith("mood: one label in 2 spellings")
    assert unknown.what.startswith("topic: 1 class")
    assert unknown.rows == ["test.csv:2"]
    with pytest.raises(DataError, match="lacks text, topic, mood"):
        inspect_records(rows(GOOD_TEXTS, GOOD_LABELS), task="joint", kinds=("topic", "mood"))

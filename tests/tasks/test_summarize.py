"""Summaries: documents as texts and lists, cut at the end; ROUGE, and the first sentences as opponents."""

from __future__ import annotations

import pytest

from gptwo.tasks.summarize import Summarize, sentences
from gptwo.tasks.texts import Written, plain_text

DOCUMENT = ["The cat sat on the mat.", "The dog sat on the log.", "Anna lives in Berlin.", "The end."]


def test_a_document_may_be_a_list_of_sentences(record, tokenizer):
    task = Summarize(max_target=8)
    (listed,) = task.encode(record(document=DOCUMENT, summary="cats"), tokenizer, 200)
    (whole,) = task.encode(record(document=" ".join(DOCUMENT), summary="cats"), tokenizer, 200)
    assert listed == whole
    assert tokenizer.decode(listed.ids).startswith("The cat sat on the mat. The dog")
    assert "\nTL;DR:\ncats" in tokenizer.decode(listed.ids)


def test_a_long_document_keeps_its_beginning(record, tokenizer):
    task = Summarize(max_target=6)
    (asked,) = task.encode(record(document=DOCUMENT, summary="cats"), tokenizer, 40, target=False)
    text = tokenizer.decode(asked.ids)
    assert text.endswith("\nTL;DR:\n")
    assert plain_text(DOCUMENT).startswith(text.removesuffix("\nTL;DR:\n"))
    assert asked.truncated > 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It works. Does it? Yes!", ["It works.", "Does it?", "Yes!"]),
        ('She said "no." He left.', ['She said "no."', "He left."]),
        ("猫坐着。狗呢？跑了！", ["猫坐着。", "狗呢？", "跑了！"]),
        ("他说：“好。”走了。", ["他说：“好。”", "走了。"]),
        ("Version 2.5 is out\nGet it", ["Version 2.5 is out", "Get it"]),
        (["One", " two. three "], ["One", "two. three"]),
        ("", []),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_the_first_sentences_are_the_opponents(record):
    test = [record(document=DOCUMENT, summary="x"), record(document="猫坐着。狗呢？", summary="y")]
    found = Summarize().baselines([], test)
    assert {name: said.texts for name, said in found.items()} == {
        "First sentence": [DOCUMENT[0], "猫坐着。"],
        "First 3 sentences": [" ".join(DOCUMENT[:3]), "猫坐着。 狗呢？"],
    }


def test_figures_take_the_best_of_several_references(record):
    pytest.importorskip("rouge_score")
    task, given = Summarize(max_target=8), [record(document="x", summary=["a dog", "the cat sat"])]
    found = task.measured(given, Written(["the cat sat"]))
    assert {key: figure.value for key, figure in found.items()} == {"rouge_l": 1.0, "rouge_1": 1.0, "rouge_2": 1.0}
    report = task.report("t", given, {"Tuned": Written(["the cat"]), **task.baselines([], given)})
    assert report.primary == "rouge_l"
    assert report.worst[0].gold == "a dog ‖ the cat sat"
    assert "stemmed words" in " ".join(report.notes)

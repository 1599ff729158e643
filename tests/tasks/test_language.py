"""Writing: what stands before a text carries no loss, and is what the engine will be given."""

from __future__ import annotations

import math

import pytest
import torch

from gptwo.errors import DataError, UsageError
from gptwo.generate.codec import Codec
from gptwo.model.loss import IGNORE
from gptwo.tasks.language import Language, template_fields
from gptwo.tasks.runner import ModelRunner

POEM = {"title": "猫", "author": "Anna", "text": "猫坐在垫子上。"}


def test_loss_is_on_the_text_and_its_end_alone(record, tokenizer):
    task = Language("《{title}》 {author}\n")
    assert task.columns == ("text", "title", "author")
    (example,) = task.encode(record(**POEM), tokenizer, 99)
    prompt, text = tokenizer.encode("《猫》 Anna\n"), tokenizer.encode(POEM["text"])
    assert list(example.ids) == prompt + text
    assert list(example.labels) == [IGNORE] * (len(prompt) - 1) + [*text, tokenizer.end_id]
    assert example.truncated == 0


@pytest.mark.parametrize("prompt", [None, "", "{title}: "])
def test_training_begins_as_generation_does(record, tokenizer, chinese, prompt):
    task = Language(prompt)
    for words in (tokenizer, chinese):
        (example,) = task.encode(record(**POEM), words, 99)
        given = Codec(words, words.vocab_size).context(task.prompt_of(record(**POEM)))
        assert list(example.ids[: len(given)]) == given
        assert [label != IGNORE for label in example.labels].index(True) == len(given) - 1


def test_without_a_prompt_the_first_token_is_learned_too(record, tokenizer):
    (example,) = Language().encode(record(text="the cat"), tokenizer, 99)
    text = tokenizer.encode("the cat")
    assert list(example.ids) == [tokenizer.end_id, *text]
    assert list(example.labels) == [*text, tokenizer.end_id]


def test_a_long_text_is_cut_and_counted(record, tokenizer):
    text = "the cat sat on the mat. " * 9
    whole = tokenizer.encode(text)
    (example,) = Language("猫: ").encode(record(text=text), tokenizer, 12)
    prompt = len(tokenizer.encode("猫: "))
    assert len(example.ids) == len(example.labels) == 12
    assert example.truncated == len(whole) + 1 - (13 - prompt)


def test_a_prompt_without_room_for_the_text_names_file_and_row(record, tokenizer):
    with pytest.raises(DataError, match=r"no room for the text[\s\S]*data\.csv:7"):
        Language("{title}").encode(record(7, title="the cat sat on the mat. " * 9, text="x"), tokenizer, 10)


def test_texts_of_one_token_and_of_none(record, tokenizer):
    task = Language()
    (example,) = task.encode(record(text=""), tokenizer, 10)
    assert (list(example.ids), list(example.labels)) == ([tokenizer.end_id], [tokenizer.end_id])


def test_fields_of_a_template():
    assert template_fields("《{title}》 {author} {{braces}} {title}") == ["title", "author"]
    assert template_fields(None) == []
    for wrong, words in (
        ("{title", "cannot be read"),
        ("{}", "needs the name"),
        ("{0}", "needs the name"),
        ("}", "read"),
    ):
        with pytest.raises(UsageError, match=words):
            Language(wrong)


def test_records_cost_the_same_one_by_one_and_together(record, tokenizer, network):
    given = [record(text=text) for text in ("the cat sat", "猫坐在垫子上。", "a", "Anna lives in Berlin.")]
    task, model = Language(), network("language")
    figures = task.evaluate(ModelRunner(model, tokenizer, 30), given)
    opinion = task.opinion(ModelRunner(model, tokenizer, 30), given)
    assert set(figures) == set(task.figures)
    assert opinion.whole.metrics() == pytest.approx(figures, rel=1e-5)
    assert opinion.whole.bytes == sum(len(one.fields["text"].encode()) for one in given)
    assert figures["loss"] / math.log(2) * opinion.whole.tokens == pytest.approx(
        figures["bits_per_byte"] * opinion.whole.bytes, rel=1e-6
    )


def test_a_text_costs_what_its_tokens_cost(record, tokenizer, network):
    model = network("language")
    ids = [tokenizer.end_id, *tokenizer.encode("the cat sat"), tokenizer.end_id]
    with torch.inference_mode():
        scores = model(torch.tensor([ids[:-1]]))[0].log_softmax(1)
    wanted = -float(scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())
    found = Language().opinion(ModelRunner(model, tokenizer, 30), [record(text="the cat sat")])
    assert found.whole.nats == pytest.approx(wanted, rel=1e-5)
    assert found.whole.tokens == len(ids) - 1

"""Required words stand in every text, whole, wherever the length allows it; where it does not, that is said."""

from __future__ import annotations

import json

import pytest

from gptwo.errors import UsageError
from gptwo.generate.engine import Engine
from gptwo.generate.options import SamplingOptions
from gptwo.generate.required import Required, holds
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.tokenizer import load_tokenizer

PROMPTS = ["the quick", "春眠不", "Once upon a time ", ""]
WORDS = [["fox"], ["dog", "lazy"], ["鸟", "晓"], ["over the lazy", "🙂"], ["zebra"], ["fox", "鸟", "time"]]


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """A BERT vocabulary of some twenty tokens, and a network over it."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"猫坐在垫子上狗木头", "the", "cat", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    config = GPT2Config(tokenizer.vocab_size, n_positions=16, n_embd=16, n_layer=1, n_head=2, initializer_range=0.8)
    return Engine(create(config, tokenizer, seed=3))


def test_a_word_counts_where_it_stands_whole():
    assert holds("The CAT sat.", "cat")
    assert not holds("cats sat", "cat")
    assert not holds("a bobcat", "cat")
    assert holds("用GPT写作", "GPT")
    assert holds("小木头猫", "木头")
    assert holds("costs $5.", "$5")
    assert not holds("été", "t")


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_every_text_holds_every_word(engine, words):
    texts = engine.generate(PROMPTS, required=words, max_new_tokens=24, num_beams=6, n=2)
    assert len(texts) == 8
    for text in texts:
        assert all(holds(text.text, word) for word in words), text
        assert text.finish_reason in ("end", "length")
        assert len(text.ids) <= 24
    for first, second in zip(texts[::2], texts[1::2], strict=True):
        assert first.score >= second.score
        assert first.ids != second.ids


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_the_shortest_length_that_holds_them_is_enough(engine, words):
    need = Required(words, engine.tokenizer).tokens
    (text,) = engine.generate("the quick", required=words, max_new_tokens=need, num_beams=3)
    assert all(holds(text.text, word) for word in words), text
    with pytest.raises(UsageError, match=f"max_new_tokens of {need} at least"):
        engine.generate("the quick", required=words, max_new_tokens=need - 1)


def test_no_word_runs_into_the_prompt(engine):
    for prompt in ("the quick", "the quick\n"):
        (text,) = engine.generate(prompt, required="fox", max_new_tokens=6, num_beams=8)
        assert holds(prompt + text.text, "fox")


def test_a_batch_equals_single_prompts(engine):
    together = engine.generate(PROMPTS, required=["dog"], max_new_tokens=12)
    for prompt, text in zip(PROMPTS, together, strict=True):
        (alone,) = engine.generate(prompt, required=["dog"], max_new_tokens=12)
        assert text.ids == alone.ids
        assert text.score == pytest.approx(alone.score, abs=1e-4)


def test_with_a_beam_for_every_text_the_best_one_is_found(chinese):
    """Two tokens: all texts that hold the word are looked at, and their scores are those of the network."""
    engine, word = chinese, "狗"
    end, size = engine.tokenizer.end_id, engine.codec.vocab_size
    context = engine.codec.context("猫坐")
    best = {}
    for first in range(size):
        for second in range(size):
            text = engine.tokenizer.decode([first, second], skip_special=True)
            if first != end and holds(text, word) and (second != end or holds(engine.tokenizer.decode([first]), word)):
                ((scores, _),) = engine.backend.score([[*context, first, second]], [len(context)])
                best[first, second] = sum(scores) / 2
    (text,) = engine.generate("猫坐", required=word, max_new_tokens=2, num_beams=size)
    assert tuple(text.ids) == max(best, key=best.__getitem__)
    assert text.score == pytest.approx(max(best.values()), abs=1e-4)


def test_words_in_a_vocabulary_without_spaces(chinese):
    texts = chinese.generate(["猫", "the"], required=["狗", "cat", "木头"], max_new_tokens=12)
    for text in texts:
        assert all(holds(text.text, word) for word in ("狗", "cat", "木头")), text.text
    with pytest.raises(UsageError, match="cannot write '猪'"):
        chinese.generate("猫", required="猪", max_new_tokens=8)


def test_bans_and_stop_strings_do_not_hinder_a_word(engine):
    (text,) = engine.generate("the fox", required="fox", max_new_tokens=16, no_repeat_ngram=1, stop="\n")
    assert holds(text.text, "fox")
    ending = {engine.tokenizer.end_id: 50.0}  # the network wants to end at once
    (text,) = engine.generate("the", required=["lazy", "鸟"], max_new_tokens=40, logit_bias=ending)
    assert holds(text.text, "lazy")
    assert holds(text.text, "鸟")
    assert text.finish_reason == "end"


def test_what_cannot_be_asked_for():
    with pytest.raises(UsageError, match="num_beams=8"):
        SamplingOptions.make(required=["cat"], num_beams=1)
    with pytest.raises(UsageError, match="does not sample"):
        SamplingOptions.make(required="cat", temperature=0.7)
    with pytest.raises(UsageError, match="No text can hold"):
        SamplingOptions.make(required="a. b", stop=".")
    with pytest.raises(UsageError, match="required"):
        SamplingOptions.make(force_words_ids=[[1]])
    assert SamplingOptions.make(required="cat").num_beams == 8
    assert SamplingOptions.make(required=[]).num_beams == 1


def test_a_stream_cannot_have_them(engine):
    with pytest.raises(UsageError, match="no stream"):
        engine.stream("the", required="fox")


def test_the_state_knows_what_is_left(engine):
    tokenizer = engine.tokenizer
    words = Required(["zebra"], tokenizer)
    ids = tokenizer.encode(" zebra")
    assert len(ids) > 2
    for count in range(len(ids)):
        state = words.state(ids[:count])
        assert state.left == len(ids) - count
        assert ids[count] in state.tokens
    assert words.state(ids).left == 0
    assert words.state([*ids, *tokenizer.encode("s")]).left > 0  # zebras is another word
    assert words.state([*ids, *tokenizer.encode(" s")]).left == 0


def test_the_command_takes_them(tiny, tmp_path, monkeypatch, capsys):
    import sys

    from gptwo.cli.common import run
    from gptwo.cli.main import app
    from gptwo.model.pretrained import save

    folder = str(save(tiny, tmp_path / "model"))
    monkeypatch.setattr(
        sys, "argv", ["gptwo", "generate", "--model", folder, "the", "--must", "fox", "--required", "dog", "--json"]
    )
    with pytest.raises(SystemExit):
        run(app)
    (text,) = json.loads(capsys.readouterr().out)["generations"]
    assert holds(text["text"], "fox")
    assert holds(text["text"], "dog")

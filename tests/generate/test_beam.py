"""Beam search finds the texts and scores that transformers finds."""

from __future__ import annotations

import pytest
import torch

PROMPTS = ["the quick", "春眠不", "Once upon a time"]


def reference_beams(reference, ids, n, **options):
    """transformers' texts (up to the end token) and scores."""
    out = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        pad_token_id=0,
        num_return_sequences=n,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    end = reference.generation_config.eos_token_id
    texts = [row[len(ids) :].tolist() for row in out.sequences]
    return [row[: row.index(end) + 1] if end in row else row for row in texts], out.sequences_scores.tolist()


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_texts_and_scores_equal_transformers(engine, reference, num_beams, length_penalty, early_stopping):
    shared = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    end = engine.tokenizer.end_id
    ours = engine.generate(PROMPTS, n=2, max_new_tokens=12, logit_bias={end: 4.0}, **shared)
    for row, prompt in enumerate(PROMPTS):
        ids = engine.tokenizer.encode(prompt)
        texts, scores = reference_beams(reference, ids, 2, max_new_tokens=12, sequence_bias={(end,): 4.0}, **shared)
        mine = ours[2 * row : 2 * row + 2]
        assert [text.ids for text in mine] == texts
        assert [text.score for text in mine] == pytest.approx(scores, abs=1e-4)


def test_penalties_equal_transformers(engine, reference):
    for prompt in PROMPTS:
        ids = engine.tokenizer.encode(prompt)
        ours = engine.generate(
            [ids], num_beams=3, n=3, max_new_tokens=15, no_repeat_ngram=2, repetition_penalty=1.4, min_new_tokens=5
        )
        texts, scores = reference_beams(
            reference, ids, 3, num_beams=3, max_new_tokens=15, no_repeat_ngram_size=2, repetition_penalty=1.4,
            min_new_tokens=5,
        )  # fmt: skip
        assert [text.ids for text in ours] == texts
        assert [text.score for text in ours] == pytest.approx(scores, abs=1e-4)


def test_batches_equal_single_prompts(engine):
    together = engine.generate(PROMPTS, num_beams=3, max_new_tokens=10, logprobs=True)
    for prompt, text in zip(PROMPTS, together, strict=True):
        (alone,) = engine.generate(prompt, num_beams=3, max_new_tokens=10)
        assert text.ids == alone.ids
        assert text.score == pytest.approx(sum(text.logprobs) / len(text.ids), abs=1e-4)


def test_a_beam_finds_a_likelier_text_than_greedy_choice(engine):
    (greedy,) = engine.generate("the quick", temperature=0, max_new_tokens=10, logprobs=True, ignore_end=True)
    (beam,) = engine.generate("the quick", num_beams=8, max_new_tokens=10, logprobs=True, ignore_end=True)
    assert sum(beam.logprobs) >= sum(greedy.logprobs) - 1e-4


def test_stop_strings_end_beams(engine):
    (whole,) = engine.generate("the quick", num_beams=4, max_new_tokens=20, ignore_end=True)
    stop = whole.text[1:3]
    texts = engine.generate("the quick", num_beams=4, n=4, max_new_tokens=20, stop=stop, ignore_end=True)
    assert any((text.finish_reason, text.stop) == ("stop", stop) for text in texts)
    assert not any(stop in text.text for text in texts)


def test_beams_keep_to_the_context_and_say_so(engine):
    (text,) = engine.generate("the quick brown fox " * 30, num_beams=2, max_new_tokens=10, ignore_end=True)
    assert len(text.ids) == 10
    assert "39 tokens" in text.notices[0]
    (text,) = engine.generate("the quick", num_beams=2, max_new_tokens=500, ignore_end=True)
    assert len(text.ids) == 48 + 1 - text.prompt_tokens
    assert len(text.notices) == 1


def test_more_beams_than_the_vocabulary_has_tokens(tiny):
    from gptwo.generate.engine import Engine
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import create

    made = create(GPT2Config(vocab_size=3, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    texts = Engine(made).generate([[0]], num_beams=5, n=5, max_new_tokens=3)
    assert len({tuple(text.ids) for text in texts}) == 5

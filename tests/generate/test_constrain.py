"""A text of a required form has it, whatever the model would rather write."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from gptwo.errors import UsageError
from gptwo.generate.constrain import Constrainer


@pytest.fixture(scope="module")
def constrainer(tokenizer):
    pytest.importorskip("llguidance")
    return Constrainer(tokenizer)


def drawn(constraint, tokenizer, seed, longest=200):
    """A text of tokens that are drawn at random from those that are allowed; None where it came to no end."""
    random, ids = np.random.default_rng(seed), []
    while len(ids) < longest:
        allowed = np.flatnonzero(constraint.allowed(tokenizer.vocab_size))
        token = int(random.choice(allowed))
        if token == tokenizer.end_id or (tokenizer.end_id in allowed and random.random() < 0.3):
            return tokenizer.decode(ids)
        ids.append(token)
        constraint.take(token)
    return None


@pytest.mark.parametrize("pattern", [r"[a-c]{2,5}", r"(春|the )+x?", r"\d\d\.\d"])
def test_a_pattern_matches_the_whole_text(pattern, constrainer, tokenizer):
    texts = [drawn(constrainer.regex(pattern), tokenizer, seed) for seed in range(20)]
    assert sum(text is not None for text in texts) > 5
    assert all(re.fullmatch(pattern, text) for text in texts if text is not None)


def test_a_choice_is_one_of_them_also_where_one_begins_another(constrainer, tokenizer):
    texts = ["the", "the quick", '"quoted"\n', "春眠", "back\\slash"]
    found = {drawn(constrainer.choice(texts), tokenizer, seed) for seed in range(60)}
    assert found == set(texts)


def test_json_of_a_schema(constrainer, tokenizer):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
              "required": ["n", "ok"], "additionalProperties": False}  # fmt: skip
    texts = [drawn(constrainer.json(schema), tokenizer, seed) for seed in range(10)]
    values = [json.loads(text) for text in texts if text is not None]
    assert values
    assert all(isinstance(value["n"], int) and isinstance(value["ok"], bool) for value in values)


def test_what_is_no_form_is_a_usage_error(constrainer):
    for make in (
        lambda: constrainer.regex("(["),
        lambda: constrainer.json({"type": "nothing"}),
        lambda: constrainer.choice([]),
        lambda: constrainer.choice([""]),
        lambda: constrainer.regex("x" * 100_000),
    ):
        with pytest.raises(UsageError):
            make()


def test_another_vocabulary_is_refused():
    class Words:
        kind, end_id = "bert", 5

    with pytest.raises(UsageError, match="byte-level"):
        Constrainer(Words())

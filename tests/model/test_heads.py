"""Heads: their names and shapes, tied and untied, what dropout does to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptwo.errors import UsageError
from gptwo.model.config import GPT2Config, preset
from gptwo.model.heads import Model

CONFIG = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("head", "name", "shape"),
    [("language", "lm_head", (11, 8)), ("sequence", "score", (4, 8)), ("token", "classifier", (4, 8))],
)
def test_a_head_is_called_as_in_transformers(head, name, shape):
    model = Model(CONFIG, head, 4).initialise().eval()
    assert model.projection is getattr(model, name)
    assert model.projection.weight.shape == shape
    assert model(IDS).shape == (1, 3, shape[0])


def test_tied_is_one_parameter_and_untied_two():
    tied, untied = Model(CONFIG), Model(replace(CONFIG, tie_word_embeddings=False))
    assert tied.lm_head.weight is tied.transformer.wte.weight
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert len(list(untied.parameters())) == len(list(tied.parameters())) + 1


def test_only_the_token_head_drops():
    torch.manual_seed(0)
    hidden = torch.ones(2, 8)
    model = Model(replace(CONFIG, resid_pdrop=0.5), "token", 4).initialise().train()
    assert not torch.equal(model.logits(hidden), model.logits(hidden))
    assert torch.equal(model.eval().logits(hidden), model.logits(hidden))
    model = Model(replace(CONFIG, resid_pdrop=0.5), "sequence", 4).initialise().train()
    assert torch.equal(model.logits(hidden), model.logits(hidden))


def test_heads_that_cannot_be_are_usage_errors():
    with pytest.raises(UsageError, match="Did you mean 'token'"):
        Model(CONFIG, "tokens", 3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one label"):
        Model(CONFIG, "sequence")


def test_the_published_sizes_have_their_published_counts():
    counts = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
    with torch.device("meta"):
        for name, count in counts.items():
            assert sum(tensor.numel() for tensor in Model(preset(name)).parameters()) == count
    with pytest.raises(UsageError, match="Did you mean"):
        preset("gpt2-midium")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"n_layer": 0}, "n_layer must be at least 1"), ({"n_head": 3}, "not a multiple"), ({"attn_pdrop": 1.5}, "0..1")],
)
def test_a_shape_that_cannot_be_is_a_usage_error(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(CONFIG, **changes)

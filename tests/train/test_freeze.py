"""Freezing: what a policy leaves to be tuned, and how it thaws."""

from __future__ import annotations

import pytest
import torch

from gptwo.adapt.freeze import freeze, thaw
from gptwo.errors import UsageError
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create

CONFIG = GPT2Config(vocab_size=19, n_positions=8, n_embd=8, n_layer=3, n_head=2)


def network(head="sequence"):
    return create(CONFIG, head=head, labels=[] if head == "language" else ["a", "b"], seed=1).model


def moving(model) -> set[str]:
    """The parts that are tuned: wte, wpe, h.0 …, ln_f, score, …"""
    names = [name.removeprefix("transformer.") for name, tensor in model.named_parameters() if tensor.requires_grad]
    return {".".join(name.split(".")[: 2 if name.startswith("h.") else 1]) for name in names}


BLOCKS = {"h.0", "h.1", "h.2"}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("all", {"wte", "wpe", *BLOCKS, "ln_f", "score"}),
        ("head", {"score"}),
        ("last", {"h.1", "h.2", "ln_f", "score"}),
        ("embeddings", {*BLOCKS, "ln_f", "score"}),
    ],
)
def test_what_a_policy_tunes(policy, wanted):
    model = network()
    model.transformer.wte.weight.requires_grad_(False)  # what was frozen before does not matter
    names = freeze(model, policy, last=2)
    assert moving(model) == wanted
    assert names == [name for name, tensor in model.named_parameters() if tensor.requires_grad]


def test_the_head_of_a_language_model_is_its_last_norm():
    model = network("language")
    freeze(model, "head")
    assert moving(model) == {"ln_f"}


@pytest.mark.parametrize(("last", "blocks"), [(0, set()), (1, {"h.2"}), (9, BLOCKS)])
def test_the_number_of_last_blocks(last, blocks):
    model = network("token")
    freeze(model, "last", last=last)
    assert moving(model) == {*blocks, "ln_f", "classifier"}


def test_a_pattern_picks_parameters_by_name():
    model = network()
    assert freeze(model, "pattern", pattern=r"h\.[02]\.mlp.*bias") == [
        f"transformer.h.{i}.mlp.{part}.bias" for i in (0, 2) for part in ("c_fc", "c_proj")
    ]


@pytest.mark.parametrize(
    ("policy", "pattern", "words"),
    [
        ("haed", None, "Did you mean 'head'"),
        ("pattern", "(", "no regular expression"),
        ("pattern", "nothing like it", "No parameter is left"),
        ("pattern", None, "No parameter is left"),
    ],
)
def test_what_cannot_be_tuned_is_a_usage_error(policy, pattern, words):
    with pytest.raises(UsageError, match=words):
        freeze(network(), policy, pattern=pattern)


def test_thawing_goes_from_the_top_to_the_embeddings():
    model = network()
    tuned = freeze(model, "all")
    seen = []
    for step in range(0, 10, 2):
        thaw(model, tuned, step, 2)
        seen.append(moving(model))
    top = {"ln_f", "score"}
    assert seen == [
        top,
        top | {"h.2"},
        top | {"h.2", "h.1"},
        top | BLOCKS,
        top | BLOCKS | {"wte", "wpe"},
    ]


def test_thawing_keeps_to_what_may_be_tuned():
    model = network()
    tuned = freeze(model, "embeddings")
    thaw(model, tuned, 1000, 2)
    assert moving(model) == {*BLOCKS, "ln_f", "score"}


@pytest.mark.parametrize("policy", ["head", "last", "embeddings", "pattern"])
def test_training_moves_what_is_tuned_and_nothing_else(case, policy):
    run = case(train__steps=3, optimizer__learning_rate=0.05, optimizer__weight_decay=0.5, optimizer__l2=0.1)
    model = run.model()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    names = freeze(model, policy, last=1, pattern="h.1.attn")
    run.run(model, tuned=names)
    changed = [name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])]
    assert changed == names


def test_gradual_unfreezing_moves_the_blocks_one_after_another(case):
    moved_at = {}
    for steps in range(1, 5):
        run = case(f"steps{steps}", train__steps=steps, freeze__gradual_every=1, optimizer__learning_rate=0.05)
        model = run.model()
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        run.run(model, tuned=[name for name, _ in model.named_parameters()])
        for name, tensor in model.named_parameters():
            if not torch.equal(tensor, before[name]):
                moved_at.setdefault(name, steps)
    assert moved_at["transformer.ln_f.weight"] == 1
    assert [moved_at[f"transformer.h.{i}.mlp.c_fc.weight"] for i in (2, 1, 0)] == [2, 3, 4]
    assert "transformer.wte.weight" not in moved_at

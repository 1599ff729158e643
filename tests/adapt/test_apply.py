"""What every adapter is: nothing at the start, all that is tuned, in and out of the network without a trace."""

from __future__ import annotations

import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.freeze import freeze, thaw
from gptwo.adapt.parts import AdapterConfig
from gptwo.errors import UsageError
from gptwo.model.loss import linear_cross_entropy
from tests.adapt.kinds import ADDED, KINDS, config_of


@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("head", ["language", "sequence", "token"])
def test_a_fresh_adapter_changes_nothing(base_folder, ids, adapted, kind, head):
    from gptwo.model.pretrained import load

    labels = None if head == "language" else ["a", "b", "c"]
    plain = load(base_folder, head=head, labels=labels)
    fresh = adapted(kind, head, labels, moved=0.0)
    assert torch.equal(fresh.model.eval()(ids), plain.model(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_adapter_changes_something(base, ids, adapted, kind):
    assert not torch.allclose(adapted(kind).model(ids), base.model(ids), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["language", "sequence", "token"])
def test_only_the_adapter_and_the_head_get_gradients(ids, adapted, kind, head):
    carrying = adapted(kind, head, None if head == "language" else ["a", "b", "c"])
    model = carrying.model
    if head == "language":
        linear_cross_entropy(model.transformer(ids), model.projection.weight, ids).backward()
    else:
        model(ids).square().sum().backward()
    named = dict(model.named_parameters())
    assert {name for name, tensor in named.items() if tensor.grad is not None} == set(carrying.adapter.tuned)
    assert {name for name, tensor in named.items() if tensor.requires_grad} == set(carrying.adapter.tuned)
    heads = {"language": set(), "sequence": {"score.weight"}, "token": {"classifier.weight", "classifier.bias"}}
    assert {name for name in carrying.adapter.tuned if not name.startswith("transformer.")} == heads[head]


@pytest.mark.parametrize("kind", KINDS)
def test_taken_out_the_base_is_as_it_was(base, ids, kind):
    names = [name for name, _ in base.model.named_parameters()]
    before, config = base.model(ids), base.model.config
    adapter = apply_adapter(base.model, config_of(kind))
    adapter.detach(base.model)
    assert torch.equal(base.model(ids), before)
    assert [name for name, _ in base.model.named_parameters()] == names
    assert base.model.config == config


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_keeps_its_names_and_its_very_weights(base, kind):
    """So weights, freezing policies and optimizers find everything where it was."""
    before = dict(base.model.named_parameters())
    adapter = apply_adapter(base.model, config_of(kind))
    after = dict(base.model.named_parameters())
    assert all(after[name] is tensor for name, tensor in before.items() if name not in adapter.tuned)


def test_the_seed_decides_and_the_global_generator_is_left_alone(base_folder):
    from gptwo.model.pretrained import load

    def start(seed):
        model = load(base_folder).model
        apply_adapter(model, config_of("lora"), seed=seed)
        return model.transformer.h[0].attn.c_attn.lora_A

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = start(1), start(1), start(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off_in_use_and_on_in_training(adapted, ids):
    carrying = adapted("lora", dropout=0.5)
    assert torch.equal(carrying.model.eval()(ids), carrying.model(ids))
    model = carrying.model.train()
    for module in (model.transformer.drop, *(block.attn.resid_dropout for block in model.transformer.h)):
        module.p = 0.0
    assert not torch.equal(model(ids), model(ids))


def test_gradients_are_those_of_the_dropout_that_was_drawn(adapted):
    """The MLP computes a part again in the backward pass; it must draw the same."""
    mlp = adapted("lora", dropout=0.5).model.train().transformer.h[0].mlp
    mlp.dropout.p = 0.0
    x = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1))

    def gradient(forward):
        torch.manual_seed(7)
        out = forward(x)
        torch.rand(3)  # the generator goes on before the backward pass
        return torch.autograd.grad(out.square().sum(), mlp.c_proj.lora_A)[0]

    torch.testing.assert_close(gradient(mlp), gradient(lambda x: mlp.project(mlp.c_fc(x))))


# --- freezing policies choose among what the adapter tunes


def test_policies_choose_among_the_adapter(adapted):
    carrying = adapted("lora", "sequence", ["a", "b"])
    model, among = carrying.model, carrying.adapter.tuned
    assert set(freeze(model, "all", among=among)) == set(among)
    assert freeze(model, "head", among=among) == ["score.weight"]
    last = freeze(model, "last", last=1, among=among)
    assert last
    assert all(".h.1." in name or name == "score.weight" for name in last)
    pattern = freeze(model, "pattern", pattern=r"\.mlp\.", among=among)
    assert pattern
    assert all(".mlp." in name and "lora" in name for name in pattern)
    assert {name for name, tensor in model.named_parameters() if tensor.requires_grad} == set(pattern)


def test_gradual_thawing_goes_through_the_adapter(adapted):
    carrying = adapted("lora", "sequence", ["a", "b"])
    thaw(carrying.model, carrying.adapter.tuned, 0, 10)
    assert {name for name, t in carrying.model.named_parameters() if t.requires_grad} == {"score.weight"}
    thaw(carrying.model, carrying.adapter.tuned, 10, 10)
    thawed = {name for name, tensor in carrying.model.named_parameters() if tensor.requires_grad}
    assert thawed == {name for name in carrying.adapter.tuned if ".h.1." in name or name == "score.weight"}


# --- what cannot work


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "none"}, "no adapter to apply"),
        ({"name": "lora", "rank": 17}, r"Rank 17 is larger than the matrix[\s\S]*adapter\.rank = 4"),
        ({"name": "adalora", "rank": 12}, r"Rank 18 is larger[\s\S]*adapter\.initial_rank"),
        ({"name": "adalora", "rank": 8, "initial_rank": 4}, "below the mean rank at the end"),
        ({"name": "lora", "targets": ["c_atn"]}, "Did you mean 'c_attn'"),
        ({"name": "ia3", "targets": ["lm_head"]}, "no linear layer 'lm_head'"),
        ({"name": "lora", "also": ["ln_g"]}, "no module 'ln_g'"),
        ({"name": "lora", "also": ["wte"]}, "also the vocabulary projection"),
        ({"name": "lora", "also": ["c_attn"]}, "cannot be tuned whole as well"),
        ({"name": "prefix", "tokens": 48}, r"no room[\s\S]*adapter\.tokens = 6"),
        ({"name": "prompt", "tokens": 60}, "no room"),
    ],
)
def test_what_cannot_work_is_told(base, ids, given, words):
    before = base.model(ids)
    with pytest.raises(UsageError, match=words):
        apply_adapter(base.model, AdapterConfig(**given))
    assert torch.equal(base.model(ids), before)


def test_targets_mean_the_ends_of_names(base):
    apply_adapter(base.model, AdapterConfig(name="lora", rank=1, targets=["h.1.attn.c_proj", "mlp.c_fc"]))
    found = {name for name, module in base.model.named_modules() if hasattr(module, "lora_A")}
    assert found == {"transformer.h.1.attn.c_proj", "transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc"}

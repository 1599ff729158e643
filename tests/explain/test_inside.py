"""What is taken out of the network is what is in it: attention, lens, attributions, contributions, neighbours."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gptwo.explain.attribution import contributions, integrated_gradients, leave_one_out
from gptwo.explain.lens import logit_lens
from gptwo.explain.neighbours import nearest
from gptwo.explain.trace import trace
from gptwo.model.pretrained import save

TEXT = "the cat sat on the log, 猫坐"


@pytest.fixture(scope="module")
def language(made):
    return made()


@pytest.fixture(scope="module")
def ids(language):
    return torch.tensor(language.tokenizer.encode(TEXT))


def last_logprob(target):
    return lambda scores: scores.log_softmax(-1)[..., target]


@pytest.mark.parametrize("inverse", [False, True])
def test_attention_equals_that_of_transformers(made, tmp_path, inverse):
    from transformers import GPT2LMHeadModel

    model = made(scale_attn_by_inverse_layer_idx=inverse)
    ids = torch.tensor(model.tokenizer.encode(TEXT))
    reference = GPT2LMHeadModel.from_pretrained(save(model, tmp_path / "model"), attn_implementation="eager").eval()
    with torch.inference_mode():
        theirs = torch.stack(reference(ids[None], output_attentions=True).attentions)[:, 0]  # (L, H, T, T)
    ours = trace(model.model, ids).attention(model.model)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(ours.sum(-1), torch.ones(()), atol=1e-5)


def test_the_residual_stream_equals_that_of_transformers(language, ids, tmp_path):
    from transformers import GPT2LMHeadModel

    reference = GPT2LMHeadModel.from_pretrained(save(language, tmp_path / "model")).eval()
    with torch.inference_mode():
        theirs = reference(ids[None], output_hidden_states=True).hidden_states
    ours = trace(language.model, ids).residual
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert torch.allclose(one, other[0], atol=1e-5)
    assert torch.allclose(language.model.transformer.ln_f(ours[-1]), theirs[-1][0], atol=1e-5)


def test_the_last_row_of_the_lens_is_what_the_network_says(language, ids):
    with torch.no_grad():
        scores = language.model(ids[None])[0]
    target = int(scores[-1].topk(5).indices[4])
    rows = logit_lens(language.model, trace(language.model, ids), target, last_logprob(target), count=2)
    assert [row.layer for row in rows] == [0, 1, 2, 3]
    shares = scores.softmax(-1)
    for place, top in enumerate(rows[-1].top):
        assert [i for i, _ in top] == shares[place].topk(2).indices.tolist()
        assert [p for _, p in top] == pytest.approx(shares[place].topk(2).values.tolist(), rel=1e-4)
    assert rows[-1].rank == 5
    assert rows[-1].target == pytest.approx(float(shares[-1, target]), rel=1e-4)


def test_the_hooks_are_gone_afterwards(language, ids):
    objective = last_logprob(3)
    trace(language.model, ids)
    integrated_gradients(language.model, ids, objective, steps=2)
    contributions(language.model, ids, objective)
    for module in language.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in language.model.parameters())


def test_integrated_gradients_add_up_to_the_difference(language, ids):
    objective = last_logprob(7)
    rough = integrated_gradients(language.model, ids, objective, steps=4)
    fine = integrated_gradients(language.model, ids, objective, steps=256)
    assert len(fine.tokens) == len(ids)
    assert fine.gap == pytest.approx(0, abs=0.01 * max(1, abs(fine.difference)))
    assert abs(fine.gap) <= abs(rough.gap) + 1e-4
    assert sum(fine.tokens) + fine.gap == pytest.approx(fine.difference, abs=1e-4)


def test_integrated_gradients_of_a_linear_score_are_exact(language, ids):
    """Where the score is the embedding itself, the gradient is constant and each token's share known."""
    embedding = language.model.transformer.wte.weight.detach()
    weight = torch.randn(16, generator=torch.Generator().manual_seed(0))
    blocks, norm = language.model.transformer.h, language.model.transformer.ln_f
    language.model.transformer.h, language.model.transformer.ln_f = torch.nn.ModuleList(), torch.nn.Identity()
    try:
        kept, language.model.lm_head = language.model.lm_head, torch.nn.Identity()
        found = integrated_gradients(language.model, ids, lambda hidden: hidden @ weight, steps=3)
    finally:
        language.model.lm_head = kept
        language.model.transformer.h, language.model.transformer.ln_f = blocks, norm
    wanted = float((embedding[ids[-1]] - embedding.mean(0)) @ weight)
    assert found.tokens[-1] == pytest.approx(wanted, abs=1e-5)
    assert found.tokens[:-1] == pytest.approx([0.0] * (len(ids) - 1), abs=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-5)


def test_leave_one_out_is_the_loss_without_the_token(language, ids):
    target = 11
    found = leave_one_out(language.model, ids, last_logprob(target))
    positions = torch.arange(len(ids))
    with torch.no_grad():
        whole = language.model(ids[None])[0, -1].log_softmax(-1)[target]
        for place in range(len(ids)):
            kept = positions != place
            part = language.model(ids[kept][None], positions[kept])[0, -1].log_softmax(-1)[target]
            assert found[place] == pytest.approx(float(whole - part), abs=1e-4)
    (alone,) = leave_one_out(language.model, ids[:1], last_logprob(target))
    with torch.no_grad():
        first = float(language.model(ids[None, :1])[0, -1].log_softmax(-1)[target])
    assert alone == pytest.approx(first + float(torch.log(torch.tensor(language.config.vocab_size))), abs=1e-4)


def test_a_part_that_gives_zero_is_missing(language, ids):
    target = 5
    objective = last_logprob(target)
    found = contributions(language.model, ids, objective)
    network = language.model.transformer
    with torch.no_grad():
        whole = float(objective(language.model(ids[None])[0, -1]))
        for layer, block in enumerate(network.h):
            for name, values in (("attn", found.attention), ("mlp", found.mlp)):
                part = getattr(block, name).c_proj
                kept = [parameter.clone() for parameter in (part.weight, part.bias)]
                part.weight.zero_(), part.bias.zero_()
                without = float(objective(language.model(ids[None])[0, -1]))
                part.weight.copy_(kept[0]), part.bias.copy_(kept[1])
                assert values[layer] == pytest.approx(whole - without, abs=1e-4)
            for head in range(2):
                kept = block.attn.c_proj.weight.clone()
                block.attn.c_proj.weight[:, head * 8 : head * 8 + 8] = 0
                without = float(objective(language.model(ids[None])[0, -1]))
                block.attn.c_proj.weight.copy_(kept)
                assert found.heads[layer][head] == pytest.approx(whole - without, abs=1e-4)


@pytest.mark.parametrize("every_token", [True, False])
def test_the_nearest_is_the_text_itself(language, every_token):
    texts = [language.tokenizer.encode(text) for text in ("the dog sat", "the cat sat on", "Anna lives in Berlin.")]
    ids = texts[1]
    with torch.no_grad():
        hidden = language.model.transformer(torch.tensor([ids]))[0]
        every = [language.model.transformer(torch.tensor([text]))[0] for text in texts]
    place = 2 if every_token else len(ids) - 1
    found = nearest(language.model, hidden[place], texts, every_token=every_token, count=2)
    assert (found[0].text, found[0].token) == (1, place)
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert len(found) == 2
    other = found[1]
    wanted = F.cosine_similarity(every[other.text][other.token], hidden[place], dim=0)
    assert other.similarity == pytest.approx(float(wanted), abs=1e-5)

"""Blocked attention equals PyTorch's, forward and backward, with and without a mask."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gptwo.model import attention as module
from gptwo.model.attention import blocked_attention, blocked_attention_pays
from gptwo.model.gpt2 import attention_mask


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 8 queries and 3 heads, so that tiny inputs take several of each."""
    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "HEADS", 3)


def inputs(B: int, H: int, T: int, D: int, dtype=torch.float32) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(B * 1000 + T)
    return [torch.randn(B, H, T, D, generator=random).to(dtype).requires_grad_() for _ in range(3)]


def both(query, key, value, mask, scale, grad):
    """Output and gradients of ours and of PyTorch's."""
    found = blocked_attention(query, key, value, mask, scale)
    wanted = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scale)
    ours = torch.autograd.grad(found, (query, key, value), grad)
    theirs = torch.autograd.grad(wanted, (query, key, value), grad)
    return [found, *ours], [wanted, *theirs]


@pytest.mark.parametrize("T", [1, 7, 8, 9, 16, 29])
@pytest.mark.parametrize(("B", "H"), [(1, 1), (2, 5)])
def test_causal(T, B, H):
    query, key, value = inputs(B, H, T, 4)
    grad = torch.randn(B, H, T, 4, generator=torch.Generator().manual_seed(9))
    for a, b in zip(*both(query, key, value, None, 0.37, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("T", [8, 13, 21])
@pytest.mark.parametrize("H", [1, 4])
def test_packed_documents(T, H):
    documents = torch.stack([torch.arange(T) // 5, torch.where(torch.arange(T) < T - 3, 0, -1)])  # (2, T)
    mask = attention_mask(T, documents, 0, torch.device("cpu"))
    query, key, value = inputs(2, H, T, 4)
    grad = torch.randn(2, H, T, 4, generator=torch.Generator().manual_seed(9))
    for a, b in zip(*both(query, key, value, mask, 0.5, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_one_mask_for_all_rows():
    mask = torch.ones(11, 11, dtype=torch.bool).tril()[None, None]
    query, key, value = inputs(1, 4, 11, 4)
    grad = torch.ones(1, 4, 11, 4)
    for a, b in zip(*both(query, key, value, mask, 0.5, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_bf16_is_as_close_to_exact_as_pytorchs():
    exact = inputs(2, 5, 29, 8)
    rounded = inputs(2, 5, 29, 8, torch.bfloat16)
    grad = torch.randn(2, 5, 29, 8, generator=torch.Generator().manual_seed(9))
    wanted, _ = both(*exact, None, 0.35, grad)
    found, theirs = both(*rounded, None, 0.35, grad.bfloat16())
    for a, b, truth in zip(found, theirs, wanted, strict=True):
        assert a.dtype == torch.bfloat16
        ours, others = ((part.float() - truth).abs().mean() for part in (a, b))
        assert ours < 2 * others + 1e-3


def test_inputs_need_not_be_contiguous():
    """The network hands over transposed views."""
    joint = torch.randn(2, 13, 3 * 8, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def split(part):
        return [piece.view(2, 13, 2, 4).transpose(1, 2) for piece in part.split(8, dim=2)]

    found = blocked_attention(*split(joint), None, 0.5)
    wanted = F.scaled_dot_product_attention(*split(joint), is_causal=True, scale=0.5)
    grad = torch.randn(2, 13, 2, 4, generator=torch.Generator().manual_seed(2)).transpose(1, 2)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, joint, grad)[0] for out in (found, wanted)), atol=1e-5, rtol=1e-5
    )


def test_it_is_chosen_for_whole_rows_in_bf16_without_dropout_only():
    long, short = torch.zeros(1, 1, 64, 4, dtype=torch.bfloat16), torch.zeros(1, 1, 1, 4, dtype=torch.bfloat16)
    assert blocked_attention_pays(long, long)
    assert not blocked_attention_pays(short, long)
    assert not blocked_attention_pays(long.float(), long.float())


@pytest.mark.parametrize("packed", [False, True])
def test_dropout_equals_attention_with_the_same_entries_dropped(packed):
    """Values that are unit vectors show which probabilities were dropped; the gradients must be those of just these."""
    B, H, T, rate = 2, 3, 21, 0.4
    documents = torch.arange(T).expand(B, T) // 8
    mask = attention_mask(T, documents if packed else None, 0, torch.device("cpu"))
    query, key, _ = inputs(B, H, T, T)
    value = torch.eye(T).expand(B, H, T, T).clone().requires_grad_()
    grad = torch.randn(B, H, T, T, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(4)
    found = blocked_attention(query, key, value, mask, 0.5, rate)
    ours = torch.autograd.grad(found, (query, key, value), grad)

    seen = torch.ones(T, T, dtype=torch.bool).tril() if mask is None else mask
    exact = ((query @ key.transpose(2, 3)) * 0.5).masked_fill(~seen, float("-inf")).softmax(-1)
    kept = found.detach() != 0
    wanted = (exact * kept / (1 - rate)) @ value
    theirs = torch.autograd.grad(wanted, (query, key, value), grad)
    for a, b in zip([found, *ours], [wanted, *theirs], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    share = kept[seen.expand_as(kept)].float().mean()
    assert 0.5 < share < 0.7


def test_dropout_follows_the_seed_and_drops_the_stated_share():
    query, key, _ = inputs(1, 4, 64, 64)
    value = torch.eye(64).expand(1, 4, 64, 64)

    def run(seed):
        torch.manual_seed(seed)
        return blocked_attention(query, key, value, None, 0.5, 0.1)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    kept = (run(1) != 0).sum() / (4 * 64 * 65 / 2)
    assert abs(float(kept) - 0.9) < 4 * (0.09 / (4 * 64 * 65 / 2)) ** 0.5  # four standard deviations

"""AdaLoRA: the budget falls as the paper says, goes to what matters, and is met at the end."""

from __future__ import annotations

import pytest
import torch

from gptwo.adapt.adalora import RankAllocator
from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.parts import AdapterConfig

TOTAL = 40


def allocator_of(base, **more):
    config = AdapterConfig(name="adalora", **{"rank": 2, "initial_rank": 4, "rank_every": 2, **more})
    adapter = apply_adapter(base.model, config)
    return RankAllocator(adapter, TOTAL), adapter


def test_the_budget_falls_with_the_third_power(base):
    allocator, adapter = allocator_of(base)
    first, last, total = adapter.schedule
    assert (first, last, total) == (4, 28, 40)
    assert allocator.start == 4 * 8  # eight linear layers in two blocks
    budgets = [allocator.budget(step) for step in range(1, TOTAL + 1)]
    assert budgets[:4] == [32] * 4
    assert budgets[15] == int(16 + 16 * 0.5**3)
    assert budgets[27:] == [16] * 13
    assert budgets == sorted(budgets, reverse=True)


def test_at_the_end_exactly_the_target_is_left(base, ids):
    allocator, _ = allocator_of(base)
    optimizer = torch.optim.AdamW([t for t in base.model.parameters() if t.requires_grad], lr=1e-2)
    seen = []
    for step in range(1, TOTAL + 1):
        (base.model(ids).square().mean() + allocator.penalty()).backward()
        allocator.observe()
        optimizer.step()
        optimizer.zero_grad()
        chosen = allocator.allocate(step)
        if chosen:
            seen.append((step, chosen))
            assert sum(chosen["ranks"].values()) == chosen["budget"] == allocator.budget(step)
    assert [step for step, _ in seen] == list(range(6, 29, 2))
    left = [int((layer.lora_E != 0).sum()) for layer in allocator.layers.values()]
    assert sum(left) == 16
    assert len(set(left)) > 1, "the layers do not all matter alike"
    assert list(seen[-1][1]["ranks"].values()) == left
    assert "h.0.attn.c_attn" in seen[-1][1]["ranks"]


def test_the_triplets_that_the_loss_feels_are_kept(base):
    allocator, _ = allocator_of(base, rank=1, initial_rank=2)
    layers = list(allocator.layers.values())
    with torch.no_grad():
        for layer in layers:
            layer.lora_E.fill_(1.0)
            layer.lora_A.grad = torch.zeros_like(layer.lora_A)
            layer.lora_B.grad = torch.zeros_like(layer.lora_B)
    for step in range(8):  # the gradient of half of the layers is large, and uncertain
        for number, layer in enumerate(layers):
            layer.lora_E.grad = torch.full((2,), (1.0 + step % 2) if number % 2 else 0.001 * (1 + step % 2))
        allocator.observe()
    allocator.allocate(allocator.last)
    assert [int(layer.kept.sum()) for layer in layers] == [0, 2] * 4


def test_smoothing_is_that_of_the_paper(base):
    allocator, _ = allocator_of(base)
    layer = next(iter(allocator.layers.values()))
    smooth = spread = torch.zeros(4)
    for step in range(3):
        for each in allocator.layers.values():
            for name in ("lora_A", "lora_E", "lora_B"):
                tensor = getattr(each, name)
                tensor.grad = torch.full_like(tensor, 0.5 + step)
        with torch.no_grad():
            layer.lora_E.fill_(2.0)
        allocator.observe()
        now = torch.full((4,), 2.0 * (0.5 + step))
        smooth = 0.85 * smooth + 0.15 * now
        spread = 0.85 * spread + 0.15 * (now - smooth).abs()
    torch.testing.assert_close(layer.sensitivity_lora_E, smooth)
    torch.testing.assert_close(layer.uncertainty_lora_E, spread)


def test_the_penalty_is_zero_for_orthogonal_vectors(base):
    allocator, _ = allocator_of(base, orthogonality=0.3)
    assert allocator.penalty() > 0.1
    with torch.no_grad():
        for layer in allocator.layers.values():
            torch.nn.init.orthogonal_(layer.lora_A)
            torch.nn.init.orthogonal_(layer.lora_B)
    assert float(allocator.penalty()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_a_short_run_reaches_the_target_too(base, ids, total):
    config = AdapterConfig(name="adalora", rank=1, initial_rank=3, rank_every=10)
    allocator = RankAllocator(apply_adapter(base.model, config), total)
    for step in range(1, total + 1):
        base.model(ids).square().mean().backward()
        allocator.observe()
        with torch.no_grad():
            for layer in allocator.layers.values():
                layer.lora_E.add_(0.1)
        allocator.allocate(step)
    assert sum(int((layer.lora_E != 0).sum()) for layer in allocator.layers.values()) == 8

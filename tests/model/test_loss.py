"""The chunked loss over the vocabulary equals the plain one, in value and in both gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gptwo.model import loss as module
from gptwo.model.loss import IGNORE, linear_cross_entropy

N, C, V = 13, 6, 21


def case(ignored: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, C, generator=random).requires_grad_()
    weight = torch.randn(V, C, generator=random).requires_grad_()
    labels = torch.randint(0, V, (N,), generator=random)
    labels[torch.randperm(N, generator=random)[:ignored]] = IGNORE
    return hidden, weight, labels


def results(loss: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    gradients = torch.autograd.grad(loss, tensors)
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("chunk_elements", [2**26, 5 * V, V, 1], ids=["one chunk", "three", "a token each", "tiny"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("ignored", [0, 5])
def test_it_equals_cross_entropy(monkeypatch, chunk_elements, smoothing, ignored):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", {"cpu": chunk_elements})
    monkeypatch.setattr(module, "ROW_ELEMENTS", 4 * V)
    hidden, weight, labels = case(ignored)
    wanted = F.cross_entropy(
        hidden @ weight.t(), labels, reduction="sum", ignore_index=IGNORE, label_smoothing=smoothing
    )
    found = linear_cross_entropy(hidden, weight, labels, label_smoothing=smoothing)
    for a, b in zip(results(found, hidden, weight), results(wanted, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_it_is_correct_beyond_one_slice_of_the_vocabulary():
    random = torch.Generator().manual_seed(2)
    hidden = torch.randn(3, 4, generator=random).requires_grad_()
    weight = torch.randn(9001, 4, generator=random).requires_grad_()
    labels = torch.tensor([0, 9000, 4500])
    wanted = F.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
    found = linear_cross_entropy(hidden, weight, labels)
    for a, b in zip(results(found, hidden, weight), results(wanted, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_without_any_label_the_loss_is_zero_with_zero_gradients():
    hidden, weight, labels = case(ignored=N)
    loss, *gradients = results(linear_cross_entropy(hidden, weight, labels), hidden, weight)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_rows_and_tokens_may_have_any_shape():
    hidden, weight, labels = case()
    flat = linear_cross_entropy(hidden[:12], weight, labels[:12])
    torch.testing.assert_close(linear_cross_entropy(hidden[:12].view(3, 4, C), weight, labels[:12].view(3, 4)), flat)


def test_the_gradient_follows_what_the_loss_is_multiplied_with():
    hidden, weight, labels = case(ignored=3)
    _, *plain = results(linear_cross_entropy(hidden, weight, labels), hidden, weight)
    _, *scaled = results(linear_cross_entropy(hidden, weight, labels) * 0.125, hidden, weight)
    for a, b in zip(scaled, plain, strict=True):
        torch.testing.assert_close(a, b * 0.125)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_a_frozen_part_gets_no_gradient(frozen):
    hidden, weight, labels = case()
    wanted = F.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
    if frozen in ("hidden", "both"):
        hidden = hidden.detach()
    if frozen in ("weight", "both"):
        weight = weight.detach()
    found = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(found, wanted)
    if frozen != "both":
        found.backward()
    assert (hidden.grad is None) == (frozen in ("hidden", "both"))
    assert (weight.grad is None) == (frozen in ("weight", "both"))


def test_the_sum_stays_in_float32_under_autocast():
    hidden, weight, labels = case()
    wanted = results(F.cross_entropy(hidden @ weight.t(), labels, reduction="sum"), hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(linear_cross_entropy(hidden, weight, labels), hidden, weight)
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=0.02)
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.995


def test_large_scores_do_not_overflow():
    hidden = torch.full((2, C), 100.0).requires_grad_()
    weight = torch.randn(V, C, generator=torch.Generator().manual_seed(1)).mul_(100).requires_grad_()
    found = results(linear_cross_entropy(hidden, weight, torch.tensor([0, 1])), hidden, weight)
    assert all(tensor.isfinite().all() for tensor in found)
    torch.testing.assert_close(found[0], F.cross_entropy(hidden @ weight.t(), torch.tensor([0, 1]), reduction="sum"))


def test_a_score_that_is_no_number_is_not_hidden():
    hidden, weight, labels = case()
    with torch.no_grad():
        hidden[4, 2] = float("nan")
    assert linear_cross_entropy(hidden, weight, labels).isnan()

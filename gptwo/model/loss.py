"""Cross-entropy over the vocabulary without ever holding all logits.

The usual way holds tokens x vocabulary logits, their softmax and their gradient at once: for 2,048 tokens of GPT-2
over a gigabyte. Here the projection, the loss and the gradient are done chunk by chunk while the chunk is warm in
the cache, and the backward pass only scales what is there already (the idea of Liger Kernel's fused linear
cross-entropy, Hsu et al. 2024).

    N tokens    C width    V vocabulary
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # the label of a token without loss
CHUNK_ELEMENTS = {"cpu": 2**25, "cuda": 2**27}  # logits held at once, bounded by time: 64 and 256 MB in bf16
VOCABULARY_SLICE = 4096  # rows of the weight's gradient at once on a CPU
ROW_ELEMENTS = 2**20  # logits in float32 at once on a CPU: they stay in its cache
SHAPES = 32  # numbers of tokens go up to a multiple of this: a CPU compiles its products for each shape, and keeps few


_fuse = False


def fuse_loss(wanted: bool) -> None:
    """Whether the loss on a GPU runs as kernels that torch.compile writes, which read the logits fewer times."""
    global _fuse
    _fuse = wanted


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum over tokens of the cross-entropy of softmax(hidden @ weight.T) against the labels.

    Args:
        hidden: (..., C) hidden states.
        weight: (V, C) vocabulary projection.
        labels: (...) ids of the right next tokens; IGNORE (-100) where there is no loss.
        label_smoothing: share of the target spread evenly over the vocabulary, 0 to 1 (Szegedy et al. 2016).

    Returns:
        Scalar float32 sum, in nats; 0 with zero gradients where every label is IGNORE. Divide it by the number of
        valid labels of the whole (accumulated, distributed) batch.
    """
    labels = labels.reshape(-1)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    valid = labels != IGNORE
    if not valid.all():
        kept = valid.nonzero().squeeze(1)
        hidden, labels = hidden.index_select(0, kept), labels.index_select(0, kept)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return _LinearCrossEntropy.apply(hidden, weight, labels, label_smoothing, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, smoothing, dtype):  # (N, C), (V, C), (N,)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        with torch.autocast(hidden.device.type, enabled=False):
            x, w = hidden.detach().to(dtype), weight.detach().to(dtype)
            N, V = x.shape[0], w.shape[0]
            size = max(1, min(N, CHUNK_ELEMENTS.get(x.device.type, 2**25) // V))  # tokens of a chunk
            if x.device.type == "cpu":
                size = -(-size // SHAPES) * SHAPES
                x = F.pad(x, (0, 0, 0, -N % SHAPES))
            total = torch.zeros((), dtype=torch.float32, device=x.device)
            grad_hidden = torch.empty_like(x) if needs_hidden else None
            grad_weight = torch.zeros_like(weight) if needs_weight else None
            for part, target in zip(x.split(size), labels.split(size), strict=True):
                logits = part @ w.t()  # (n, V); zero in rows beyond the labels, and so is their gradient
                in_place = _fused_loss_and_gradient_ if _fuse and x.is_cuda else _loss_and_gradient_
                total += in_place(logits[: len(target)], target, smoothing, needs_hidden or needs_weight)
                if needs_hidden:
                    start = part.storage_offset() // x.shape[1]
                    torch.mm(logits, w, out=grad_hidden[start : start + part.shape[0]])
                if needs_weight:
                    _add_product_(grad_weight, logits, part)
                del logits
        ctx.save_for_backward(None if grad_hidden is None else grad_hidden[:N], grad_weight)
        ctx.hidden_dtype = hidden.dtype
        return total

    @staticmethod
    def backward(ctx, grad):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = float(grad) if grad.device.type == "cpu" else grad
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(ctx.hidden_dtype) * scale
        if grad_weight is not None and not (isinstance(scale, float) and scale == 1.0):
            grad_weight = grad_weight.mul_(scale)
        return grad_hidden, grad_weight, None, None, None


def _add_product_(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """total (V, C) += gradient (n, V).T @ hidden (n, C), in slices of the vocabulary that stay in the cache."""
    size = total.shape[0] if total.device.type != "cpu" else VOCABULARY_SLICE
    for start in range(0, total.shape[0], size):
        total[start : start + size].add_(gradient[:, start : start + size].t() @ hidden)


def _loss_and_gradient_(logits: Tensor, labels: Tensor, smoothing: float, want_gradient: bool) -> Tensor:
    """The summed loss of a chunk (n, V); turns its logits into the gradient of that sum, in place."""
    n, V = logits.shape
    rows = n if logits.device.type != "cpu" else max(1, ROW_ELEMENTS // V)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    buffer = torch.empty(min(rows, n), V, dtype=torch.float32, device=logits.device)
    for start in range(0, n, rows):
        part, target = logits[start : start + rows], labels[start : start + rows, None]
        scores = buffer[: part.shape[0]]
        scores.copy_(part)
        top = scores.amax(1, keepdim=True)
        at_target = scores.gather(1, target)
        mean = scores.mean(1, keepdim=True) if smoothing else None
        normaliser = scores.sub_(top).exp_().sum(1, keepdim=True)
        log_normaliser = normaliser.log() + top
        loss = log_normaliser - at_target
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * (log_normaliser - mean)
        total += loss.sum()
        if want_gradient:
            scores.div_(normaliser)
            if smoothing:
                scores.sub_(smoothing / V)
            scores.scatter_add_(1, target, torch.full_like(at_target, smoothing - 1))
            part.copy_(scores)
    return total


def _fused_loss_and_gradient_(logits: Tensor, labels: Tensor, smoothing: float, want_gradient: bool) -> Tensor:
    """`_loss_and_gradient_` in kernels of its own."""
    total, gradient = _compiled()(logits, labels[:, None], smoothing)
    if want_gradient:
        logits.copy_(gradient)
    return total


@lru_cache
def _compiled():
    return torch.compile(_loss_and_gradient, dynamic=False)


def _loss_and_gradient(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    scores = logits.float()
    normaliser = scores.logsumexp(1, keepdim=True)
    loss = normaliser - scores.gather(1, labels)
    is_label = torch.arange(logits.shape[1], device=logits.device)[None] == labels
    gradient = (scores - normaliser).exp() - (1 - smoothing) * is_label
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing * (normaliser - scores.mean(1, keepdim=True))
        gradient = gradient - smoothing / logits.shape[1]
    return loss.sum(), gradient.to(logits.dtype)

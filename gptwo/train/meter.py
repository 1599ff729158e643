"""How fast a run is: tokens per second, and the share of the machine's measured ceiling that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gptwo import runtime
from gptwo.adapt.prefix import Prompt
from gptwo.data.batching import Batch
from gptwo.model.gpt2 import GPT2
from gptwo.model.heads import Model


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a step, forward and backward, by what they go with.

    Args:
        token: for each token.
        read: for each token whose hidden state the task reads; the last block computes no others behind its attention.
        pair: for each token and each of the tokens that it sees, itself among them.
        batch: for each micro-batch: the virtual tokens of a prompt.
        virtual: virtual tokens that every token sees beside those of the text.
    """

    token: float
    read: float
    pair: float
    batch: float = 0.0
    virtual: int = 0

    def of(self, batch: Batch) -> float:
        """Operations of a micro-batch; padding is no work."""
        real = batch.tokens
        if batch.labels is not None:
            read = int((batch.labels >= 0).sum())
        else:
            read = real if batch.last is None else len(batch.last)
        pairs = pairs_of(batch) + real * self.virtual
        return real * self.token + read * self.read + pairs * self.pair + self.batch


def work_of(model: Model) -> Work:
    """The matrix products that a step runs.

    A product of a token with a matrix takes 2 operations for each number in it (Kaplan et al. 2020, section 2.1).
    Forward there is one; backward one more where something is tuned before the matrix, for the gradient has to get
    there, and one where the matrix itself is tuned. Not counted are products of weights with weights (the lengths of
    DoRA, the penalty of AdaLoRA), and what the backward pass computes again to save memory.
    """
    network = model.transformer
    prefix = network.prefix
    tuned_prefix = prefix is not None and any(tensor.requires_grad for tensor in prefix.parameters())
    flows = any(tensor.requires_grad for part in (network.wte, network.wpe) for tensor in part.parameters())
    token, read, pair, flows = blocks_work(network, flows, tuned_prefix)
    flows = products(network.ln_f, flows)[1]
    read += products(model.projection, flows)[0]
    virtual, batch = 0, 0.0
    if prefix is not None:
        virtual = prefix.tokens
        if isinstance(prefix, Prompt):
            own = blocks_work(network, tuned_prefix, False)
            batch = virtual * (own[0] + own[1] + own[2] * (virtual + 1) / 2)
    return Work(token, read, pair, batch, virtual)


def blocks_work(network: GPT2, flows: bool, tuned_prefix: bool) -> tuple[float, float, float, bool]:
    """Operations of the blocks for each token, for each that is read behind the last attention, and for each pair of
    tokens; and whether a gradient flows through what they give.

    Args:
        flows: whether one flows through what comes in.
        tuned_prefix: whether keys and values of virtual tokens are tuned.
    """
    token, read, pair = 0.0, 0.0, 0.0
    for block in network.h:
        flows = products(block.ln_1, flows)[1]
        inside, flows = products(block.attn.c_attn, flows)
        token += inside
        flows = flows or tuned_prefix
        pair += 4 * network.config.n_embd * (3 if flows else 1)  # scores and mixture; four products backward
        behind = 0.0
        for part in (block.attn.c_proj, block.ln_2, block.mlp):
            more, flows = products(part, flows)
            behind += more
        token, read = (token, behind) if block is network.h[-1] else (token + behind, read)
    return token, read, pair, flows


def products(module: nn.Module, flows: bool) -> tuple[float, bool]:
    """Operations of a module's matrices for each token, and whether a gradient flows through what it gives.

    Args:
        module: its parameters stand in the order in which they are used.
        flows: whether a gradient flows through what comes in.
    """
    operations = 0.0
    for tensor in module.parameters():
        if tensor.ndim == 2:
            operations += 2.0 * tensor.numel() * (1 + flows + tensor.requires_grad)
        flows = flows or tensor.requires_grad
    return operations, flows


def pairs_of(batch: Batch) -> float:
    """How many tokens all tokens of a batch see together: its own document's up to itself."""
    if batch.positions is not None:
        return float((batch.positions.expand(batch.ids.shape)[batch.ids >= 0] + 1).sum())
    lengths = (batch.ids >= 0).sum(1).double()
    return float((lengths * (lengths + 1) / 2).sum())


class Meter:
    """Speed since the last reading.

    Args:
        model: the network; what is tuned of it may change while it is trained.
        ceiling: floating-point operations a second that the machine can do at best.
        as_read: a batch as the rows that the network reads; None: as it is.
    """

    def __init__(self, model: Model, ceiling: float, as_read: Callable[[Batch], Batch] | None = None):
        self.model, self.ceiling, self.as_read = model, ceiling, as_read
        self.tokens, self.work, self.seconds = 0, 0.0, 0.0

    def add(self, batches: list[Batch], seconds: float) -> None:
        """Count a step."""
        work = work_of(self.model)
        self.work += sum(work.of(self.as_read(batch) if self.as_read else batch) for batch in batches)
        self.tokens += sum(batch.tokens for batch in batches)
        self.seconds += seconds

    def read(self) -> dict[str, float]:
        """The figures of a step event; counting begins anew."""
        seconds = max(self.seconds, 1e-9)
        found = {
            "tokens_per_second": round(self.tokens / seconds, 1),
            "share_of_ceiling": round(self.work / seconds / self.ceiling, 4),
            "peak_memory_bytes": runtime.peak_memory(),
        }
        self.tokens, self.work, self.seconds = 0, 0.0, 0.0
        return found

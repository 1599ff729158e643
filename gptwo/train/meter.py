"""How fast a run is: tokens per second, and the share of the machine's measured ceiling that they take."""

from __future__ import annotations

from gptwo import runtime
from gptwo.data.batching import Batch
from gptwo.model.heads import Model


class Meter:
    """Speed since the last reading.

    The work of a token, forward and backward, is 6 operations for each weight it is multiplied with and
    6 * layers * width * row length for causal attention (Kaplan et al. 2020, section 2.1, halved for causality).

    Args:
        model: the network.
        ceiling: floating-point operations a second that the machine can do at best.
    """

    def __init__(self, model: Model, ceiling: float):
        self.ceiling = ceiling
        config = model.config
        self.weights = sum(tensor.numel() for name, tensor in model.named_parameters() if ".h." in name)
        self.head = model.projection.weight.numel()
        self.head_on_tokens = model.head_kind != "sequence"
        self.attention = 6 * config.n_layer * config.n_embd
        self.tokens, self.work, self.seconds = 0, 0.0, 0.0

    def add(self, batches: list[Batch], seconds: float) -> None:
        """Count a step."""
        for batch in batches:
            real = batch.tokens
            labelled = real if batch.labels is None else int((batch.labels >= 0).sum())
            self.work += 6.0 * real * self.weights + real * self.attention * batch.ids.shape[1]
            self.work += 6.0 * labelled * self.head * self.head_on_tokens
            self.tokens += real
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

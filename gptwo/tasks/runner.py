"""How examples go through a network when nothing is learned: in batches of like length, in one precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from gptwo.data.batching import Batch, Example, collate
from gptwo.model.heads import Model
from gptwo.tokenizer import Tokenizer

PREDICT_TOKENS = 4096  # tokens, padding included, that go through the network at once when predicting

Found = TypeVar("Found")


@dataclass(frozen=True)
class ModelRunner:
    """A network and how records go through it.

    Args:
        model: in eval mode; batches come on its device.
        tokenizer: of the model.
        max_length: tokens of an example at most.
        precision: of matrix products, "fp32" or "bf16".
    """

    model: Model
    tokenizer: Tokenizer
    max_length: int
    precision: str = "fp32"

    def forward_batches(
        self, examples: Sequence[Example], forward: Callable[[Batch], Found]
    ) -> Iterator[tuple[list[int], Found]]:
        """What `forward` makes of examples, batch by batch, with the places of each batch's examples.

        Args:
            examples: any number, in any order of lengths.
            forward: runs without gradients and under autocast; what is done with its result does not.
        """
        device = next(self.model.parameters()).device
        for places, batch in length_batches(examples):
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"),
            ):
                found = forward(batch.to(device))
            yield places, found


def length_batches(examples: Sequence[Example], tokens: int = PREDICT_TOKENS) -> Iterator[tuple[list[int], Batch]]:
    """Batches of examples of like length, with the places of their examples.

    Args:
        examples: any number.
        tokens: rows times width of a batch, padding included.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    start = 0
    while start < len(order):
        size = max(1, tokens // max(1, len(examples[order[start]].ids)))
        places = order[start : start + size]
        yield places, collate([examples[i] for i in places])
        start += size

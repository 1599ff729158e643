"""Examples into batches: packing without padding, length buckets, and what the network needs beside the ids.

B rows    T tokens in a row    N records in a batch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.model.loss import IGNORE, SHAPES
from gptwo.tokenizer import PAD_ID


@dataclass(frozen=True)
class Example:
    """One record as the network sees it.

    Args:
        ids: its token ids.
        labels: for each token, the label of what follows or belongs to it; IGNORE (-100) where there is no loss.
            None where the record as a whole has a target.
        target: the record's own target: a label's index, or a list of 0 and 1 for several labels.
        index: the record's place in its data set.
        truncated: tokens that were cut off to fit.
    """

    ids: Sequence[int]
    labels: Sequence[int] | None = None
    target: Any = None
    index: int = 0
    truncated: int = 0


@dataclass
class Batch:
    """What goes through the network at once.

    Args:
        ids: (B, T) token ids, PAD_ID at padding.
        positions: (B, T) position of each token in its own document.
        documents: (B, T) which document of the row a token belongs to, -1 at padding; None: one document a row.
        labels: (B, T) labels of tokens, IGNORE where there is no loss; None for record targets.
        last: (N,) where each record's last token lies in the flattened B * T.
        targets: (N,) or (N, labels) targets of whole records.
        indices: (N,) each record's place in its data set.
    """

    ids: Tensor
    positions: Tensor | None = None
    documents: Tensor | None = None
    labels: Tensor | None = None
    last: Tensor | None = None
    targets: Tensor | None = None
    indices: list[int] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def learned(self) -> tuple[Tensor | None, Tensor]:
        """Where tokens with loss lie in the flattened B * T, and their labels; None and all labels where all have.

        The last place comes several times, without its label, to make their number a multiple of `SHAPES`.
        """
        assert self.labels is not None
        labels = self.labels.flatten()
        places = (labels != IGNORE).nonzero().squeeze(1)
        if len(places) == len(labels):
            return None, labels
        again = places[-1:].expand(-len(places) % SHAPES)
        return torch.cat([places, again]), F.pad(labels[places], (0, len(again)), value=IGNORE)

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.ids >= 0).sum())


def collate(examples: Sequence[Example], *, row_tokens: int | None = None) -> Batch:
    """Put examples into rows.

    Args:
        examples: at least one.
        row_tokens: pack several examples into rows of at most this many tokens, filled evenly, each
            seeing only itself, and pad the rows to a multiple of `SHAPES`; None gives every example a row of its
            own, padded on the right to the longest.

    Returns:
        A batch whose results are equal to those of each example alone. Records keep the order of `examples`.
    """
    lengths = [len(example.ids) for example in examples]
    rows = pack_rows(lengths, row_tokens) if row_tokens else [[i] for i in range(len(examples))]
    width = max(sum(lengths[i] for i in row) for row in rows)
    width = -(-width // SHAPES) * SHAPES if row_tokens else width
    shape = (len(rows), width)
    ids = np.full(shape, PAD_ID, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    documents = np.full(shape, -1, dtype=np.int64)
    labels = np.full(shape, IGNORE, dtype=np.int64)
    last = np.zeros(len(examples), dtype=np.int64)
    for r, row in enumerate(rows):
        start = 0
        for document, i in enumerate(row):
            end = start + lengths[i]
            ids[r, start:end] = examples[i].ids
            positions[r, start:end] = np.arange(lengths[i])
            documents[r, start:end] = document
            if (wanted := examples[i].labels) is not None:
                labels[r, start:end] = wanted
            last[i] = r * width + end - 1
            start = end
    packed = any(len(row) > 1 for row in rows)
    by_record = examples[0].target is not None
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        documents=torch.from_numpy(documents) if packed else None,
        labels=torch.from_numpy(labels) if examples[0].labels is not None else None,
        last=torch.from_numpy(last),
        targets=torch.tensor([example.target for example in examples]) if by_record else None,
        indices=[example.index for example in examples],
    )


def pack_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute items over the fewest rows that hold them, evenly: longest first, each into the emptiest row.

    Args:
        capacity: of a row; an item above it gets a row of its own.

    >>> pack_rows([3, 9, 4, 2], 10)
    [[1], [2, 0, 3]]
    >>> pack_rows([3, 3, 3, 3], 10)
    [[0, 2], [1, 3]]
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    alone = [[item] for item in longest_first if lengths[item] >= capacity]
    longest_first = longest_first[len(alone) :]
    if not longest_first:
        return alone
    count = max(1, -(-sum(lengths[item] for item in longest_first) // capacity))
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for item in longest_first:
            row = filled.index(min(filled))
            rows[row].append(item)
            filled[row] += lengths[item]
        if max(filled) <= capacity:
            return alone + [row for row in rows if row]
        count += 1

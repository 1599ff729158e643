"""Batches in a fixed random order, prepared ahead in a thread, and resumed at the exact place.

The order is a function of (seed, epoch) alone, so a loader's whole state is its epoch and its place in it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from gptwo.data.batching import Batch, Example, collate
from gptwo.data.shards import Shards
from gptwo.errors import DataError


class BatchSource(Protocol):
    """Batches that can be asked for by number."""

    batches_per_epoch: int

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        """For an epoch: a function from the number of a batch to the batch."""
        ...


class TokenBlocks:
    """Blocks of running text from token shards, for language modelling.

    Args:
        shards: token shards.
        block: tokens in a row.
        rows: rows in a batch.
        seed: decides order and, each epoch, where the blocks are cut.

    Raises:
        DataError: the shards hold fewer tokens than one batch needs.
    """

    def __init__(self, shards: Shards, *, block: int, rows: int, seed: int):
        self.shards, self.block, self.rows, self.seed = shards, block, rows, seed
        self.blocks = shards.tokens // block - 1  # one less, so that every offset below a block fits
        self.batches_per_epoch = self.blocks // rows
        if self.batches_per_epoch < 1:
            raise DataError(
                f"{shards.tokens:,} tokens are too few for a batch of {rows} rows of {block} tokens.",
                where=shards.folder,
                fix="add text, or lower data.block_size or train.batch_size",
            )

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        random = np.random.default_rng((self.seed, epoch))
        offset = int(random.integers(self.block))
        order = random.permutation(self.blocks)

        def batch(number: int) -> Batch:
            chosen = order[number * self.rows : (number + 1) * self.rows]
            text = np.stack([self.shards.read(offset + int(i) * self.block, self.block + 1) for i in chosen])
            tokens = torch.from_numpy(text.astype(np.int64))
            return Batch(ids=tokens[:, :-1].contiguous(), labels=tokens[:, 1:].contiguous())

        return batch


class ExampleBatches:
    """Batches of examples of similar length, each epoch in a new order.

    Args:
        examples: the data set.
        size: examples in a batch.
        seed: decides the order.
        row_tokens: pack the examples of a batch into rows of this many tokens; None pads.
        buckets: how many batches are sorted by length together; 1 keeps the order fully random.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        size: int,
        seed: int,
        row_tokens: int | None = None,
        buckets: int = 50,
    ):
        if not examples:
            raise DataError("There are no examples to train on.", fix="look into the rejects file of the run")
        self.examples, self.size, self.seed = examples, size, seed
        self.row_tokens, self.buckets = row_tokens, buckets
        self.lengths = np.array([len(example.ids) for example in examples])
        self.batches_per_epoch = -(-len(examples) // size)

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.examples))
        span = self.size * self.buckets
        pieces = []
        for start in range(0, len(order), span):
            piece = order[start : start + span]
            pieces.append(piece[np.argsort(self.lengths[piece], kind="stable")])
        order = np.concatenate(pieces)
        groups = [order[start : start + self.size] for start in range(0, len(order), self.size)]
        turn = random.permutation(len(groups))

        def batch(number: int) -> Batch:
            return collate([self.examples[i] for i in groups[turn[number]]], row_tokens=self.row_tokens)

        return batch


class Loader:
    """An endless iterator over the batches of a source, one batch ahead in a thread.

    Args:
        source: where batches come from.
        start: batches that were consumed before (from `state` of an earlier loader).
        ahead: batches prepared in advance.
    """

    def __init__(self, source: BatchSource, *, start: int = 0, ahead: int = 2):
        self.source, self.consumed = source, start
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=max(1, ahead))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._prepare, args=(start,), daemon=True, name="gptwo-loader")
        self._thread.start()

    @property
    def state(self) -> int:
        """Batches consumed so far, over all epochs."""
        return self.consumed

    @property
    def epoch(self) -> float:
        """Epochs done so far, with their fraction."""
        return self.consumed / self.source.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self._queue.get()
        if isinstance(batch, BaseException):
            self._queue.put(batch)  # who asks again hears it again
            raise batch
        self.consumed += 1
        return batch

    def close(self) -> None:
        """Stop the thread; the loader cannot be used afterwards."""
        self._stop.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(timeout=5)

    def _prepare(self, number: int) -> None:
        try:
            per_epoch = self.source.batches_per_epoch
            while not self._stop.is_set():
                batch_of = self.source.epoch(number // per_epoch)
                for place in range(number % per_epoch, per_epoch):
                    self._put(batch_of(place))
                    if self._stop.is_set():
                        return
                    number += 1
        except BaseException as error:  # handed to the consumer, which raises it
            self._put(error)

    def _put(self, item: Batch | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

"""Which sequences run next: prefill of waiting ones, or one step of those that run."""

from __future__ import annotations

from collections.abc import Iterable

from gptwo.generate.sequence import Sequence


class Scheduler:
    """Batches of sequences.

    Waiting sequences are taken together when the running ones are done, alike lengths side by side. A sequence
    that has filled its context leaves and waits with its window moved; so what a sequence sees depends on itself
    only, whatever runs beside it.

    Args:
        n_positions: of the network.
        max_batch: sequences that run together at most.
    """

    def __init__(self, sequences: Iterable[Sequence], n_positions: int, max_batch: int):
        self.n_positions, self.max_batch = n_positions, max_batch
        self.waiting = sorted(sequences, key=lambda sequence: sequence.context_length)
        self.running: list[Sequence] = []
        self.rows: list[int] = []  # rows of `running` that go on

    def next_batch(self) -> list[Sequence]:
        """Take the next batch from those that wait; empty when nothing is left."""
        self.running, self.waiting = self.waiting[: self.max_batch], self.waiting[self.max_batch :]
        for sequence in self.running:
            sequence.slide(self.n_positions)
        self.rows = list(range(len(self.running)))
        return self.running

    def room(self) -> int:
        """Tokens that the running batch adds at most before all its rows have left."""
        return max(min(sequence.remaining - 1, self.n_positions - sequence.context_length) for sequence in self.running)

    def retire(self) -> list[int] | None:
        """Let sequences that are done or full leave.

        Returns:
            rows to keep when less than half of the batch goes on, else None (a row that is over then runs idle).
        """
        going = []
        for row in self.rows:
            sequence = self.running[row]
            if sequence.finish_reason is None:
                if sequence.context_length > self.n_positions:
                    self.waiting.append(sequence)
                else:
                    going.append(row)
        self.rows = going
        if going and 2 * len(going) < len(self.running):
            self.running = [self.running[row] for row in going]
            self.rows = list(range(len(going)))
            return going
        return None

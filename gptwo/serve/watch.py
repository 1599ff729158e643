"""What the scheduler tells of its work; the metrics override it, tests need none."""

from __future__ import annotations

from gptwo.serve.work import Step


class Watch:
    """Takes notes of nothing."""

    def refused(self, why: str) -> None:
        """A job was not taken: "queue", "rate", "concurrency"."""

    def ended(self, how: str) -> None:
        """A job is over: "done", "cancelled", "late", "failed"."""

    def stepped(self, seconds: float, step: Step) -> None:
        """A step took so long."""

    def first_token(self, seconds: float) -> None:
        """From a job's arrival to its first token."""

    def next_token(self, seconds: float) -> None:
        """From one token of a job to the next."""

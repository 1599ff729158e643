"""How far a packing is: a Rich bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 10.0


class Quiet:
    """Shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def notice(self, text: str) -> None:
        """Say something once."""

    def bytes(self, count: int) -> None:
        """So many more bytes of the inputs were read."""

    def tokens(self, count: int) -> None:
        """So many more tokens were written."""


class PackProgress(Quiet):
    """Share of the input read, tokens written and tokens per second, on stderr.

    Args:
        total_bytes: size of all inputs on disk, None when unknown (standard input).
    """

    def __init__(self, total_bytes: int | None):
        self.total_bytes, self.read, self.written = total_bytes, 0, 0
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = self._said = time.monotonic()

    def __enter__(self):
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("packing"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("packing", total=self.total_bytes, rate="")
            self._bar.start()
        self._began = self._said = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.written:
            self._say()

    def rate(self) -> str:
        """Tokens so far and per second."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return f"{self.written:,} tokens, {self.written / seconds:,.0f} tokens/s"

    def _say(self) -> None:
        share = f"{min(1.0, self.read / self.total_bytes):.0%} " if self.total_bytes else ""
        print(f"packing: {share}{self.rate()}", file=sys.stderr, flush=True)
        self._said = time.monotonic()

    def notice(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(f"packing: {text}", file=sys.stderr, flush=True)

    def bytes(self, count: int) -> None:
        self.read += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.read)

    def tokens(self, count: int) -> None:
        self.written += count
        if self._bar is not None:
            self._bar.update(self._task, rate=self.rate())
        elif time.monotonic() - self._said >= PLAIN_SECONDS:
            self._say()

"""The console tracker: a live progress bar on a terminal, plain lines in a log; stderr, so stdout stays free."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from gptwo.errors import amount
from gptwo.train.events import Event, numbers

SECONDS_BETWEEN_LINES = 10.0  # in a log: at most one line of progress in this time


def figures(event: Event) -> str:
    """The numbers of a step event on one line: loss, learning rate, tokens/s, share of the machine's ceiling."""
    parts = []
    if event.get("loss") is not None:
        parts.append(f"loss {event['loss']:.4f}")
    if event.get("learning_rate") is not None:
        parts.append(f"lr {event['learning_rate']:.2e}")
    if event.get("tokens_per_second") is not None:
        parts.append(f"{event['tokens_per_second']:,.0f} tok/s")
    if event.get("share_of_ceiling") is not None:
        parts.append(f"{event['share_of_ceiling']:.0%} of ceiling")
    return "  ".join(parts)


def machine(event: Event) -> str:
    """What a start event says about the run: parameters, device, precision and why, threads, measured ceiling."""
    parts = []
    if event.get("parameters"):
        parts.append(f"{event['parameters']:,} parameters, {event.get('tuned', event['parameters']):,} tuned")
    if event.get("device"):
        threads = event.get("threads") if event["device"] == "cpu" else None
        parts.append(f"on {event['device']}" + (f" with {amount(threads, 'thread')}" if threads else ""))
    if event.get("precision"):
        why = f" ({event['precision_why']})" if event.get("precision_why") else ""
        parts.append(f"in {event['precision']}{why}")
    if event.get("ceiling_flops"):
        parts.append(f"ceiling {event['ceiling_flops'] / 1e9:,.0f} GFLOP/s")
    return ", ".join(parts) or "training begins"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class ConsoleTracker:
    """Shows a run to the person who started it.

    Args:
        console: where to write; stderr by default. A console that is no terminal gets plain lines.
    """

    name = "console"

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)
        self.progress: Progress | None = None
        self.task: Any = None
        self.total: int | None = None
        self.first: Event | None = None
        self.last_line = float("-inf")

    def on_event(self, event: Event) -> None:
        show = getattr(self, f"on_{event['kind']}", None)
        if show is not None:
            show(event)

    def on_start(self, event: Event) -> None:
        self.first, self.total = event, event.get("total")
        self.say(machine(event))
        if event["step"]:
            self.say(f"resumed at step {event['step']:,}")
        if not self.console.is_terminal:
            return
        bar = [BarColumn(bar_width=None)] if self.console.width >= 100 else []  # narrow terminals keep the figures
        self.progress = Progress(
            *bar,
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            redirect_stdout=False,  # stdout belongs to --json
            speed_estimate_period=300,
            expand=True,
        )
        self.task = self.progress.add_task("step", total=self.total, completed=event["step"], figures="")
        self.progress.start()

    def on_step(self, event: Event) -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=event["step"], figures=figures(event))
        elif event["time"] - self.last_line >= SECONDS_BETWEEN_LINES or event["step"] == self.total:
            self.last_line = event["time"]
            self.say(f"step {event['step']:,}{self.of_total()}  {figures(event)}{self.time_left(event)}")

    def on_eval(self, event: Event) -> None:
        found = numbers(event.get("metrics", {}), "")
        shown = "  ".join(f"{name.lstrip('/')} {value:.4g}" for name, value in found.items())
        best = "  (best so far)" if event.get("better") else ""
        self.say(f"eval at step {event['step']:,}  {shown}{best}", style="bold")

    def on_sample(self, event: Event) -> None:
        self.say(f"sample at step {event['step']:,}", style="bold")
        for text in event["texts"]:
            self.say(text)

    def on_notice(self, event: Event) -> None:
        self.say(f"note: {event.get('message', '')}", style="yellow")

    def on_end(self, event: Event) -> None:
        self.close()
        took = f" after {duration(event['time'] - self.first['time'])}" if self.first else ""
        reason = f": {event['reason']}" if event.get("reason") else ""
        self.say(f"ended at step {event['step']:,}{self.of_total()}{took}{reason}")

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def say(self, text: str | Text, style: str = "") -> None:
        """Print a line above the bar; never as markup, because generated text may look like it."""
        line = Text(text, style=style) if isinstance(text, str) else text
        self.console.print(line, soft_wrap=True)

    def of_total(self) -> str:
        return f"/{self.total:,}" if self.total else ""

    def time_left(self, event: Event) -> str:
        done = event["step"] - self.first["step"] if self.first else 0
        if not self.first or not self.total or done <= 0:
            return ""
        return f"  {duration((event['time'] - self.first['time']) / done * (self.total - event['step']))} left"

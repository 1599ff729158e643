"""What the server measures of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gptwo.serve.watch import Watch
from gptwo.serve.work import Step

if TYPE_CHECKING:
    from gptwo.serve.scheduler import Scheduler

FIRST = (0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 2, 4, 8, 15, 30, 60)
BETWEEN = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 2)
WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics(Watch):
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"gptwo_{name}", help, labels, registry=self.registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"gptwo_{name}", help, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Answers by route and status.", ("route", "status"))
        self.tokens = counter("tokens", "Tokens read (prompt), taken over (shared) and written (generated).", ("kind",))
        self.rejects = counter("rejects", "Requests that were not taken, by reason.", ("reason",))
        self.put_off = counter("put_off", "Texts whose cache was given to older ones, to be read again later.")
        self.jobs = counter("jobs", "Jobs by how they ended.", ("end",))
        self.first = histogram("time_to_first_token_seconds", "From arrival to the first token.", FIRST)
        self.between = histogram("time_between_tokens_seconds", "From one token of a text to the next.", BETWEEN)
        self.step = histogram("step_seconds", "One step of the scheduler.", BETWEEN)
        self.whole = histogram("request_seconds", "From a request's first byte to its answer's last.", WHOLE)
        for kind in ("prompt", "shared", "generated"):
            self.tokens.labels(kind)
        for reason in ("queue", "rate_limit_exceeded", "concurrency_limit", "invalid_api_key"):
            self.rejects.labels(reason)

    def observe(self, scheduler: Scheduler) -> None:
        """Gauges that ask the scheduler when they are read."""

        def gauge(name: str, help: str, value: Callable[[], float]) -> None:
            Gauge(f"gptwo_{name}", help, registry=self.registry).set_function(value)

        gauge("queue", "Prompts that wait.", lambda: scheduler.waiting)
        gauge("running", "Texts that are written.", lambda: scheduler.running)
        gauge("cache_tokens", "Tokens held in key/value caches.", lambda: scheduler.cache_tokens)
        gauge("models", "Models that are served.", lambda: len(scheduler.lanes))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)

    # --- as the scheduler's watch

    def refused(self, why: str) -> None:
        self.rejects.labels(why).inc()

    def ended(self, how: str) -> None:
        self.jobs.labels(how).inc()

    def stepped(self, seconds: float, step: Step) -> None:
        self.step.observe(seconds)
        for kind, count in (("prompt", step.read), ("shared", step.shared), ("generated", len(step.chosen))):
            self.tokens.labels(kind).inc(count)
        self.put_off.inc(step.put_off)

    def first_token(self, seconds: float) -> None:
        self.first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self.between.observe(seconds)

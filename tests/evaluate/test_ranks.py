"""The heat map of AdaLoRA's ranks: every layer a row, every allocation a column, whatever the network's size."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from gptwo.evaluate.html import render
from gptwo.evaluate.ranks import COLUMNS, rank_pattern, ranks_part, ranks_text
from gptwo.evaluate.report import Report, System, load_events

MODULES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def allocations(layers: int = 3, times: int = 4, start: int = 6) -> list[dict]:
    """Ranks that fall by one at each time, in the lower layers first."""
    return [
        {
            "kind": "ranks",
            "step": 10 * time,
            "budget": 100,
            "ranks": {
                f"h.{layer}.{name}": max(0, start - max(0, time - layer)) for layer in range(layers) for name in MODULES
            },
        }
        for time in range(times)
    ]


def report_of(events: list[dict]) -> Report:
    systems = [System("Tuned", {"accuracy": 0.5}, role="tuned")]
    return Report("Ranks", "classify", "accuracy", systems, events=events)


def test_the_pattern_has_every_layer_and_every_time():
    events = [*allocations(), {"kind": "step", "step": 50, "loss": 1.0}]
    pattern = rank_pattern(events)
    assert pattern.steps == [0, 10, 20, 30]
    assert pattern.end == 50
    assert list(pattern.ranks) == list(MODULES)
    assert pattern.ranks["mlp.c_fc"] == {0: [6, 5, 4, 3], 1: [6, 6, 5, 4], 2: [6, 6, 6, 5]}
    assert pattern.most == 6
    assert [pattern.total(place) for place in (0, -1)] == [72, 48]
    assert ranks_text(events) == "AdaLoRA kept 48 of 72 singular values: 5 in h.2.attn.c_attn, the most."


def test_a_run_without_ranks_has_no_map():
    events = [{"kind": "step", "step": 1, "loss": 1.0}]
    assert rank_pattern(events) is None
    assert ranks_part(events) == ranks_text(events) == ""
    assert "AdaLoRA" not in render(report_of(events))


@pytest.mark.parametrize("layers", [1, 12, 24, 48])
@pytest.mark.parametrize("times", [1, 2, 30])
def test_the_map_of_any_network(layers, times):
    events = allocations(layers, times)
    page = render(report_of(events))
    assert "Ranks that AdaLoRA chose" in page
    places = {f"h.{layer}.{name}" for layer in range(layers) for name in MODULES}
    found = re.findall(r"<title>(h\.\d+\.[\w.]+): rank (\d+), steps ([\d,]+) to ([\d,]+)</title>", page)
    shown = {place for place, *_ in found}
    assert shown == {place for place in places if any(event["ranks"][place] for event in events)}
    last = [event["ranks"] for event in events][-1]
    for place in places:
        ends = [int(rank) for name, rank, _, _ in found if name == place]
        assert ends == sorted(ends, reverse=True)
        assert last[place] in (0, ends[-1])
    for left, width in re.findall(r'<rect x="([\d.]+)%" y="\d+" width="([\d.]+)%"', page):
        assert 0 <= float(left) < float(left) + float(width) <= 100.1
    assert not re.search(r"\b(nan|inf)\b", page)


def test_layers_that_have_none_are_counted():
    assert "none" in ranks_text(allocations(3, 9))


def test_of_many_allocations_a_report_keeps_some_the_first_and_the_last(tmp_path):
    events = allocations(1, 1000, 6)
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    kept = load_events(tmp_path / "events.jsonl")
    assert len(kept) <= COLUMNS + 1
    assert [kept[0]["step"], kept[-1]["step"]] == [0, 9990]


def test_the_terminal_says_what_became_of_the_budget():
    console = Console(file=io.StringIO(), width=200)
    report_of(allocations()).print(console)
    assert "AdaLoRA kept 48 of 72 singular values" in console.file.getvalue()

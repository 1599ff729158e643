"""A report survives its files, states its verdict plainly, and its page is safe, whole and self-contained."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.errors import DataError, MissingError
from gptwo.evaluate import charts, metrics
from gptwo.evaluate.curves import curve_panels
from gptwo.evaluate.html import render
from gptwo.evaluate.metric_names import best_of, format_value, metric_name
from gptwo.evaluate.report import DataFile, Example, Report, Sample, System, load_events, plain, read_report
from gptwo.evaluate.statistics import Comparison, Interval
from gptwo.evaluate.verdict import verdicts

NASTY = "<script>alert(\"x\")</script> & '酒店' \x00 \ud800"


class Page(HTMLParser):
    """Checks that tags are balanced and collects attributes and text."""

    VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words += data


def full_report(word: str = "plain") -> Report:
    gold, said = ["a", "b", word, "a"], ["a", word, word, "b"]
    events = [{"kind": "step", "step": n, "loss": 2 / n} for n in range(1, 60)]
    events += [{"kind": "eval", "step": n, "metrics": {"loss": 2 / n, "accuracy": n / 60}} for n in (20, 40)]
    return Report(
        title=word,
        task="classify",
        primary="accuracy",
        records=4,
        systems=[
            System("Before tuning", {"accuracy": 0.25, "log_loss": float("nan")}, role="before"),
            System("Tuned", {"accuracy": Interval(0.5, 0.2, 0.8), "log_loss": 0.6}, role="tuned", predictions=said),
            System(word, {"accuracy": np.float64(0.75)}, role="baseline", note=word),
        ],
        data=[DataFile("test", word, 4, 1, "ab" * 32)],
        comparisons=[Comparison("Tuned", word, "accuracy", Interval(-0.25, -0.4, -0.1), 0.01, "exact McNemar", 0, 1)],
        tables={"Classes": metrics.class_table(gold, said)},
        confusion=metrics.confusion_matrix(gold, said),
        calibration=metrics.calibration([0.9, 0.8, 0.7, 0.6], [True, False, True, False]),
        worst=[Example(word, word, word, 0.9, word, 3), Example(word, word, word)],
        events=events,
        samples=[Sample(word, word, "Tuned", 10), Sample(word, word, "Before tuning")],
        notes=[word],
        recipe={"train": {word: word, "lr": 3e-4, "betas": [0.9, 0.95]}},
        machine={"memory": 1},
        created=0.0,
    )


def test_report_survives_its_files(tmp_path):
    report = full_report("词 & <b>")
    report.write(tmp_path / "run")
    again = read_report(tmp_path / "run")
    assert again.to_dict() == report.to_dict()
    assert again.systems[1].metrics["accuracy"] == Interval(0.5, 0.2, 0.8)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]
    stored = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert stored["systems"][0]["metrics"]["log_loss"]["value"] is None
    assert stored["verdicts"][0]["outcome"] == "worse"


def test_a_missing_or_foreign_report_is_named(tmp_path):
    with pytest.raises(MissingError, match=rf"no report[\s\S]*gptwo evaluate --model {tmp_path} DATA --out {tmp_path}"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"title": 1}')
    with pytest.raises(DataError, match="no report of gptwo"):
        read_report(tmp_path)


def test_page_escapes_everything_and_needs_nothing_else(tmp_path):
    full_report(NASTY).write(tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert 'alert("x")' in page.words
    assert "\x00" not in text
    for _, attributes in page.tags:
        assert not set(attributes) & {"src", "href", "onclick", "onload"}
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("classes", [2, 5, 12, 13, 40, 41, 150])
def test_page_takes_any_number_of_classes(classes):
    generator = np.random.default_rng(0)
    gold, said = ([f"intent_{k:03}" for k in generator.integers(classes, size=600)] for _ in range(2))
    report = full_report()
    report.confusion, report.tables = metrics.confusion_matrix(gold, said), {"C": metrics.class_table(gold, said)}
    assert f"intent_{classes - 1:03}" in Page(render(report)).words


def test_page_of_next_to_nothing():
    report = Report("Empty", "language", "perplexity", [System("Tuned", {"perplexity": float("inf")})])
    assert "Empty" in Page(render(report)).words
    assert verdicts(report) == []
    Page(render(Report("Nothing", "language", "perplexity", [])))


def test_numbers_in_charts_are_finite():
    assert not re.search(r"\b(nan|inf)\b", render(full_report()))


def sentence(role="baseline", difference=0.021, low=0.009, high=0.033, metric="accuracy", ours=0.842):
    other = System("TF-IDF", {metric: ours - difference}, role=role)
    tuned = System("tuned", {metric: ours}, role="tuned")
    comparison = Comparison("tuned", "TF-IDF", metric, Interval(difference, low, high), 0.0004, "exact McNemar")
    report = Report("T", "classify", metric, [tuned, other], comparisons=[comparison])
    return verdicts(report)[0].text.replace("\u00a0", " ")


def test_verdict_says_who_wins():
    assert sentence() == (
        "Tuned beats TF-IDF by 2.1 points of accuracy (84.2 against 82.1; 95 % interval of the difference "
        "+0.9 to +3.3; exact McNemar p < 0.001)."
    )
    assert sentence(low=-0.01).startswith("Tuned and TF-IDF cannot be told apart on this test set: 2.1 points")
    assert sentence(difference=-0.021, low=-0.03, high=-0.01).startswith(
        "Tuned LOSES to the cheap baseline TF-IDF by 2.1 points of accuracy (84.2 against 86.3"
    )
    assert sentence(role="before").startswith("Tuning gains 2.1 points")
    assert sentence(role="before", difference=-0.02, low=-0.03, high=-0.01).startswith("Tuning LOSES 2.0 points")


def test_verdict_knows_which_way_is_better():
    fewer = sentence(metric="bits_per_byte", difference=-0.4, low=-0.5, high=-0.3, ours=2.1)
    assert fewer.startswith("Tuned beats TF-IDF by 0.400 bits per byte (2.100 against 2.500;")
    more = sentence(role="before", metric="perplexity", difference=3, low=1, high=5, ours=30)
    assert more.startswith("Tuning RAISES perplexity by 3.00 (30.00 against 27.00;")


def test_strongest_baseline_comes_first():
    systems = [
        System("Tuned", {"accuracy": 0.8}, role="tuned"),
        System("Before", {"accuracy": 0.9}, role="before"),
        System("Weak", {"accuracy": 0.3}, role="baseline"),
        System("Strong", {"accuracy": 0.7}, role="baseline"),
    ]
    found = verdicts(Report("T", "classify", "accuracy", systems))
    assert [verdict.other for verdict in found] == ["Strong", "Weak", "Before"]
    assert not any(verdict.certain for verdict in found)


def test_printing_shows_systems_side_by_side_and_the_verdict():
    from rich.console import Console

    console = Console(record=True, width=110, file=io.StringIO())
    full_report("TF-IDF").print(console)
    text = console.export_text()
    header = next(line for line in text.splitlines() if "Before tuning" in line)
    assert "Tuned" in header
    assert "TF-IDF" in header
    assert "20.0–80.0" in text
    assert "Tuned LOSES to the cheap baseline TF-IDF" in text
    assert "precision    recall  f1-score   support" in text
    assert "1 rejected" in text


def test_markup_in_data_is_printed_as_it_stands():
    from rich.console import Console

    console = Console(record=True, width=110, file=io.StringIO())
    full_report("[red]x[/nothing]").print(console)
    assert "[red]x[/nothing]" in console.export_text()


def test_events_of_a_killed_and_resumed_run(tmp_path):
    path: Path = tmp_path / "events.jsonl"
    events = [{"kind": "start", "step": 0}]
    events += [{"kind": "step", "step": n, "loss": 1.0} for n in (1, 2, 3)]
    events += [{"kind": "step", "step": n, "loss": 0.5} for n in (2, 3, 4)]
    events += [{"kind": "eval", "step": 4, "metrics": {"loss": 0.4}}]
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"kind": "st')
    read = load_events(path)
    assert [(event["step"], event.get("loss")) for event in read] == [(1, 1.0), (2, 0.5), (3, 0.5), (4, 0.5), (4, None)]
    few = load_events(path, limit=2)
    assert [event["step"] for event in few if event["kind"] == "step"] == [2, 4]


def test_curves_group_by_unit_and_mark_the_best():
    events = [{"kind": "step", "step": n, "loss": 1 / n} for n in range(1, 50)]
    for n in (10, 20, 30):
        values = {"valid_loss": 1 / n, "accuracy": 0.5 - abs(n - 20) / 100, "macro_f1": 0.4, "zh": {"perplexity": 9.0}}
        events.append({"kind": "eval", "step": n, "metrics": values})
    panels = curve_panels(events, "accuracy")
    assert [panel.title for panel in panels] == ["Loss, nats", "Validation metrics, %", "Perplexity"]
    assert [line.name for line in panels[0].lines] == ["training", "validation"]
    assert panels[1].mark == (20, 50.0)
    assert panels[1].note == "Circled: best accuracy, 50.0 at step 20."
    assert panels[2].lines[0].name == "zh"
    assert curve_panels([], "accuracy") == []
    assert curve_panels([{"kind": "step", "step": 1, "loss": float("nan")}], "loss") == []


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    found = charts.ticks(low, low + span)
    assert 1 <= len(found) <= 12
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=300))
def test_smoothing_stays_within_the_values(values):
    smoothed = charts.smooth(values)
    assert len(smoothed) == len(values)
    assert min(values) - 1e-9 <= smoothed.min()
    assert smoothed.max() <= max(values) + 1e-9
    assert smoothed[0] == pytest.approx(values[0])


def test_names_are_cut_by_their_width():
    assert charts.shorten("short", 10) == "short"
    assert charts.shorten("a rather long name", 10) == "a rather …"
    assert charts.shorten("酒店评论与书籍", 8) == "酒店评论…"


def test_metric_names_and_values():
    assert metric_name("bits_per_byte/zh").title == "Bits per byte, zh"
    assert not metric_name("valid_loss").higher_is_better
    assert metric_name("bleu").title == "BLEU"
    assert metric_name("something_else").title == "Something else"
    assert metric_name("pass_10").title == "pass@10"
    assert [format_value("pass_1", 0.016), format_value("slot_error", 0.719)] == ["1.6", "71.9"]
    assert not any(metric_name(key).higher_is_better for key in ("slot_error", "self_bleu"))
    assert [format_value("accuracy", 0.8415), format_value("perplexity", 15980.2)] == ["84.2", "15,980"]
    assert format_value("accuracy", None) == format_value("loss", float("inf")) == "–"
    assert best_of("accuracy", [0.5, 0.84149, 0.8415, None, float("nan")]) == {2}
    assert best_of("accuracy", [0.84151, 0.84152]) == {0, 1}
    assert best_of("log_loss", [0.3, 0.2]) == {1}
    assert best_of("log_loss", [None]) == set()


def test_plain_values_only():
    value = plain({"a": np.float32(1), 2: {"y", "x"}, "p": Path("/x"), "n": [float("inf"), np.arange(2)]})
    assert value == {"a": 1.0, "2": ["x", "y"], "p": "/x", "n": [None, [0, 1]]}

"""What a report calls "before tuning" is the model without its adapter, whatever a fresh adapter does."""

from __future__ import annotations

import pytest
import torch

from gptwo.evaluate.assess import BEFORE
from gptwo.train.finetune import finetune
from tests.adapt.kinds import KINDS
from tests.records import ROWS, rows_of, settings_of, write_rows

SETTINGS = {
    "train.steps": 1,
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "track.trackers": ["events"],
    "model.dropout": 0.0,
    "data.max_length": 36,
}
PAIRS = [("prefix", kind) for kind in ROWS] + [
    (name, kind) for name in ("prompt", "lora", "bitfit") for kind in ("classify", "language", "tag", "choice")
]


@pytest.fixture(scope="module")
def untuned(base_folder, tmp_path_factory):
    """`untuned("prefix", "classify")`: the system before tuning of a run with that adapter; and its report."""
    known = {}

    def run(adapter, kind):
        if (adapter, kind) not in known:
            folder = tmp_path_factory.mktemp("untuned")
            rows = write_rows(folder / "rows.jsonl", rows_of(kind))
            settings = {**SETTINGS, **settings_of(kind), "adapter.name": adapter}
            if adapter in ("prefix", "prompt"):
                settings["adapter.tokens"] = KINDS[adapter]["tokens"]
            report = finetune(base_folder, train=rows, test=rows, out=folder / "run", settings=settings).report
            known[adapter, kind] = report
        report = known[adapter, kind]
        return next(system for system in report.systems if system.name == BEFORE), report

    return run


@pytest.mark.parametrize(("adapter", "kind"), PAIRS)
def test_before_tuning_there_is_no_adapter(untuned, adapter, kind):
    if kind == "translate" or kind == "control":
        pytest.importorskip("sacrebleu")
    if kind == "summarize":
        pytest.importorskip("rouge_score")
    found, report = untuned(adapter, kind)
    wanted, _ = untuned("none", kind)
    assert found.predictions == wanted.predictions
    for key, figure in wanted.metrics.items():
        assert found.metrics[key].value == pytest.approx(figure.value, rel=1e-5, nan_ok=True), key
    before = [sample.text for sample in report.samples if sample.system == BEFORE]
    assert before == [sample.text for sample in untuned("none", kind)[1].samples if sample.system == BEFORE]


def test_the_report_says_what_stands_for_the_untuned_model(untuned):
    notes = {kind: " ".join(untuned("prefix", kind)[1].notes) for kind in ROWS}
    for kind in ("classify", "ordinal", "hierarchy", "multi-label", "match", "joint"):
        assert (
            "linear probe, logistic regression on the untuned network's hidden state at the last token." in notes[kind]
        )
    assert "at the last token of each candidate, by whether it is relevant." in notes["rank"]
    assert "at the last piece of each token." in notes["tag"]
    assert "at each token of the context, by whether an answer begins or ends there." in notes["extract"]
    assert "finds likeliest on average, by its language head." in notes["choice"]
    for kind in ("choice", "language", "translate", "answer", "dialogue", "code"):
        assert "Before tuning: a linear" not in notes[kind]
        assert "Before tuning: the head" not in notes[kind]


def test_the_report_says_why_confidences_are_not_calibrated(untuned):
    notes = {kind: " ".join(untuned("prefix", kind)[1].notes) for kind in ROWS}
    for kind in ("classify", "match", "choice", "joint"):
        assert "No temperature was fitted: 2 validation records are fewer than 20." in notes[kind]
    assert "they are no probabilities" in notes["rank"]
    assert "between windows" in notes["extract"]
    for kind in ("language", "tag", "translate"):
        assert "temperature" not in notes[kind]


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt", "bitfit", "parallel"])
def test_an_adapter_is_back_after_its_absence(adapted, base, ids, kind):
    with torch.inference_mode():
        tuned = adapted(kind)
        spoken = tuned.model(ids)
        positions = tuned.model.config.n_positions
        with tuned.adapter.absent(tuned.model):
            assert torch.equal(tuned.model(ids), base.model(ids))
            assert tuned.model.config.n_positions == base.config.n_positions
        assert torch.equal(tuned.model(ids), spoken)
        assert tuned.model.config.n_positions == positions
        assert not torch.allclose(spoken, base.model(ids))

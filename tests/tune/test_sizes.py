"""The learning curve over data size: the same recipe on fewer records, in the same report."""

from __future__ import annotations

import pytest

from gptwo.errors import UsageError
from gptwo.evaluate.report import read_report
from gptwo.train.finetune import finetune
from gptwo.tune.sizes import learning_curve, parse_sizes

FAST = {
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "track.trackers": ["events"],
}


def test_sizes_are_numbers():
    assert parse_sizes("100,10, 10") == [10, 100]
    for text in ("", "a", "10,b", "1,5", "10%"):
        with pytest.raises(UsageError, match=r"--learning-curve"):
            parse_sizes(text)


def test_the_curve_stands_in_the_report(base_folder, labelled, tmp_path):
    run = finetune(
        base_folder,
        task="classify",
        train=labelled / "train.jsonl",
        test=labelled / "test.jsonl",
        out=tmp_path / "run",
        settings=FAST,
    )
    whole = run.records["train"]
    assert (whole, run.records["test"]) == (29, 12)
    report = learning_curve(run, [8, 16, 500])
    assert [point.records for point in report.sizes] == [7, 14, whole]  # a tenth is set aside
    assert report.sizes[-1].values["Tuned"] == report.tuned.value("accuracy")
    assert next(iter(report.sizes[0].values)) == "Tuned"
    again = read_report(tmp_path / "run")
    assert again.sizes == report.sizes
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Learning curve over data size" in page
    assert sorted(path.name for path in (tmp_path / "run" / "sizes").iterdir()) == ["000008", "000016"]
    assert not (tmp_path / "run" / "sizes" / "000008" / "best").exists()
    assert learning_curve(run, [8], resume=True).sizes[0] == report.sizes[0]

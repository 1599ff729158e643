"""A saved task judges as the one that was tuned: what `describe` says brings everything back that decides a figure."""

from __future__ import annotations

import pytest

from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.recipe import load_recipe
from gptwo.tasks import make_task, restore_task
from gptwo.tasks.texts import Written
from tests.records import ROWS, rows_of, settings_of

OPTIONS = {
    "classify": {"task.threshold": 0.3, "task.positive": "cat"},
    "match": {"task.threshold": 0.7},
    "tag": {"task.context": "left", "task.scheme": "BIOES"},
    "rank": {"task.loss": "pairwise"},
    "choice": {"task.score": "likelihood"},
    "extract": {"task.stride": 3, "task.answer_length": 7, "task.threshold": 0.2, "task.context": "left"},
    "translate": {"task.decode": {"num_beams": 1, "repetition_penalty": 1.2}, "task.max_target": 9},
    "summarize": {"task.prompt": "{document} so:"},
    "answer": {"task.no_answer": "nobody knows", "task.decode": {"temperature": 0.5, "seed": 4}},
    "code": {"task.execute": True, "task.tries": 5, "task.decode": {"temperature": 0.7}},
}
NOT_JUDGING = {"evaluate_texts", "class_weights", "weights", "given", "calibration", "execute", "was_run", "measures"}


def fitted(kind, tokenizer):
    if kind in ("translate", "control"):
        pytest.importorskip("sacrebleu")
    if kind == "summarize":
        pytest.importorskip("rouge_score")
    job = make_task(load_recipe(None, {**settings_of(kind), **OPTIONS.get(kind, {})}, environment={}).task)
    job.fit([Record(row, "rows.jsonl", i) for i, row in enumerate(rows_of(kind), 1)])
    job.fit_tokens(tokenizer, 48)
    return job


@pytest.mark.parametrize("kind", ROWS)
def test_a_restored_task_is_the_one_that_was_described(kind, tokenizer):
    job = fitted(kind, tokenizer)
    again = restore_task(job.describe(), job.head)
    assert type(again) is type(job)
    own, theirs = ({key: value for key, value in vars(one).items() if key[0] != "_"} for one in (job, again))
    for key in set(own) - NOT_JUDGING - {"unread"}:
        assert theirs[key] == own[key], key
    if kind != "code":  # what a folder says is not enough to run programs
        assert again.describe() == job.describe()
        assert again.figures == job.figures or kind == "control"


def test_a_saved_coder_draws_as_often_and_runs_only_what_it_is_told_to(tokenizer):
    job = fitted("code", tokenizer)
    again = restore_task(job.describe(), job.head)
    assert (again.tries, again.execute) == (5, False)
    assert again.measures == ("chrf", "exact_match")
    assert "gptwo evaluate does with --execute" in again.notes([])[0]
    again.run(True)
    assert again.measures == job.measures == ("pass_1", "pass_5", "chrf", "exact_match")
    assert again.describe() == job.describe()
    assert again.notes([]) == job.notes([])


def test_a_saved_control_is_judged_again_by_the_training_records(tokenizer):
    job = fitted("control", tokenizer)
    rows = [Record({"control": {"pet": "cat"}, "text": text}, "rows.jsonl", 1) for text in ("the cat sat", "woof")]
    train = [Record({"control": {"pet": pet}, "text": f"{sound} {i}"}, "train.jsonl", i)
             for i in range(8) for pet, sound in (("cat", "miaow purr"), ("dog", "woof bark"))]  # fmt: skip
    job.fit(train)
    said = Written(["miaow purr", "woof bark"])
    wanted = job.measured(rows, said)["control_accuracy"].value
    again = restore_task(job.describe(), job.head)
    assert "control_accuracy" not in again.measured(rows, said)
    assert "--train" in " ".join(again.notes(rows))
    again.remember(train)
    assert again.measures == job.measures
    assert again.measured(rows, said)["control_accuracy"].value == wanted == 0.5
    assert "--train" not in " ".join(again.notes(rows))
    with pytest.raises(UsageError, match="without training records"):
        fitted("classify", tokenizer).remember(train)

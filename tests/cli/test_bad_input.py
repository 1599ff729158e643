"""Every task and adapter on data and settings that cannot be used: a message that names the place and says what to
do, exit 2 or 3, and a folder that the same command can use once the mistake is mended."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from gptwo.model.pretrained import load, save
from tests.records import ROWS, rows_of, settings_of, write_rows

NEEDS = {"translate": "sacrebleu", "control": "sacrebleu", "summarize": "rouge_score"}
COLUMNS = {
    kind: [name for name in make(0) if (kind, name) != ("code", "tests")] for kind, make in ROWS.items()
}  # fmt: skip
LABELLED = {  # a value that the training data does not have, for a task that has labels
    "classify": {"label": "zebra"},
    "ordinal": {"label": "zebra"},
    "hierarchy": {"label": "zebra"},
    "multi-label": {"label": ["zebra"]},
    "tag": {"tags": ["O", "B-ZEBRA", "O"]},
    "match": {"label": "zebra"},
    "joint": {"topic": "zebra"},
    "rank": {"relevant": ["zebra"]},
    "choice": {"answer": "zebra"},
    "extract": {"answers": ["zebra"]},
}
MAY_BE_EMPTY = {("extract", "answers"), ("answer", "answers"), ("joint", "topic"), ("joint", "mood")}
MAY_BE_EMPTY |= {("multi-label", "label")}
QUICK = ("--steps", 1, "--batch-size", 8, "--threads", 1, "--precision", "fp32")
ADAPTERS = ("lora", "adalora", "houlsby", "pfeiffer", "parallel", "prefix", "prompt", "bitfit", "ia3")


@pytest.fixture
def tune(command, base, tmp_path):
    """`tune("classify", train=rows, test=rows, …)`: `gptwo finetune` into run; exit code and what it said."""

    def call(kind, *flags, train=None, test=None, model=base, out="run"):
        pytest.importorskip(NEEDS.get(kind, "gptwo"))
        rows = rows_of(kind, 12)
        files = {"train": rows if train is None else train, "test": rows[:3] if test is None else test}
        given = []
        for name, found in files.items():
            given += [f"--{name}", write_rows(tmp_path / f"{name}.jsonl", found)]
        keys = [f"--set={key}={json.dumps(value)}" for key, value in settings_of(kind).items()]
        code, _, err = command("finetune", "--model", model, "--out", out, *given, *keys, *QUICK, *flags)
        return code, err

    return call


def refused(code: int, err: str, *words: str, codes=(2, 3)) -> None:
    """A refusal that says where, and what to do."""
    assert code in codes, err
    message = err[err.rindex("gptwo: ") :]
    for word in words:
        assert word in message
    assert "fix:" in message, message


def nothing_left(folder) -> None:
    """No model, no report, no checkpoint: nothing that looks like a finished run."""
    assert not any((folder / name).exists() for name in ("best", "report.json", "events.jsonl", "checkpoints"))


@pytest.mark.parametrize(("kind", "column"), [(kind, name) for kind, names in COLUMNS.items() for name in names])
def test_a_missing_column_is_named(tune, tmp_path, kind, column):
    rows = [{"other" if name == column else name: value for name, value in row.items()} for row in rows_of(kind, 6)]
    code, err = tune(kind, train=rows)
    refused(code, err, f"There is no column {column!r}", "train.jsonl", codes=(3,))
    nothing_left(tmp_path / "run")


@pytest.mark.parametrize("kind", LABELLED)
def test_what_the_training_data_lacks_is_named_with_file_and_row(tune, tmp_path, kind):
    test = rows_of(kind, 4)
    test[2] |= LABELLED[kind]
    code, err = tune(kind, test=test)
    refused(code, err, "ebra" if kind != "tag" else "ZEBRA", "test.jsonl:3", codes=(3,))
    nothing_left(tmp_path / "run")
    code, err = tune(kind, test=rows_of(kind, 4))  # mended, the same command goes through
    assert code == 0, err


@pytest.mark.parametrize(
    ("kind", "column"),
    [(kind, name) for kind, names in COLUMNS.items() for name in names if (kind, name) not in MAY_BE_EMPTY],
)
def test_an_empty_value_is_named_with_file_and_row(tune, tmp_path, kind, column):
    rows = rows_of(kind, 12)
    rows[4][column] = [] if isinstance(rows[4][column], list) else {} if isinstance(rows[4][column], dict) else " "
    code, err = tune(kind, "--strict", train=rows)
    refused(code, err, "train.jsonl:5", codes=(3,))
    nothing_left(tmp_path / "run")


@pytest.mark.parametrize("kind", ROWS)
def test_an_empty_list_or_text_of_the_test_data_is_no_crash(tune, kind):
    test = rows_of(kind, 4)
    for name in test[1]:
        value = test[1][name]
        test[1][name] = [""] if isinstance(value, list) and name != "messages" else value
    code, err = tune(kind, test=test)
    assert code in (0, 3), err
    if code:
        refused(code, err, "test.jsonl:2")


LONG = ("text", "text_a", "text_b", "query", "stem", "context", "question", "source", "target", "document", "summary")
LONG = (*LONG, "prompt", "code", "tokens", "choices", "candidates", "messages", "control", "tags")


@pytest.mark.parametrize("kind", ROWS)
def test_records_longer_than_the_context_are_cut_and_counted(tune, tmp_path, kind):
    rows = rows_of(kind, 12)
    for name, value in rows[3].items():
        if name not in LONG or (kind, name) == ("answer", "question"):  # of an answer's prompt only the context is cut
            continue
        if name in ("tokens", "tags", "candidates"):
            rows[3][name] = [value[0]] * 60 if name != "candidates" else [f"{one} {'x ' * 60}" for one in value]
        elif name == "choices":
            rows[3][name] = [f"{'x ' * 60}{one}" for one in value]
            rows[3]["answer"] = rows[3][name][0]
        elif name == "messages":
            rows[3][name] = [{**one, "content": one["content"] * 40} for one in value]
        elif name == "control":
            rows[3][name] = {"pet": "cat " * 60}
        elif name != "context" or kind != "extract":
            rows[3][name] = f"{value} {'x ' * 60}"
        else:
            rows[3][name] = f"{'x ' * 60}{value}"
    code, err = tune(kind, train=rows, test=rows_of(kind, 3))
    assert code == 0, err
    notes = json.loads((tmp_path / "run" / "report.json").read_text())["notes"]
    if kind not in ("tag", "extract"):  # these read all of it, in pieces
        assert any("1 of 11 records do not fit into" in note or "1 of 10 records" in note or "records do not" in note
                   for note in notes), notes  # fmt: skip


def test_a_span_that_is_not_in_its_context_is_named_before_training(tune, tmp_path):
    rows = rows_of("extract", 12)
    rows[6]["answers"] = ["cat", "nowhere"]
    code, err = tune("extract", train=rows)
    refused(code, err, "'nowhere'", "train.jsonl:7", codes=(3,))
    nothing_left(tmp_path / "run")


@pytest.mark.parametrize("kind", ["classify", "multi-label", "ordinal", "tag", "joint"])
def test_labels_that_no_training_record_has_are_told(tune, tmp_path, kind):
    labels = {
        "classify": ["cat", "dog", "zebra"],
        "multi-label": ["cat", "dog", "pet", "zebra"],
        "ordinal": ["0", "1", "2", "zebra"],
        "tag": ["O", "B-CAT", "B-DOG", "B-zebra"],
        "joint": ["topic: cat", "topic: dog", "topic: zebra", "mood: good", "mood: bad"],
    }[kind]
    code, err = tune(kind, f"--set=task.labels={json.dumps(labels)}")
    assert code == 0, err
    notes = json.loads((tmp_path / "run" / "report.json").read_text())["notes"]
    assert any("zebra" in note and "no training record" in note for note in notes), notes


def test_a_label_that_is_no_tag_is_refused_before_training(tune, tmp_path):
    code, err = tune("tag", '--set=task.labels=["O", "B-CAT", "B-DOG", "zebra"]')
    refused(code, err, "'zebra' is no entity tag", "task.labels", codes=(2,))
    nothing_left(tmp_path / "run")
    test = rows_of("tag", 3)
    test[1]["tags"][1] = "zebra"
    code, err = tune("tag", '--set=task.scheme="BIOES"', test=test)
    refused(code, err, "'zebra' is no entity tag", "test.jsonl:2", codes=(3,))


# --- weights


@pytest.fixture
def broken(base, tmp_path):
    """A base with a weight that is no number."""
    made = load(base)
    with torch.no_grad():
        made.model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    return save(made, tmp_path / "broken")


@pytest.mark.parametrize("kind", ROWS)
def test_weights_that_are_no_numbers_are_named_before_training(tune, broken, tmp_path, kind):
    code, err = tune(kind, model=broken)
    refused(code, err, "h.1.mlp.c_fc.weight", str(broken), codes=(3,))
    nothing_left(tmp_path / "run")


def test_scores_that_are_no_numbers_are_no_predictions(command, tuned, tmp_path):
    shutil.copytree(tuned / "best", tmp_path / "mine")
    made = load(tmp_path / "mine")
    with torch.no_grad():
        made.model.score.weight[0, 0] = float("nan")
    save(made, tmp_path / "mine")
    for call in (
        ("predict", "a text", "--model", "mine", "--out", "said.jsonl"),
        ("evaluate", "x.csv", "--model", "mine"),
    ):
        (tmp_path / "x.csv").write_text("正文,标签\n猫坐,好评\n", encoding="utf-8")
        code, out, err = command(*call, "--out", tmp_path / "out")
        refused(code, err, "score.weight", "mine", codes=(3,))
        assert not out
    assert not (tmp_path / "said.jsonl").exists()
    assert not (tmp_path / "out").exists()


# --- adapters


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_over_another_base_is_refused(tune, command, base, tmp_path, adapter):
    shutil.copytree(base, tmp_path / "base")
    code, err = tune("classify", "--adapter", adapter, "--set=adapter.rank=2", model=tmp_path / "base")
    assert code == 0, err
    other = load(base)
    with torch.no_grad():
        other.model.transformer.h[0].attn.c_attn.weight += 1
    save(other, tmp_path / "base")
    calls = (("predict", "the cat", "--model", "run"), ("evaluate", "test.jsonl", "--model", "run"))
    for call in (*calls, ("explain", "run", "the cat")):
        code, out, err = command(*call)
        refused(code, err, "another base", "best", codes=(3,))
        assert not out
    code, _, err = command("merge", "run", "--out", "merged")
    refused(code, err, "another base", codes=(3,))
    assert not (tmp_path / "merged").exists()


TOO_LARGE = {
    "lora": ("rank=17", "Rank 17 is larger than the matrix", "adapter.rank"),
    "adalora": ("rank=17", "is larger than the matrix", "adapter.initial_rank"),
    "adalora beyond": ("initial_rank=17", "is larger than the matrix", "adapter.initial_rank"),
    "adalora below": ("initial_rank=2", "is below the mean rank", "adapter.initial_rank"),
    "prefix": ("tokens=48", "leave no room", "adapter.tokens"),
    "prompt": ("tokens=48", "leave no room", "adapter.tokens"),
    "houlsby": ("width=17", "is wider than the network", "adapter.width"),
    "pfeiffer": ("width=17", "is wider than the network", "adapter.width"),
    "parallel": ("width=17", "is wider than the network", "adapter.width"),
    "ia3": ('targets=["q_proj"]', "no linear layer 'q_proj'", "adapter.targets"),
    "lora nowhere": ('targets=["q_proj"]', "no linear layer 'q_proj'", "adapter.targets"),
    "bitfit": ('also=["nowhere"]', "no module 'nowhere'", "adapter.also"),
    "lora twice": ('also=["h.0.attn.c_attn"]', "cannot be tuned whole as well", "adapter.also"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
@pytest.mark.parametrize("kind", ["classify", "language", "tag"])
def test_an_adapter_that_does_not_fit_the_network_is_refused_before_training(tune, tmp_path, case, kind):
    setting, *words = TOO_LARGE[case]
    code, err = tune(kind, "--adapter", case.split()[0], f"--set=adapter.{setting}")
    refused(code, err, *words, codes=(2,))
    nothing_left(tmp_path / "run")

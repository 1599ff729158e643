"""Every task on the native engine: the labels, scores and texts of PyTorch; with adapters, through the commands."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.base import base_of
from gptwo.adapt.store import save
from gptwo.cli.common import run
from gptwo.cli.main import app
from gptwo.data.batching import Example, collate
from gptwo.data.sources import Record
from gptwo.errors import MissingError, UsageError
from gptwo.evaluate.language import score_texts
from gptwo.generate.native_network import on_native
from gptwo.generate.which import pick_backend, pick_writer
from gptwo.model.cache import Cache
from gptwo.model.pretrained import create
from gptwo.recipe import load_recipe
from gptwo.tasks import make_task
from gptwo.tasks.runner import ModelRunner
from tests.adapt.kinds import KINDS, config_of, shake
from tests.records import ROWS, rows_of, settings_of

from .conftest import made


def labelled(tokenizer, head="sequence", labels=("a", "b", "c"), **sizes):
    plain = made(tokenizer, vocab_size=tokenizer.vocab_size, **sizes)
    model = create(plain.config, tokenizer, head=head, labels=labels, seed=3)
    model.info["labels"] = list(labels)
    return model


def numbers(value):
    """Every number in plain values, in their order; what is no number stands for itself."""
    if isinstance(value, dict):
        return [x for key in value for x in [key, *numbers(value[key])]]
    if isinstance(value, list | tuple):
        return [x for one in value for x in numbers(one)]
    return [pytest.approx(value, abs=1e-3, rel=1e-5) if isinstance(value, float) else value]


# --- batches


@pytest.mark.parametrize("row_tokens", [None, 96])
def test_a_batch_has_the_hidden_states_of_pytorch(tiny, row_tokens):
    native = on_native(tiny, precision="fp32", threads=2).model.transformer
    random = np.random.default_rng(0)
    examples = [Example(random.integers(0, 300, n).tolist(), target=0, index=n) for n in (5, 40, 1, 96, 33)]
    batch = collate(examples, row_tokens=row_tokens)
    with torch.inference_mode():
        real = batch.ids >= 0
        expected = tiny.model.transformer(batch.ids, batch.positions, batch.documents)
        found = native(batch.ids, batch.positions, batch.documents)
        torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)
        for read in (batch.last, torch.tensor([3, 3, 0])):
            some = native(batch.ids, batch.positions, batch.documents, read=read)
            assert torch.equal(some, found.flatten(0, 1)[read])


def test_what_it_cannot_do_is_refused(tiny):
    native = on_native(tiny, precision="fp32", threads=1).model.transformer
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(UsageError, match="keys and values by itself"):
        native(ids, cache=Cache(tiny.config, 1, 8, "cpu", torch.float32))
    with pytest.raises(UsageError, match="positions"):
        native(ids, positions=torch.tensor([[1, 2, 3]]))
    with pytest.raises(UsageError, match="96 positions"):
        native(torch.zeros(1, 97, dtype=torch.long))


# --- tasks


@pytest.mark.parametrize("kind", ROWS)
def test_a_task_says_what_it_says_with_pytorch(kind, tokenizer):
    if kind in ("translate", "control"):
        pytest.importorskip("sacrebleu")
    if kind == "summarize":
        pytest.importorskip("rouge_score")
    job = make_task(load_recipe(None, settings_of(kind), environment={}).task)
    records = [Record(row, "rows.jsonl", i) for i, row in enumerate(rows_of(kind), 1)]
    job.fit(records)
    job.fit_tokens(tokenizer, 48)
    model = made(tokenizer, vocab_size=tokenizer.vocab_size)
    if job.head != "language":
        model = labelled(tokenizer, job.head, job.labels or ["score"])
    if job.special_tokens:
        model.add_special_tokens(list(job.special_tokens))
    native = on_native(model, precision="fp32", threads=1)
    expected, found = (
        job.opinion(ModelRunner(one.model.eval(), one.tokenizer, 48), records) for one in (model, native)
    )
    if hasattr(job, "rows"):
        assert numbers(job.rows(records, found)) == numbers(job.rows(records, expected))
    ours, theirs = (
        job.report("x", records, {"Tuned": said}).to_dict()["systems"][0]["metrics"] for said in (found, expected)
    )
    assert numbers(ours) == numbers(theirs)
    usage = native.model.transformer.native.usage()
    assert (usage["sequences"], usage["pages"]) == (0, usage["cached_pages"])


@pytest.mark.parametrize(("precision", "apart"), [("bf16", 0.03), ("int8", 0.06)])
def test_packed_precisions_move_probabilities_little(tokenizer, precision, apart):
    model = labelled(tokenizer, n_embd=128, initializer_range=0.08)
    job = make_task(load_recipe(None, settings_of("classify"), environment={}).task)
    job.labels = ["a", "b", "c"]
    records = [Record({"text": "the quick brown fox " * n}, "x", n) for n in range(1, 12)]
    native = on_native(model, precision=precision, threads=1)
    expected, found = (job.predict(ModelRunner(one.model.eval(), tokenizer, 48), records) for one in (model, native))
    assert np.abs(found.probabilities - expected.probabilities).max() < apart


def test_running_text_costs_what_it_costs_with_pytorch(tokenizer):
    model = made(tokenizer, vocab_size=tokenizer.vocab_size)
    texts = ["the quick brown fox jumps over the lazy dog. " * 9, "春眠不觉晓"]
    expected = score_texts(model.model, tokenizer, texts)
    native, packed = (on_native(model, precision=precision, threads=2) for precision in ("fp32", "int8"))
    with torch.no_grad():
        model.model.projection.weight.zero_()  # what counts is the head in the engine, in its precision
    found = score_texts(native.model, tokenizer, texts)
    assert (found.tokens, found.bytes) == (expected.tokens, expected.bytes)
    assert found.loss == pytest.approx(expected.loss, abs=1e-4)
    assert score_texts(packed.model, tokenizer, texts).loss == pytest.approx(expected.loss, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["language", "sequence", "token"])
def test_a_model_with_an_adapter_is_merged_or_gone_through(tokenizer, kind, head):
    model = made(tokenizer, vocab_size=tokenizer.vocab_size) if head == "language" else labelled(tokenizer, head)
    model.adapter = apply_adapter(model.model, config_of(kind), seed=3)
    model.config = model.model.config
    shake(model.model, 0.05)
    model.model.eval()
    native = on_native(model, precision="fp32", threads=1)
    ids = torch.tensor([[5, 6, 7, 8, 9] * 8])
    with torch.inference_mode():
        torch.testing.assert_close(native.model(ids), model.model(ids), atol=2e-4, rtol=2e-4)
    assert native.config.n_positions == model.config.n_positions


# --- commands


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """Folders of a classifier, and of a base and LoRA and Houlsby classifiers over it."""
    root = tmp_path_factory.mktemp("models")
    model = labelled(tokenizer)
    model.info |= {"task": "classify", "multi_label": False, "problem_type": "single_label_classification"}
    found = {"plain": save(model, root / "plain")}
    base = made(tokenizer, vocab_size=tokenizer.vocab_size)
    base.folder = found["base"] = save(base, root / "base")
    for kind in ("lora", "houlsby"):
        over = labelled(tokenizer)
        over.model.transformer.load_state_dict(base.model.transformer.state_dict())
        over.adapter = apply_adapter(over.model, config_of(kind), seed=3)
        over.adapter.base = base_of(base)
        shake(over.model, 0.05)
        over.info |= model.info
        found[kind] = save(over, root / kind)
    return {name: str(folder) for name, folder in found.items()}


@pytest.fixture
def gptwo(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gptwo", *arguments])
        with pytest.raises(SystemExit) as ended:
            run(app)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.mark.parametrize("name", ["plain", "lora", "houlsby"])
def test_both_backends_predict_the_same(gptwo, folders, name):
    texts = ["the quick brown fox", "春眠不觉晓", "", "the lazy dog. " * 20]
    arguments = ("predict", "--model", folders[name], "--precision", "fp32", *texts)
    expected, found = (gptwo(*arguments, "--backend", backend) for backend in ("torch", "native"))
    assert found[0] == expected[0] == 0, found[2] + expected[2]
    for ours, theirs in zip(found[1].splitlines(), expected[1].splitlines(), strict=True):
        assert numbers(json.loads(ours)) == numbers(json.loads(theirs))
    code, out, _ = gptwo("predict", "--model", folders[name], "--precision", "int8", *texts, "--json")
    assert code == 0
    assert len(json.loads(out)["predictions"]) == 4


def test_both_backends_measure_the_same(gptwo, folders, tmp_path):
    data = tmp_path / "test.jsonl"
    rows = [{"text": f"the quick {word}", "label": label} for word, label in (("fox", "a"), ("dog", "b"))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 9), encoding="utf-8")
    arguments = ("evaluate", "--model", folders["plain"], str(data), "--precision", "fp32", "--json", "--backend")
    expected, found = (gptwo(*arguments, backend) for backend in ("torch", "native"))
    assert found[0] == 0, found[2]
    systems = [json.loads(out)["systems"][0]["metrics"] for _, out, _ in (expected, found)]
    assert numbers(systems[1]) == numbers(systems[0])
    code, _, err = gptwo(*arguments, "native", "--tune", "recipe.toml")
    assert code == 2
    assert "tunes nothing" in err


@pytest.mark.parametrize("suite", ["choice", "bits-per-byte"])
def test_suites_and_shots_are_those_of_pytorch(gptwo, folders, tmp_path, suite):
    asked = {"question": "the quick brown", "choices": ["fox", "lazy dog", "春眠"], "answer": 0, "label": "a"}
    lines = [{**asked, "text": f"the fox {i}"} for i in range(4)]
    data = tmp_path / "test.jsonl"
    if suite == "bits-per-byte":
        data = tmp_path / "test.txt"
        data.write_text("the quick brown fox 春眠不觉晓 " * 9, encoding="utf-8")
    else:
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    arguments = ("evaluate", "--model", folders["base"], str(data), "--suite", suite, "--precision", "fp32", "--json")
    expected, found = (gptwo(*arguments, "--backend", backend) for backend in ("torch", "native"))
    assert (found[0], expected[0]) == (0, 0), found[2] + expected[2]
    systems = [json.loads(out)["systems"][0]["metrics"] for _, out, _ in (expected, found)]
    assert numbers(systems[1]) == numbers(systems[0])
    if suite == "choice":
        shots = ("evaluate", "--model", folders["base"], str(data), "--shots", "0", "--precision", "int8", "--json")
        assert gptwo(*shots)[0] == 0


def test_without_the_engine_pytorch_predicts_and_a_notice_says_so(gptwo, folders, monkeypatch):
    expected = gptwo("predict", "--model", folders["plain"], "--precision", "fp32", "the quick")
    monkeypatch.setattr("gptwo.generate.native.isas", list)
    code, out, err = gptwo(
        "predict", "--model", folders["plain"], "--precision", "fp32", "--backend", "native", "the quick"
    )
    assert (code, out) == expected[:2]
    assert "not built" in err
    code, _, err = gptwo("predict", "--model", folders["plain"], "--precision", "int8", "the quick")
    assert code == 4
    assert "int8" in err


def test_what_writes_is_the_native_engine_wherever_it_can(folders, monkeypatch):
    model = folders["plain"]
    for precision in ("auto", "fp32", "bf16", "int8", "int4"):
        assert pick_writer("auto", model, "auto", precision) == ("native", None)
        assert pick_writer("auto", model, "cpu", precision) == ("native", None)
    assert pick_writer("torch", model, "auto", "auto") == ("torch", None)
    assert pick_writer("auto", model, "cuda", "auto") == ("torch", None)
    with pytest.raises(UsageError) as refused:
        pick_writer("auto", model, "auto", "fp16")
    assert "bf16" in str(refused.value.fix)
    monkeypatch.setattr("gptwo.generate.which.sees_gpu", lambda: True)
    assert pick_writer("auto", model, "auto", "auto") == ("torch", None)
    assert pick_writer("auto", model, "cpu", "auto") == ("native", None)
    monkeypatch.setattr("gptwo.generate.native.isas", list)
    assert pick_writer("auto", model, "cpu", "auto") == ("torch", None)


def test_which_backend_computes(folders):
    model = folders["plain"]
    assert pick_backend("auto", model, "auto", "auto") == ("torch", None)
    assert pick_backend("auto", model, "auto", "int8") == ("native", None)
    assert pick_backend("native", folders["houlsby"], "cpu", "auto") == ("native", None)
    chosen, why = pick_backend("native", model, "cuda", "fp32")
    assert chosen == "torch"
    assert "CPU" in why
    with pytest.raises(MissingError, match="int4"):
        pick_backend("auto", model, "cuda", "int4")
    for backend, precision in (("quick", "fp32"), ("torch", "int8")):
        with pytest.raises(UsageError):
            pick_backend(backend, model, "auto", precision)

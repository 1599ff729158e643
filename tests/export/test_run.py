"""`gptwo export`: an export appears whole and checked, or not at all."""

from __future__ import annotations

import builtins
import json
import shutil
from collections import namedtuple

import pytest
import torch

from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.base import base_of
from gptwo.adapt.store import load, save
from gptwo.errors import GateError, GptwoError, MissingError, UsageError
from gptwo.export import run
from gptwo.export.check import scores
from gptwo.export.onnx_check import OnnxModel
from gptwo.export.run import PRECISIONS, RUNTIMES, export
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create
from gptwo.tokenizer.bert import BertTokenizer, build_backend
from tests.adapt.kinds import config_of, shake
from tests.cli.conftest import command  # noqa: F401

FORMATS = list(PRECISIONS)
NAMES = {"onnx": "out", "gguf": "out.gguf", "hf": "out", "native": "out"}
ENGINE = "gptwo.generate._native"


@pytest.fixture
def available(request):
    """Skips a format whose packages are not here."""
    to = request.getfixturevalue("to")
    for package in (ENGINE,) if to == "native" else (run.NEEDED[to], RUNTIMES[to]):
        pytest.importorskip(package)


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_is_checked_and_nothing_else_is_left(folders, tmp_path, to, available):
    made = export(folders["language"], to, tmp_path / NAMES[to])
    assert made.path == tmp_path / NAMES[to]
    assert (made.format, made.precision, made.merged) == (to, "bf16" if to == "native" else "fp32", None)
    assert made.check.holds
    assert made.size > 4 * 10_000
    assert [path.name for path in tmp_path.iterdir()] == [NAMES[to]]


@pytest.mark.parametrize("to", ["onnx", "hf"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_label_heads_are_exported(folders, tmp_path, to, head, available):
    made = export(folders[head], to, tmp_path / "out")
    assert made.check.holds
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == ["bad", "good", "neither"]


@pytest.mark.parametrize("to", ["onnx", "hf"])
@pytest.mark.parametrize("vocabulary", ["bert", "none"])
def test_other_vocabularies_are_exported_but_to_gguf(tmp_path, to, vocabulary, available):
    tokenizer = None
    if vocabulary == "bert":
        tokens = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            *"今天的气很好我们去公园",
            *"abcdefgh",
            *(f"##{c}" for c in "abcdefgh"),
        ]
        tokenizer = BertTokenizer(build_backend({token: i for i, token in enumerate(tokens)}), end_token="[SEP]")
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=1, n_head=2, initializer_range=0.2)
    save(create(config, tokenizer, seed=1), tmp_path / "model")
    assert export(tmp_path / "model", to, tmp_path / "out").check.holds
    pytest.importorskip("gguf")
    with pytest.raises(UsageError, match="cannot be a GGUF file"):
        export(tmp_path / "model", "gguf", tmp_path / "out.gguf", unchecked=True)


@pytest.mark.parametrize("to", FORMATS)
def test_what_stands_there_is_replaced_only_when_asked(folders, tmp_path, to, available):
    out = tmp_path / NAMES[to]
    export(folders["language"], to, out)
    with pytest.raises(UsageError, match="already"):
        export(folders["language"], to, out)
    assert export(folders["language"], to, out, overwrite=True).check.holds
    assert [path.name for path in tmp_path.iterdir()] == [NAMES[to]]


def test_a_folder_of_another_format_leaves_nothing_of_itself(folders, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export(folders["language"], "onnx", tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    export(folders["language"], "hf", tmp_path / "out", overwrite=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.onnx" not in names
    assert {"model.safetensors", "notes.txt"} <= names


def test_a_foreign_folder_is_left_alone(folders, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="was not written by gptwo"):
        export(folders["language"], "hf", tmp_path / "out", overwrite=True, unchecked=True)
    assert content(tmp_path) == {"out/thesis.txt": b"mine"}


# --- what differs is not written


def spoil(monkeypatch, to):
    """The run-time is given a model with one weight changed."""
    module = {"onnx": run.onnx, "gguf": run.gguf, "hf": run.hf, "native": run.native}[to]
    real = module.write

    def wrong(first, *rest, **options):
        model = first if to == "onnx" else first.model
        with torch.no_grad():
            weight = model.transformer.h[0].mlp.c_fc.weight
            kept = weight.clone()
            weight[0] += 0.5
            try:
                return real(first, *rest, **options)
            finally:
                weight.copy_(kept)

    monkeypatch.setattr(module, "write", wrong)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("to", FORMATS)
def test_an_export_that_differs_is_not_written(folders, tmp_path, monkeypatch, to, there, available):
    if there:
        export(folders["language"], to, tmp_path / NAMES[to])
    before = content(tmp_path)
    spoil(monkeypatch, to)
    with pytest.raises(GateError, match="nothing was written"):
        export(folders["language"], to, tmp_path / NAMES[to], overwrite=there)
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == there


@pytest.mark.parametrize("to", FORMATS)
def test_weights_that_are_no_numbers_do_not_pass(make, tmp_path, to, available):
    made = make()
    with torch.no_grad():
        made.model.transformer.h[1].ln_2.weight[0] = float("nan")
    save(made, tmp_path / "model")
    with pytest.raises(GateError):
        export(tmp_path / "model", to, tmp_path / NAMES[to])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def without(monkeypatch, package):
    """Importing a package fails as if it were not installed."""
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr("importlib.import_module", absent)
    monkeypatch.delitem(__import__("sys").modules, package, raising=False)


@pytest.mark.parametrize("to", list(RUNTIMES))
def test_without_the_run_time_it_says_what_to_do(folders, tmp_path, monkeypatch, to):
    if to != "hf":
        pytest.importorskip(run.NEEDED[to])
    without(monkeypatch, RUNTIMES[to])
    with pytest.raises(MissingError, match="--unchecked") as caught:
        export(folders["language"], to, tmp_path / NAMES[to])
    assert RUNTIMES[to] in str(caught.value)
    assert "gptwo[export]" in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert export(folders["language"], to, tmp_path / NAMES[to], unchecked=True).check is None
    assert [path.name for path in tmp_path.iterdir()] == [NAMES[to]]


@pytest.mark.parametrize("to", ["onnx", "gguf"])
def test_without_the_writer_it_names_the_extra(folders, tmp_path, monkeypatch, to):
    without(monkeypatch, run.NEEDED[to])
    with pytest.raises(MissingError, match=r"gptwo\[export\]"):
        export(folders["language"], to, tmp_path / NAMES[to], unchecked=True)


# --- precision


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_auto_is_the_smallest_precision_that_changes_nothing(make, tmp_path, dtype, name):
    made = make()
    save(made, tmp_path / "half", dtype=dtype)
    found = export(tmp_path / "half", "hf", tmp_path / "out", unchecked=True)
    assert found.precision == name
    before, after = load(tmp_path / "half").model, load(tmp_path / "out").model
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)


# --- adapters


def adapted(folders, kind, place):
    start = load(folders["language"])
    known = base_of(load(folders["language"]))
    adapter = apply_adapter(start.model, config_of(kind), seed=3)
    adapter.base = known
    start.adapter, start.config = adapter, start.model.config
    shake(start.model, 0.3)
    save(start, place)
    return start


def test_an_adapter_is_merged_first(folders, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    carrying = adapted(folders, "lora", tmp_path / "adapter")
    made = export(tmp_path / "adapter", "onnx", tmp_path / "out")
    assert made.merged == "lora"
    ids = carrying.tokenizer.encode("the cat sat")
    theirs = OnnxModel(tmp_path / "out" / "model.onnx", carrying.config).one(ids)
    torch.testing.assert_close(theirs, scores(carrying.model.eval(), ids), atol=1e-4, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]


def test_a_merge_that_differs_stops_the_export(folders, tmp_path, monkeypatch):
    from gptwo.adapt import gate

    adapted(folders, "lora", tmp_path / "adapter")
    real = gate.merged

    def wrong(pretrained):
        copy = real(pretrained)
        with torch.no_grad():
            copy.model.transformer.ln_f.bias[0] += 1.0
        return copy

    monkeypatch.setattr(gate, "merged", wrong)
    with pytest.raises(GateError, match="merged model is not the same"):
        export(tmp_path / "adapter", "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("kind", ["houlsby", "prefix"])
def test_an_adapter_that_cannot_be_merged_is_refused(folders, tmp_path, kind):
    adapted(folders, kind, tmp_path / "adapter")
    with pytest.raises(UsageError, match="cannot be exported") as caught:
        export(tmp_path / "adapter", "hf", tmp_path / "out")
    assert caught.value.why
    assert caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# --- requests that cannot be


@pytest.mark.parametrize(
    ("to", "out", "options", "words"),
    [
        ("onxx", "out", {}, "Did you mean 'onnx'"),
        ("gguf", "out", {}, "out.gguf"),
        ("onnx", "out.onnx", {}, "is a folder"),
        ("onnx", "out", {"precision": "q8_0"}, "--dtype"),
        ("hf", "out", {"precision": "int3"}, "fp32"),
        ("hf", "out", {"base": "gptwo-mini"}, "Only an adapter has a base"),
    ],
)
def test_a_wrong_request_is_refused(folders, tmp_path, to, out, options, words):
    with pytest.raises(UsageError) as caught:
        export(folders["language"], to, tmp_path / out, unchecked=True, **options)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there_or_cannot_be_read(folders, tmp_path):
    with pytest.raises(MissingError):
        export(tmp_path / "nothing", "hf", tmp_path / "out")
    shutil.copytree(folders["language"], tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GptwoError, match="not a whole safetensors file"):
        export(tmp_path / "cut", "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_disk_without_room_is_said_before_anything_is_written(folders, tmp_path, monkeypatch, to):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 9, 1))
    pytest.importorskip(ENGINE if to == "native" else run.NEEDED[to])
    with pytest.raises(GptwoError, match="GB free") as caught:
        export(folders["language"], to, tmp_path / NAMES[to], unchecked=True)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", FORMATS)
def test_a_disk_that_fills_up_leaves_nothing(folders, tmp_path, monkeypatch, to):
    pytest.importorskip(ENGINE if to == "native" else run.NEEDED[to])
    module = {"onnx": run.onnx, "gguf": run.gguf, "hf": run.hf, "native": run.native}[to]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(GptwoError, match="No space left"):
        export(folders["language"], to, tmp_path / NAMES[to], unchecked=True)
    assert not list(tmp_path.iterdir())


# --- the command


def test_the_command(folders, command, tmp_path):  # noqa: F811
    pytest.importorskip("onnxruntime")
    code, out, err = command("export", folders["language"], "--to", "onnx", "--out", "models/out", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["check"]["same_text"] == found["check"]["prompts"]
    assert (tmp_path / "models" / "out" / "README.md").is_file()
    code, out, err = command("export", folders["language"], "--to", "hf", "--out", "plain")
    assert code == 0
    assert "transformers" in err
    assert out == ""
    assert command("export", folders["language"], "--to", "hf", "--out", "plain")[0] == 2
    assert command("export", folders["language"], "--to", "pdf", "--out", "other")[0] == 2
    assert command("export", "nowhere/at/all", "--to", "hf", "--out", "other")[0] == 4
    assert command("export", folders["token"], "--to", "gguf", "--out", "other.gguf")[0] == 2


def test_the_command_ends_with_5_where_the_two_differ(folders, command, tmp_path, monkeypatch):  # noqa: F811
    spoil(monkeypatch, "hf")
    code, _, err = command("export", folders["language"], "--to", "hf", "--out", "out")
    assert code == 5
    assert "nothing was written" in err
    assert not (tmp_path / "out").exists()

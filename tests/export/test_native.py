"""A packed folder: the native engine does from it what it does from the model, to the last bit."""

from __future__ import annotations

import pytest

from gptwo.adapt.store import load
from gptwo.data.sources import Record
from gptwo.errors import MissingError, UsageError
from gptwo.export.run import export
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_build import PRECISIONS
from gptwo.train.apply import predict
from tests.cli.conftest import command  # noqa: F401
from tests.export.test_run import adapted

pytest.importorskip("gptwo.generate._native")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_passes_the_check(folders, tmp_path, precision):
    made = export(folders["language"], "native", tmp_path / "out", precision=precision)
    assert made.precision == precision
    assert (made.check.largest, made.check.same_text) == (0.0, made.check.prompts)
    assert len(made.check.notes) == (precision != "fp32")
    names = {path.name for path in folders["language"].iterdir()}
    assert {path.name for path in made.path.iterdir()} == names - {"model.safetensors"} | {"packed.safetensors"}
    texts = NativeEngine(load(folders["language"]), precision=precision).generate("the cat", seed=1, max_new_tokens=9)
    assert NativeEngine(made.path).generate("the cat", seed=1, max_new_tokens=9) == texts


def test_its_card_says_what_it_was_made_from(folders, tmp_path):
    from gptwo.generate.native_packed import digest, open_packed

    export(folders["language"], "native", tmp_path / "out", precision="int8")
    source = digest(folders["language"])
    assert len(source) == 64
    assert open_packed(tmp_path / "out" / "packed.safetensors").source == source
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert source in card
    assert "int8" in card
    assert "from_pretrained" not in card


def test_an_adapter_is_merged_first(folders, tmp_path):
    carrying = adapted(folders, "lora", tmp_path / "adapter")
    made = export(tmp_path / "adapter", "native", tmp_path / "out", precision="fp32")
    assert made.merged == "lora"
    ids = carrying.tokenizer.encode("the cat sat")
    options = {"temperature": 0.0, "max_new_tokens": 6}
    assert NativeEngine(made.path).generate([ids], **options)[0].ids == (
        NativeEngine(tmp_path / "adapter", precision="fp32").generate([ids], **options)[0].ids
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_label_heads_are_packed_too(folders, tmp_path, head, precision):
    made = export(folders[head], "native", tmp_path / "out", precision=precision)
    assert (made.precision, made.check.largest, made.check.same_text) == (precision, 0.0, None)
    assert "gptwo predict" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "generation_config.json").exists()
    texts = [
        Record({"text": text, "tokens": text.split() or ["x"]}, "x", 1) for text in ("the cat sat", "猫坐在垫子上", "")
    ]
    asked = {"backend": "native", "precision": precision, "threads": 1}
    assert predict(made.path, texts) == predict(folders[head], texts, **asked)
    assert predict(made.path, texts[:1]) == predict(made.path, texts)[:1]
    with pytest.raises(UsageError, match="native CPU engine"):
        predict(made.path, texts, backend="torch")


def test_without_the_engine_it_says_so(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("gptwo.generate.native.isas", list)
    with pytest.raises(MissingError, match="native engine is not here"):
        export(folders["language"], "native", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_packed_folder_cannot_be_exported_again(folders, tmp_path):
    export(folders["language"], "native", tmp_path / "out")
    with pytest.raises(UsageError, match="native CPU engine"):
        export(tmp_path / "out", "hf", tmp_path / "other")


def test_the_command(folders, command, tmp_path):  # noqa: F811
    code, _, err = command("export", folders["language"], "--to", "native", "--dtype", "int4", "--out", "out")
    assert code == 0, err
    assert "int4" in err
    for verb in (("generate", "the cat", "--model"), ("generate", "the cat", "--backend", "native", "--model")):
        assert command(*verb, "out", "--temperature", "0", "--max-new-tokens", "4")[0] == 0
    assert command("generate", "the cat", "--model", "out", "--precision", "bf16")[0] == 2
    code, _, err = command("generate", "the cat", "--model", "out", "--backend", "torch")
    assert code == 2
    assert "packed" in err
    assert command("predict", "the cat", "--model", "out")[0] == 2

"""An adapter in a folder: the same model again, over the right base, or a message that says what is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptwo
from gptwo.adapt.base import fingerprint
from gptwo.adapt.store import load, save
from gptwo.errors import DataError, GptwoError, MissingError, UsageError
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models
from gptwo.model.pretrained import create
from tests.adapt.kinds import KINDS, shake

LABELS = ["a", "b", "c"]


@pytest.fixture
def stored(adapted, tmp_path):
    """`stored(kind, …)`: the folder of a saved adapter, and the model that was saved."""

    def make(kind="lora", head="language", **more):
        labels = None if head == "language" else LABELS
        carrying = adapted(kind, head, labels, **more)
        carrying.info |= {"task": "classify", **({"labels": LABELS} if labels else {})}
        return save(carrying, tmp_path / "adapter"), carrying

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["language", "sequence", "token"])
def test_loaded_equals_saved(stored, ids, kind, head):
    folder, carrying = stored(kind, head)
    again = gptwo.load(folder)
    assert torch.equal(again.model(ids), carrying.model.eval()(ids))
    assert again.labels == carrying.labels
    assert again.info == carrying.info
    assert again.config == carrying.config == again.model.config
    assert again.tokenizer.fingerprint == carrying.tokenizer.fingerprint
    assert sorted(again.adapter.tuned) == sorted(carrying.adapter.tuned)


def test_the_folder_is_small_and_says_what_it_is(stored):
    folder, _ = stored("lora", "sequence")
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors", "gptwo.json"]
    described = json.loads((folder / "gptwo.json").read_text())
    assert described["labels"] == LABELS
    assert set(described["adapter"]["base"]) == {"name", "folder", "relative", "fingerprint", "tokenizer"}
    assert "gptwo.load" in (folder / "README.md").read_text()


def test_a_run_folder_stands_for_its_adapter(stored, tmp_path, ids):
    folder, carrying = stored()
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "best")
    assert torch.equal(gptwo.load(tmp_path / "run").model(ids), carrying.model.eval()(ids))


def test_saved_again_it_replaces_itself_and_a_foreign_folder_stays(stored, tmp_path):
    folder, carrying = stored()
    (folder / "notes.txt").write_text("mine")
    save(carrying, folder)
    assert (folder / "notes.txt").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    with pytest.raises(UsageError, match="not written by gptwo"):
        save(carrying, tmp_path / "other")


def test_a_plain_model_is_saved_and_loaded_as_ever(base, tmp_path, ids):
    save(base, tmp_path / "plain")
    assert torch.equal(load(tmp_path / "plain").model(ids), base.model(ids))
    assert load(tmp_path / "plain", head="token", labels=["x"]).fresh == ["classifier.weight", "classifier.bias"]


def test_the_engine_takes_an_adapter_folder(stored):
    folder, carrying = stored()
    found = Engine(folder).generate("the cat", max_new_tokens=8, temperature=0)
    assert found == Engine(carrying).generate("the cat", max_new_tokens=8, temperature=0)


def test_in_another_precision(stored, ids):
    folder, carrying = stored("lora")
    half = gptwo.load(folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half.model(ids).float(), carrying.model.eval()(ids), atol=0.1, rtol=0.1)


# --- the base


def test_a_fingerprint_is_that_of_the_weights(base_folder, base):
    known = fingerprint(base.model)
    assert fingerprint(models.load(base_folder, dtype=torch.bfloat16).model) == known
    assert fingerprint(models.load(base_folder, head="sequence", labels=["x"]).model) == known
    with torch.no_grad():
        base.model.transformer.h[1].mlp.c_fc.weight.mul_(1.02)
    assert fingerprint(base.model) != known


def test_the_base_is_found_where_it_was_moved_to_together(adapted, base_folder, tmp_path, ids):
    shutil.copytree(base_folder, tmp_path / "here" / "models" / "tiny")
    start = adapted("lora")
    place = str(tmp_path / "here" / "models" / "tiny")
    start.adapter.base = replace(start.adapter.base, name=place, folder=place)
    save(start, tmp_path / "here" / "runs" / "adapter")
    (tmp_path / "here").rename(tmp_path / "there")
    found = gptwo.load(tmp_path / "there" / "runs" / "adapter")
    assert torch.equal(found.model(ids), start.model.eval()(ids))
    assert found.adapter.base.folder == str(tmp_path / "there" / "models" / "tiny")


def without_base(folder, name="no-such/model"):
    """Make an adapter forget where its base was."""
    described = json.loads((folder / "gptwo.json").read_text())
    described["adapter"]["base"] |= {"name": name, "folder": "/nowhere/tiny", "relative": "../../nowhere"}
    (folder / "gptwo.json").write_text(json.dumps(described))


def test_the_base_is_found_by_name(stored, base_folder, monkeypatch, ids):
    folder, carrying = stored()
    without_base(folder, "tiny")
    monkeypatch.setenv("GPTWO_MODELS", str(base_folder.parent))
    found = gptwo.load(folder)
    assert torch.equal(found.model(ids), carrying.model.eval()(ids))
    assert found.adapter.base.name == "tiny"


def test_a_missing_base_is_told_and_can_be_given(stored, base_folder, ids):
    folder, carrying = stored()
    without_base(folder)
    with pytest.raises(MissingError, match=r"belongs to the model no-such/model[\s\S]*--base"):
        gptwo.load(folder)
    assert torch.equal(load(folder, base=base_folder).model(ids), carrying.model.eval()(ids))


def test_another_base_is_refused(stored, base_folder, tmp_path):
    folder, _ = stored()
    other = models.load(base_folder)
    for tensor in other.model.parameters():
        tensor.requires_grad_()
    shake(other.model, 0.1)
    models.save(other, tmp_path / "other")
    with pytest.raises(DataError, match=r"belongs to another base[\s\S]*fingerprint"):
        load(folder, base=tmp_path / "other")


def test_an_adapter_of_peft_over_a_base_of_another_size(stored, tmp_path, tokenizer):
    folder, carrying = stored()
    (folder / "gptwo.json").unlink()
    small = create(replace(carrying.config, n_embd=8), tokenizer)
    models.save(small, tmp_path / "small")
    with pytest.raises(DataError, match=r"does not fit the model[\s\S]*another shape"):
        load(folder, base=tmp_path / "small")


def test_another_tokenizer_is_refused(stored, base_folder, tmp_path):
    from gptwo.tokenizer import train_bpe

    folder, _ = stored()
    other = models.load(base_folder)
    other.tokenizer = train_bpe(iter(["quite another text"] * 9), 270)
    models.save(other, tmp_path / "other")
    with pytest.raises(DataError, match="another tokenizer"):
        load(folder, base=tmp_path / "other")


def test_a_model_in_no_folder_cannot_be_a_base(tokenizer):
    from gptwo.adapt.base import base_of
    from gptwo.model.config import GPT2Config

    with pytest.raises(UsageError, match="in no folder"):
        base_of(create(GPT2Config(vocab_size=300, n_positions=8, n_embd=8, n_layer=1, n_head=1), tokenizer))


def test_over_an_adapter_there_can_be_another(stored, adapted, tmp_path, ids):
    """It belongs to what the first one makes of its base."""
    from gptwo.adapt.apply import apply_adapter
    from gptwo.adapt.base import base_of
    from gptwo.adapt.store import plain
    from tests.adapt.kinds import config_of

    folder, _ = stored("lora")
    start = plain(gptwo.load(folder))
    known = base_of(start, str(folder))
    start.adapter = apply_adapter(start.model, config_of("ia3"))
    start.adapter.base = known
    shake(start.model, 0.2)
    save(start, tmp_path / "second")
    torch.testing.assert_close(gptwo.load(tmp_path / "second").model(ids), start.model(ids))


# --- files that cannot be used


def change(folder, **values):
    content = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), MissingError, "no adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x10"), DataError, "not a whole safetensors file"),
        (lambda f: (f / "adapter_config.json").write_text("{"), DataError, "adapter_config.json"),
        (lambda f: change(f, peft_type="LOHA"), DataError, "kind LOHA are not read"),
        (lambda f: change(f, peft_type="LORRA"), DataError, "Did you mean 'LORA'"),
        (lambda f: change(f, bias="all"), DataError, "biases"),
        (lambda f: change(f, lora_alpha=-1), DataError, "alpha is -1"),
        (lambda f: change(f, use_dora=True), DataError, r"missing: .*lora_magnitude_vector"),
    ],
)
def test_what_cannot_be_read_is_told(stored, spoil, error, words):
    folder, _ = stored()
    spoil(folder)
    with pytest.raises(error, match=words):
        load(folder)


def test_missing_and_unknown_tensors_are_named(stored):
    folder, _ = stored()
    tensors = load_file(folder / "adapter_model.safetensors")
    moved = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[moved.replace("lora_B", "lora_Q")] = tensors.pop(moved)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(DataError, match=r"1 missing: .*lora_B; 1 unknown: .*lora_Q"):
        load(folder)


def test_a_language_head_of_its_own_is_refused(stored):
    folder, carrying = stored()
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.weight"] = torch.zeros(carrying.config.vocab_size, 16)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(DataError, match="head of its own"):
        load(folder)


def test_another_head_is_refused(stored):
    folder, _ = stored("lora", "sequence")
    with pytest.raises(UsageError, match="sequence head with the labels a, b, c"):
        load(folder, head="language")


def test_the_plain_loader_and_saver_say_where_to_go(stored, tmp_path):
    folder, carrying = stored()
    with pytest.raises(MissingError, match=r"gptwo\.load"):
        models.load(folder)
    with pytest.raises(UsageError, match=r"gptwo\.save"):
        models.save(carrying, tmp_path / "x")


def test_a_full_disk_leaves_what_was_there(stored, monkeypatch, ids):
    folder, carrying = stored()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gptwo.adapt.store.write_adapter", full)
    with pytest.raises(GptwoError, match="No space left"):
        save(carrying, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

"""Packed folders: what is read is what would be packed at load, to the last bit; nothing damaged is ever read."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

from gptwo import hub
from gptwo.data.sources import Record
from gptwo.errors import DataError, MissingError, UsageError
from gptwo.generate.native import NativeEngine, isas, why_not
from gptwo.generate.native_build import PRECISIONS
from gptwo.generate.native_packed import open_packed, write_packed
from gptwo.generate.which import pick_writer
from gptwo.model.pretrained import load, write_description
from tests.native.conftest import all_logits, made

IDS = [3, 250, 17, 17, 90, 4, 299, 0, 41]


def packed(pretrained, precision, folder, isa=None):
    """A packed folder, and the engine that it was written from."""
    engine = NativeEngine(pretrained, precision=precision, max_batch=1, threads=2, isa=isa)
    folder.mkdir()
    write_packed(engine.native, pretrained.config, precision, folder / hub.PACKED, "f00d")
    write_description(pretrained, folder, "float32")
    return folder, engine


@pytest.fixture
def folder(tiny, tmp_path):
    return packed(tiny, "int8", tmp_path / "packed")[0]


SHAPES = {
    "odd": {},
    "even": {"n_embd": 64, "n_head": 4, "vocab_size": 320},
    "untied": {"tie_word_embeddings": False},
    "scaled": {"scale_attn_by_inverse_layer_idx": True, "n_inner": 72, "n_layer": 3},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_folder_computes_what_packing_at_load_does(tmp_path, shape, precision):
    place, engine = packed(made(**SHAPES[shape]), precision, tmp_path / "packed")
    read = NativeEngine(place, max_batch=1, threads=1)
    assert read.precision == precision
    np.testing.assert_array_equal(all_logits(read, IDS), all_logits(engine, IDS))
    assert read.native.checksum() == engine.native.checksum()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_packed_file_is_the_same_from_every_instruction_set(tiny, tmp_path, precision):
    files = [packed(tiny, precision, tmp_path / isa, isa)[0] / hub.PACKED for isa in isas()]
    assert len({file.read_bytes() for file in files}) == 1


def test_it_is_a_safetensors_file(folder):
    from safetensors.numpy import load_file

    tensors = load_file(folder / hub.PACKED)
    assert tensors["h.1.mlp.c_fc.weight"].dtype == np.uint8
    assert tensors["wpe.weight"].shape == (96, 40)


def test_the_precision_is_the_files(folder, tiny):
    assert NativeEngine(folder, precision="int8").precision == "int8"
    with pytest.raises(UsageError, match="packed in int8, and bf16") as caught:
        NativeEngine(folder, precision="bf16")
    assert "--dtype bf16" in caught.value.fix
    assert open_packed(folder / hub.PACKED).source == "f00d"


def test_texts_are_those_of_the_model(folder, tiny):
    options = {"max_new_tokens": 12, "seed": 3, "n": 2}
    texts = NativeEngine(tiny, precision="int8").generate("the quick", **options)
    assert NativeEngine(folder).generate("the quick", **options) == texts


def test_a_draft_may_be_packed(folder, tiny):
    options = {"max_new_tokens": 12, "temperature": 0.0}
    texts = NativeEngine(tiny, precision="fp32").generate("the quick", **options)
    assert NativeEngine(tiny, precision="fp32", draft=folder).generate("the quick", **options) == texts


# --- what is damaged


def header_of(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewrite(file, header, data):
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_changed_byte_is_found_wherever_it_is(folder):
    file = folder / hub.PACKED
    content = file.read_bytes()
    _, data = header_of(file)
    begin = len(content) - len(data)
    draw = random.Random(7)
    for place in [begin, len(content) - 1, *(draw.randrange(begin, len(content)) for _ in range(30))]:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(DataError, match="damaged"):
            NativeEngine(folder)
    file.write_bytes(content)
    NativeEngine(folder)


def test_bytes_that_changed_places_are_found(folder):
    file = folder / hub.PACKED
    header, data = header_of(file)
    rewrite(file, header, data[64:128] + data[:64] + data[128:])
    with pytest.raises(DataError, match="damaged"):
        NativeEngine(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_cut_file_is_refused(folder, share):
    file = folder / hub.PACKED
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="not a whole packed file"):
        NativeEngine(folder)


def test_a_file_that_is_cut_while_it_is_read_is_refused(folder, monkeypatch):
    from gptwo.generate import native_weights

    def cut(file):
        found = open_packed(file)
        file.write_bytes(file.read_bytes()[:-100])
        return found

    monkeypatch.setattr(native_weights, "open_packed", cut)
    with pytest.raises(DataError, match="ended while it was read"):
        NativeEngine(folder)


def test_a_header_that_is_none_is_refused(folder):
    file = folder / hub.PACKED
    header, data = header_of(file)
    for spoilt in (
        {},
        [],
        {**header, "__metadata__": {}},
        {**header, "wte.weight": 3},
        {**header, "__metadata__": {**header["__metadata__"], "checksum": "many"}},
    ):
        rewrite(file, spoilt, data)
        with pytest.raises(DataError, match="not a whole packed file"):
            NativeEngine(folder)
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match="not a whole packed file"):
        NativeEngine(folder)


def test_another_layout_is_named(folder):
    file = folder / hub.PACKED
    header, data = header_of(file)
    header["__metadata__"] |= {"layout": "99", "gptwo": "12.0"}
    rewrite(file, header, data)
    with pytest.raises(DataError, match="layout 99") as caught:
        NativeEngine(folder)
    assert "gptwo 12.0" in caught.value.why
    assert "gptwo export" in caught.value.fix


@pytest.mark.parametrize(("key", "value"), [("n_head", 4), ("n_layer", 1), ("layer_norm_epsilon", 1e-6)])
def test_weights_of_another_network_are_refused(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(DataError, match="do not fit the config") as caught:
        NativeEngine(folder)
    assert key in caught.value.why


def test_tensors_of_other_shapes_are_refused(folder):
    file = folder / hub.PACKED
    header, data = header_of(file)
    header["wpe.weight"]["shape"] = [40, 96]
    rewrite(file, header, data)
    with pytest.raises(DataError, match="do not fit the config"):
        NativeEngine(folder)


# --- heads of labels and tasks


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("task", "head", "fields"), [
    ("classify", "sequence", {"text": "the quick 春眠"}),
    ("tag", "token", {"tokens": ["the", "quick", "春"]}),
    ("match", "sequence", {"text_a": "the", "text_b": "fox"}),
    ("choice", "language", {"stem": "the quick", "choices": ["fox", "lazy dog", "春眠"]}),
])  # fmt: skip
def test_a_packed_folder_does_its_task(tokenizer, tmp_path, task, head, fields, tied):
    from gptwo.export.native import write
    from gptwo.model.pretrained import create, save
    from gptwo.serve.loading import open_model
    from gptwo.serve.settings import Settings
    from gptwo.train.apply import predict

    plain = made(tokenizer, vocab_size=tokenizer.vocab_size, tie_word_embeddings=tied)
    model = plain if head == "language" else create(plain.config, tokenizer, head=head, labels=["a", "b"], seed=3)
    model.info |= {"task": task, "score": "likelihood"}
    model.folder = save(model, tmp_path / "plain")
    place = tmp_path / "packed"
    place.mkdir()
    write(model, place, "fp32")
    write_description(model, place, "float32")
    records = [Record(fields, "x", 1)]
    found, wanted = (predict(one, records, precision=kind) for one, kind in ((place, "auto"), (model.folder, "fp32")))
    assert found[0].keys() == wanted[0].keys()
    for key, value in wanted[0].items():
        assert found[0][key] == (pytest.approx(value, abs=2e-4) if isinstance(value, float | list) and key in (
            "probability", "probabilities") else value)  # fmt: skip
    served = open_model(place, Settings(backend="native"))
    assert isinstance(served, NativeEngine) == (head == "language")


def test_a_damaged_head_of_labels_is_found(tokenizer, tmp_path):
    from gptwo.export.native import write
    from gptwo.generate.native_network import open_on_native
    from gptwo.model.pretrained import create

    plain = made(tokenizer, vocab_size=tokenizer.vocab_size)
    model = create(plain.config, tokenizer, head="sequence", labels=["a", "b"], seed=3)
    write(model, tmp_path, "int8")
    write_description(model, tmp_path, "float32")
    file = tmp_path / hub.PACKED
    content = file.read_bytes()
    head = open_on_native(tmp_path, threads=1).model.projection.weight
    assert np.array_equal(head.numpy(), model.model.score.weight.detach().numpy())
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="head of labels is damaged"):
        open_on_native(tmp_path, threads=1)
    file.write_bytes(content[:-4])
    with pytest.raises(DataError, match="not a whole packed file"):
        open_on_native(tmp_path, threads=1)
    file.write_bytes(content)
    with pytest.raises(UsageError, match="bf16 was asked for"):
        open_on_native(tmp_path, precision="bf16")
    write_description(plain, tmp_path, "float32")  # the description of another model
    with pytest.raises(DataError, match="has a head of labels"):
        open_on_native(tmp_path, threads=1)


# --- where it stands


def test_pytorch_says_what_a_packed_folder_is_for(folder):
    with pytest.raises(UsageError, match="native CPU engine") as caught:
        load(folder)
    assert "exported from" in caught.value.fix


def test_weights_in_the_usual_layout_go_first(folder, tiny):
    from gptwo.model.weights import write_weights

    write_weights(tiny.model, folder)
    assert NativeEngine(folder, precision="fp32").precision == "fp32"


def test_the_native_engine_writes_from_it_wherever_it_is(folder, monkeypatch):
    assert why_not(folder) is None
    assert pick_writer("auto", folder, "auto", "auto") == ("native", None)
    monkeypatch.setattr("gptwo.generate.which.sees_gpu", lambda: True)
    assert pick_writer("auto", folder, "auto", "auto") == ("native", None)
    (folder / hub.PACKED).unlink()
    assert "safetensors" in why_not(folder)
    with pytest.raises(MissingError):
        open_packed(folder / hub.PACKED)


def test_the_server_takes_it(folder):
    from gptwo.serve.loading import open_model
    from gptwo.serve.settings import Settings

    served = open_model(folder, Settings(cache_tokens=200))
    assert isinstance(served, NativeEngine)
    assert served.precision == "int8"


def test_it_starts_without_pytorch(folder):
    code = f"""
import sys
sys.argv = ["gptwo", "generate", "--model", {str(folder)!r}, "the quick", "--max-new-tokens", "4"]
from gptwo.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
assert "gptwo.generate._native" in sys.modules
heavy = {{"torch", "polars", "sklearn", "huggingface_hub", "safetensors", "fastapi"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)

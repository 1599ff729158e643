"""Weights in every layout that is read: whole, exact, and refused with a reason when they do not fit."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptwo.errors import DataError, MissingError, UsageError
from gptwo.model.config import GPT2Config
from gptwo.model.config_json import read_config
from gptwo.model.pretrained import create, load, save
from gptwo.model.weights import open_weights, parse_size, split, write_weights

CONFIG = GPT2Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2, n_inner=12)


@pytest.fixture
def model():
    return create(CONFIG, seed=5).model


@pytest.fixture
def folder(tmp_path, model):
    """A saved model; the tests change its files."""
    return save(create(CONFIG, seed=5), tmp_path / "model")


def stored(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_loads(folder, model):
    state = load(folder).model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name


def change_config(folder, **changes):
    file = folder / "config.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


# ---- layouts ----


def test_blocks_are_stored_in_by_out(folder, model):
    tensors = stored(folder)
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (8, 24)
    assert tensors["transformer.h.1.mlp.c_fc.weight"].shape == (8, 12)
    assert torch.equal(tensors["transformer.h.0.mlp.c_proj.weight"], model.transformer.h[0].mlp.c_proj.weight.t())
    assert "lm_head.weight" not in tensors


def test_names_without_prefix_and_stored_masks_are_read(folder, model):
    """As openai-community/gpt2 is stored."""
    tensors = {name.removeprefix("transformer."): value for name, value in stored(folder).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 6, 6).tril()
    tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    assert_loads(folder, model)


def test_a_tied_head_may_be_stored_as_well(folder, model):
    tensors = stored(folder)
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}, folder / "model.safetensors")
    assert_loads(folder, model)


def test_a_second_head_of_another_kind_is_passed_over(folder, model):
    extra = {"multiple_choice_head.summary.weight": torch.ones(1, 8), "score.weight": torch.ones(2, 8)}
    save_file(stored(folder) | extra, folder / "model.safetensors")
    assert_loads(folder, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_converted(folder, model, dtype):
    save_file({name: value.to(dtype) for name, value in stored(folder).items()}, folder / "model.safetensors")
    assert_loads(folder, model.to(dtype).to(torch.float32))


def test_shards_are_read_by_their_index(folder, model):
    (folder / "model.safetensors").unlink()
    files = write_weights(model, folder, max_shard_size=2000)
    assert len(files) > 3
    assert files[-1].name == "model.safetensors.index.json"
    assert_loads(folder, model)


@pytest.mark.parametrize("zipped", [True, False])
def test_old_pytorch_files_are_read(folder, model, zipped):
    tensors = stored(folder)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_loads(folder, model)


def test_sharded_pytorch_files_are_read(folder, model):
    tensors = stored(folder)
    (folder / "model.safetensors").unlink()
    places = {name: f"pytorch_model-{1 + index % 2:05d}-of-00002.bin" for index, name in enumerate(tensors)}
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_loads(folder, model)


# ---- refused ----


class Bomb:
    """What a hostile pickle can hold: unpickling it runs a command."""

    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_a_pickle_with_code_is_refused_and_not_run(folder, tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    if protocol == "torch":
        torch.save({"wte.weight": torch.ones(1), "x": Bomb()}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Bomb()}))
    with pytest.raises(DataError, match="unpickling that could run any code"):
        load(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_of_another_name_is_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "weights.pkl")
    with pytest.raises(MissingError, match=r"weights\.pkl.*pickles among them, are not read"):
        load(folder)


def test_a_pickle_that_holds_no_tensors_is_a_data_error(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="not a map from names to tensors"):
        load(folder)


def test_tensors_that_are_missing_or_unknown_are_named(folder):
    tensors = stored(folder)
    tensors["transformer.h.7.ln_1.bias"] = tensors.pop("transformer.h.1.ln_1.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "1 missing: transformer.h.1.ln_1.bias" in str(caught.value)
    assert "1 unknown: transformer.h.7.ln_1.bias (8,)" in str(caught.value)


def test_only_the_first_few_of_many_are_named(folder):
    change_config(folder, n_layer=5)
    with pytest.raises(DataError, match=r"36 missing: .* and 31 more"):
        load(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder):
    change_config(folder, n_inner=16)
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "transformer.h.0.mlp.c_fc.weight is (8, 12), the config asks for (8, 16)" in str(caught.value)


def test_a_network_stored_without_transposes_is_refused(folder):
    tensors = stored(folder)
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].t().contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"c_fc.weight is \(12, 8\), the config asks for \(8, 12\)"):
        load(folder)


def test_an_untied_head_must_be_there(folder):
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(DataError, match=r"1 missing: lm_head\.weight"):
        load(folder)


def test_integers_are_no_weights(folder):
    tensors = stored(folder)
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"holds torch\.int8"):
        load(folder)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_cut_short_is_a_data_error(folder, length):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load(folder)


def test_an_index_cannot_lead_out_of_its_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"wte.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="outside its folder"):
        load(folder)


def test_a_missing_shard_is_named(folder, model):
    (folder / "model.safetensors").unlink()
    files = write_weights(model, folder, max_shard_size=2000)
    files[1].unlink()
    with pytest.raises(MissingError, match=files[1].name):
        load(folder)


def test_an_index_that_promises_too_much_is_a_data_error(folder, model):
    (folder / "model.safetensors").unlink()
    index = write_weights(model, folder, max_shard_size=2000)[-1]
    content = json.loads(index.read_text())
    content["weight_map"]["transformer.h.9.ln_1.bias"] = content["weight_map"]["transformer.wte.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"not in the files that the index names: transformer\.h\.9\.ln_1\.bias"):
        load(folder)


# ---- config.json ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM, not a GPT-2"),
        ({"model_type": "gpt_neox", "architectures": ...}, "gpt_neox, not a GPT-2"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"activation_function": "gelu"}, "activation_function"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"n_layer": "two"}, "n_layer"),
        ({"n_embd": 8.5}, "n_embd"),
        ({"n_head": 3}, "not a multiple"),
        ({"id2label": {"0": "a", "2": "b"}}, "without gaps"),
        ({"id2label": ["a", "b"]}, "id2label"),
    ],
)
def test_a_config_we_cannot_follow_is_refused_with_its_key(folder, changes, words):
    change_config(folder, **changes)
    with pytest.raises(DataError, match=words) as caught:
        load(folder)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_config_that_is_no_json_object_is_a_data_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ...},
        {"architectures": ..., "model_type": ...},
        {"n_positions": ...},  # n_ctx says it
        {"n_positions": ..., "n_ctx": ..., "max_position_embeddings": 6},
        {"n_embd": ..., "hidden_size": 8},
        {"activation_function": "gelu_pytorch_tanh"},
        {"activation_function": ...},
        {"n_layer": 2, "num_hidden_layers": 7},
    ],
)
def test_other_words_for_the_same_network_are_understood(folder, model, changes):
    change_config(folder, **changes)
    assert_loads(folder, model)


def test_missing_sizes_are_those_of_the_smallest_gpt2(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert read_config(tmp_path / "config.json").config == GPT2Config()


def test_the_config_says_what_llama_cpp_and_transformers_want(folder):
    content = json.loads((folder / "config.json").read_text())
    assert content["architectures"] == ["GPT2LMHeadModel"]
    assert (content["n_ctx"], content["n_positions"], content["n_inner"]) == (6, 6, 12)
    assert content["activation_function"] == "gelu_new"
    assert content["torch_dtype"] == "float32"


# ---- writing ----


def test_tensors_begin_at_multiples_of_eight(folder):
    with (folder / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    assert length % 8 == 0
    assert header["__metadata__"] == {"format": "pt"}


def test_a_tensor_above_the_limit_stands_alone():
    assert split({"a": 5, "b": 50, "c": 4, "d": 6}, 10) == [["a"], ["b"], ["c", "d"]]
    assert split({"a": 5, "b": 50}, None) == [["a", "b"]]


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("1.5 gib", 3 << 29), ("2KB", 2000), (7, 7), (None, None)]
)
def test_sizes_are_written_as_people_do(text, size):
    assert parse_size(text) == size


def test_a_size_that_is_none_is_a_usage_error():
    with pytest.raises(UsageError, match="500MB"):
        parse_size("large")


def test_an_unwritable_precision_is_a_usage_error(model, tmp_path):
    with pytest.raises(UsageError, match="int8"):
        write_weights(model, tmp_path, dtype=torch.int8)


# ---- memory ----


def test_no_two_tensors_are_held_while_reading(folder, monkeypatch):
    import weakref

    import gptwo.model.pretrained as pretrained

    alive = []

    def watched(path):
        tensors = open_weights(path)
        for name, tensor in tensors.items():

            def read(read=tensor.read):
                assert not any(held() is not None for held in alive[:-1])
                value = read()
                alive.append(weakref.ref(value))
                return value

            tensors[name] = type(tensor)(tensor.shape, read, tensor.file)
        return tensors

    monkeypatch.setattr(pretrained, "open_weights", watched)
    load(folder)
    assert len(alive) > 20


@pytest.mark.slow
def test_loading_and_saving_need_no_second_copy(tmp_path):
    """Peak memory of a fresh process, beside the same process without a model."""
    script = """
import resource, sys
import torch
from gptwo.model.config import GPT2Config
from gptwo.model import pretrained
kind, folder = sys.argv[1:]
config = GPT2Config(vocab_size=1000, n_positions=64, n_embd=1024, n_layer=8, n_head=8)
if kind == "make":
    pretrained.save(pretrained.create(config), folder)
if kind == "load":
    pretrained.save(pretrained.load(folder), folder, dtype=torch.bfloat16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def peak(kind: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", script, kind, str(tmp_path / "m")], capture_output=True, text=True, check=True
        )
        return int(done.stdout)  # KiB

    size = (8 * 12 * 1024**2 + 1064 * 1024) * 4 / 1024
    nothing, make, both = peak("nothing"), peak("make"), peak("load")
    assert make - nothing < 1.25 * size
    assert both - nothing < 1.25 * size

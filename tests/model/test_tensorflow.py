"""OpenAI's checkpoint folders: read without TensorFlow, checked byte by byte.

The writer below is independent of the reader: it follows LevelDB's table format, Snappy's and protobuf's
descriptions in the plainest way, one byte at a time.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gptwo.errors import DataError, GptwoError, MissingError
from gptwo.model.config import GPT2Config
from gptwo.model.crc32c import crc32c
from gptwo.model.pretrained import create, load
from gptwo.model.sstable import expand_snappy, read_table
from gptwo.model.tensorflow import open_bundle

CONFIG = GPT2Config(vocab_size=13, n_positions=7, n_embd=8, n_layer=2, n_head=2)
HPARAMS = {"n_vocab": 13, "n_ctx": 7, "n_embd": 8, "n_head": 2, "n_layer": 2}


# ---- an independent writer ----


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def mask(checksum: int) -> bytes:
    return struct.pack("<I", ((checksum >> 15 | checksum << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value) if value else b""


def piece(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def snappy(data: bytes) -> bytes:
    """Literals, with a copy wherever the next eight bytes repeat the eight before."""
    out, literal, at = varint(len(data)), b"", 0
    while at < len(data):
        if at >= 8 and data[at : at + 8] == data[at - 8 : at] and len(data) - at >= 8:
            out += (bytes([(len(literal) - 1) << 2]) + literal) if literal else b""
            out, literal, at = out + bytes([(8 - 4) << 2 | 1, 8]), b"", at + 8
            continue
        literal, at = literal + data[at : at + 1], at + 1
        if len(literal) == 60:
            out, literal = out + bytes([59 << 2]) + literal, b""
    return out + ((bytes([(len(literal) - 1) << 2]) + literal) if literal else b"")


def block(rows: list[tuple[bytes, bytes]], restart: int = 4) -> bytes:
    out, starts, last = b"", [], b""
    for index, (key, value) in enumerate(rows):
        shared = 0
        if index % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            starts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    starts = starts or [0]
    return out + b"".join(struct.pack("<I", start) for start in starts) + struct.pack("<I", len(starts))


def write_table(file: Path, rows: list[tuple[bytes, bytes]], rows_a_block: int, compressed: bool) -> None:
    out = b""

    def add(content: bytes, kind: int) -> bytes:
        nonlocal out
        content = snappy(content) if kind else content
        handle = varint(len(out)) + varint(len(content))
        out += content + bytes([kind]) + mask(slow_crc32c(content + bytes([kind])))
        return handle

    groups = [rows[at : at + rows_a_block] for at in range(0, len(rows), rows_a_block)]
    index = [(group[-1][0], add(block(group), int(compressed))) for group in groups]
    footer = add(block([]), 0) + add(block(index, restart=1), 0)
    file.write_bytes(out + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


def write_bundle(prefix: Path, tensors: dict[str, np.ndarray], shards=1, rows_a_block=5, compressed=False) -> None:
    kinds = {"float32": 1, "int64": 9, "float16": 19}
    data = [b"" for _ in range(shards)]
    rows = [(b"", number(1, shards) + piece(3, number(1, 1)))]
    for count, name in enumerate(sorted(tensors)):
        value, shard = tensors[name], count % shards
        content = value.tobytes()
        entry = number(1, kinds[value.dtype.name]) + piece(2, b"".join(piece(2, number(1, n)) for n in value.shape))
        entry += number(3, shard) + number(4, len(data[shard])) + number(5, len(content))
        rows.append((name.encode(), entry + varint(6 << 3 | 5) + mask(slow_crc32c(content))))
        data[shard] += content
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_table(prefix.with_name(prefix.name + ".index"), rows, rows_a_block, compressed)
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)


def openai_tensors(model) -> dict[str, np.ndarray]:
    """The network's parameters as OpenAI's code names and shapes them."""
    tensors = {}
    for name, parameter in model.transformer.named_parameters():
        value = parameter.detach().numpy()
        words = name.replace("h.", "h", 1).split(".") if name.startswith("h.") else name.split(".")
        norm = words[-2].startswith("ln")
        last = {"weight": "g" if norm else "w", "bias": "b"}[words[-1]]
        if words[0] in ("wte", "wpe"):
            words = words[:-1]
        else:
            words[-1] = last
        if last == "w" and "h" in words[0]:
            value = value.T[None]  # a convolution of width one: (1, in, out)
        tensors["model/" + "/".join(words)] = np.ascontiguousarray(value)
    return tensors


@pytest.fixture
def model():
    return create(CONFIG, seed=3).model


@pytest.fixture
def folder(tmp_path, model):
    """A folder as OpenAI published it."""
    write_bundle(tmp_path / "117M" / "model.ckpt", openai_tensors(model))
    (tmp_path / "117M" / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )
    (tmp_path / "117M" / "hparams.json").write_text(json.dumps(HPARAMS))
    return tmp_path / "117M"


def assert_equal(loaded, model):
    state = model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, state[name]), name


# ---- checksums and compression ----


@pytest.mark.parametrize(
    ("data", "checksum"),  # RFC 3720, appendix B.4
    [
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_of_the_published_examples(data, checksum):
    assert crc32c(np.frombuffer(data, np.uint8)) == checksum


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 4095, 4097, 20_001])
def test_crc32c_equals_its_definition(length):
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
    assert crc32c(data) == slow_crc32c(data.tobytes())


@pytest.mark.parametrize("extra", [0, 1, 3, 70_000])
def test_crc32c_of_more_than_one_piece_equals_its_parts_joined(extra):
    """Zeros behind the data are a known map of the register: fed one by one they give the same checksum."""
    data = np.random.default_rng(extra).integers(0, 256, 100, dtype=np.uint8)
    behind = np.concatenate([data, np.zeros((1 << 20) + extra, np.uint8)])
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    register = slow_crc32c(data.tobytes()) ^ 0xFFFFFFFF
    for _ in range((1 << 20) + extra):
        register = table[register & 255] ^ register >> 8
    assert crc32c(behind) == register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"\x05\x10hello", b"hello"),
        (b"\x0b\x04ab\x15\x02", b"ab" + b"ab" * 4 + b"a"),  # a copy that overlaps itself
        (b"\x06\x08abc\x0a\x03\x00", b"abcabc"),  # two-byte distance
        (b"\x06\x08abc\x0b\x03\x00\x00\x00", b"abcabc"),  # four-byte distance
        (b"\x64\xf0\x63" + b"x" * 100, b"x" * 100),  # a length in a byte of its own
    ],
)
def test_snappy_of_the_format_description(packed, expected):
    assert expand_snappy(packed) == expected


@pytest.mark.parametrize("packed", [b"\x05\x10hell", b"\x05", b"\x04\x04ab\x05\x09", b"\x80", b"\x09\x04ab\x15"])
def test_damaged_snappy_is_an_error(packed):
    with pytest.raises((IndexError, ValueError)):
        expand_snappy(packed)


# ---- whole folders ----


@pytest.mark.parametrize("rows_a_block", [1, 5, 1000])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_table_of_any_number_of_blocks_is_read_in_order(tmp_path, rows_a_block, compressed):
    rows = [(f"model/h{i:02d}/attn/c_attn/w".encode(), bytes([i]) * (3 * i)) for i in range(40)]
    write_table(tmp_path / "table", rows, rows_a_block, compressed)
    assert list(read_table(tmp_path / "table")) == rows


def test_openais_folder_is_loaded(folder, model):
    loaded = load(folder)
    assert loaded.config == CONFIG
    assert loaded.model.head_kind == "language"
    assert loaded.tokenizer is None
    assert_equal(loaded, model)


def test_a_tuned_folder_of_another_name_with_optimizer_state_and_shards_is_loaded(tmp_path, model):
    tensors = openai_tensors(model)
    tensors |= {f"{name}/Adam": value for name, value in list(tensors.items())}
    tensors |= {"global_step": np.array(7, dtype=np.int64), "beta1_power": np.array(0.9, dtype=np.float32)}
    write_bundle(tmp_path / "model-1000", tensors, shards=3, compressed=True)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/content/checkpoint/run1/model-1000"\n')
    (tmp_path / "hparams.json").write_text(json.dumps(HPARAMS))
    write_bundle(tmp_path / "model-900", {"model/wte": np.zeros((1, 1), np.float32)})
    assert_equal(load(tmp_path), model)


def test_half_precision_becomes_float32(tmp_path, model):
    write_bundle(tmp_path / "model.ckpt", {k: v.astype(np.float16) for k, v in openai_tensors(model).items()})
    (tmp_path / "hparams.json").write_text(json.dumps(HPARAMS))
    assert_equal(load(tmp_path), model.to(torch.float16).to(torch.float32))


def test_openais_tokenizer_files_are_taken_along(data_set, tmp_path):
    config = GPT2Config(vocab_size=50257, n_positions=4, n_embd=2, n_layer=1, n_head=1)
    tensors = openai_tensors(create(config).model)
    # the slow writer's checksum of a large tensor would take minutes
    tensors["model/wte"] = tensors["model/wte"][:3]
    write_bundle(tmp_path / "model.ckpt", tensors)
    (tmp_path / "hparams.json").write_text(
        json.dumps(HPARAMS | {"n_vocab": 3, "n_ctx": 4, "n_embd": 2, "n_head": 1} | {"n_layer": 1})
    )
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes((data_set("gpt2_bpe") / name).read_bytes())
    assert load(tmp_path).tokenizer.encode("Hello world") == [15496, 995]


# ---- damage ----


def test_every_damaged_byte_of_the_index_is_noticed_or_harmless(folder):
    index = folder / "model.ckpt.index"
    whole, entries = index.read_bytes(), open_bundle(index).entries
    noticed = 0
    for at in range(0, len(whole), 5):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            found = open_bundle(index).entries
        except GptwoError:
            noticed += 1
        else:  # the footer's padding, and the empty block of statistics
            assert found == entries
    assert noticed > 0.9 * len(whole) / 5


def test_an_index_cut_short_anywhere_is_a_data_error(folder):
    index = folder / "model.ckpt.index"
    whole = index.read_bytes()
    for length in (0, 7, 47, 48, len(whole) // 2, len(whole) - 1):
        index.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut short"):
            load(folder)


def test_a_damaged_tensor_names_file_and_bytes(folder):
    data = folder / "model.ckpt.data-00000-of-00001"
    whole = bytearray(data.read_bytes())
    whole[1000] ^= 1
    data.write_bytes(whole)
    with pytest.raises(DataError) as caught:
        load(folder)
    start, end = (int(word) for word in str(caught.value.where).split(" bytes ")[1].split(" to "))
    assert start <= 1000 < end
    assert str(data) in str(caught.value)


def test_data_cut_short_is_noticed_before_anything_is_read(folder):
    data = folder / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(DataError, match="The file ends at byte"):
        load(folder)


def test_a_missing_data_file_is_named(folder):
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(MissingError, match=r"model\.ckpt\.data-00000-of-00001"):
        load(folder)


def test_several_checkpoints_without_a_pointer_are_not_guessed_between(folder, model):
    write_bundle(folder / "model-2", openai_tensors(model))
    (folder / "checkpoint").unlink()
    with pytest.raises(MissingError, match="several checkpoints"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"n_vocab": 13}', json.dumps(HPARAMS | {"n_head": "two"})])
def test_a_broken_hparams_json_is_a_data_error(folder, text):
    (folder / "hparams.json").write_text(text)
    with pytest.raises(DataError, match=r"hparams\.json"):
        load(folder)


def test_sizes_that_do_not_fit_the_tensors_name_both_shapes(folder):
    (folder / "hparams.json").write_text(json.dumps(HPARAMS | {"n_vocab": 14}))
    with pytest.raises(DataError, match=r"wte.weight is \(13, 8\), the config asks for \(14, 8\)"):
        load(folder)

"""OpenAI's original checkpoint folders (checkpoint, model.ckpt.*, hparams.json), read without TensorFlow.

A TensorFlow checkpoint is a "tensor bundle": `PREFIX.index` is a sorted table from a tensor's name to its type,
shape and place, and `PREFIX.data-SSSSS-of-NNNNN` are the raw bytes. The table's values are protocol buffers
(tensorflow/core/protobuf/tensor_bundle.proto). Every tensor carries a CRC-32C, and all that are read are checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.errors import DataError, MissingError
from gptwo.model.config import GPT2Config
from gptwo.model.crc32c import crc32c, masked
from gptwo.model.sstable import read_table, read_varint

# tensorflow/core/framework/types.proto
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 14: "<u2", 19: "<f2"}
BFLOAT16 = 14

# The rest of a name behind "model/h<layer>/", in Hugging Face's words.
PARTS = {"w": "weight", "b": "bias", "g": "weight"}
NAME = re.compile(r"model/(?:h(?P<layer>\d+)/)?(?P<path>[\w/]+?)(?:/(?P<part>[wbg]))?")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: bytes offset..offset + size of data file number `shard`."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int  # masked CRC-32C


@dataclass
class Bundle:
    """A tensor bundle: `entries` by name, `read` for the numbers."""

    prefix: Path
    shards: int
    entries: dict[str, Entry] = field(default_factory=dict)

    def data_file(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}")

    def read(self, name: str) -> np.ndarray:
        """One tensor, float32 or float64 or integers as stored (bfloat16 and float16 become float32).

        Raises:
            DataError: the bytes are not there, or do not have the checksum that the index gives.
        """
        entry = self.entries[name]
        file = self.data_file(entry.shard)
        data = np.fromfile(file, dtype=np.uint8, count=entry.size, offset=entry.offset)
        if data.size != entry.size or masked(crc32c(data)) != entry.checksum:
            raise DataError(
                f"The tensor {name!r} is damaged: its bytes do not have the checksum that the index gives.",
                where=f"{file}, bytes {entry.offset} to {entry.offset + entry.size}",
                fix="download the file again",
            )
        values = data.view(DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == BFLOAT16:  # the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32) if values.dtype == np.float16 else values


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a TensorFlow checkpoint with the sizes of a GPT-2."""
    return (folder / "hparams.json").is_file() and any(folder.glob("*.index"))


def read_config(folder: Path) -> GPT2Config:
    """The network's shape, from hparams.json.

    Raises:
        DataError: hparams.json is no JSON object, or a size is missing.
    """
    file = folder / "hparams.json"
    try:
        sizes = json.loads(file.read_text(encoding="utf-8"))
        return GPT2Config(
            vocab_size=int(sizes["n_vocab"]),
            n_positions=int(sizes["n_ctx"]),
            n_embd=int(sizes["n_embd"]),
            n_layer=int(sizes["n_layer"]),
            n_head=int(sizes["n_head"]),
        )
    except KeyError as error:
        raise DataError(f"The size {error} is missing.", where=file) from error
    except (ValueError, TypeError) as error:
        raise DataError("This is not the hparams.json of a GPT-2.", where=file, why=str(error)) from error


def network_names(bundle: Bundle) -> dict[str, str]:
    """Hugging Face's name of every tensor of the network -> its name in the bundle; optimizer slots are left out."""
    names = {}
    for name in bundle.entries:
        match = NAME.fullmatch(name)
        if match is None or "Adam" in name:
            continue
        words = [] if match["layer"] is None else ["h", match["layer"]]
        words += match["path"].split("/") + [PARTS[match["part"] or "w"]]
        names[".".join(words)] = name
    return names


def open_checkpoint(folder: Path) -> Bundle:
    """The bundle that the file `checkpoint` of a folder names, or else the only one there.

    Raises:
        MissingError: no index, several and no word which, or a data file is missing.
        DataError: a damaged index, or one with features that GPT-2 checkpoints do not have.
    """
    found = sorted(folder.glob("*.index"))
    pointer = folder / "checkpoint"
    if pointer.is_file():
        match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', pointer.read_text(encoding="utf-8"), re.MULTILINE)
        if match:  # the path may be that of the machine which wrote it; only its last part counts
            found = [folder / (re.split(r"[/\\]", match[1])[-1] + ".index")]
    if len(found) != 1 or not found[0].is_file():
        raise MissingError(
            "There is no index of a TensorFlow checkpoint." if len(found) < 2 else "There are several checkpoints.",
            where=found[0] if len(found) == 1 else folder,
            fix="place model.ckpt.index, model.ckpt.data-00000-of-00001, checkpoint and hparams.json there",
        )
    return open_bundle(found[0])


def open_bundle(index: Path) -> Bundle:
    """Read an index and check that the data files hold what it promises."""
    rows = dict(read_table(index))
    try:
        header = dict(read_message(rows.pop(b"")))
        entries = {key.decode(): read_entry(value) for key, value in rows.items()}
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(
            "This table is not the index of a TensorFlow checkpoint.", where=index, why=str(error)
        ) from error
    if header.get(2, 0) != 0:
        raise DataError("The checkpoint was written on a big-endian machine; only little-endian is read.", where=index)

    bundle = Bundle(index.with_suffix(""), shards=header.get(1, 1))
    sizes: dict[int, int] = {}
    for name, entry in entries.items():
        if entry is None:
            continue
        file = bundle.data_file(entry.shard)
        if entry.shard not in sizes:
            if not file.is_file():
                raise MissingError("A data file of the checkpoint is missing.", where=file)
            sizes[entry.shard] = file.stat().st_size
        if entry.offset + entry.size > sizes[entry.shard]:
            raise DataError(
                f"The file ends at byte {sizes[entry.shard]}, within or before the tensor {name!r}.",
                where=f"{file}, bytes {entry.offset} to {entry.offset + entry.size}",
                fix="download or copy the file again",
            )
        bundle.entries[name] = entry
    return bundle


def read_entry(message: bytes) -> Entry | None:
    """A BundleEntryProto; None for a type that holds no numbers (the strings of a saved graph).

    Raises:
        IndexError, ValueError, TypeError: damaged, or stored in slices.
    """
    fields = dict(read_message(message))
    dtype = fields.get(1, 0)
    if dtype not in DTYPES:
        return None
    if 7 in fields:
        raise ValueError("a tensor is stored in slices, which no GPT-2 checkpoint is")
    shape = tuple(
        dict(read_message(size)).get(1, 0) for number, size in read_message(fields.get(2, b"")) if number == 2
    )
    entry = Entry(dtype, shape, *(fields.get(number, 0) for number in (3, 4, 5, 6)))
    if entry.size != prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise ValueError(f"a tensor of shape {shape} has {entry.size} bytes")
    return entry


def read_message(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values (int or bytes) of a protocol buffer (https://protobuf.dev/programming-guides/encoding/).

    Raises:
        IndexError, ValueError: damaged.
    """
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = read_varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = read_varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(wire, len(message))
        if at + size > len(message):
            raise ValueError("a field reaches behind the message's end")
        piece, at = message[at : at + size], at + size
        yield number, piece if wire == 2 else int.from_bytes(piece, "little")

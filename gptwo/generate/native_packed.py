"""A packed file: weights as the native engine computes with them, so that a start reads them and nothing more.

It is a safetensors file (https://huggingface.co/docs/safetensors, "Format") whose tensors are the engine's own, in the
layout of csrc/kernels.hpp, which is the same for every instruction set. Its metadata says in which layout, precision
and network they are, and carries a checksum that every start compares. A head of labels stands behind them, in float32.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo import __version__
from gptwo.errors import DataError, GptwoError, MissingError, UsageError

if TYPE_CHECKING:
    from gptwo.model.config import GPT2Config

LAYOUT = "2"  # of the numbers in the file; a new one whenever csrc/ packs otherwise
ALIGNMENT = 64  # of the first tensor
HEAD = "head."  # what the names of a label head's tensors begin with
NETWORK = (
    "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "inner", "layer_norm_epsilon",
    "scale_attn_by_inverse_layer_idx", "tie_word_embeddings",
)  # fmt: skip
AGAIN = "export the model anew: gptwo export MODEL --to native"


@dataclass(frozen=True)
class Packed:
    """The header of a packed file.

    Args:
        precision: of the weights, a key of `native_build.PRECISIONS`.
        network: what `describe` said of the network.
        checksum: of all tensors' bytes.
        source: sha256 of the files that it was made from; empty where there were none.
        head: sha256 of the label head's tensors; empty where there is none.
        tensors: type, shape, and first and last byte of each, by name.
        start: the byte of the file where the tensors begin.
    """

    file: Path
    precision: str
    network: dict[str, Any]
    checksum: int
    source: str
    head: str
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]
    start: int

    def choose(self, precision: str) -> str:
        """The precision of the file, where "auto" or the same one was asked for.

        Raises:
            UsageError: another one was.
        """
        if precision in ("auto", self.precision):
            return self.precision
        raise UsageError(
            f"The weights are packed in {self.precision}, and {precision} was asked for.",
            where=self.file,
            fix=f"leave --precision out, or export the original: gptwo export MODEL --to native --dtype {precision}",
        )


def describe(config: GPT2Config) -> dict[str, Any]:
    """What of a network decides how its weights are packed and used."""
    return {name: getattr(config, name) for name in NETWORK}


def open_packed(file: Path) -> Packed:
    """Read a packed file's header; its size must be what the header says.

    Raises:
        MissingError: there is no such file.
        DataError: it is damaged, cut, or in a layout that this version does not read.
    """
    if not file.is_file():
        raise MissingError("There are no packed weights.", where=file)
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            if not 2 <= length <= size - 8:
                raise ValueError("its header's length is impossible")
            header = json.loads(content.read(length))
        metadata = header.pop("__metadata__")
        if metadata["layout"] != LAYOUT:
            raise DataError(
                f"The weights are packed in layout {metadata['layout']}; gptwo {__version__} reads {LAYOUT}.",
                where=file,
                why=f"gptwo {metadata['gptwo']} wrote it",
                fix=AGAIN,
            )
        tensors = {
            name: (str(one["dtype"]), tuple(one["shape"]), *map(int, one["data_offsets"]))
            for name, one in header.items()
        }
        ends = max((end for *_, end in tensors.values()), default=0)
        if 8 + length + ends != size:
            raise ValueError(f"it has {size:,} bytes and its header describes {8 + length + ends:,}")
        network, checksum = json.loads(metadata["network"]), int(metadata["checksum"], 16)
        head = metadata.get("head", "")
        return Packed(file, metadata["precision"], network, checksum, metadata["source"], head, tensors, 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise DataError("The file is not a whole packed file.", where=file, why=str(error), fix=AGAIN) from error


def read_packed(native: Any, packed: Packed, config: GPT2Config, head: str = "language") -> None:
    """Fill the engine's weights from a file.

    Args:
        native: the C++ engine, without weights.
        config, head: of the folder.

    Raises:
        DataError: the file belongs to another network, or is damaged.
        GptwoError: it cannot be read.
    """
    wanted = describe(config)
    unlike = [f"{name} is {packed.network.get(name)}, not {value}" for name, value in wanted.items()
              if packed.network.get(name) != value]  # fmt: skip
    if bool(packed.head) != (head != "language"):
        unlike.append("it has a head of labels" if packed.head else "it has no head of labels")
    if not unlike:
        native.make_room(head == "language" and not config.tie_word_embeddings)
        parts = layout_of(native)
        unlike = [f"{name} is {packed.tensors.get(name)}" for name in parts if packed.tensors.get(name) != parts[name]]
        unlike += [f"there is {name}" for name in packed.tensors if name not in parts and not name.startswith(HEAD)]
    if unlike:
        raise DataError(
            "The packed weights do not fit the config.", where=packed.file, why="; ".join(unlike[:3]), fix=AGAIN
        )
    try:
        with packed.file.open("rb") as content:
            checksum = native.read_packed(content.fileno(), packed.start)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise DataError("The file ended while it was read.", where=packed.file, fix="copy it again") from None
        raise GptwoError("The file cannot be read.", where=packed.file, why=error.strerror) from error
    if checksum != packed.checksum:
        raise DataError(
            "The packed weights are damaged.",
            where=packed.file,
            why=f"their checksum is {checksum:016x}, not {packed.checksum:016x}",
            fix=f"copy the file again, or {AGAIN}",
        )


def read_head(packed: Packed) -> dict[str, np.ndarray]:
    """The tensors of a label head, "weight" and maybe "bias".

    Raises:
        DataError: there is none, or it is damaged.
    """
    found, content = {}, hashlib.sha256()
    with packed.file.open("rb") as file:
        for name, (_, shape, begin, end) in packed.tensors.items():
            if name.startswith(HEAD):
                file.seek(packed.start + begin)
                part = file.read(end - begin)
                content.update(part)
                if len(part) == 4 * math.prod(shape):
                    found[name.removeprefix(HEAD)] = np.frombuffer(part, np.float32).reshape(shape).copy()
    if content.hexdigest() != packed.head or "weight" not in found:
        raise DataError("The packed head of labels is damaged.", where=packed.file, fix=f"copy it again, or {AGAIN}")
    return found


def layout_of(native: Any) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Type, shape, first and last byte of each tensor of the engine's weights, as a packed file has them."""
    parts, begin = {}, 0
    for name, kind, shape, content in native.pieces():
        parts[name] = (kind, tuple(shape), begin, begin + content.nbytes)
        begin += content.nbytes
    return parts


def write_packed(
    native: Any,
    config: GPT2Config,
    precision: str,
    file: Path,
    source: str = "",
    head: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the engine's weights.

    Args:
        native: the C++ engine with its weights.
        source: see `Packed`.
        head: the tensors of a label head, float32: "weight" and maybe "bias".
    """
    parts = {name: np.ascontiguousarray(tensor, np.float32).tobytes() for name, tensor in (head or {}).items()}
    metadata = {
        "format": "gptwo packed",
        "layout": LAYOUT,
        "precision": precision,
        "network": json.dumps(describe(config)),
        "checksum": f"{native.checksum():016x}",
        "source": source,
        "gptwo": __version__,
    }
    if head:
        metadata["head"] = hashlib.sha256(b"".join(parts.values())).hexdigest()
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (kind, shape, begin, end) in layout_of(native).items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    for name, tensor in (head or {}).items():
        begin, end = end, end + len(parts[name])
        header[HEAD + name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with file.open("wb") as content:
        content.write(struct.pack("<Q", len(text)) + text)
        for *_, part in native.pieces():
            content.write(part)
        for numbers in parts.values():
            content.write(numbers)


def digest(folder: Path | None) -> str:
    """sha256 over the safetensors files of a folder, in the order of their names; empty where there are none."""
    files = sorted(folder.glob("*.safetensors")) if folder else []
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while piece := content.read(1 << 20):
                total.update(piece)
    return total.hexdigest() if files else ""

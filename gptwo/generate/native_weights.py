"""A model for the native engine: its description and its tensors; those of a plain folder are read without PyTorch.

The tensors of a safetensors file are read one by one and given on as they are stored (float32, bfloat16, float16);
the engine widens, transposes and packs them.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo import hub
from gptwo.errors import DataError, MissingError, UsageError
from gptwo.generate.native_packed import Packed, open_packed, read_packed

if TYPE_CHECKING:
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import Pretrained
    from gptwo.tokenizer import Tokenizer

FILE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
TYPES = {"F32": (0, np.float32), "BF16": (1, np.uint16), "F16": (2, np.float16), "F64": (0, np.float64)}
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)$")  # causal masks that older versions stored
HEADS = ("lm_head", "score", "classifier", "multiple_choice_head", "qa_outputs")

Read = Callable[[], tuple[np.ndarray, int]]
"""A tensor's numbers and which of the engine's stored types they are."""


@dataclass
class Opened:
    """What the native engine needs to know of a model.

    Args:
        config: what texts see: an adapter's virtual tokens have taken their positions.
        head: "language", "sequence" or "token".
        stored: shape and reader of each tensor, by the names of `shapes`.
        carrying: the loaded model, where it has an adapter that cannot be merged.
        packed: weights that are packed already, in the place of `stored`.
    """

    folder: Path | None
    config: GPT2Config
    tokenizer: Tokenizer | None
    info: dict[str, Any]
    head: str
    stored: dict[str, tuple[tuple[int, ...], Read]]
    carrying: Pretrained | None = None
    packed: Packed | None = None

    @property
    def whole(self) -> GPT2Config:
        """The config with all positions of the network."""
        shape = self.stored["wpe.weight"][0] if self.carrying else None
        return replace(self.config, n_positions=shape[0]) if shape else self.config


def open_model(model: str | Path | Pretrained) -> Opened:
    """A folder, a name, or a loaded model. An adapter that can be merged is merged; this alone loads it with PyTorch.

    Raises:
        UsageError: another layout than Hugging Face's.
        MissingError: no such model, or no safetensors.
        DataError: a damaged file.
    """
    if isinstance(model, str | Path):
        from gptwo.model.config_json import read_config, read_info
        from gptwo.tokenizer import find_tokenizer

        folder = hub.resolve(model)
        if (folder / "config.json").is_file():
            described = read_config(folder / "config.json")
            head = described.head or "language"
            info = read_info(folder)
            packed = open_packed(folder / hub.PACKED) if is_packed(folder) else None
            stored = {} if packed else open_folder(folder)
            return Opened(folder, described.config, find_tokenizer(folder), info, head, stored, packed=packed)
        if not (folder / ADAPTER).is_file():
            raise UsageError(
                "The native engine takes models in Hugging Face's layout, and config.json is missing.",
                where=folder,
                fix="--backend torch reads other layouts",
            )
        from gptwo.adapt.store import load

        model = load(folder)
    if model.adapter is not None:
        from gptwo.adapt.merge import MERGEABLE, merged

        if model.adapter.config.name in MERGEABLE:
            model = merged(model)
    carrying = None if model.adapter is None else model
    stored = open_pretrained(model)
    return Opened(model.folder, model.config, model.tokenizer, model.info, model.model.head_kind, stored, carrying)


def is_packed(folder: Path) -> bool:
    """Whether a folder's weights are packed ones; weights in Hugging Face's layout go before those."""
    return (folder / hub.PACKED).is_file() and not any((folder / name).is_file() for name in (FILE, INDEX))


def shapes(config: GPT2Config, head: str = "language") -> dict[str, tuple[int, ...]]:
    """The tensors that a model has below its label head, as files store them, in the order the engine wants them."""
    C, inner = config.n_embd, config.inner
    named: dict[str, tuple[int, ...]] = {}
    if not config.tie_word_embeddings and head == "language":
        named["lm_head.weight"] = (config.vocab_size, C)
    named["wte.weight"] = (config.vocab_size, C)
    named["wpe.weight"] = (config.n_positions, C)
    for layer in range(config.n_layer):
        for part, size in (("ln_1", (C,)), ("ln_2", (C,))):
            named |= {f"h.{layer}.{part}.{kind}": size for kind in ("weight", "bias")}
        for part, rows, columns in (
            ("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, inner), ("mlp.c_proj", inner, C)
        ):  # fmt: skip
            named[f"h.{layer}.{part}.bias"] = (columns,)
            named[f"h.{layer}.{part}.weight"] = (rows, columns)
    return named | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


def give(native: Any, opened: Opened) -> None:
    """Pack every tensor into the engine, or fill it with what was packed before.

    Args:
        native: the C++ engine.
        opened: its weights.

    Raises:
        DataError: a tensor is missing or of another shape, or a packed file is damaged.
    """
    if opened.packed is not None:
        read_packed(native, opened.packed, opened.config, opened.head)
        return
    wanted, stored = shapes(opened.whole, opened.head), opened.stored
    missing = [name for name in wanted if name not in stored]
    unlike = [
        f"{name} is {stored[name][0]}, the config asks for {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name][0] != shape
    ]
    if missing or unlike:
        raise DataError(
            "The weights do not fit the config.",
            where=opened.folder,
            why="; ".join([f"missing: {name}" for name in missing[:5]] + unlike[:5]),
            fix="check that config.json and the weights belong together",
        )
    bias: np.ndarray | None = None  # the engine reads it when its matrix comes
    for name in wanted:
        tensor, kind = stored[name][1]()
        native.add_weight(name, tensor, kind)
        if name.endswith("bias"):
            bias = tensor
    del bias


def open_folder(folder: Path) -> dict[str, tuple[tuple[int, ...], Read]]:
    """The tensors of a model folder, none of them read yet.

    Raises:
        MissingError: no safetensors there, or a file that the index names is missing.
        DataError: a damaged file.
    """
    if (folder / FILE).is_file():
        files = [folder / FILE]
    elif (folder / INDEX).is_file():
        try:
            places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / Path(place).name for place in sorted(set(places))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError("The index has no weight_map from names to files.", where=folder / INDEX) from error
    else:
        raise MissingError(
            "The native engine reads safetensors, and there are none.", where=folder, fix="--backend torch"
        )
    stored = {}
    for file in files:
        if not file.is_file():
            raise MissingError("A file of the weights is missing.", where=file)
        stored |= dict(open_file(file))
    return stored


def open_file(file: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], Read]]]:
    """The tensors of one safetensors file (https://huggingface.co/docs/safetensors, "Format")."""
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            if not 2 <= length <= min(size - 8, 2**30):
                raise ValueError("its header's length is impossible")
            header = json.loads(content.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            own = name.removeprefix("transformer.")
            if MASKS.search(own) or (own.split(".")[0] in HEADS and own != "lm_head.weight"):
                continue
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            if entry["dtype"] not in TYPES:
                raise ValueError(f"{name} holds {entry['dtype']}, not floats")
            kind, dtype = TYPES[entry["dtype"]]
            if end - begin != prod(shape) * np.dtype(dtype).itemsize or not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{name} does not lie in the file")
            yield own, (shape, _reader(file, 8 + length + begin, shape, kind, dtype))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, OSError) as error:
        raise DataError(
            "The file is not a whole safetensors file.", where=file, why=str(error), fix="download or copy it again"
        ) from error


def _reader(file: Path, start: int, shape: tuple[int, ...], kind: int, dtype: Any) -> Read:
    def read() -> tuple[np.ndarray, int]:
        tensor = np.empty(shape, dtype)
        with file.open("rb", buffering=0) as content:
            content.seek(start)
            view, filled = memoryview(tensor).cast("B"), 0
            while filled < len(view):
                got = content.readinto(view[filled:])
                if not got:
                    raise DataError("The file ended while it was read.", where=file, fix="download or copy it again")
                filled += got
        return (tensor.astype(np.float32), 0) if dtype is np.float64 else (tensor, kind)

    return read


def open_pretrained(pretrained: Pretrained) -> dict[str, tuple[tuple[int, ...], Read]]:
    """The tensors of a model that is in memory already; matrices of blocks turned as files store them."""
    transposed = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
    stored = {}
    for name, parameter in pretrained.model.named_parameters():
        tensor = parameter.detach().t() if transposed.search(name) else parameter.detach()

        def read(tensor: Any = tensor) -> tuple[np.ndarray, int]:
            return tensor.cpu().float().contiguous().numpy(), 0

        stored[name.removeprefix("transformer.")] = (tuple(tensor.shape), read)
    return stored

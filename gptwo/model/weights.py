"""Weights in Hugging Face's layout: safetensors files to a network and back.

Hugging Face keeps the linear layers of GPT-2's blocks as (in, out), OpenAI's `Conv1D`; ours are `nn.Linear`, (out, in).
The transposes are here and nowhere else. One tensor is in memory beside the network at a time, both ways.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gptwo import hub
from gptwo.errors import DataError, MissingError, UsageError
from gptwo.model import tensorflow
from gptwo.model.config_json import read_json
from gptwo.model.heads import PROJECTIONS, Model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD_SINGLE, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)$")  # causal masks that older versions stored
HEADS = (*PROJECTIONS.values(), "multiple_choice_head", "qa_outputs")
SAFETENSORS_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
SIZES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
NAMED = 5  # how many tensors an error names


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape there, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    file: Path


# ---- reading ----


def open_weights(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder by our names, none of them read yet.

    Safetensors, one file or several; else pytorch_model.bin, one file or several; else OpenAI's TensorFlow
    checkpoint. Nothing but tensors is ever unpickled.

    Raises:
        MissingError: no weights, or a file that an index names is missing.
        DataError: a file that cannot be read.
        UsageError: there are weights for the native engine only.
    """
    if (folder / SINGLE).is_file():
        stored = open_safetensors(folder / SINGLE)
    elif (folder / INDEX).is_file():
        stored = open_sharded(folder / INDEX, open_safetensors)
    elif (folder / OLD_SINGLE).is_file():
        stored = open_pickle(folder / OLD_SINGLE)
    elif (folder / OLD_INDEX).is_file():
        stored = open_sharded(folder / OLD_INDEX, open_pickle)
    elif tensorflow.is_checkpoint(folder):
        stored = open_tensorflow(folder)
    elif (folder / hub.PACKED).is_file():
        raise UsageError(
            "The folder holds packed weights, which the native CPU engine writes text with; nothing else reads them.",
            where=folder,
            fix="use the model that it was exported from; its README.md says how to know it",
        )
    else:
        there = sorted(entry.name for entry in folder.iterdir())
        raise MissingError(
            "The folder holds no weights.",
            where=folder,
            why=f"there is {', '.join(there[:12]) or 'nothing'}{' …' if len(there) > 12 else ''}; other formats, "
            "pickles among them, are not read",
            fix=f"place {SINGLE} there (or shards and {INDEX}, {OLD_SINGLE}, or a TensorFlow checkpoint)",
        )
    return {our_name(name): tensor for name, tensor in stored.items() if not MASKS.search(name)}


def open_safetensors(file: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file; the file is opened anew for each, so that no page of it stays mapped."""
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> Tensor:
        with safe_open(file, framework="pt") as content:
            return content.get_tensor(name)

    try:
        with safe_open(file, framework="pt") as content:
            return {
                name: Stored(tuple(content.get_slice(name).get_shape()), partial(read, name), file)
                for name in content.keys()  # noqa: SIM118 (not a mapping)
            }
    except (SafetensorError, OSError) as error:
        raise DataError(
            "The file is not a whole safetensors file.", where=file, why=str(error), fix="download or copy it again"
        ) from error


def open_pickle(file: Path) -> dict[str, Stored]:
    """The tensors of a file that torch.save wrote, and nothing else that may be in it."""
    load = partial(torch.load, file, map_location="cpu", weights_only=True)
    try:
        try:
            content = load(mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped; it is read whole
            content = load()
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        raise DataError(
            "The file is refused: it is damaged, or holds more than tensors, and unpickling that could run any code.",
            where=file,
            why=str(error).strip().splitlines()[0][:200] if str(error).strip() else None,
            fix="ask for the model as safetensors",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError("The file is not a map from names to tensors.", where=file)
    return {name: Stored(tuple(value.shape), lambda value=value: value, file) for name, value in content.items()}


def open_sharded(index: Path, open_file: Callable[[Path], dict[str, Stored]]) -> dict[str, Stored]:
    """The tensors of several files, by the map in an index file."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise DataError("The index has no weight_map from names to files.", where=index)
    files = {}
    for place in sorted(set(places.values())):
        if Path(place).name != place:
            raise DataError("The index names a file outside its folder.", where=index, why=place)
        if not (index.parent / place).is_file():
            raise MissingError("A file of the weights is missing.", where=index.parent / place)
        files[place] = open_file(index.parent / place)
    lost = [name for name, place in places.items() if name not in files[place]]
    if lost:
        raise DataError(f"Tensors are not in the files that the index names: {listed(lost)}.", where=index)
    return {name: files[place][name] for name, place in places.items()}


def open_tensorflow(folder: Path) -> dict[str, Stored]:
    """The tensors of OpenAI's checkpoint, as Hugging Face names and shapes them."""
    bundle = tensorflow.open_checkpoint(folder)

    def read(key: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(bundle.read(key)).view(shape)

    stored = {}
    for name, key in tensorflow.network_names(bundle).items():
        shape = bundle.entries[key].shape
        if len(shape) == 3 and shape[0] == 1:  # a convolution of width one
            shape = shape[1:]
        stored[name] = Stored(shape, partial(read, key, shape), bundle.data_file(bundle.entries[key].shard))
    return stored


def our_name(name: str) -> str:
    """A tensor's name in `Model`: "transformer." before everything but the heads."""
    name = name.removeprefix("transformer.")
    return name if name.split(".")[0] in HEADS else f"transformer.{name}"


def read_into(model: Model, stored: dict[str, Stored], *, skip_head: bool = False) -> list[str]:
    """Copy stored tensors into a network's parameters, whatever their device and precision.

    Args:
        stored: from `open_weights`; heads of other kinds in it are passed over.
        skip_head: leave the head alone, unless it is the token embedding.

    Returns:
        Names of the parameters that were left alone.

    Raises:
        DataError: tensors are missing, unknown, of another shape or not of a float type.
    """
    parameters = dict(model.named_parameters())  # a tied head is not listed a second time
    head = PROJECTIONS[model.head_kind]
    own = {name for name in parameters if name.split(".")[0] == head}
    targets = {name: parameters[name] for name in parameters if not (skip_head and name in own)}
    passed_over = {name for name in HEADS if name != head or skip_head or not own}
    compare(targets, {name: tensor for name, tensor in stored.items() if name.split(".")[0] not in passed_over})
    with torch.no_grad():
        for name, parameter in targets.items():
            tensor = stored[name].read()
            if not tensor.is_floating_point():
                raise DataError(f"The tensor {name} holds {tensor.dtype}, not floats.", where=stored[name].file)
            parameter.copy_(tensor.t() if TRANSPOSED.search(name) else tensor)
    return [name for name in parameters if name not in targets]


def compare(targets: dict[str, nn.Parameter], stored: dict[str, Stored]) -> None:
    """Refuse weights that do not fit the network exactly."""
    missing = [name for name in targets if name not in stored]
    unknown = [f"{name} {stored[name].shape}" for name in stored if name not in targets]
    expected = {name: stored_shape(name, parameter) for name, parameter in targets.items()}
    unlike = [
        f"{name} is {stored[name].shape}, the config asks for {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = {"missing": missing, "unknown": unknown, "of another shape": unlike}
    if any(problems.values()):
        raise DataError(
            "The weights do not fit the config.",
            where=next((tensor.file for tensor in stored.values()), None),
            why="; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names),
            fix="check that config.json and the weights belong together",
        )


def stored_shape(name: str, parameter: Tensor) -> tuple[int, ...]:
    """The shape a parameter has in a file."""
    shape = tuple(parameter.shape)
    return shape[::-1] if TRANSPOSED.search(name) else shape


def listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


# ---- writing ----


def write_weights(
    model: Model, folder: Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
) -> list[Path]:
    """Write a network's weights as safetensors; returns the files.

    Args:
        folder: an existing folder.
        dtype: precision of the files; None keeps that of each parameter.
        max_shard_size: bytes, or text such as "500MB"; larger models are split into several files and an index.

    Raises:
        UsageError: a size or precision that cannot be written.
    """
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    types = {name: dtype or tensor.dtype for name, tensor in state.items()}
    unknown = set(types.values()) - set(SAFETENSORS_TYPES)
    if unknown:
        raise UsageError(f"Weights cannot be written as {unknown}.", fix="use float32, bfloat16 or float16")
    sizes = {name: tensor.numel() * types[name].itemsize for name, tensor in state.items()}
    groups = split(sizes, parse_size(max_shard_size))
    names = (
        [SINGLE]
        if len(groups) == 1
        else [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    )
    for file, group in zip(names, groups, strict=True):
        write_safetensors(folder / file, {name: (state[name], types[name]) for name in group})
    if len(groups) > 1:
        places = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        names.append(INDEX)
    return [folder / file for file in names]


def write_safetensors(file: Path, tensors: dict[str, tuple[Tensor, torch.dtype]]) -> None:
    """Write one safetensors file, tensor by tensor (https://huggingface.co/docs/safetensors, "Format")."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (tensor, dtype) in tensors.items():
        start, end = end, end + tensor.numel() * dtype.itemsize
        shape = list(stored_shape(name, tensor))
        header[name] = {"dtype": SAFETENSORS_TYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, (tensor, dtype) in tensors.items():
            tensor = tensor.t() if TRANSPOSED.search(name) else tensor
            tensor = tensor.to(device="cpu", dtype=dtype).flatten()
            out.write(tensor.view(torch.uint8).numpy().data)


def split(sizes: dict[str, int], limit: int | None) -> list[list[str]]:
    """Names in groups of at most `limit` bytes, in order; a tensor above the limit is alone."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if limit is not None and groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def parse_size(size: int | str | None) -> int | None:
    """Bytes of "500MB", "2GiB" or a number."""
    if size is None or isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B)\s*", size, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{size!r} is not a size.", where="max_shard_size", fix='write it like "500MB" or "2GB"')
    return int(float(match[1]) * SIZES[match[2].upper()])

"""`export`: a model in another run-time's format, which gets its name only when that run-time is shown to agree."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gptwo import __version__, hub
from gptwo.adapt.gate import merge
from gptwo.adapt.merge import MERGEABLE
from gptwo.adapt.store import is_adapter, load
from gptwo.errors import GptwoError, MissingError, UsageError, did_you_mean, require
from gptwo.export import gguf, gguf_check, hf, native, onnx, onnx_check
from gptwo.export.check import Check
from gptwo.generate.native import pick
from gptwo.model.card import PIPELINES
from gptwo.model.config_json import INFO
from gptwo.model.folder import beside, flush, whole_folder
from gptwo.model.pretrained import Pretrained, is_model_file, write_description

# format -> what it can be in
PRECISIONS = {"onnx": ("fp32",), "gguf": tuple(gguf.TYPES), "hf": tuple(hf.DTYPES), "native": native.TYPES}
BYTES = {  # of a weight
    "fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "int8": 1.1, "int4": 0.9
}  # fmt: skip
NEEDED = {"onnx": "onnx", "gguf": "gguf", "hf": "safetensors"}  # to write
RUNTIMES = {"onnx": "onnxruntime", "gguf": "xllamacpp", "hf": "transformers"}  # to check
REFUSE = {"gguf": gguf.refuse}  # models that the format cannot hold
OTHER_FILES = 20_000_000  # bytes of tokenizer and the like, at most


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Args:
        path: the file (gguf) or folder (onnx, hf, native).
        format: "onnx", "gguf", "hf" or "native".
        precision: of the weights in it.
        size: bytes.
        check: what was seen when it was run; None where that was not asked for.
        merged: the kind of adapter that was worked into the weights first; None for a plain model.
        notes: what was stored otherwise than asked for, in words.
    """

    path: Path
    format: str
    precision: str
    size: int
    check: Check | None = None
    merged: str | None = None
    notes: list[str] = field(default_factory=list)


def export(
    model: str | Path,
    to: str,
    out: str | Path,
    *,
    precision: str = "auto",
    base: str | Path | None = None,
    overwrite: bool = False,
    unchecked: bool = False,
) -> Exported:
    """Write a model for another run-time, run it there, and give it its name if the two agree.

    Args:
        model: a model folder, a run folder, an adapter's folder or a name.
        to: "onnx", "gguf", "hf" or "native".
        out: the file (gguf) or the folder (onnx, hf, native).
        precision: "fp32", "fp16", "bf16", for gguf "q8_0" and "q4_0" too, for native "fp32", "bf16", "int8" or "int4";
            "auto": the smallest of the first three in which no weight changes, for native bf16.
        base: of an adapter: the model it belongs to, where it is not found by itself.
        overwrite: replace what stands at `out`.
        unchecked: do not run it.

    Raises:
        UsageError: an unknown format or precision, something at `out`, or a model that the format cannot hold.
        MissingError: the model, or a package is missing.
        GateError: the run-time does not agree with the model; nothing was written.
        GptwoError: the disk is too full.
    """
    target = Path(out).expanduser().resolve()
    check_request(to, precision, target, overwrite=overwrite)
    need_packages(to, unchecked=unchecked)
    folder = hub.resolve(model)
    with workplace(target) as temporary:
        pretrained, merged = open_model(folder, base, temporary)
        if to in REFUSE:
            REFUSE[to](pretrained)
        chosen = precision
        if precision == "auto":
            chosen = pick(precision) if to == "native" else smallest(pretrained, PRECISIONS[to])
        check_room(pretrained, BYTES[chosen], target)
        make = {"onnx": export_onnx, "gguf": export_gguf, "hf": export_hf, "native": export_native}[to]
        found, notes = make(pretrained, target, temporary, chosen, unchecked=unchecked)
    size = sum(file.stat().st_size for file in target.rglob("*")) if target.is_dir() else target.stat().st_size
    return Exported(target, to, chosen, size, found, merged, notes)


def check_request(to: str, precision: str, target: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is loaded, what cannot be."""
    if to not in PRECISIONS:
        raise UsageError(f"There is no format {to!r}.", where="--to", fix=did_you_mean(to, PRECISIONS))
    if precision not in ("auto", *PRECISIONS[to]):
        raise UsageError(
            f"An export to {to} cannot be in {precision!r}.",
            where="--dtype",
            why="onnxruntime computes GPT-2 in float32 on a CPU; its own tools make smaller files of this one"
            if to == "onnx"
            else None,
            fix=f"auto, {', '.join(PRECISIONS[to])}",
        )
    if to == "gguf" and (target.suffix != ".gguf" or target.is_dir()):
        raise UsageError("A GGUF export is one file.", where="--out", fix=f"--out {target.with_suffix('.gguf')}")
    if to == "onnx" and target.suffix == ".onnx":
        raise UsageError(
            "An ONNX export is a folder: model.onnx with its tokenizer and config.",
            where="--out",
            fix=f"--out {target.with_suffix('')}",
        )
    if target.exists() and not overwrite:
        raise UsageError("Something stands there already.", where=target, fix="--overwrite, or another --out")


def need_packages(to: str, *, unchecked: bool) -> None:
    """Make sure that what writes and what checks is installed.

    Raises:
        MissingError: it is not.
    """
    if to == "native":
        pick("auto")  # it was built
        return
    require(NEEDED[to], "export")
    if unchecked:
        return
    try:
        require(RUNTIMES[to], "export")
    except MissingError as error:
        raise MissingError(
            f"The export could not be checked: the package {RUNTIMES[to]!r} is not installed.",
            why="an export gets its name only when it was run and agrees with the model",
            fix='pip install "gptwo[export]", or --unchecked to write it without a check',
        ) from error


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """A folder beside the target, on the same disk, that is gone afterwards."""
    try:
        with beside(target, "exporting") as temporary:
            yield temporary
    except OSError as error:
        raise GptwoError(
            "A file could not be read or written; what stood at the target before is unchanged.",
            where=error.filename or target,
            why=error.strerror or str(error),
            fix="free some space, or choose a place that can be written",
        ) from error


def open_model(folder: Path, base: str | Path | None, temporary: Path) -> tuple[Pretrained, str | None]:
    """A plain model in float32, and the kind of adapter that was merged into it.

    Raises:
        UsageError: an adapter that no plain model can stand for, or a base for a model that has none.
        GateError: the merged model is not the same as the adapter over its base.
    """
    if not is_adapter(folder):
        if base is not None:
            raise UsageError("Only an adapter has a base.", where="--base", fix="leave --base out")
        return load(folder), None
    carrying = load(folder, base=base)
    assert carrying.adapter is not None
    kind = carrying.adapter.config.name
    if kind not in MERGEABLE:
        raise UsageError(
            f"A model with an adapter of the kind {kind} cannot be exported.",
            where=folder,
            why="it adds layers or virtual tokens, and the other formats know plain GPT-2 only",
            fix=f"tune with one that can be merged ({', '.join(MERGEABLE)}), or use the model in gptwo",
        )
    del carrying
    merge(folder, temporary / "merged", base=base)
    return replace(load(temporary / "merged"), folder=folder), kind


def smallest(pretrained: Pretrained, precisions: tuple[str, ...]) -> str:
    """The smallest precision in which every weight stays what it is."""
    weights = [parameter.detach() for parameter in pretrained.model.parameters()]
    for name in ("bf16", "fp16"):
        if name in precisions:
            dtype = hf.DTYPES[name]
            if all(torch.equal(weight.to(dtype).to(weight.dtype), weight) for weight in weights):
                return name
    return "fp32"


def check_room(pretrained: Pretrained, each: float, target: Path) -> None:
    """Make sure that the disk holds the export.

    Raises:
        GptwoError: it does not.
    """
    need = OTHER_FILES + each * sum(parameter.numel() for parameter in pretrained.model.parameters())
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise GptwoError(
            f"The disk has {free / 1e9:.1f} GB free; the export needs {need / 1e9:.1f} GB.",
            where=target.parent,
            fix="free space, or choose another --out; fp16 and q8_0 are smaller",
        )


Made = tuple[Check | None, list[str]]


def export_hf(pretrained: Pretrained, target: Path, temporary: Path, precision: str, *, unchecked: bool) -> Made:
    """The Hugging Face layout, as a folder."""
    with whole_folder(target, INFO, is_exported) as place:
        written = hf.write(pretrained, place / target.name, precision)
        found = None if unchecked else hf.check(pretrained, written, precision)
        if found is not None:
            found.insist(pretrained.folder)
        for file in written.iterdir():
            file.rename(place / file.name)
        written.rmdir()
    return found, []


def export_onnx(pretrained: Pretrained, target: Path, temporary: Path, precision: str, *, unchecked: bool) -> Made:
    """model.onnx with its tokenizer and config, as a folder."""
    with whole_folder(target, INFO, is_exported) as place:
        file = onnx.write(pretrained.model, place, description(pretrained))
        write_description(pretrained, place, "float32")
        found = None if unchecked else onnx_check.check(pretrained, file)
        if found is not None:
            found.insist(pretrained.folder)
        (place / "README.md").write_text(onnx_card(pretrained, target.name), encoding="utf-8")
    return found, []


def export_gguf(pretrained: Pretrained, target: Path, temporary: Path, precision: str, *, unchecked: bool) -> Made:
    """One file, weights and tokenizer."""
    file = temporary / target.name
    notes = gguf.write(pretrained, file, precision, target.stem)
    found = None if unchecked else gguf_check.check(pretrained, file, precision)
    if found is not None:
        found.insist(pretrained.folder)
    flush(file)
    file.replace(target)
    flush(target.parent)
    return found, notes


def export_native(pretrained: Pretrained, target: Path, temporary: Path, precision: str, *, unchecked: bool) -> Made:
    """Packed weights with config and tokenizer, as a folder."""
    with whole_folder(target, INFO, is_exported) as place:
        native.write(pretrained, place, precision)
        write_description(pretrained, place, "float32")
        found = None if unchecked else native.check(pretrained, place, precision)
        if found is not None:
            found.insist(pretrained.folder)
        (place / "README.md").write_text(native.card(pretrained, precision, target.name), encoding="utf-8")
    return found, []


def is_exported(name: str) -> bool:
    """Whether a file of an earlier folder goes when an export takes its place."""
    return is_model_file(name) or name in (onnx.FILE, onnx.DATA)


def description(pretrained: Pretrained) -> dict[str, Any]:
    """What a file says of its model: its task, labels, whatever gptwo.json knows."""
    known = {key: value for key, value in pretrained.info.items() if not isinstance(value, dict)}
    return {"gptwo": __version__, "head": pretrained.model.head_kind, **known}


def onnx_card(pretrained: Pretrained, name: str) -> str:
    """README.md of an ONNX folder."""
    model, config = pretrained.model, pretrained.config
    language = model.head_kind == "language"
    width = model.projection.out_features
    shape = {"language": f"batch, tokens, {width}", "sequence": f"batch, {width}", "token": f"batch, tokens, {width}"}
    cache = f"batch, {config.n_head}, past, {config.head_dim}"
    lines = [
        "---",
        f"pipeline_tag: {PIPELINES[model.head_kind]}",
        "tags: [gpt2, onnx, gptwo]",
        "---",
        f"# {name}",
        "",
        "| in model.onnx | shape | |",
        "|---|---|---|",
        "| input_ids | batch, tokens | int64 |",
        f"| attention_mask | batch, {'past + ' if language else ''}tokens | int64; 1 at tokens, 0 at padding |",
    ]
    if language:
        lines.append(f"| past_key_values.0.key, .value, … | {cache} | float32; past is 0 at first |")
    lines.append(f"| logits | {shape[model.head_kind]} | float32 |")
    if language:
        lines.append(
            f"| present.0.key, .value, … | {cache.replace('past', 'past + tokens')} | float32; the next past |"
        )
    if pretrained.labels:
        lines += ["", f"Labels, in the order of the scores: {', '.join(pretrained.labels)}."]
    return "\n".join([*lines, ""])

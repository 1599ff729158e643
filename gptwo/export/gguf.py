"""GGUF: one file for llama.cpp, weights and tokenizer (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Matrices are written in the precision asked for; norms, biases and positions always in float32, as llama.cpp wants them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gptwo import __version__
from gptwo.errors import GateError, UsageError, require
from gptwo.model.config import GPT2Config
from gptwo.model.heads import Model
from gptwo.model.pretrained import Pretrained, allocate
from gptwo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}  # ours -> ggml's
FILE_TYPES = {"fp32": 0, "fp16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}  # general.file_type
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of token
ALWAYS_F32 = ("position_embd.weight",)
LEAVES = {  # of a block: ours -> GGUF's
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
# How far a tensor may be from what it was, as a share of its length: half a step of the format, and some.
LOST = {"F32": 0.0, "F16": 2**-10, "BF16": 2**-8, "Q8_0": 2**-6, "Q4_0": 2**-2}


def refuse(pretrained: Pretrained) -> None:
    """Whether llama.cpp could read such a model at all.

    Raises:
        UsageError: a label head, no tokenizer, or one whose rules llama.cpp does not have.
    """
    model, tokenizer = pretrained.model, pretrained.tokenizer
    if model.head_kind != "language":
        raise UsageError(
            f"A model with a {model.head_kind} head cannot be a GGUF file.",
            where=pretrained.folder,
            why="llama.cpp runs GPT-2 as a language model only",
            fix="--to onnx, which has the label heads too",
        )
    if tokenizer is None:
        raise UsageError(
            "A model without a tokenizer cannot be a GGUF file.",
            where=pretrained.folder,
            why="the file holds the tokenizer, and llama.cpp reads texts with it",
            fix="--to onnx, or --to hf",
        )
    if tokenizer.kind != "bpe":
        raise UsageError(
            "A model with a BERT vocabulary cannot be a GGUF file.",
            where=pretrained.folder,
            why="llama.cpp splits text for GPT-2 by byte-level BPE only, and would read other ids than the model knows",
            fix="--to onnx, or --to hf",
        )
    why = unlike_gpt2(tokenizer)
    if why:
        raise UsageError(
            "This tokenizer does not split text as GPT-2 does, so it cannot be in a GGUF file.",
            where=pretrained.folder,
            why=why,
            fix="--to onnx, or --to hf",
        )


def unlike_gpt2(tokenizer: Tokenizer) -> str | None:
    """What of a byte-level tokenizer's rules llama.cpp's "gpt-2" does not have; None where all is well."""
    state = json.loads(tokenizer._backend.to_str())
    rule = state["pre_tokenizer"] or {}
    if state["normalizer"] is not None:
        return f"it changes texts before splitting them ({state['normalizer'].get('type')})"
    if rule.get("type") != "ByteLevel" or not rule.get("use_regex", True):
        return f"it splits texts by a rule of its own ({rule.get('type')})"
    if rule.get("add_prefix_space"):
        return "it puts a space before every text"
    if state["model"].get("dropout") or state["model"].get("ignore_merges"):
        return "it does not apply its merges one by one"
    return None


def write(pretrained: Pretrained, file: Path, precision: str, name: str) -> list[str]:
    """Write a language model as a GGUF file.

    Args:
        precision: a key of `TYPES`.
        name: what the model is called in the file.

    Returns:
        Remarks: what was stored otherwise than asked for.

    Raises:
        MissingError: the package gguf is not installed.
    """
    require("gguf", "export")
    from gguf import GGUFWriter

    refuse(pretrained)
    assert pretrained.tokenizer is not None
    model, config = pretrained.model, pretrained.config
    writer = GGUFWriter(file, "gpt2")
    try:
        writer.add_type("model")
        writer.add_name(name)
        writer.add_string("general.description", f"written by gptwo {__version__}")
        writer.add_file_type(FILE_TYPES[precision])
        writer.add_quantization_version(2)
        add_sizes(writer, config)
        add_tokenizer(writer, pretrained.tokenizer, config.vocab_size)
        names, fallen = [], []
        for key, _, tensor in tensors(model):
            kind = stored_type(key, tensor, precision)
            if kind.name != TYPES[precision] and tensor.dim() == 2 and key not in ALWAYS_F32:
                fallen.append(key)
            writer.add_tensor_info(key, tuple(tensor.shape), np.dtype(np.float32), byte_count(tensor, kind), kind)
            names.append(key)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for key, _, tensor in tensors(model):
            writer.write_tensor_data(encode(tensor, stored_type(key, tensor, precision)))
    finally:
        writer.close()
    if not fallen:
        return []
    return [f"{len(fallen)} matrices are in float16: their rows are no multiple of 32, which {TYPES[precision]} needs"]


def add_sizes(writer: GGUFWriter, config: GPT2Config) -> None:
    """The network's sizes."""
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


def add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, rows: int) -> None:
    """Tokens, their kinds, merges and special ids.

    Args:
        rows: of the embedding; those that no token has get a stand-in.
    """
    state = json.loads(tokenizer._backend.to_str())
    added = {token["id"]: token for token in state["added_tokens"]}
    names = {token_id: token for token, token_id in tokenizer.vocab.items()}
    kinds = []
    for token_id in range(rows):
        if token_id not in names:
            kinds.append(UNUSED)
        elif token_id in added:
            kinds.append(CONTROL if added[token_id]["special"] else USER_DEFINED)
        else:
            kinds.append(NORMAL)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(token_id, f"[PAD{token_id}]") for token_id in range(rows)])
    writer.add_token_types(kinds)
    if merges:
        writer.add_token_merges(merges)
    if tokenizer.end_id is not None:
        writer.add_bos_token_id(tokenizer.end_id)
        writer.add_eos_token_id(tokenizer.end_id)
        writer.add_pad_token_id(tokenizer.end_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def tensors(model: Model) -> Iterator[tuple[str, str, Tensor]]:
    """GGUF's name, our name and the numbers, (out, in), of each tensor; matrices keep the shape torch has them in."""
    network, config = model.transformer, model.config
    yield "token_embd.weight", "transformer.wte.weight", network.wte.weight.detach()
    yield "position_embd.weight", "transformer.wpe.weight", network.wpe.weight.detach()
    for layer, part in enumerate(network.h):
        for ours, theirs in LEAVES.items():
            for leaf in ("weight", "bias"):
                tensor = part.get_submodule(ours).get_parameter(leaf).detach()
                if ours == "attn.c_attn" and config.scale_attn_by_inverse_layer_idx:
                    tensor = tensor.clone()  # llama.cpp has no such factor: it goes into the queries
                    tensor[: config.n_embd] /= layer + 1
                yield f"blk.{layer}.{theirs}.{leaf}", f"transformer.h.{layer}.{ours}.{leaf}", tensor
    yield "output_norm.weight", "transformer.ln_f.weight", network.ln_f.weight.detach()
    yield "output_norm.bias", "transformer.ln_f.bias", network.ln_f.bias.detach()
    if not config.tie_word_embeddings:
        yield "output.weight", "lm_head.weight", model.lm_head.weight.detach()


def stored_type(key: str, tensor: Tensor, precision: str) -> GGMLQuantizationType:
    """ggml's type of a tensor in a file of this precision."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if tensor.dim() < 2 or key in ALWAYS_F32:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[TYPES[precision]]
    return GGMLQuantizationType.F16 if tensor.shape[-1] % GGML_QUANT_SIZES[kind][0] else kind


def byte_count(tensor: Tensor, kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor in a type of ggml's."""
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return tensor.numel() // block * size


def encode(tensor: Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """A tensor as the bytes of a type of ggml's."""
    from gguf import quants

    values = np.ascontiguousarray(tensor.to("cpu", torch.float32).numpy())
    with np.errstate(over="ignore"):  # a number too large for the type is found when the file is read back
        return np.ascontiguousarray(quants.quantize(values, kind))


def read_back(pretrained: Pretrained, file: Path, precision: str) -> Pretrained:
    """The model that a file holds, as llama.cpp will see it: its numbers, whatever their precision, in float32.

    Raises:
        GateError: a tensor is missing, has another shape or type, or is further from what it was than its type allows.
    """
    from gguf import GGUFReader, quants

    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    config = replace(pretrained.config, scale_attn_by_inverse_layer_idx=False)
    copy = allocate(config, "language", 0, "cpu", torch.float32)
    parameters = dict(copy.named_parameters())
    wrong: list[str] = []
    for key, name, tensor in tensors(pretrained.model):
        found = stored.pop(key, None)
        kind = stored_type(key, tensor, precision)
        if found is None or found.tensor_type != kind or tuple(found.shape[::-1]) != tuple(tensor.shape):
            wrong.append(f"{key} is missing or of another shape or type")
            continue
        values = torch.from_numpy(np.array(quants.dequantize(found.data, kind), np.float32)).view(tensor.shape)
        lost = float((values - tensor.float()).norm() / tensor.float().norm().clamp(min=1e-30))
        if not lost <= LOST[kind.name]:
            wrong.append(f"{key} lost {lost:.1e} of its length in {kind.name}")
        with torch.no_grad():
            parameters[name].copy_(values)
    wrong += [f"{key} is unknown" for key in stored]
    if wrong:
        raise GateError(
            "The GGUF file does not hold the model's weights; nothing was written.",
            where=pretrained.folder,
            why="; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            fix="--dtype fp32 where numbers are too large for fp16; gptwo doctor model finds those that are none",
        )
    return replace(pretrained, model=copy.eval(), config=config)


def about(file: Path) -> dict[str, Any]:
    """The keys and values of a GGUF file; long lists too."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    return {key: value.contents() for key, value in fields.items() if not key.startswith("GGUF.")}

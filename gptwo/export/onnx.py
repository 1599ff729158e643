"""ONNX: the graph of a GPT-2, written node by node, with its key/value cache as inputs and outputs.

One graph serves the prompt and every token after it. Names are those of Hugging Face's exporters, so their run-time
classes find what they look for. Operators are those of opset 20 (https://onnx.ai/onnx/operators), nothing of one
vendor's.

    B rows    T new tokens    P tokens seen before    S = P + T    N = B * T
    C width of the hidden states    H heads, D width of a head    V vocabulary
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gptwo.errors import require
from gptwo.model.config import GPT2Config
from gptwo.model.heads import PROJECTIONS, Model

if TYPE_CHECKING:
    import onnx

FILE, DATA = "model.onnx", "model.onnx.data"
OPSET, IR_VERSION = 20, 9
INLINE = 1_000_000_000  # bytes of weights above which they get a file of their own; a protocol buffer ends at 2 GB
ALIGNED = 4096  # so that a run-time can map each tensor into memory
HIDDEN = float(np.finfo(np.float32).min)  # added to a score that may not be seen


class Graph:
    """What a graph is made of, collected node by node; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Tensor] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """An operator with one output."""
        return self.nodes_of(operator, inputs, [name or f"{operator}_{len(self.nodes)}"], **attributes)[0]

    def nodes_of(self, operator: str, inputs: tuple[str, ...], outputs: list[str], **attributes: Any) -> list[str]:
        """An operator with any number of outputs."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, outputs, name=f"/{outputs[0]}", **attributes))
        return outputs

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """A small tensor that is written into the graph; equal ones are one."""
        array: np.ndarray = np.asarray(value, dtype)
        name = f"{array.dtype}_{'_'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        self.constants[name] = array
        return name

    def weight(self, name: str, tensor: Tensor) -> str:
        """A parameter; the same one may be asked for again."""
        self.weights[name] = tensor.detach()
        return name

    def linear(self, x: str, place: str, weight: Tensor, bias: Tensor | None) -> str:
        """(N, in) -> (N, out) with a weight of (out, in), as torch keeps it."""
        inputs = [x, self.weight(f"{place}.weight", weight)]
        if bias is not None:
            inputs.append(self.weight(f"{place}.bias", bias))
        return self.node("Gemm", *inputs, transB=1)

    def norm(self, x: str, place: str, part: torch.nn.LayerNorm) -> str:
        """Layer norm over the last dimension."""
        weight, bias = self.weight(f"{place}.weight", part.weight), self.weight(f"{place}.bias", part.bias)
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=part.eps)

    def input(self, name: str, dtype: int, shape: list[int | str]) -> str:
        from onnx import helper

        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[int | str]) -> str:
        from onnx import TensorProto, helper

        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name


def build(model: Model) -> Graph:
    """The graph of a model, float32.

    Inputs: input_ids (B, T) and attention_mask (B, S; 1 at tokens, 0 at padding, which may stand on either side); of a
    language model also past_key_values.I.key and .value (B, H, P, D) for each block I, where P may be 0. Outputs:
    logits (B, T, V), (B, labels) or (B, T, labels); of a language model also present.I.key and .value (B, H, S, D).
    """
    from onnx import TensorProto

    config, network = model.config, model.transformer
    g = Graph()
    caches = model.head_kind == "language"
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    attention_mask = g.input("attention_mask", TensorProto.INT64, ["batch", "total" if caches else "tokens"])

    T, S = g.node("Shape", ids, start=1, end=2), g.node("Shape", attention_mask, start=1, end=2)  # (1,) each
    past = g.node("Sub", S, T)
    B = g.node("Shape", ids, start=0, end=1)
    mask = mask_of(g, attention_mask, past, S)  # (B, 1, T, S)
    positions = positions_of(g, attention_mask, past, S)  # (B, T)
    x = g.node(
        "Add",
        g.node("Gather", g.weight("transformer.wte.weight", network.wte.weight), ids),
        g.node("Gather", g.weight("transformer.wpe.weight", network.wpe.weight), positions),
    )
    x = g.node("Reshape", x, g.constant([-1, config.n_embd]))  # (B, T, C) -> (N, C)
    heads = g.node("Concat", B, T, g.constant([config.n_head, config.head_dim]), axis=0)
    for layer in range(config.n_layer):
        x = block(g, x, layer, model, mask, heads, caches)
    x = g.norm(x, "transformer.ln_f", network.ln_f)
    head(g, x, model, B, T, attention_mask)
    return g


def mask_of(g: Graph, attention_mask: str, past: str, S: str) -> str:
    """What is added to the scores: (B, 1, T, S), 0 where a token sees another and `HIDDEN` where it does not."""
    from onnx import TensorProto

    zero, one = g.constant(0), g.constant(1)
    keys = g.node("Range", zero, g.node("Squeeze", S), one)  # (S,)
    queries = g.node("Slice", keys, past, S, g.constant([0]))  # (T,), counted from the first token ever
    before = g.node(
        "LessOrEqual", g.node("Unsqueeze", keys, g.constant([0])), g.node("Unsqueeze", queries, g.constant([1]))
    )  # (T, S)
    real = g.node("Cast", attention_mask, to=TensorProto.BOOL)
    seen = g.node("And", g.node("Unsqueeze", real, g.constant([1, 2])), before)
    return g.node("Where", seen, g.constant(0, np.float32), g.constant(HIDDEN, np.float32))


def positions_of(g: Graph, attention_mask: str, past: str, S: str) -> str:
    """How many tokens stand before each of the new ones in its row, padding left out: (B, T)."""
    counted = g.node("Sub", g.node("CumSum", attention_mask, g.constant(1)), g.constant(1))
    return g.node("Slice", g.node("Max", counted, g.constant(0)), past, S, g.constant([1]))


def block(g: Graph, x: str, layer: int, model: Model, mask: str, heads: str, caches: bool) -> str:
    """One block: (N, C) -> (N, C)."""
    config, place = model.config, f"transformer.h.{layer}"
    part: Any = model.transformer.h[layer]
    attention, mlp = part.attn, part.mlp
    normed = g.norm(x, f"{place}.ln_1", part.ln_1)
    mixed = g.linear(normed, f"{place}.attn.c_attn", attention.c_attn.weight, attention.c_attn.bias)
    split = [f"{place}.{name}" for name in ("query", "key", "value")]
    g.nodes_of("Split", (mixed,), split, axis=1, num_outputs=3)  # (N, 3C) -> three of (N, C)
    query, key, value = (
        g.node("Transpose", g.node("Reshape", name, heads), perm=[0, 2, 1, 3])  # (N, C) -> (B, H, T, D)
        for name in split
    )
    if caches:
        key = with_past(g, key, f"{layer}.key", config)
        value = with_past(g, value, f"{layer}.value", config)
    scale = 1.0 / math.sqrt(config.head_dim)
    if config.scale_attn_by_inverse_layer_idx:
        scale /= layer + 1
    scaled = g.node("Mul", query, g.constant(scale, np.float32))
    found = g.node("MatMul", scaled, g.node("Transpose", key, perm=[0, 1, 3, 2]))  # (B, H, T, S)
    weights = g.node("Softmax", g.node("Add", found, mask), axis=-1)
    mixed = g.node("Transpose", g.node("MatMul", weights, value), perm=[0, 2, 1, 3])  # (B, T, H, D)
    mixed = g.node("Reshape", mixed, g.constant([-1, config.n_embd]))
    x = g.node("Add", x, g.linear(mixed, f"{place}.attn.c_proj", attention.c_proj.weight, attention.c_proj.bias))
    normed = g.norm(x, f"{place}.ln_2", part.ln_2)
    inner = g.linear(normed, f"{place}.mlp.c_fc", mlp.c_fc.weight, mlp.c_fc.bias)
    inner = g.node("Gelu", inner, approximate="tanh")
    return g.node("Add", x, g.linear(inner, f"{place}.mlp.c_proj", mlp.c_proj.weight, mlp.c_proj.bias))


def with_past(g: Graph, new: str, name: str, config: GPT2Config) -> str:
    """Keys or values of all tokens, (B, H, S, D): those of the cache, then the new ones; an output as well."""
    from onnx import TensorProto

    shape: list[int | str] = ["batch", config.n_head, "past", config.head_dim]
    past = g.input(f"past_key_values.{name}", TensorProto.FLOAT, shape)
    g.output(f"present.{name}", ["batch", config.n_head, "total", config.head_dim])
    return g.node("Concat", past, new, axis=2, name=f"present.{name}")


def head(g: Graph, x: str, model: Model, B: str, T: str, attention_mask: str) -> None:
    """The output "logits" from the hidden states (N, C)."""
    config, projection, kind = model.config, model.projection, model.head_kind
    width = projection.out_features
    if kind == "sequence":  # from the last token of each text
        rows = g.node("Reshape", x, g.node("Concat", B, T, g.constant([config.n_embd]), axis=0))
        last = g.node("ArgMax", attention_mask, axis=1, keepdims=1, select_last_index=1)  # (B, 1)
        x = g.node("GatherND", rows, last, batch_dims=1)  # (B, C)
    tied = kind == "language" and config.tie_word_embeddings
    place = "transformer.wte" if tied else PROJECTIONS[kind]
    found = g.linear(x, place, projection.weight, projection.bias)
    if kind == "sequence":
        g.node("Identity", found, name="logits")
        shape: list[int | str] = ["batch", width]
    else:
        g.node("Reshape", found, g.node("Concat", B, T, g.constant([width]), axis=0), name="logits")
        shape = ["batch", "tokens", width]
    g.output("logits", shape)
    g.outputs.insert(0, g.outputs.pop())


def write(model: Model, folder: Path, about: dict[str, Any], *, inline: int = INLINE) -> Path:
    """Write a model as model.onnx, and its weights beside it where they are many; returns model.onnx.

    Args:
        folder: an existing folder.
        about: what the file says of itself (metadata_props); values that are no text are written as JSON.
        inline: bytes of weights up to which they are in the file itself.

    Raises:
        MissingError: the package onnx is not installed.
    """
    require("onnx", "export")
    from onnx import TensorProto, helper

    graph = build(model)
    tensors = [
        helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.tobytes(), raw=True)
        for name, value in graph.constants.items()
    ]
    if sum(weight.numel() * 4 for weight in graph.weights.values()) <= inline:
        for name, weight in graph.weights.items():
            content = values(weight).tobytes()
            tensors.append(helper.make_tensor(name, TensorProto.FLOAT, weight.shape, content, raw=True))
    else:
        with (folder / DATA).open("wb") as out:
            for name, weight in graph.weights.items():
                out.write(b"\0" * (-out.tell() % ALIGNED))
                tensors.append(elsewhere(name, weight, DATA, out.tell()))
                values(weight).tofile(out)
    made = helper.make_graph(graph.nodes, "gpt2", graph.inputs, graph.outputs, tensors)
    proto = helper.make_model(
        made, producer_name="gptwo", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(
        proto,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in about.items()
        },
    )
    (folder / FILE).write_bytes(proto.SerializeToString())
    return folder / FILE


def values(weight: Tensor) -> np.ndarray:
    """A parameter as float32 numbers, row by row."""
    return np.ascontiguousarray(weight.to("cpu", torch.float32).numpy())


def elsewhere(name: str, weight: Tensor, file: str, offset: int) -> onnx.TensorProto:
    """A tensor whose numbers stand in another file, at a place in it."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=list(weight.shape))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", weight.numel() * 4)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor

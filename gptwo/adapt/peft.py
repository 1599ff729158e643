"""Adapters in files, in the layout of the peft library: adapter_config.json and adapter_model.safetensors.

LoRA, AdaLoRA, IA3, prefix and prompt tuning are written so that peft loads them over transformers' GPT2LMHeadModel
(or the class with the label head), and read as peft writes them. peft has no bottleneck adapters and no BitFit; these
are written the same way, with a `peft_type` of their own:

    BOTTLENECK    "kind": houlsby, pfeiffer or parallel; "width": of the middle. Tensors, for each place P (attn.c_proj
                  and mlp.c_proj, mlp.c_proj alone, or mlp): P.adapter.down_weight (width, n_embd), down_bias (width),
                  up_weight (n_embd, width), up_bias (n_embd). y + up(act(down(y))) of the layer's output y, act being
                  SiLU (houlsby) or ReLU (pfeiffer); beside the MLP, parallel: mlp(x) + 4 up(ReLU(down(x))).
    BITFIT        every bias of the network, under its own name.

Names in the file are those of the network after "base_model.model." (after "base_model." for virtual tokens). Weights
of whole modules (the label head, `also`) are in transformers' orientation. A matrix of LoRA is the same in both.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from gptwo.adapt.parts import Adapter
from gptwo.adapt.scale import IA3Linear
from gptwo.model.weights import HEADS, TRANSPOSED

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPES = {
    "lora": "LORA", "adalora": "ADALORA", "ia3": "IA3", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING",
    "bitfit": "BITFIT", "houlsby": "BOTTLENECK", "pfeiffer": "BOTTLENECK", "parallel": "BOTTLENECK",
}  # fmt: skip
TASKS = {"language": "CAUSAL_LM", "sequence": "SEQ_CLS", "token": "TOKEN_CLS"}
VIRTUAL = "transformer.prefix.prompt_embeddings"
PLAIN_FACTORS = re.compile(r"\.(lora_A|lora_B)$")


def stored_name(name: str, adapter: Adapter) -> str:
    """A parameter's name in the file."""
    if name == VIRTUAL:
        return "prompt_embeddings"
    if adapter.prefix_tokens:
        return f"base_model.{name}"
    weight = ".weight" if adapter.config.name == "lora" and PLAIN_FACTORS.search(name) else ""
    return f"base_model.model.{name}{weight}"


def our_name(name: str) -> str:
    """The name in `Model` of a tensor in the file."""
    if name == "prompt_embeddings":
        return VIRTUAL
    name = name.removeprefix("base_model.").removeprefix("model.")
    name = re.sub(r"\.(lora_[AB])\.weight$", r".\1", name)
    return name if name.startswith("transformer.") or name.split(".")[0] in HEADS else f"transformer.{name}"


def as_stored(name: str, tensor: Tensor, part: nn.Module | None) -> Tensor:
    """A parameter in the shape it has in the file."""
    if name.endswith(".lora_E"):
        return tensor[:, None]
    if name.endswith(".ia3_l"):
        return tensor[None] if isinstance(part, IA3Linear) and part.feedforward else tensor[:, None]
    return tensor.t() if TRANSPOSED.search(name) else tensor


def flat(name: str, tensor: Tensor) -> Tensor:
    """What the file keeps as a matrix of one row or column is a vector here."""
    return tensor.flatten() if name.endswith((".lora_E", ".ia3_l")) else tensor

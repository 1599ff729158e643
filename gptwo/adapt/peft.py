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
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptwo.adapt.adalora import SVDLinear
from gptwo.adapt.apply import build_parts, linear_at
from gptwo.adapt.lora import LoRALinear
from gptwo.adapt.parts import Adapter, AdapterConfig, with_own
from gptwo.adapt.prefix import Prefix, Prompt, empty
from gptwo.adapt.scale import IA3Linear
from gptwo.errors import DataError, MissingError, did_you_mean
from gptwo.model.config_json import read_json, write_json
from gptwo.model.heads import HeadKind, Model
from gptwo.model.weights import HEADS, TRANSPOSED, listed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPES = {
    "lora": "LORA", "adalora": "ADALORA", "ia3": "IA3", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING",
    "bitfit": "BITFIT", "houlsby": "BOTTLENECK", "pfeiffer": "BOTTLENECK", "parallel": "BOTTLENECK",
}  # fmt: skip
TASKS = {"language": "CAUSAL_LM", "sequence": "SEQ_CLS", "token": "TOKEN_CLS"}
VIRTUAL = "transformer.prefix.prompt_embeddings"
PLAIN_FACTORS = re.compile(r"\.(lora_A|lora_B)$")


# ---- writing ----


def write_adapter(adapter: Adapter, model: Model, folder: Path) -> None:
    """Write the two files into an existing folder.

    Args:
        adapter: attached to `model`.
    """
    named = dict(model.named_parameters())
    kept = {place: part.lora_E.detach() != 0 for place, part in adapter.parts.items() if isinstance(part, SVDLinear)}
    tensors = {}
    for name in adapter.tuned:
        place, _, leaf = name.rpartition(".")
        tensor = named[name].detach().cpu()
        if leaf in ("lora_A", "lora_E", "lora_B") and place in kept:  # triplets that were cut are not stored
            index = kept[place].cpu().nonzero().squeeze(1)
            tensor = tensor.index_select(1 if leaf == "lora_B" else 0, index)
        tensors[stored_name(name, adapter)] = as_stored(name, tensor, adapter.parts.get(place)).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(adapter_json(adapter, model, kept), folder / CONFIG)


def stored_name(name: str, adapter: Adapter) -> str:
    """A parameter's name in the file."""
    if name == VIRTUAL:
        return "prompt_embeddings"
    if adapter.prefix_tokens:
        return f"base_model.{name}"
    weight = ".weight" if adapter.config.name == "lora" and PLAIN_FACTORS.search(name) else ""
    return f"base_model.model.{name}{weight}"


def as_stored(name: str, tensor: Tensor, part: nn.Module | None) -> Tensor:
    """A parameter in the shape it has in the file."""
    if name.endswith(".lora_E"):
        return tensor[:, None]
    if name.endswith(".ia3_l"):
        return tensor[None] if isinstance(part, IA3Linear) and part.feedforward else tensor[:, None]
    return tensor.t() if TRANSPOSED.search(name) else tensor


def adapter_json(adapter: Adapter, model: Model, kept: dict[str, Tensor]) -> dict[str, Any]:
    """The content of adapter_config.json."""
    config, model_config = adapter.config, model.config
    content: dict[str, Any] = {
        "peft_type": TYPES[config.name],
        "task_type": TASKS[adapter.head],
        "base_model_name_or_path": adapter.base.name if adapter.base else None,
        "inference_mode": True,
        "revision": None,
    }
    whole = whole_modules(adapter)
    if adapter.prefix_tokens:
        return content | {
            "num_virtual_tokens": adapter.prefix_tokens,
            "token_dim": model_config.n_embd,
            "num_transformer_submodules": 1,
            "num_attention_heads": model_config.n_head,
            "num_layers": model_config.n_layer,
            "modules_to_save": whole or None,
            **(
                {"encoder_hidden_size": model_config.n_embd, "prefix_projection": False}
                if config.name == "prefix"
                else {"prompt_tuning_init": "RANDOM"}
            ),
        }
    content["modules_to_save"] = whole or None
    if config.name == "bitfit":
        return content
    if TYPES[config.name] == "BOTTLENECK":
        width = next(tensor.shape[0] for name, tensor in model.named_parameters() if name.endswith("down_weight"))
        return content | {"kind": config.name, "width": width}
    stand_ins = {place: part for place, part in adapter.parts.items() if place not in whole and ".h." in place}
    content |= {"target_modules": target_names(list(stand_ins), model), "fan_in_fan_out": True}
    if config.name == "ia3":
        fed = [place for place, part in stand_ins.items() if isinstance(part, IA3Linear) and part.feedforward]
        return content | {"feedforward_modules": target_names(fed, model), "init_ia3_weights": True}
    alphas = {place: whole_number(part.alpha) for place, part in stand_ins.items()}
    usual = whole_number(config.alpha) if config.alpha else max(set(alphas.values()), key=list(alphas.values()).count)
    content |= {"lora_alpha": usual, "lora_dropout": config.dropout, "bias": "none", "init_lora_weights": True}
    if config.name == "lora":
        ranks = {place: len(part.lora_A) for place, part in stand_ins.items() if isinstance(part, LoRALinear)}
        return content | {
            "r": config.rank,
            "use_rslora": config.rank_stabilised,
            "use_dora": config.dora,
            "rank_pattern": {place: rank for place, rank in ranks.items() if rank != config.rank},
            "alpha_pattern": {place: alpha for place, alpha in alphas.items() if alpha != usual},
        }
    first, last, total = adapter.schedule or (0, 1, 1)
    return content | {
        "init_r": max(config.initial_rank or -(-3 * config.rank // 2), 1),
        "target_r": config.rank,
        "tinit": first,
        "tfinal": total - last,
        "deltaT": config.rank_every,
        "total_step": total,
        "orth_reg_weight": config.orthogonality,
        "rank_pattern": {f"{place}.lora_E": pattern.tolist() for place, pattern in kept.items()},
    }


def whole_modules(adapter: Adapter) -> list[str]:
    """Places of the modules that are tuned whole: label head and `also`."""
    endings = (".weight",) if adapter.config.name == "bitfit" else (".weight", ".bias")
    tuned = {name.rpartition(".")[0] for name in adapter.tuned if name.endswith(endings)}
    return [place for place in adapter.parts if place in tuned]


def target_names(places: list[str], model: Model) -> list[str]:
    """The shortest ends of names that mean exactly these linear layers."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for size in (1, 2):
        ends = {".".join(place.split(".")[-size:]) for place in places}
        if {name for name in linear if ".".join(name.split(".")[-size:]) in ends} == set(places):
            return sorted(ends)
    return sorted(places)


def whole_number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


# ---- reading ----


def read_adapter(folder: Path, model: Model) -> Adapter:
    """Read an adapter and put it into the model it belongs to.

    Args:
        folder: with the two files, from here or from peft.
        model: a plain one; its head may be another than the adapter's.

    Raises:
        MissingError: a file is missing.
        DataError: an adapter of a kind that is not ours, a damaged file, or one that does not fit the model.
    """
    content = read_json(folder / CONFIG)
    tensors = read_tensors(folder)
    config = config_of(content, tensors, folder)
    head, head_parts = read_head(tensors, model, folder)
    try:
        parts = read_parts(config, content, tensors, model)
    except (KeyError, IndexError) as error:
        raise DataError("The adapter's tensors are incomplete.", where=folder / WEIGHTS, why=str(error)) from error
    adapter = Adapter(config, {**parts, **whole_parts(tensors, parts, model), **head_parts}, head)
    if content.get("tinit") is not None and content.get("total_step"):
        adapter.schedule = (content["tinit"], content["total_step"] - content.get("tfinal", 0), content["total_step"])
    adapter.attach(model)
    try:
        fill(adapter, model, tensors, folder)
    except DataError:
        adapter.detach(model)
        raise
    return adapter


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by our names, in our orientation."""
    file = folder / WEIGHTS
    if not file.is_file():
        there = ", ".join(sorted(entry.name for entry in folder.iterdir()))
        raise MissingError(
            f"The adapter has no {WEIGHTS}.",
            where=folder,
            why=f"there is {there}; pickles are not read",
            fix="save the adapter as safetensors",
        )
    try:
        stored = load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(
            "The file is not a whole safetensors file.", where=file, why=str(error), fix="download or copy it again"
        ) from error
    named = {our_name(name): tensor for name, tensor in stored.items()}
    return {name: tensor.t() if TRANSPOSED.search(name) else tensor for name, tensor in named.items()}


def our_name(name: str) -> str:
    """The name in `Model` of a tensor in the file."""
    if name == "prompt_embeddings":
        return VIRTUAL
    name = name.removeprefix("base_model.").removeprefix("model.")
    name = re.sub(r"\.(lora_[AB])\.weight$", r".\1", name)
    return name if name.startswith("transformer.") or name.split(".")[0] in HEADS else f"transformer.{name}"


def config_of(content: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> AdapterConfig:
    """The config of an adapter from its adapter_config.json.

    Raises:
        DataError: a kind that is not ours, or values that cannot be.
    """
    kind = content.get("peft_type")
    if kind not in TYPES.values():
        raise DataError(
            f"Adapters of the kind {kind} are not read.",
            where=folder / CONFIG,
            fix=did_you_mean(str(kind), dict.fromkeys(TYPES.values())),
        )
    name = content.get("kind") if kind == "BOTTLENECK" else {value: key for key, value in TYPES.items()}[kind]
    values: dict[str, Any] = {"name": name}
    if kind == "LORA":
        if content.get("bias", "none") != "none":
            raise DataError(
                "An adapter that tunes biases as well is not read.",
                where=folder / CONFIG,
                why=f"bias = {content['bias']}",
            )
        values |= {"rank": content.get("r", 8), "rank_stabilised": bool(content.get("use_rslora"))}
        values |= {"dora": bool(content.get("use_dora"))}
    if kind == "ADALORA":
        start = content.get("init_r", 12)
        values |= {"rank": min(content.get("target_r", 8), start), "initial_rank": start}
        values |= {"rank_every": content.get("deltaT", 1), "orthogonality": content.get("orth_reg_weight", 0.5)}
    if kind in ("LORA", "ADALORA"):
        values |= {"alpha": content.get("lora_alpha", 8), "dropout": content.get("lora_dropout", 0.0)}
    if kind == "BOTTLENECK":
        values["width"] = content.get("width")
    if VIRTUAL in tensors:
        values["tokens"] = len(tensors[VIRTUAL])
    try:
        return AdapterConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"The adapter's {'.'.join(map(str, first['loc']))} is {first['input']!r}, which cannot be.",
            where=folder / CONFIG,
            why=first["msg"],
        ) from error


def read_parts(
    config: AdapterConfig, content: dict[str, Any], tensors: dict[str, Tensor], model: Model
) -> dict[str, nn.Module]:
    """The stand-ins that the tensors are for; only their shapes are used."""
    random = torch.Generator()
    if config.name in ("prefix", "prompt"):
        kind = Prefix if config.name == "prefix" else Prompt
        return {"transformer.prefix": kind(empty(tuple(tensors[VIRTUAL].shape), model.transformer.wte.weight))}
    if config.name == "ia3":
        shapes = {name.removesuffix(".ia3_l"): t.shape for name, t in tensors.items() if name.endswith(".ia3_l")}
        return {place: IA3Linear(linear_at(model, place), feedforward=s[0] == 1) for place, s in shapes.items()}
    if config.name not in ("lora", "adalora"):
        return build_parts(model, config, random)
    ranks = {name.removesuffix(".lora_A"): len(t) for name, t in tensors.items() if name.endswith(".lora_A")}
    patterns = content.get("alpha_pattern") or {}
    alphas = {
        place: alpha
        for place in ranks
        for pattern, alpha in patterns.items()
        if re.match(rf"(.*\.)?({pattern})$", place)
    }
    return build_parts(model, config, random, ranks, alphas)


def whole_parts(tensors: dict[str, Tensor], parts: dict[str, nn.Module], model: Model) -> dict[str, nn.Module]:
    """Modules of the network that the file has whole, with room for their own weights."""
    known = dict(model.named_parameters())
    names: dict[str, list[str]] = {}
    for name in tensors:
        place, _, leaf = name.rpartition(".")
        if name in known and place not in parts and place.startswith("transformer."):
            names.setdefault(place, []).append(leaf)
    return {place: with_own(model.get_submodule(place), tuple(leaves)) for place, leaves in names.items()}


def read_head(tensors: dict[str, Tensor], model: Model, folder: Path) -> tuple[HeadKind, dict[str, nn.Module]]:
    """The label head that the file holds, with room for its weights; none for a language model.

    Raises:
        DataError: a head that is none of ours.
    """
    places = {name.split(".")[0] for name in tensors} - {"transformer"}
    if not places:
        return "language", {}
    place = places.pop()
    kinds: dict[str, HeadKind] = {"score": "sequence", "classifier": "token"}
    weight = tensors.get(f"{place}.weight")
    if places or place not in kinds or weight is None or weight.shape[-1] != model.config.n_embd:
        raise DataError(
            "The adapter brings a head of its own that is not read.",
            where=folder / WEIGHTS,
            why=listed(sorted({place, *places})),
            fix="an adapter for language keeps the head of its base; label heads are called score or classifier",
        )
    like = model.transformer.wte.weight
    linear = nn.Linear(1, 1, bias=f"{place}.bias" in tensors)
    linear.in_features, linear.out_features = model.config.n_embd, len(weight)
    linear.weight = empty(tuple(weight.shape), like)
    if linear.bias is not None:
        linear.bias = empty((len(weight),), like)
    head: dict[str, nn.Module] = {place: linear}
    return kinds[place], {"dropout": nn.Dropout(model.config.resid_pdrop), **head} if place == "classifier" else head


def fill(adapter: Adapter, model: Model, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy the stored tensors into an attached adapter.

    Raises:
        DataError: tensors are missing, unknown or of another shape.
    """
    named = dict(model.named_parameters())
    missing = [name for name in adapter.tuned if name not in tensors]
    unknown = [name for name in tensors if name not in adapter.tuned]
    unlike = [
        f"{name} is {tuple(tensors[name].shape)}, the network asks for {tuple(named[name].shape)}"
        for name in adapter.tuned
        if name in tensors and flat(name, tensors[name]).shape != named[name].shape
    ]
    problems = {"missing": missing, "unknown": unknown, "of another shape": unlike}
    if any(problems.values()):
        raise DataError(
            "The adapter does not fit the model.",
            where=folder / WEIGHTS,
            why="; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names),
            fix="it was tuned over a network of another size, or its two files do not belong together",
        )
    with torch.no_grad():
        for name in adapter.tuned:
            named[name].copy_(flat(name, tensors[name]))


def flat(name: str, tensor: Tensor) -> Tensor:
    """What the file keeps as a matrix of one row or column is a vector here."""
    return tensor.flatten() if name.endswith((".lora_E", ".ia3_l")) else tensor

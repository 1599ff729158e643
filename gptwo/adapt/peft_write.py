"""Writing an adapter in the layout that peft.py describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from gptwo.adapt.adalora import SVDLinear
from gptwo.adapt.lora import LoRALinear
from gptwo.adapt.parts import Adapter
from gptwo.adapt.peft import CONFIG, TASKS, TYPES, WEIGHTS, as_stored, stored_name
from gptwo.adapt.scale import IA3Linear
from gptwo.model.config_json import write_json
from gptwo.model.heads import Model


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

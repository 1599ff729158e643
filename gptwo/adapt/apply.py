"""From a config to an adapter in a model: `apply_adapter`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from gptwo.adapt.adalora import SVDLinear
from gptwo.adapt.bottleneck import ParallelBottleneck, SerialBottleneck
from gptwo.adapt.lora import LoRALinear
from gptwo.adapt.parts import Adapter, AdapterConfig, check_rank, linear_places, module_places, with_own
from gptwo.adapt.prefix import fresh_prefix, fresh_prompt
from gptwo.adapt.scale import IA3Linear, own_biases
from gptwo.errors import UsageError
from gptwo.model.heads import PROJECTIONS, Model

ALL_LINEAR = ("c_attn", "c_proj", "c_fc")  # needed to come near full tuning (Dettmers et al. 2023, section 4)
IA3_TARGETS = ("c_attn", "mlp.c_proj")
SERIAL = {"houlsby": ("attn.c_proj", "mlp.c_proj"), "pfeiffer": ("mlp.c_proj",)}


def apply_adapter(model: Model, config: AdapterConfig, *, seed: int = 0) -> Adapter:
    """Put a fresh adapter into a model and freeze everything else but its label head.

    Args:
        model: on its device; its weights stay as they are.
        config: which adapter, as the recipe's section [adapter] says it.
        seed: of the adapter's random beginning; torch's global generator is left alone.

    Returns:
        The adapter; `tuned` names its parameters, `detach` takes it out again.

    Raises:
        UsageError: name = "none", a rank above a matrix's, an unknown target, more virtual tokens than positions.
    """
    if config.name == "none":
        raise UsageError("There is no adapter to apply.", where="adapter.name", fix="adapter.name = lora")
    parts = build_parts(model, config, torch.Generator().manual_seed(seed))
    for place in module_places(model, config.also):
        if place in parts:
            raise UsageError(
                f"{place} carries the adapter and cannot be tuned whole as well.",
                where="adapter.also",
                fix="leave it out, or out of adapter.targets",
            )
        names = tuple(name for name, tensor in model.get_submodule(place).named_parameters(recurse=False))
        parts[place] = with_own(model.get_submodule(place), names)
    adapter = Adapter(config, {**parts, **head_parts(model)}, model.head_kind)
    adapter.attach(model)
    return adapter


def head_parts(model: Model) -> dict[str, nn.Module]:
    """The model's label head by its places; nothing for a language head, which stays frozen."""
    if model.head_kind == "language":
        return {}
    head: dict[str, nn.Module] = {PROJECTIONS[model.head_kind]: model.projection}
    return {"dropout": model.dropout, **head} if model.head_kind == "token" else head


def build_parts(
    model: Model,
    config: AdapterConfig,
    random: torch.Generator,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
) -> dict[str, nn.Module]:
    """The stand-ins of an adapter, by place; none of them is in the model yet.

    Args:
        ranks: place to rank, of an adapter that is read from a file; None: by the config.
        alphas: of places whose alpha is another than the config's.
    """
    if config.name == "bitfit":
        return {f"transformer.{name}": part for name, part in own_biases(model.transformer).items()}
    if config.name in ("prefix", "prompt"):
        if config.tokens >= model.config.n_positions:
            limit = model.config.n_positions
            raise UsageError(
                f"{config.tokens} virtual tokens leave no room for text in {limit} positions.",
                where="adapter.tokens",
                fix=f"adapter.tokens = {max(1, limit // 8)}",
            )
        make = fresh_prefix if config.name == "prefix" else fresh_prompt
        return {"transformer.prefix": make(model.transformer, config.tokens, random)}
    if config.name in (*SERIAL, "parallel"):
        return bottlenecks(model, config, random)
    if config.name == "ia3":
        places = list(ranks) if ranks is not None else linear_places(model, config.targets, IA3_TARGETS)
        return {place: IA3Linear(linear_at(model, place), feedforward=place.endswith("mlp.c_proj")) for place in places}
    places = list(ranks) if ranks is not None else linear_places(model, config.targets, ALL_LINEAR)
    parts: dict[str, nn.Module] = {}
    for place in places:
        base = linear_at(model, place)
        rank = config.rank if config.name == "lora" else start_rank(config)
        alpha = config.alpha or 2.0 * rank
        if ranks is None:
            check_rank(rank, base, place, "adapter.rank" if config.name == "lora" else "adapter.initial_rank")
        own_rank, own_alpha = (ranks or {}).get(place, rank), (alphas or {}).get(place, alpha)
        if config.name == "lora":
            parts[place] = LoRALinear(
                base,
                own_rank,
                own_alpha,
                dropout=config.dropout,
                rank_stabilised=config.rank_stabilised,
                dora=config.dora,
                random=random,
            )
        else:
            parts[place] = SVDLinear(base, own_rank, own_alpha, divisor=rank, dropout=config.dropout, random=random)
    return parts


def start_rank(config: AdapterConfig) -> int:
    """AdaLoRA's rank at the start: one and a half times the one it ends with (the paper's choice).

    Raises:
        UsageError: it is below the rank at the end.
    """
    start = config.initial_rank or -(-3 * config.rank // 2)
    if start < config.rank:
        raise UsageError(
            f"The rank at the start, {start}, is below the mean rank at the end, {config.rank}.",
            where="adapter.initial_rank",
            fix=f"adapter.initial_rank = {-(-3 * config.rank // 2)}",
        )
    return start


def bottlenecks(model: Model, config: AdapterConfig, random: torch.Generator) -> dict[str, nn.Module]:
    """Bottleneck adapters in every block.

    Raises:
        UsageError: wider than the network.
    """
    width = config.width or max(1, model.config.n_embd // 16)
    if width > model.config.n_embd:
        raise UsageError(
            f"A bottleneck of {width} is wider than the network, which is {model.config.n_embd} wide.",
            where="adapter.width",
            fix=f"adapter.width = {max(1, model.config.n_embd // 16)}",
        )
    parts: dict[str, nn.Module] = {}
    for layer, block in enumerate(model.transformer.h):
        if config.name == "parallel":
            parts[f"transformer.h.{layer}.mlp"] = ParallelBottleneck(block.mlp, width, random=random)
        for leaf in SERIAL.get(config.name, ()):
            base = block.get_submodule(leaf)
            parts[f"transformer.h.{layer}.{leaf}"] = SerialBottleneck(base, width, config.name, random=random)
    return parts


def linear_at(model: Model, place: str) -> nn.Linear:
    """The linear layer at a place of the blocks.

    Raises:
        UsageError: there is none, or it is no layer of a block.
    """
    try:
        found = model.get_submodule(place)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Linear) or not re.match(r"transformer\.h\.\d+\.", place):
        raise UsageError(
            f"The network has no linear layer {place} that an adapter could stand in for.",
            where="adapter.targets",
            fix="adapters go to linear layers of the blocks",
        )
    return found

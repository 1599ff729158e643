"""Reading an adapter in the layout that peft.py describes, from here or from the peft library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gptwo.adapt.apply import build_parts, linear_at
from gptwo.adapt.parts import Adapter, AdapterConfig, with_own
from gptwo.adapt.peft import CONFIG, TYPES, VIRTUAL, WEIGHTS, flat, our_name
from gptwo.adapt.prefix import Prefix, Prompt, empty
from gptwo.adapt.scale import IA3Linear
from gptwo.errors import DataError, MissingError, did_you_mean
from gptwo.model.config_json import read_json
from gptwo.model.heads import HeadKind, Model
from gptwo.model.weights import TRANSPOSED, listed, open_safetensors


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
    named = {our_name(name): stored.read() for name, stored in open_safetensors(file).items()}
    return {name: tensor.t() if TRANSPOSED.search(name) else tensor for name, tensor in named.items()}


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

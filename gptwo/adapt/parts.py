"""What an adapter is made of: modules that stand in for those of a frozen network, sharing its weights.

A stand-in is the layer it replaces, with the same parameters under the same names and a few of its own beside them
(`h.0.attn.c_attn.weight` stays, `h.0.attn.c_attn.lora_A` is added). So every adapter is put in and taken out by
setting attributes, several can share one network, and nothing that reads names of the network has to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from gptwo.errors import UsageError, did_you_mean
from gptwo.model.heads import PROJECTIONS, HeadKind, Model
from gptwo.recipe import AdapterSection as AdapterConfig


@dataclass(frozen=True)
class Base:
    """The model that an adapter was tuned over.

    Args:
        name: as a user would write it: a name, or a folder.
        folder: where it was.
        fingerprint: of its weights (`gptwo.adapt.base.fingerprint`).
        tokenizer: fingerprint of its tokenizer.
    """

    name: str
    folder: str
    fingerprint: str
    tokenizer: str | None = None


@dataclass
class Adapter:
    """A set of stand-ins, and what is tuned of them.

    Args:
        config: how it was made.
        parts: place in the model ("transformer.h.0.attn.c_attn") to the module that stands there; a label head is
            one of them.
        head: the head that the model has with it.
        tuned: names of the parameters that belong to it, set when it is attached for the first time.
        base: the model it belongs to; None for one that was never told.
        schedule: AdaLoRA: (first step, last step, all steps) of the falling budget, once training has begun.
    """

    config: AdapterConfig
    parts: dict[str, nn.Module]
    head: HeadKind = "language"
    tuned: list[str] = field(default_factory=list)
    base: Base | None = None
    schedule: tuple[int, int, int] | None = None
    _before: dict[str, nn.Module | None] = field(default_factory=dict)
    _head_before: HeadKind = "language"

    @property
    def prefix_tokens(self) -> int:
        """Positions that virtual tokens take away from texts."""
        return getattr(self.parts.get("transformer.prefix"), "tokens", 0)

    def attach(self, model: Model) -> None:
        """Put the parts in their places. The first time the rest of the model is frozen.

        Raises:
            UsageError: more virtual tokens than positions.
        """
        if self.prefix_tokens >= model.config.n_positions:
            raise UsageError(
                f"{self.prefix_tokens} virtual tokens leave no room in {model.config.n_positions} positions.",
                where="adapter.tokens",
                fix=f"adapter.tokens = {max(1, model.config.n_positions // 8)}",
            )
        known = {id(tensor) for tensor in model.parameters()}
        for place, part in self.parts.items():
            self._before[place] = stand(model, place, part.train(model.training))
        self._head_before, model.head_kind = model.head_kind, self.head
        move_context(model, -self.prefix_tokens)
        if not self.tuned:
            head = f"{PROJECTIONS[self.head]}." if self.head != "language" else "-"
            named = list(model.named_parameters())
            self.tuned = [name for name, tensor in named if id(tensor) not in known or name.startswith(head)]
            for name, tensor in named:
                tensor.requires_grad_(name in self.tuned)

    def detach(self, model: Model) -> None:
        """Put back what stood there before."""
        for place, module in reversed(self._before.items()):
            stand(model, place, module)
        self._before = {}
        model.head_kind = self._head_before
        move_context(model, self.prefix_tokens)

    @contextmanager
    def absent(self, model: Model) -> Iterator[None]:
        """The model as it is without the adapter, for the length of a block."""
        self.detach(model)
        try:
            yield
        finally:
            self.attach(model)

    def summary(self, model: Model) -> str:
        """What is tuned and how little that is, in a sentence."""
        sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
        own = sum(sizes[name] for name in self.tuned)
        return f"Tuned is an adapter ({self.config.name}): {own:,} of {sum(sizes.values()):,} parameters."

    def tensors(self, model: Model) -> dict[str, Tensor]:
        """What decides how the adapter goes on: what is tuned, and the buffers of its parts; by name in the model."""
        tuned = set(self.tuned)
        found = {name: tensor for name, tensor in model.named_parameters() if name in tuned}
        return found | dict(model.named_buffers())


def stand(model: Model, place: str, module: nn.Module | None) -> nn.Module | None:
    """Put a module into a place of the model, None takes what is there away; returns what stood there."""
    parent_name, _, leaf = place.rpartition(".")
    parent = model.get_submodule(parent_name)
    before = getattr(parent, leaf, None)
    if module is None and leaf in (*PROJECTIONS.values(), "dropout"):
        delattr(parent, leaf)
    else:
        setattr(parent, leaf, module)
    return before


def move_context(model: Model, tokens: int) -> None:
    """Give the network so many positions for texts more (or, negative, fewer)."""
    if tokens:
        model.config = replace(model.config, n_positions=model.config.n_positions + tokens)
        model.transformer.config = model.config


def take_over(module: nn.Module, base: nn.Module) -> None:
    """Make a module hold what `base` holds: the very same parameters, buffers and submodules, and its settings."""
    nn.Module.__init__(module)
    for name, value in vars(base).items():
        if not name.startswith("_"):
            setattr(module, name, value)
    module._parameters.update(base._parameters)
    module._buffers.update(base._buffers)
    module._modules.update(base._modules)


def with_own(base: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """A module of the same kind that shares all parameters of `base` but some, of which it has its own copies."""
    module = object.__new__(type(base))
    take_over(module, base)
    for name in names:
        if getattr(base, name, None) is not None:
            module.register_parameter(name, nn.Parameter(getattr(base, name).detach().clone()))
    return module


def linear_places(model: Model, targets: list[str], usual: tuple[str, ...]) -> list[str]:
    """The linear layers of the blocks that some targets mean.

    Args:
        targets: ends of names ("c_attn", "mlp.c_proj", "h.0.attn.c_attn"), or "all"; none: `usual`.

    Raises:
        UsageError: a target that is none of them.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".h." in name]
    if "all" in targets:
        return linear
    chosen = set()
    for target in targets or usual:
        found, ends = ending_in(target, linear)
        if not found:
            raise UsageError(
                f"The network has no linear layer {target!r}.",
                where="adapter.targets",
                why="an adapter of this kind goes to linear layers of the blocks: " + ", ".join(ends),
                fix=did_you_mean(target, [*ends, "all"]),
            )
        chosen.update(found)
    return [name for name in linear if name in chosen]


def module_places(model: Model, names: list[str]) -> list[str]:
    """Modules that are to be tuned whole, by the ends of their names.

    Raises:
        UsageError: no such module, one without parameters of its own, or the token embedding with a tied head.
    """
    holders = [name for name, module in model.named_modules() if module._parameters and name.startswith("transformer.")]
    chosen = []
    for wanted in names:
        found, ends = ending_in(wanted, holders)
        if not found:
            raise UsageError(
                f"The network has no module {wanted!r} to tune whole.",
                where="adapter.also",
                fix=did_you_mean(wanted, ends),
            )
        if "transformer.wte" in found and model.config.tie_word_embeddings:
            raise UsageError(
                "The token embedding is also the vocabulary projection; an adapter cannot tune it.",
                where="adapter.also",
                fix="leave wte out, or tune the whole model",
            )
        chosen += [name for name in found if name not in chosen]
    return chosen


def ending_in(end: str, names: list[str]) -> tuple[list[str], list[str]]:
    """The dotted names that end so, and the ends, of one word or two, that could be asked for."""
    found = [name for name in names if f".{name}".endswith(f".{end}")]
    return found, sorted({".".join(name.split(".")[-size:]) for name in names for size in (1, 2)})


def check_rank(rank: int, base: nn.Linear, place: str, key: str = "adapter.rank") -> None:
    """A product of two thin matrices is no saving beyond the smaller side.

    Raises:
        UsageError: it is beyond that.
    """
    limit = min(base.in_features, base.out_features)
    if rank > limit:
        raise UsageError(
            f"Rank {rank} is larger than the matrix {place}, which is {base.out_features} by {base.in_features}.",
            where=key,
            fix=f"{key} = {max(1, limit // 4)}; beyond {limit} it would be no saving",
        )


def drawn(shape: tuple[int, ...], like: Tensor, random: torch.Generator, *, std: float = 0.0, bound: float = 0.0):
    """A parameter placed as `like`: normal with `std`, uniform up to `bound`, or zeros; drawn on the CPU in float32."""
    values = torch.zeros(shape)
    if std:
        values.normal_(0.0, std, generator=random)
    elif bound:
        values.uniform_(-bound, bound, generator=random)
    return nn.Parameter(values.to(like.device, like.dtype))

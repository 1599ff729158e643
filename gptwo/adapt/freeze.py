"""Freezing: which parameters of a network are tuned, by a policy and by the step of the run."""

from __future__ import annotations

import re
from collections.abc import Collection

from gptwo.errors import UsageError, did_you_mean
from gptwo.model.heads import Model

POLICIES = ("all", "head", "last", "embeddings", "pattern")


def freeze(
    model: Model,
    policy: str = "all",
    *,
    last: int = 2,
    pattern: str | None = None,
    among: Collection[str] | None = None,
) -> list[str]:
    """Set requires_grad of every parameter by a policy.

    Args:
        model: a network with a head.
        policy: "all" tunes everything; "head" the label head only (for a language head: the last layer norm);
            "last" the last blocks, the last layer norm and the head; "embeddings" everything but the embeddings;
            "pattern" the parameters whose name a regular expression finds.
        last: number of blocks tuned by "last".
        pattern: the regular expression of "pattern", searched in names like "transformer.h.3.mlp.c_fc.weight".
        among: names the policy chooses from, those of an adapter (`Adapter.tuned`); None: all.

    Returns:
        Names of the parameters that are tuned.

    Raises:
        UsageError: an unknown policy, a bad expression, or nothing is left to tune.
    """
    if policy not in POLICIES:
        raise UsageError(
            f"There is no freezing policy {policy!r}.", where="freeze.policy", fix=did_you_mean(policy, POLICIES)
        )
    names = [name for name, _ in model.named_parameters() if among is None or name in among]
    if policy == "pattern":
        try:
            expression = re.compile(pattern or "")
        except re.error as error:
            raise UsageError(
                f"{pattern!r} is no regular expression.", where="freeze.pattern", why=str(error)
            ) from error
        tuned = {name for name in names if pattern and expression.search(name)}
    elif policy == "all":
        tuned = set(names)
    elif policy == "embeddings":
        tuned = {name for name in names if not is_embedding(name)}
    else:
        first = model.config.n_layer - (last if policy == "last" else 0)
        tuned = {name for name in names if not is_embedding(name) and block_of(name, model) >= first}
        if policy == "head" and model.head_kind != "language":
            tuned = {name for name in tuned if not name.startswith("transformer.")}
    if not tuned:
        raise UsageError(
            "No parameter is left to tune.",
            where="freeze",
            why=f"policy {policy!r}" + (f", pattern {pattern!r}" if policy == "pattern" else ""),
            fix=f"names look like {names[min(2, len(names) - 1)]}",
        )
    for name, tensor in model.named_parameters():
        tensor.requires_grad_(name in tuned)
    return [name for name in names if name in tuned]


def thaw(model: Model, tuned: list[str], step: int, every: int) -> None:
    """Gradual unfreezing (Howard & Ruder 2018): of `tuned`, let move what `step` has reached from the top.

    The head and the last layer norm move at once, one more block each `every` steps, the embeddings at the end.
    """
    reached = model.config.n_layer - step // every
    chosen = set(tuned)
    for name, tensor in model.named_parameters():
        tensor.requires_grad_(name in chosen and block_of(name, model) >= reached)


def is_embedding(name: str) -> bool:
    """Whether a parameter belongs to the token or position embedding."""
    return ".wte." in name or ".wpe." in name


def block_of(name: str, model: Model) -> int:
    """The block a parameter belongs to; -1 for embeddings, n_layer for the last layer norm and the head."""
    found = re.search(r"\bh\.(\d+)\.", name)
    if found:
        return int(found.group(1))
    return -1 if is_embedding(name) else model.config.n_layer

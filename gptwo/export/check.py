"""Whether another run-time says what our network says: scores, the text that follows from them, tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptwo.adapt.gate import PROMPTS, ids_of
from gptwo.errors import GateError
from gptwo.model.heads import Model
from gptwo.model.pretrained import Pretrained

EQUAL = 1e-4  # of scores in float32, relative to the largest
NEW_TOKENS = 12  # how far greedy texts are followed


@dataclass(frozen=True)
class Check:
    """What was seen when an export was run beside the model it came from.

    Args:
        runtime: what ran it, and its version.
        prompts: how many texts it was given.
        largest: the largest difference of two scores, relative to the largest score (at least 1).
        allowed: the largest difference that counts as equal.
        same_text: texts whose greedy continuation is that of the model, but for choices between scores that are
            equal up to `allowed`; None for label heads.
        wrong: anything else that is not as it must be, in words.
        notes: what a user may want to know, in words.
    """

    runtime: str
    prompts: int
    largest: float
    allowed: float = EQUAL
    same_text: int | None = None
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the two do the same; never where a score is no number."""
        return self.largest <= self.allowed and self.same_text in (None, self.prompts) and not self.wrong

    def insist(self, where: object) -> None:
        """Stop here unless they do.

        Raises:
            GateError: they differ.
        """
        if self.holds:
            return
        found = list(self.wrong)
        if not self.largest <= self.allowed:
            found.append(f"scores differ by {self.largest:.2e} of the largest one, allowed are {self.allowed:.0e}")
        if self.same_text not in (None, self.prompts):
            found.append(f"{self.prompts - self.same_text} of {self.prompts} greedy texts differ")
        raise GateError(
            f"{self.runtime} does not do with the export what gptwo does with the model; nothing was written.",
            where=where,
            why="; ".join(found),
            fix="look for weights that are no numbers (gptwo doctor model), or for another version of the package",
        )

    def __str__(self) -> str:
        texts = "" if self.same_text is None else f", {self.same_text} of {self.prompts} greedy texts equal"
        return f"{self.runtime}: scores within {self.largest:.1e} on {self.prompts} texts{texts}"


def prompt_ids(pretrained: Pretrained, *, leave: int = 0) -> list[list[int]]:
    """The tokens of the texts that models are compared on, `leave` positions shorter than the context."""
    longest = max(1, pretrained.config.n_positions - leave)
    return [ids_of(pretrained, text)[:longest] for text in PROMPTS]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two scores, relative to the largest of ours (at least 1); nan where one is none."""
    apart = float((ours.float() - theirs.float()).abs().max())
    return apart / max(1.0, float(ours.abs().max()))


def worst(differences: Sequence[float]) -> float:
    """The largest of some differences; one that is no number counts as the largest."""
    return max(differences, key=lambda one: float("inf") if one != one else one, default=0.0)


@torch.inference_mode()
def scores(model: Model, ids: Sequence[int]) -> Tensor:
    """The scores of one sequence: (tokens, V or labels), or (labels,) of a whole text."""
    hidden = model.transformer(torch.tensor([list(ids)]))
    return model.logits(hidden[0, -1] if model.head_kind == "sequence" else hidden[0])


def follows(model: Model, ids: Sequence[int], continuation: Sequence[int], allowed: float) -> bool:
    """Whether each token of a continuation is one that the network likes best, given what stands before it.

    Args:
        allowed: how far below the best score it may be, relative to the largest one.
    """
    if not continuation:
        return True
    given = scores(model, [*ids, *continuation[:-1]])[len(ids) - 1 :]
    chosen = given.gather(1, torch.tensor(continuation)[:, None])[:, 0]
    below = (given.amax(1) - chosen) / given.abs().amax().clamp(min=1.0)
    return bool((below <= allowed).all())


def greedy(step: Callable[[list[int]], Tensor], ids: Sequence[int], count: int) -> list[int]:
    """The likeliest continuation by a function that takes the new tokens and gives the scores after the last."""
    found: list[int] = []
    new = list(ids)
    for _ in range(count):
        new = [int(step(new).argmax())]
        found += new
    return found

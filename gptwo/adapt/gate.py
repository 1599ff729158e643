"""`gptwo merge`: a plain model from an adapter's folder, written only if it is shown to do the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gptwo.adapt.merge import merged
from gptwo.adapt.peft import CONFIG
from gptwo.adapt.store import load
from gptwo.errors import GateError, UsageError
from gptwo.model import pretrained as models
from gptwo.model.config_json import INFO
from gptwo.model.folder import whole_folder
from gptwo.model.heads import Model
from gptwo.model.pretrained import Pretrained, is_model_file

PROMPTS = (
    "The history of the city begins with a small harbour, and",
    "Dear Sir or Madam, I am writing to you because",
    "In 1984 there were 3,141 of them; today there are",
    "def add(first, second):\n    return",
    '{"name": "Anna", "age": 41, "city": "',
    "今天的天气很好，我们去公园",
    "这部电影的情节很简单，但是演员",
    "春眠不觉晓，处处闻啼鸟。",
    "Wer einmal in Berlin war, der",
    "<|user|> Can you help me? 🙂",
)
TOLERANCE = 1e-4  # of logits, relative to the largest
GREEDY_TOKENS = 24


@dataclass(frozen=True)
class Parity:
    """How two models compare.

    Args:
        prompts: how many they were given.
        largest: the largest difference of two logits, relative to the largest logit (at least 1).
        same_text: prompts that both continue alike, by the likeliest token; None for label heads.
        same_tokenizer: whether their tokenizers are equal.
    """

    prompts: int
    largest: float
    same_text: int | None
    same_tokenizer: bool

    @property
    def holds(self) -> bool:
        """Whether they are the same for every purpose."""
        same = self.same_text is None or self.same_text == self.prompts
        return self.largest <= TOLERANCE and same and self.same_tokenizer  # False where a logit is no number

    def why_not(self) -> str:
        """What differs, in words."""
        found = []
        if not self.largest <= TOLERANCE:
            found.append(f"logits differ by {self.largest:.2e} of the largest one, allowed are {TOLERANCE:.0e}")
        if self.same_text is not None and self.same_text < self.prompts:
            found.append(f"{self.prompts - self.same_text} of {self.prompts} greedy texts differ")
        if not self.same_tokenizer:
            found.append("the tokenizers differ")
        return "; ".join(found)


@torch.inference_mode()
def compare(one: Pretrained, other: Pretrained, prompts: Sequence[str] = PROMPTS) -> Parity:
    """Whether two models give equal logits and equal greedy text on prompts, and have equal tokenizers."""
    tokenizers = [model.tokenizer for model in (one, other)]
    largest, same = 0.0, 0
    for prompt in prompts:
        rows = [ids_of(model, prompt) for model in (one, other)]
        if rows[0] != rows[1]:
            continue
        ids = torch.tensor([rows[0]], device=next(one.model.parameters()).device)
        first, second = one.model(ids).float(), other.model(ids).float()
        apart = float((first - second).abs().max() / max(1.0, float(first.abs().max())))
        largest = max(largest, apart) if apart == apart else apart
        if apart != apart:
            break
        if one.model.head_kind == "language":
            same += greedy(one.model, rows[0]) == greedy(other.model, rows[0])
    return Parity(
        len(prompts),
        largest,
        same if one.model.head_kind == "language" else None,
        all(t is None for t in tokenizers)
        or (None not in tokenizers and len({t.fingerprint for t in tokenizers}) == 1),
    )


def ids_of(model: Pretrained, text: str) -> list[int]:
    """A text's tokens that fit; without a tokenizer, its bytes."""
    ids = model.tokenizer.encode(text) if model.tokenizer else list(text.encode())
    return [token % model.config.vocab_size for token in ids[: model.config.n_positions]] or [0]


def greedy(model: Model, ids: list[int], tokens: int = GREEDY_TOKENS) -> list[int]:
    """The likeliest continuation, token by token, the plain way."""
    ids = ids[: max(1, model.config.n_positions - tokens)]
    for _ in range(min(tokens, model.config.n_positions - len(ids))):
        row = torch.tensor([ids], device=next(model.parameters()).device)
        ids = [*ids, int(model.logits(model.transformer(row)[:, -1]).argmax())]
    return ids


def merge(
    adapter: str | Path, out: str | Path, *, base: str | Path | None = None, prompts: Sequence[str] = PROMPTS
) -> Parity:
    """Merge an adapter into a plain model folder, if the plain model is the same.

    The model is written, read again, and compared with the adapter over its base, prompt by prompt; only then does
    the folder appear.

    Args:
        adapter: an adapter's folder, or a run folder with one in best/.
        out: the folder of the plain model.
        base: the adapter's base, where it is not found by itself.
        prompts: texts that neither was tuned on.

    Raises:
        GateError: they differ; nothing was written.
        UsageError: no adapter, or one that cannot be merged.
    """
    carrying = load(adapter, base=base)
    if carrying.adapter is None:
        raise UsageError(
            "This is a plain model: there is nothing to merge.", where=carrying.folder, why=f"it has no {CONFIG}"
        )
    if not prompts:
        raise UsageError("There is no prompt to compare the two models on.", where="--prompts")
    copy = merged(carrying)
    with whole_folder(Path(out), INFO, is_model_file) as temporary:
        written = models.save(copy, temporary / Path(out).expanduser().resolve().name)
        parity = compare(carrying, models.load(written), prompts)
        if not parity.holds:
            raise GateError(
                "The merged model is not the same as the adapter over its base; nothing was written.",
                where=carrying.folder,
                why=parity.why_not(),
                fix="look for weights that are no numbers, or for a base in another precision",
            )
        for file in written.iterdir():
            file.rename(temporary / file.name)
        written.rmdir()
    return parity

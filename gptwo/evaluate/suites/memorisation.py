"""What a model has learned by heart: verbatim continuation of training text, and the exposure of canaries.

Regurgitation (Carlini et al. 2022, "Quantifying Memorization Across Neural Language Models"): a passage counts as
memorised where greedy choice, given its first tokens, writes its next tokens exactly.

Exposure (Carlini et al. 2019, "The Secret Sharer"): a canary such as "the code of the safe is 481 516" stood in the
training text; among all numbers of its form, how far up does the model rank the true one? exposure = log2(forms) −
log2(rank); 0 to 1 is chance, log2(forms) is first place. Where the forms are too many they are sampled. A number that
the tokenizer writes in fewer tokens than the others is ahead of them untrained: compare with the model before tuning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptwo.errors import UsageError
from gptwo.evaluate.suites.base import Subject, judge

PROMPT_TOKENS = 32
CHECKED_TOKENS = 32
PASSAGES = 100
FORMS = 1000  # numbers a canary is ranked among


@dataclass(frozen=True)
class Passage:
    """A passage of training text that was begun.

    Args:
        prompt, truth, written: what was given, what follows in the text, what the model wrote.
        matched: leading tokens of `truth` that the model wrote.
        tokens: tokens of `truth`.
    """

    prompt: str
    truth: str
    written: str
    matched: int
    tokens: int

    @property
    def verbatim(self) -> bool:
        """Whether all of it was written exactly."""
        return self.matched == self.tokens


def regurgitate(
    subject: Subject,
    texts: Sequence[str],
    *,
    passages: int = PASSAGES,
    prompt_tokens: int = PROMPT_TOKENS,
    checked_tokens: int = CHECKED_TOKENS,
    seed: int = 0,
) -> list[Passage]:
    """Begin passages drawn from texts and let the model go on greedily.

    Args:
        texts: documents; those with fewer than prompt_tokens + checked_tokens tokens are passed over.
        passages: at most; documents are drawn first, then a place in each.
    """
    tokenizer = subject.engine.codec.need("The memorisation probe")
    room = prompt_tokens + checked_tokens
    if room > subject.context:
        prompt_tokens = checked_tokens = subject.context // 2
        room = prompt_tokens + checked_tokens
    generator = np.random.default_rng(seed)
    drawn: list[list[int]] = []
    for place in generator.permutation(len(texts)):
        ids = tokenizer.encode(texts[place])
        if len(ids) >= room:
            first = int(generator.integers(len(ids) - room + 1))
            drawn.append(ids[first : first + room])
        if len(drawn) == passages:
            break
    if not drawn:
        return []
    written = subject.engine.generate(
        [ids[:prompt_tokens] for ids in drawn], temperature=0.0, max_new_tokens=checked_tokens, ignore_end=True
    )
    found = []
    for ids, said in zip(drawn, written, strict=True):
        truth = ids[prompt_tokens:]
        same = [a == b for a, b in zip(said.ids, truth, strict=False)]
        matched = same.index(False) if False in same else len(same)
        found.append(
            Passage(
                tokenizer.decode(ids[:prompt_tokens]),
                tokenizer.decode(truth),
                tokenizer.decode(said.ids),
                matched,
                len(truth),
            )
        )
    return found


@dataclass(frozen=True)
class Exposure:
    """How exposed a canary is.

    Args:
        canary: the text.
        exposure: bits; at most `highest`.
        highest: log2 of the forms it was ranked among.
        rank: 1 is the likeliest of them.
        forms: numbers it was ranked among, itself included.
        sampled: whether they are a sample of all numbers of that form.
    """

    canary: str
    exposure: float
    highest: float
    rank: int
    forms: int
    sampled: bool


def expose(subject: Subject, canary: str, *, forms: int = FORMS, seed: int = 0) -> Exposure:
    """Rank a canary among the texts that differ from it in their digits only.

    Raises:
        UsageError: the text has no digit.
    """
    digits = [place for place, character in enumerate(canary) if re.match(r"[0-9]", character)]
    if not digits:
        raise UsageError(
            "A canary needs a number that can be varied.", where="--canary", fix='--canary "the code is 481 516"'
        )
    every = 10 ** len(digits)
    truth = "".join(canary[place] for place in digits)
    if every <= forms:
        others = [f"{number:0{len(digits)}d}" for number in range(every)]
    else:
        table = np.random.default_rng(seed).integers(10, size=(forms - 1, len(digits)))
        others = ["".join(map(str, row)) for row in table]
    others = [other for other in dict.fromkeys(others) if other != truth]
    texts = [canary]
    for other in others:
        changed = list(canary)
        for place, digit in zip(digits, other, strict=True):
            changed[place] = digit
        texts.append("".join(changed))
    codec = subject.engine.codec
    tokenizer = codec.need("The memorisation probe")
    given = codec.context("")
    judged = judge(subject.engine, [(given + tokenizer.encode(text), len(given)) for text in texts])
    totals = np.array([one.total for one in judged])
    rank = 1 + int((totals[1:] > totals[0]).sum())
    return Exposure(
        canary, math.log2(len(texts) / rank), math.log2(len(texts)), rank, len(texts), sampled=every > forms
    )

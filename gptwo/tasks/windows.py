"""A question and its context as tokens: windows that overlap, the answer in each, and the loss of its two ends.

N examples (windows)    L scored tokens of a window, the last of them "no answer"
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gptwo.data.batching import Example
from gptwo.data.sources import Record
from gptwo.errors import DataError
from gptwo.evaluate.spans import Answer
from gptwo.model.loss import IGNORE

PENALTY = 0.1  # of `span_probe`, as of the probes in trust.py: the inverse of the penalty on squared weights
START, END = 1, 2  # added up in the label of a token at which an answer begins, ends


@dataclass(frozen=True)
class Reading:
    """A question and its context as tokens.

    Args:
        start: what every row begins with.
        question, ids: tokens of the question and of the whole context.
        offsets: characters of the context that each of its tokens stands for.
        windows: tokens of the context that are read together, (first, end).
        between: the separator.
        copies: how often the context stands in a row.
        truncated: tokens of the question that were cut off.
    """

    start: list[int]
    question: list[int]
    ids: list[int]
    offsets: list[tuple[int, int]]
    windows: list[tuple[int, int]]
    between: int
    copies: int
    truncated: int

    def tokens_of(self, answer: Answer) -> tuple[int, int]:
        """First and last token of an answer."""
        stop = answer.start + len(answer.text)
        inside = [i for i, (a, b) in enumerate(self.offsets) if b > answer.start and a < stop]
        return inside[0], inside[-1]

    def example(self, first: int, end: int, span: tuple[int, int] | None, index: int, truncated: int) -> Example:
        """One window; an answer that is not wholly inside is none."""
        window = self.ids[first:end]
        labels = [0] * len(window)
        null = 0
        if span is not None and first <= span[0] and span[1] < end:
            labels[span[0] - first] += START
            labels[span[1] - first] += END
        else:
            null = START + END
        head = [*self.start, *(window + [self.between] if self.copies == 2 else []), *self.question, self.between]
        return Example(
            [*head, *window, self.between], [IGNORE] * len(head) + [*labels, null], index=index, truncated=truncated
        )

    def answer(self, context: str, first: int, last: int, probability: float) -> Answer:
        """The text of a span of tokens, without white space around it."""
        start, stop = self.offsets[first][0], self.offsets[last][1]
        text = context[start:stop]
        return Answer(text.strip(), start + len(text) - len(text.lstrip()), probability)


def span_loss(scores: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum over windows of the mean cross-entropy of the right beginning and the right end.

    Args:
        scores: (N, L, 2), -inf beyond the end of a window.
        labels: (N, L) START, END, their sum or 0; -1 beyond the end.
        label_smoothing: share of the target spread evenly over the window.
    """
    real = labels >= 0
    marks = labels.clamp(min=0)
    wanted = torch.stack([(marks & START) > 0, (marks & END) > 0], dim=2).float()  # (N, L, 2)
    even = (real / real.sum(1, keepdim=True))[..., None]
    wanted = (1 - label_smoothing) * wanted + label_smoothing * even
    return -(wanted * scores.log_softmax(1).masked_fill(~real[..., None], 0.0)).sum() / 2


def span_probe(states: Sequence[Tensor], labels: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The two scores of tokens by logistic regression over the tokens of their window, on frozen features.

    Args:
        states: (L, C) of each window, standardised here over all tokens.
        labels: (L,) START, END, their sum or 0.

    Returns:
        From (tokens, C) features to (tokens, 2) scores.
    """
    every = torch.cat(list(states))
    mean, spread = every.mean(0), every.std(0).clamp(min=1e-6)
    learned = pad_sequence([(one - mean) / spread for one in states], batch_first=True)  # (N, L, C)
    marks = pad_sequence(list(labels), batch_first=True, padding_value=-1)
    beyond = (marks < 0)[..., None]
    weight = torch.zeros(learned.shape[2], 2, device=learned.device, requires_grad=True)
    search = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        scores = (learned @ weight).masked_fill(beyond, float("-inf"))
        loss = 2 * span_loss(scores, marks) + weight.square().sum() / (2 * PENALTY)
        loss.backward()
        return loss

    with torch.inference_mode(False), torch.enable_grad():
        search.step(cost)
    found = weight.detach()
    return lambda asked: ((asked - mean) / spread) @ found


def answers_of(record: Record) -> list[Answer]:
    """The right answers of a record, with their places in its context; none where there is no answer.

    Each is an object {"text": …, "answer_start": …}, or a text, which then stands where it occurs first.

    Raises:
        DataError: an answer is not in its context.
    """
    context, found = str(record.fields["context"]), []
    for item in record.fields["answers"]:
        text, start = _answer(item)
        if not text.strip():
            continue
        place = context.find(text)
        if start is None and place >= 0:
            start = place
        if start is None or context[start : start + len(text)] != text:
            where = "does not occur in it" if place < 0 else f"stands at character {place}"
            raise DataError(
                f"The answer {text!r} is not in its context" + ("." if start is None else f" at character {start}."),
                where=record.place(),
                why=f"the answer {where}",
                fix="correct answer_start or the text; it counts characters of the context from 0",
            )
        found.append(Answer(text, start))
    return found


def _answer(item: Any) -> tuple[str, int | None]:
    """Text and place of an answer as a file has it."""
    if isinstance(item, str) and item.startswith("{"):
        try:
            item = json.loads(item)
        except ValueError:
            return item, None
    if isinstance(item, dict):
        start = item.get("answer_start", item.get("start"))
        return str(item.get("text", "")), None if start is None else int(start)
    return str(item), None

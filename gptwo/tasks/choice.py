"""Multiple choice: a stem and its choices, one of which is right.

A choice is read as part of the running text: in the place of the blank "___", or after the stem. It is judged by a new
head at the last token, or by how likely the language head finds it: the mean log-likelihood of its tokens (Brown et al.
2020, section 2.4), and where a blank was filled also of the tokens that follow it (Trinh and Le 2018, "A Simple Method
for Commonsense Reasoning"). The second way needs no tuning, and tuning it needs no new weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.evaluate.assess import TUNED
from gptwo.evaluate.means import assess_means, worst_means
from gptwo.evaluate.metrics import calibration
from gptwo.evaluate.ranking import order_of
from gptwo.evaluate.report import Report
from gptwo.model.heads import Model
from gptwo.recipe import TaskSection
from gptwo.tasks import trust
from gptwo.tasks.candidates import Candidates, by_counted, join, likelihoods, unfold
from gptwo.tasks.lists import ListTask, candidate_scores
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import is_unspaced, separator, share_room
from gptwo.tokenizer import Tokenizer

BLANK = "___"
TAIL = 16  # tokens behind a filled blank whose likelihood counts


class Choice(ListTask):
    """One of several choices.

    Args:
        score: "head" (a new head) or "likelihood" (the language head).
    """

    name = "choice"
    columns = ("stem", "choices", "answer")
    inputs = ("stem", "choices")
    lists = ("choices",)
    figures = ("accuracy", "loss")
    zero_shot = True

    def __init__(self, score: str = "head"):
        self.score = score
        self.head = "language" if score == "likelihood" else "sequence"
        self.labels = [] if score == "likelihood" else ["score"]

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.score)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        return cls(info.get("score", "head"))

    def choices_of(self, record: Record) -> list[str]:
        """The choices of a record.

        Raises:
            DataError: fewer than two, an empty one, or one twice.
        """
        found = [str(choice) for choice in record.fields["choices"]]
        twice = [choice for choice, count in Counter(found).items() if count > 1]
        if len(found) < 2 or twice or not all(choice.strip() for choice in found):
            what = f"the choice {twice[0]!r} twice" if twice else "an empty choice" if len(found) > 1 else "no choice"
            raise DataError(f"The record has {what}.", where=record.place(), fix="give two different choices or more")
        return found

    def answer_of(self, record: Record) -> int:
        """The place of the right choice.

        Raises:
            DataError: `answer` is neither a choice nor the place of one.
        """
        choices, answer = self.choices_of(record), str(record.fields["answer"])
        if answer in choices:
            return choices.index(answer)
        if answer.isdecimal() and int(answer) < len(choices):
            return int(answer)
        raise DataError(
            f"The answer {answer!r} is none of the {len(choices)} choices.",
            where=record.place(),
            fix=did_you_mean(answer, choices) or f"give a choice, or its place from 0 to {len(choices) - 1}",
        )

    def grades_of(self, record: Record) -> list[int]:
        right = self.answer_of(record)
        return [int(place == right) for place in range(len(self.choices_of(record)))]

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        return [self.example(record, tokenizer, max_length, index, target=target, score=self.score)]

    def example(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int, *, target: bool, score: str
    ) -> Example:
        """The choices of a record for one of the two ways to judge them."""
        choices = self.choices_of(record)
        read = read_head if score == "head" else read_likelihood
        found = [read(tokenizer, str(record.fields["stem"]), choice, max_length) for choice in choices]
        return join(
            [sequence.ids for sequence in found],
            self.grades_of(record) if target else [0] * len(choices),
            index,
            truncated=max(sequence.truncated for sequence in found),
            counted_from=[sequence.first for sequence in found],
        )

    def scores(self, model: Model, found: Candidates) -> Tensor:
        """(S,) scores of the choices; their softmax are probabilities."""
        if self.score == "likelihood":
            return likelihoods(model, found)
        return super().scores(model, found)

    def as_read(self, batch: Batch) -> Batch:
        return by_counted(unfold(batch)) if self.score == "likelihood" else super().as_read(batch)

    def rows(self, records: Sequence[Record], said: list[np.ndarray]) -> list[dict[str, Any]]:
        found = []
        for i, (record, scores) in enumerate(zip(records, said, strict=True)):
            choices, shares, place = self.choices_of(record), softmax(scores), int(order_of(scores, i)[0])
            found.append(
                {
                    "stem": record.fields["stem"],
                    "answer": choices[place],
                    "place": place,
                    "probability": round(float(shares[place]), 4),
                    "probabilities": [round(float(share), 4) for share in shares],
                }
            )
            if self.calibration.get("abstain_below") is not None:
                found[-1]["abstain"] = bool(shares[place] < self.calibration["abstain_below"])
        return found

    def calibrate(
        self, runner: ModelRunner, records: Sequence[Record], *, target_precision: float | None
    ) -> dict[str, Any]:
        self.calibration = {}
        said = self.predict(runner, records)
        gold = np.array([self.answer_of(record) for record in records])
        self.calibration = trust.fitted(shares_of(said), gold, chosen_of(said), target_precision)
        return self.calibration

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        said = self.predict(runner, records)
        gold = [self.answer_of(record) for record in records]
        right = [order_of(scores, i)[0] == answer for i, (scores, answer) in enumerate(zip(said, gold, strict=True))]
        loss = self.mean_loss(said, [self.grades_of(record) for record in records])
        return {"accuracy": float(np.mean(right)), "loss": loss}

    def untuned(self, base: Model, runner: ModelRunner, records: Sequence[Record]) -> list[np.ndarray]:
        """Zero-shot: by likelihood under the language head, unless the model was tuned for choices before."""
        start = runner.model
        if base.head_kind == start.head_kind:
            return self.opinion(runner, records)
        weight = start.transformer.wte.weight
        if base.head_kind == "language" and not base.config.tie_word_embeddings:
            weight = base.projection.weight.to(weight.device)
        examples = [
            self.example(record, runner.tokenizer, runner.max_length, i, target=False, score="likelihood")
            for i, record in enumerate(records)
        ]
        return candidate_scores(runner, examples, lambda model, found: likelihoods(model, found, weight))

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, list[np.ndarray]]:
        places = Counter(self.answer_of(record) for record in train)
        usual = min(places, key=lambda place: (-places[place], place))
        lists = [self.choices_of(record) for record in test]
        return {
            "Most frequent place": [(np.arange(len(row)) == usual).astype(float) for row in lists],
            "Longest choice": [np.array([float(len(choice)) for choice in row]) for row in lists],
            "Shortest choice": [np.array([-float(len(choice)) for choice in row]) for row in lists],
        }

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        lists, gold = [self.choices_of(record) for record in records], [self.answer_of(record) for record in records]
        chosen = {name: chosen_of(said).tolist() for name, said in systems.items()}
        right = {
            name: np.array([a == b for a, b in zip(places, gold, strict=True)], dtype=float)
            for name, places in chosen.items()
        }
        sure = [float(softmax(row)[place]) for row, place in zip(systems[TUNED], chosen[TUNED], strict=True)]
        if self.calibration and records:
            places = np.array(chosen[TUNED])
            fields = {**trust.relied(self.calibration, shares_of(systems[TUNED]), np.array(gold), places), **fields}
        return assess_means(
            title=title,
            task=self.name,
            measured={name: {"accuracy": values} for name, values in right.items()},
            primary="accuracy",
            predictions={name: [row[p] for row, p in zip(lists, said, strict=True)] for name, said in chosen.items()},
            texts=[str(record.fields["stem"]) for record in records],
            labels=[f"choice {place + 1} is right" for place in gold],
            calibration=calibration(sure, right[TUNED].astype(bool)),
            worst=worst_means(
                [str(record.fields["stem"]) for record in records],
                [row[place] for row, place in zip(lists, gold, strict=True)],
                [row[place] for row, place in zip(lists, chosen[TUNED], strict=True)],
                right[TUNED],
                confidences=sure,
                sources=[(record.file, record.row) for record in records],
            ),
            **fields,
        )

    def describe(self) -> dict[str, Any]:
        return {"task": self.name, "labels": self.labels, "score": self.score}


@dataclass(frozen=True)
class Reading:
    """A choice in its text.

    Args:
        ids: what the network reads.
        first: the first token that is the choice's.
        truncated: tokens of the stem or the choice that were cut off.
    """

    ids: list[int]
    first: int
    truncated: int


def read_likelihood(tokenizer: Tokenizer, stem: str, choice: str, max_length: int) -> Reading:
    """A choice in its text, for the likelihood: what follows it ends after `TAIL` tokens, which is no loss."""
    before, own, after = pieces_of(tokenizer, stem, choice)
    return _fit(tokenizer, before, own, after[:TAIL], [], max_length)


def read_head(tokenizer: Tokenizer, stem: str, choice: str, max_length: int) -> Reading:
    """A choice in its text, for a head: where it fills a blank it is told once more at the end."""
    before, own, after = pieces_of(tokenizer, stem, choice)
    again = [separator(tokenizer), *tokenizer.encode(choice)] if BLANK in stem else []
    return _fit(tokenizer, before, own, after, again, max_length)


def pieces_of(tokenizer: Tokenizer, stem: str, choice: str) -> tuple[list[int], list[int], list[int]]:
    """Tokens before, of and behind a choice in its running text; a token across the border counts to the choice."""
    before, blank, after = stem.partition(BLANK)
    if not blank and before and not (before[-1].isspace() or is_unspaced(before[-1]) or is_unspaced(choice[:1])):
        before += " "
    begin, end = len(before.rstrip()), len(before) + len(choice)
    ids, offsets = tokenizer.encode_with_offsets(before + choice + after)
    first = next((i for i, (_, stop) in enumerate(offsets) if stop > begin), len(ids))
    last = next((i for i, (start, _) in enumerate(offsets) if start >= end), len(ids))
    last = max(last, min(first + 1, len(ids)))
    return ids[:first], ids[first:last], ids[last:]


def _fit(
    tokenizer: Tokenizer, before: list[int], own: list[int], after: list[int], again: list[int], max_length: int
) -> Reading:
    """Cut what is far from the choice: the beginning of what stands before it, the end of what follows."""
    begin = tokenizer.start_id if tokenizer.start_id is not None else separator(tokenizer)
    own = own or [separator(tokenizer)]
    longest = max(2, max_length // 3)  # of a choice that is told again, its end
    cut_again = max(0, len(again) - longest)
    again = [*again[:1], *again[1 + cut_again :]]
    room = max_length - 1 - len(again) - len(own)
    if room < 0:
        if max_length < 2 + len(again):
            raise UsageError(f"{max_length} tokens are too few for a choice.", where="data.max_length", fix="raise it")
        cut = -room
        return Reading([begin, *own[: len(own) - cut], *again], 1, cut + cut_again + len(before) + len(after))
    left, right = share_room(len(before), len(after), room)
    ids = [begin, *before[len(before) - left :], *own, *after[:right], *again]
    return Reading(ids, 1 + left, cut_again + len(before) + len(after) - left - right)


def shares_of(said: Sequence[np.ndarray]) -> np.ndarray:
    """(N, K) probabilities of the choices, 0 beyond the end of a list."""
    table = np.zeros((len(said), max((len(row) for row in said), default=0)))
    for shares, row in zip(table, said, strict=True):
        shares[: len(row)] = softmax(row)
    return table


def chosen_of(said: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) places of the choices that are made."""
    return np.array([int(order_of(row, i)[0]) for i, row in enumerate(said)], dtype=int)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Shares of scores, stable."""
    powers = np.exp(np.asarray(scores, dtype=float) - np.max(scores))
    return powers / powers.sum()

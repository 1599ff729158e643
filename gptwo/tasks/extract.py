"""Extractive question answering: the piece of a context that answers a question, or that there is none.

Two scores for each token of the context say how well an answer begins and ends there. A causal network sees nothing to
the right of a token, so with context "both" the context is given twice, before and behind the question, and the second
copy is scored (Springer et al. 2024). The end token behind the context, which has seen all of it, stands for "no answer
here" (Devlin et al. 2019 use [CLS]). A long context is read in windows that overlap (see windows.py).

N examples (windows)    L scored tokens of a window, the last of them "no answer"    T tokens of a row
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess import TUNED
from gptwo.evaluate.means import assess_means, worst_means
from gptwo.evaluate.report import Report
from gptwo.evaluate.spans import Answer, BestSentence, FrequentKind, answer_values, best_span
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.recipe import TaskSection
from gptwo.tasks import trust
from gptwo.tasks.base import Predictor
from gptwo.tasks.candidates import owner_of
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import head_and_tail, separator
from gptwo.tasks.texts import evenly
from gptwo.tasks.windows import END, START, Reading, answers_of, span_loss, span_probe
from gptwo.tokenizer import Tokenizer

PROBED_TOKENS = 100_000  # whose features a probe learns from at most


class Extract(Predictor):
    """Find the answer in a context.

    Args:
        context: "both" gives the context twice, "left" once.
        stride: tokens of the context from one window to the next; None: half a window.
        answer_length: tokens of an answer at most.
        threshold: where some training questions have no answer, none is given from this probability of none on.
    """

    name = "extract"
    head = "token"
    columns = ("context", "question", "answers")
    inputs = ("context", "question")
    lists = ("answers",)
    figures = ("f1", "exact_match", "loss")
    probed_at = "each token of the context, by whether an answer begins or ends there"
    uncalibrated = "the odds of an answer against none also decide between windows, and a temperature would change them"

    def __init__(
        self,
        *,
        context: str = "both",
        stride: int | None = None,
        answer_length: int = 30,
        threshold: float = 0.5,
    ):
        self.labels = ["start", "end"]
        self.context, self.stride, self.answer_length, self.threshold = context, stride, answer_length, threshold
        self.no_answer = False

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(
            context=section.context,
            stride=section.stride,
            answer_length=section.answer_length,
            threshold=section.threshold,
        )

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        keys = ("context", "stride", "answer_length", "threshold")
        task = cls(**{key: info[key] for key in keys if key in info})
        task.no_answer = info.get("no_answer", False)
        return task

    def fit(self, records: Sequence[Record]) -> None:
        known = [answers_of(record) for record in records]
        if not any(known):
            raise DataError(
                "No training question has an answer.",
                where=records[0].file if records else None,
                fix="check the column of the answers: --columns answers=…",
            )
        self.no_answer = not all(known)

    def check(self, record: Record) -> None:
        answers_of(record)

    def room(self, max_length: int) -> str:
        return f"the {max(1, max_length // 3):,} tokens that a question may have"

    def group(self, record: Record) -> str:
        return str(bool(answers_of(record)))

    # encoding ---------------------------------------------------------------------------------------------------

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        return self.examples(self.read(record, tokenizer, max_length), index, answers_of(record)[:1] if target else [])

    def read(self, record: Record, tokenizer: Tokenizer, max_length: int) -> Reading:
        """A record as tokens, and its windows.

        Raises:
            UsageError: no room for a token of the context.
        """
        start = [] if tokenizer.start_id is None else [tokenizer.start_id]
        question, cut = head_and_tail(tokenizer.encode(str(record.fields["question"])), max(1, max_length // 3))
        ids, offsets = tokenizer.encode_with_offsets(str(record.fields["context"]))
        copies = 2 if self.context == "both" else 1
        room = (max_length - len(start) - len(question) - 1 - copies) // copies
        if room < 1:
            raise UsageError(
                f"{max_length} tokens are too few for a question.", where="data.max_length", fix="raise it"
            )
        step = min(self.stride or max(1, room // 2), room)
        windows = [(0, min(room, len(ids)))]
        while windows[-1][1] < len(ids):
            first = windows[-1][0] + step
            windows.append((first, min(first + room, len(ids))))
        return Reading(start, question, ids, offsets, windows, separator(tokenizer), copies, cut)

    def examples(self, reading: Reading, index: int, answers: Sequence[Answer]) -> list[Example]:
        """The windows of a record; the first answer is what is to be learned, without one that there is none."""
        span = reading.tokens_of(answers[0]) if answers else None
        return [
            reading.example(first, end, span, index, reading.truncated if number == 0 else 0)
            for number, (first, end) in enumerate(reading.windows)
        ]

    # learning ---------------------------------------------------------------------------------------------------

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        return span_loss(*self.scores(model, batch), label_smoothing)

    def scores(
        self, model: Model, batch: Batch, head: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, L, 2) scores of the windows of a batch, -inf beyond their ends, and their labels (N, L), -1 there.

        Args:
            head: from hidden states to scores; None: the model's.
        """
        hidden, labels, sizes = self.hidden(model, batch)
        scores = (head or model.logits)(hidden).float()  # (scored tokens, 2)
        return (
            pad_sequence(list(scores.split(sizes)), batch_first=True, padding_value=float("-inf")),
            pad_sequence(list(labels.split(sizes)), batch_first=True, padding_value=-1),
        )

    def hidden(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, list[int]]:
        """(scored tokens, C) hidden states of the windows one after the other, their labels, and tokens of each."""
        assert batch.labels is not None
        labels = batch.labels.flatten()
        where = (labels != IGNORE).nonzero().squeeze(1)
        owner = owner_of(batch, where)
        where = where[owner.argsort(stable=True)]
        sizes = owner.bincount(minlength=len(batch.indices)).tolist()
        return model.transformer(batch.ids, batch.positions, batch.documents, read=where), labels[where], sizes

    def count(self, batch: Batch) -> float:
        return len(batch.indices)

    # predicting -------------------------------------------------------------------------------------------------

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> list[Answer]:
        """The answer to the question of each record."""
        return self._answers(runner, records)

    def _answers(
        self, runner: ModelRunner, records: Sequence[Record], head: Callable[[Tensor], Tensor] | None = None
    ) -> list[Answer]:
        readings = [self.read(record, runner.tokenizer, runner.max_length) for record in records]
        examples = [one for i, reading in enumerate(readings) for one in self.examples(reading, i, [])]
        return self.decode(records, readings, self.window_scores(runner, examples, head))

    def window_scores(
        self, runner: ModelRunner, examples: Sequence[Example], head: Callable[[Tensor], Tensor] | None = None
    ) -> list[np.ndarray]:
        """For each window (L, 2) log-probabilities of an answer's beginning and end; `head` as in `scores`."""
        found: list[np.ndarray] = [np.zeros(0)] * len(examples)
        for places, (scores, labels) in runner.forward_batches(
            examples, lambda batch: self.scores(runner.model, batch, head)
        ):
            shares = scores.log_softmax(1).cpu().numpy()
            sizes = (labels >= 0).sum(1).tolist()
            for place, row, size in zip(places, shares, sizes, strict=True):
                found[place] = row[:size]
        return found

    def probe(self, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record]) -> list[Answer]:
        """The answers of two rows of weights on frozen features; see `windows.span_probe`."""
        examples, tokens = [], 0
        for example in self.encode_all(runner, evenly(train, trust.PROBED)):
            examples.append(example)
            tokens += len(example.ids)
            if tokens > PROBED_TOKENS:
                break
        states, marks = [], []
        for _, (hidden, labels, sizes) in runner.forward_batches(
            examples, lambda batch: self.hidden(runner.model, batch)
        ):
            states += [one.float().clone() for one in hidden.split(sizes)]
            marks += [one.clone() for one in labels.split(sizes)]
        return self._answers(runner, records, span_probe(states, marks))

    def decode(
        self, records: Sequence[Record], readings: Sequence[Reading], scores: Sequence[np.ndarray]
    ) -> list[Answer]:
        """Answers from the windows' scores: the span that stands out most against "no answer" in its window."""
        said, turn = [], iter(scores)
        for record, reading in zip(records, readings, strict=True):
            best, odds, share = None, -np.inf, 0.0
            for first, end in reading.windows:
                table = next(turn)
                if end == first:
                    continue  # an empty context
                start, stop, score = best_span(table[:-1, 0], table[:-1, 1], self.answer_length)
                if score - table[-1].sum() > odds:
                    best, odds, share = (first + start, first + stop), score - table[-1].sum(), float(np.exp(score))
            none = 1 / (1 + np.exp(min(odds, 500.0)))
            if best is None or (self.no_answer and none >= self.threshold):
                said.append(Answer("", -1, float(none)))
            else:
                said.append(reading.answer(str(record.fields["context"]), *best, share))
        return said

    def rows(self, records: Sequence[Record], said: list[Answer]) -> list[dict[str, Any]]:
        return [
            {
                "question": record.fields["question"],
                "answer": answer.text,
                "start": answer.start if answer.text else None,
                "probability": round(answer.probability, 4),
            }
            for record, answer in zip(records, said, strict=True)
        ]

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        readings = [self.read(record, runner.tokenizer, runner.max_length) for record in records]
        gold = [answers_of(record) for record in records]
        examples = [
            one
            for i, (reading, known) in enumerate(zip(readings, gold, strict=True))
            for one in self.examples(reading, i, known[:1])
        ]
        scores = self.window_scores(runner, examples)
        said = self.decode(records, readings, scores)
        values = answer_values(said, [[one.text for one in known] for known in gold], questions_of(records))
        losses = []
        for example, table in zip(examples, scores, strict=True):
            marks = np.array([label for label in example.labels or () if label != IGNORE])
            losses.append(-(table[(marks & START) > 0, 0].sum() + table[(marks & END) > 0, 1].sum()) / 2)
        return {**{key: float(value.mean()) for key, value in values.items()}, "loss": float(np.mean(losses))}

    # the verdict ------------------------------------------------------------------------------------------------

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, list[Answer]]:
        sentences = BestSentence([str(record.fields["context"]) for record in [*train, *test]])
        kinds = FrequentKind(sentences, [next((a.text for a in answers_of(record)), "") for record in train])
        return {
            system.name: [system.predict(str(r.fields["context"]), str(r.fields["question"])) for r in test]
            for system in (kinds, sentences)
        }

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        gold = [[answer.text for answer in answers_of(record)] for record in records]
        questions = questions_of(records)
        measured = {name: answer_values(said, gold, questions) for name, said in systems.items()}
        notes = list(fields.pop("notes", []))
        unanswerable, none = [not known for known in gold], [not answer.text for answer in systems[TUNED]]
        if any(unanswerable) or any(none):
            both = sum(a and b for a, b in zip(unanswerable, none, strict=True))
            notes.insert(
                0,
                f"{sum(unanswerable):,} of {len(gold):,} test questions have no answer; the tuned model gives none to "
                f"{sum(none):,}, {both:,} of them rightly.",
            )
        return assess_means(
            title=title,
            task=self.name,
            measured=measured,
            primary="f1",
            predictions={name: [answer.text for answer in said] for name, said in systems.items()},
            texts=[str(record.fields["context"]) for record in records],
            labels=["with an answer" if known else "without an answer" for known in gold],
            worst=worst_means(
                questions,
                [known[0] if known else "(none)" for known in gold],
                [answer.text or "(none)" for answer in systems[TUNED]],
                measured[TUNED]["f1"],
                confidences=[answer.probability for answer in systems[TUNED]],
                sources=[(record.file, record.row) for record in records],
            ),
            notes=notes,
            **fields,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "labels": self.labels,
            "context": self.context,
            "stride": self.stride,
            "answer_length": self.answer_length,
            "threshold": self.threshold,
            "no_answer": self.no_answer,
        }


def questions_of(records: Sequence[Record]) -> list[str]:
    """The question of each record."""
    return [str(record.fields["question"]) for record in records]

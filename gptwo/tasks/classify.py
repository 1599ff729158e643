"""Text classification: two labels, several, or several at once.

The scores come from the last token of a text, as in GPT2ForSequenceClassification; a text too long keeps its head
and its tail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.evaluate import metrics
from gptwo.evaluate.assess import TUNED, assess_classification, assess_multilabel
from gptwo.evaluate.baselines import Majority, TfidfLogisticRegression
from gptwo.evaluate.calibration import tempered
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.report import Report
from gptwo.model.heads import Model
from gptwo.recipe import TaskSection
from gptwo.tasks import trust
from gptwo.tasks.base import Predictor
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import encode_text, head_and_tail
from gptwo.tokenizer import Tokenizer


class Classify(Predictor):
    """One label for a text, or any number of labels.

    Args:
        labels: names in order; None: those of the training records, sorted.
        multi_label: a text may have several labels, or none; each is decided by itself (binary cross-entropy).
        class_weights: "none", "balanced" (inverse to frequency), or a weight for each label.
        positive: of two labels, the one whose F1 is reported; None: the last one.
        threshold: with two labels, "positive" is predicted from this probability on; with several at once, each.
    """

    name = "classify"
    head = "sequence"
    columns = ("text", "label")
    inputs = ("text",)

    def __init__(
        self,
        labels: Sequence[str] | None = None,
        *,
        multi_label: bool = False,
        class_weights: str | Mapping[str, float] = "none",
        positive: str | None = None,
        threshold: float = 0.5,
    ):
        self.labels = list(labels or [])
        self.given = labels is not None
        self.multi_label = multi_label
        self.class_weights = class_weights
        self.positive = positive
        self.threshold = threshold
        self.weights: Tensor | None = None
        self.lists = ("label",) if multi_label else ()

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(
            section.labels,
            multi_label=section.multi_label,
            class_weights=section.class_weights,
            positive=section.positive,
            threshold=section.threshold,
        )

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        multi_label = info.get("problem_type") == "multi_label_classification"
        return cls(
            info["labels"],
            multi_label=info.get("multi_label", multi_label),
            positive=info.get("positive"),
            threshold=info.get("threshold", 0.5),
        )

    @property
    def figures(self) -> tuple[str, ...]:
        """Those of the labels; with two of them also the F1 of the positive one."""
        if self.multi_label:
            return ("micro_f1", "macro_f1", "loss")
        return ("accuracy", *(("f1",) if self.binary else ()), "macro_f1", "loss")

    # learning ---------------------------------------------------------------------------------------------------

    def fit(self, records: Sequence[Record]) -> None:
        counts = Counter(label for record in records for label in self._labels_of(record))
        if not self.given:
            self.labels = sorted(counts)
        if len(self.labels) < (1 if self.multi_label else 2):
            raise DataError(
                f"Classification needs two labels; the training records have {self.labels}.",
                where=records[0].file if records else None,
                fix="check the column of the labels: --columns label=…",
            )
        self._check_settings()
        if self.class_weights == "balanced":
            total = sum(counts.values())
            weights = [total / (len(counts) * counts[label]) if counts[label] else 1.0 for label in self.labels]
            self.weights = torch.tensor(weights)
        elif isinstance(self.class_weights, Mapping):
            self.weights = torch.tensor([float(self.class_weights.get(label, 1.0)) for label in self.labels])

    def labels_in(self, record: Record) -> Sequence[str]:
        return self._labels_of(record)

    def group(self, record: Record) -> str:
        return " ".join(sorted(self._labels_of(record)))

    @property
    def binary(self) -> bool:
        """Whether one of two labels is to be chosen."""
        return len(self.labels) == 2 and not self.multi_label

    @property
    def positive_place(self) -> int:
        """Of two labels, the index of the positive one."""
        return self.labels.index(self.positive) if self.positive else 1

    def _check_settings(self) -> None:
        """Settings that do not fit the labels.

        Raises:
            UsageError: a label twice; a weight for, or as positive, a label that is not there; a threshold or a
                positive label where the likeliest of many labels is chosen.
        """
        twice = [label for label, count in Counter(self.labels).items() if count > 1]
        if twice:
            raise UsageError(f"The label {twice[0]!r} is given twice.", where="task.labels")
        weighted = list(self.class_weights) if isinstance(self.class_weights, Mapping) else []
        for key, names in (("positive", [self.positive] if self.positive else []), ("class_weights", weighted)):
            for name in names:
                if name not in self.labels:
                    raise UsageError(
                        f"There is no label {name!r}.", where=f"task.{key}", fix=did_you_mean(name, self.labels)
                    )
        if isinstance(self.class_weights, Mapping) and not all(
            0 <= weight < float("inf") for weight in self.class_weights.values()
        ):
            raise UsageError("A class weight must be a number from 0 on.", where="task.class_weights")
        if self.positive and not self.binary:
            raise UsageError(
                f"Only one of two labels can be the positive one; there are {len(self.labels)}.", where="task.positive"
            )
        if self.threshold != 0.5 and not (self.binary or self.multi_label):
            raise UsageError(
                f"Of {len(self.labels)} labels the likeliest is chosen, without a threshold.",
                where="task.threshold",
                fix="leave it out, or set task.multi_label = true",
            )

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        ids, truncated = head_and_tail(encode_text(tokenizer, self.text_of(record)), max_length)
        return [Example(ids, target=self.target_of(record) if target else None, index=index, truncated=truncated)]

    def text_of(self, record: Record) -> str:
        """What is classified, as text."""
        return str(record.fields["text"])

    def target_of(self, record: Record) -> Any:
        """The index of the record's label; of several, 0.0 or 1.0 for each label."""
        places = [self._place(label, record) for label in self._labels_of(record)]
        return [float(i in places) for i in range(len(self.labels))] if self.multi_label else places[0]

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        scores, targets = self.scores(model, batch), batch.targets
        weights = None if self.weights is None else self.weights.to(scores.device)
        if self.multi_label:
            soft = targets * (1 - label_smoothing) + label_smoothing / 2
            losses = F.binary_cross_entropy_with_logits(scores, soft, reduction="none")  # (N, labels)
            return (losses if weights is None else losses * weights).sum()
        if self.binary:
            soft = targets * (1 - label_smoothing) + label_smoothing / 2
            losses = F.binary_cross_entropy_with_logits(scores[:, 1] - scores[:, 0], soft, reduction="none")  # (N,)
            return (losses if weights is None else losses * weights[targets]).sum()
        return F.cross_entropy(scores, targets, weights, reduction="sum", label_smoothing=label_smoothing)

    def count(self, batch: Batch) -> float:
        if self.multi_label:
            return batch.targets.numel()
        if self.weights is None:
            return len(batch.targets)
        return float(self.weights[batch.targets.cpu()].sum())

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """(N, labels) scores of a batch, float32."""
        hidden = model.transformer(batch.ids, batch.positions, batch.documents, read=batch.last)  # (N, C)
        return model.logits(hidden).float()

    # predicting -------------------------------------------------------------------------------------------------

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> Predictions:
        """Labels and probabilities of records, in their order."""
        examples = self.encode_all(runner, records, target=False)
        table = np.zeros((len(examples), len(self.labels)))
        for places, scores in runner.forward_batches(examples, lambda batch: self.scores(runner.model, batch)):
            table[places] = (scores.sigmoid() if self.multi_label else scores.softmax(1)).cpu().numpy()
        return self.calibrated(Predictions(self.decide(table), table, self.labels))

    def calibrated(self, said: Predictions) -> Predictions:
        """The same predictions with the probabilities that `calibrate` found; what is predicted does not change."""
        temperature = self.calibration.get("temperature", 1.0)
        table = tempered(said.probabilities, temperature, independent=self.multi_label)
        return Predictions(said.labels, table, said.classes)

    def decide(self, table: np.ndarray) -> list:
        """Labels from probabilities (N, labels)."""
        if self.multi_label:
            return [[self.labels[i] for i in np.flatnonzero(row >= self.threshold)] for row in table]
        if self.binary:
            positive = self.positive_place
            return [self.labels[positive if row[positive] >= self.threshold else 1 - positive] for row in table]
        return [self.labels[i] for i in table.argmax(1)]

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        said = self.predict(runner, records)
        return self.measure(self.gold(records), said)

    def measure(self, gold: list, said: Predictions) -> dict[str, float]:
        """The figures of predictions with probabilities."""
        if self.multi_label:
            table = metrics.multilabel_table(gold, said.labels, labels=self.labels)
            loss = metrics.multilabel_log_losses(gold, said.probabilities, self.labels).mean()
            figures = {"micro_f1": table.average("micro").f1, "macro_f1": table.average("macro").f1}
            return {**figures, "loss": float(loss)}
        table = metrics.class_table(gold, said.labels, labels=self.labels)
        figures = {
            "accuracy": metrics.accuracy(gold, said.labels),
            "macro_f1": table.average("macro").f1,
            "loss": metrics.log_loss(gold, said.probabilities, self.labels),
        }
        if self.binary:
            figures["f1"] = table.classes[self.positive_place].f1
        return figures

    def rows(self, records: Sequence[Record], said: Predictions) -> list[dict[str, Any]]:
        found = []
        for record, label, shares in zip(records, said.labels, said.probabilities, strict=True):
            row: dict[str, Any] = {name: record.fields[name] for name in self.inputs}
            if self.multi_label:
                table = {name: round(float(share), 4) for name, share in zip(self.labels, shares, strict=True)}
                row |= {"labels": label, "probabilities": table}
            else:
                share = float(shares[self.labels.index(label)])
                row |= {"label": label, "probability": round(share, 4)}
                if self.calibration.get("abstain_below") is not None:
                    row["abstain"] = share < self.calibration["abstain_below"]
            found.append(row)
        return found

    # the verdict ------------------------------------------------------------------------------------------------

    def gold(self, records: Sequence[Record]) -> list:
        """The right labels of records, all known ones."""
        found = []
        for record in records:
            labels = self._labels_of(record)
            for label in labels:
                self._place(label, record)
            found.append(labels if self.multi_label else labels[0])
        return found

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Predictions]:
        texts, truth = [self.text_of(record) for record in train], self.gold(train)
        wanted = [self.text_of(record) for record in test]
        return {
            system.name: system.fit_predict(texts, truth, wanted) for system in (Majority(), TfidfLogisticRegression())
        }

    def probe(self, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record]) -> Predictions:
        return trust.probe(self, runner, train, records)

    def calibrate(
        self, runner: ModelRunner, records: Sequence[Record], *, target_precision: float | None
    ) -> dict[str, Any]:
        return trust.calibrate(self, runner, records, target_precision=target_precision)

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        fields = {**trust.reliance(self, records, systems.get(TUNED)), **fields}
        common = {
            "title": title,
            "gold": self.gold(records),
            "texts": [self.text_of(record) for record in records],
            "predictions": systems,
            "labels": self.labels,
            "sources": [(record.file, record.row) for record in records],
            "task": self.name,
            **fields,
        }
        if self.multi_label:
            return assess_multilabel(**common)
        return assess_classification(**common, positive=self.positive)

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "labels": self.labels,
            "multi_label": self.multi_label,
            "positive": self.positive,
            "threshold": self.threshold,
            "problem_type": "multi_label_classification" if self.multi_label else "single_label_classification",
        }

    def _labels_of(self, record: Record) -> list[str]:
        value = record.fields["label"]
        if isinstance(value, list | tuple):
            labels = [str(label) for label in value]
        else:
            labels = [str(value)]
        if not self.multi_label and len(labels) != 1:
            raise DataError(
                f"The record has {len(labels)} labels.", where=record.place(), fix="--set task.multi_label=true"
            )
        return labels

    def _place(self, label: str, record: Record) -> int:
        if label not in self.labels:
            raise DataError(
                f"The label {label!r} "
                + ("is not among the model's labels." if self.given else "does not occur in the training data."),
                where=record.place(),
                fix=did_you_mean(label, self.labels),
            )
        return self.labels.index(label)

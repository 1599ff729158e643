"""Several questions about one text at once: its topic and its sentiment, each with labels of its own.

One network reads the text, and each kind of label has its part of the head. A label is kept as "kind: name".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.evaluate import metrics
from gptwo.evaluate.assess import TUNED, Sampling, class_rows
from gptwo.evaluate.baselines import Majority, TfidfLogisticRegression
from gptwo.evaluate.calibration import tempered
from gptwo.evaluate.means import assess_means, worst_means
from gptwo.evaluate.report import Report
from gptwo.evaluate.statistics import Interval, macro_f1_of_sums
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.recipe import TaskSection
from gptwo.tasks import trust
from gptwo.tasks.base import Predictor
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import encode_text, head_and_tail
from gptwo.tasks.texts import evenly
from gptwo.tokenizer import Tokenizer

BETWEEN = ": "


class Joint(Predictor):
    """A label of each kind for a text.

    Args:
        kinds: the fields that hold labels, at least two. A record may have none of a kind (an empty cell): it
            teaches the others.
        labels: "kind: name" of all kinds; None: those of the training records, sorted.
    """

    name = "joint"
    head = "sequence"
    inputs = ("text",)
    figures = ("mean_accuracy", "mean_macro_f1", "loss")

    def __init__(self, kinds: Sequence[str], labels: Sequence[str] | None = None):
        if len(set(kinds)) < 2:
            raise UsageError(
                "Several labels at once need two kinds or more.",
                where="task.kinds",
                fix='task.kinds = ["topic", "sentiment"]',
            )
        self.kinds = list(dict.fromkeys(kinds))
        self.columns = ("text", *self.kinds)
        self.lists = tuple(self.kinds)  # of one label, or none
        self.given = labels is not None
        self.labels = list(labels or [])

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.kinds, section.labels)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        return cls(info["kinds"], info["labels"])

    @property
    def names(self) -> dict[str, list[str]]:
        """Kind to its labels, in the order of the head."""
        found: dict[str, list[str]] = {kind: [] for kind in self.kinds}
        for label in self.labels:
            kind, _, name = label.partition(BETWEEN)
            found.setdefault(kind, []).append(name)
        return found

    def fit(self, records: Sequence[Record]) -> None:
        counts = Counter((kind, name) for record in records for kind, name in self.labels_of(record).items())
        if not self.given:
            self.labels = [f"{kind}{BETWEEN}{name}" for kind in self.kinds for k, name in sorted(counts) if k == kind]
        for kind, names in self.names.items():
            if kind not in self.kinds or len(names) < 2:
                raise DataError(
                    f"The kind {kind!r} needs two labels; it has {names}.",
                    where=records[0].file if records else None,
                    fix=f"check the column: --columns {kind}=…",
                )

    def check(self, record: Record) -> None:
        if not self.labels_of(record):
            raise DataError("The record has no label of any kind.", where=record.place(), fix="leave it out")

    def labels_of(self, record: Record) -> dict[str, str]:
        """Kind to the record's label, without the kinds it lacks.

        Raises:
            DataError: several labels of one kind.
        """
        found = {}
        for kind in self.kinds:
            value = record.fields[kind]
            values = [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
            if len(values) > 1:
                raise DataError(
                    f"The record has {len(values)} labels of {kind!r}.", where=record.place(), fix="leave one of them"
                )
            if values and values[0].strip():
                found[kind] = values[0]
        return found

    def labels_in(self, record: Record) -> Sequence[str]:
        return [f"{kind}{BETWEEN}{name}" for kind, name in self.labels_of(record).items()]

    def places_of(self, record: Record) -> list[int]:
        """For each kind, the place of the record's label among its labels; IGNORE where it lacks one.

        Raises:
            DataError: an unknown label, or none at all.
        """
        labels, names = self.labels_of(record), self.names
        if not labels:
            raise DataError("The record has no label of any kind.", where=record.place(), fix="leave it out")
        for kind, label in labels.items():
            if label not in names[kind]:
                raise DataError(
                    f"The label {label!r} of {kind!r} does not occur in the training data.",
                    where=record.place(),
                    fix=did_you_mean(label, names[kind]),
                )
        return [names[kind].index(labels[kind]) if kind in labels else IGNORE for kind in self.kinds]

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        ids, truncated = head_and_tail(encode_text(tokenizer, str(record.fields["text"])), max_length)
        return [Example(ids, target=self.places_of(record) if target else None, index=index, truncated=truncated)]

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        assert batch.targets is not None
        total = batch.ids.new_zeros((), dtype=model.projection.weight.dtype)
        for column, scores in enumerate(self.scores(model, batch)):
            total = total + F.cross_entropy(
                scores,
                batch.targets[:, column],
                reduction="sum",
                ignore_index=IGNORE,
                label_smoothing=label_smoothing,
            )
        return total

    def count(self, batch: Batch) -> float:
        assert batch.targets is not None
        return int((batch.targets != IGNORE).sum())

    def scores(self, model: Model, batch: Batch) -> tuple[Tensor, ...]:
        """For each kind (N, its labels) scores, float32."""
        assert batch.last is not None
        hidden = model.transformer(batch.ids, batch.positions, batch.documents, read=batch.last)  # (N, C)
        scores = model.logits(hidden).float()
        return scores.split([len(self.names[kind]) for kind in self.kinds], dim=1)

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, metrics.Predictions]:
        """Labels and probabilities of records, by kind."""
        examples = self.encode_all(runner, records, target=False)
        names = self.names
        tables = [np.zeros((len(examples), len(names[kind]))) for kind in self.kinds]
        for places, parts in runner.forward_batches(examples, lambda batch: self.scores(runner.model, batch)):
            for table, scores in zip(tables, parts, strict=True):
                table[places] = scores.softmax(1).cpu().numpy()
        found = {}
        for kind, table in zip(self.kinds, tables, strict=True):
            table = tempered(table, self.fitted.get(kind, {}).get("temperature", 1.0))
            found[kind] = metrics.Predictions([names[kind][place] for place in table.argmax(1)], table, names[kind])
        return found

    @property
    def fitted(self) -> dict[str, dict[str, Any]]:
        """Kind to what `calibrate` fitted for it."""
        return self.calibration.get("kinds", {})

    def calibrate(
        self, runner: ModelRunner, records: Sequence[Record], *, target_precision: float | None
    ) -> dict[str, Any]:
        """A temperature for each kind with labels enough."""
        self.calibration = {}
        said = self.predict(runner, records)
        kinds = {}
        for kind, (there, gold) in self.known(records).items():
            truth = trust.places_of(gold, self.names[kind])
            kinds[kind] = trust.fitted(np.asarray(said[kind].probabilities)[there], truth)
        kinds = {kind: found for kind, found in kinds.items() if found}
        self.calibration = {"kinds": kinds} if kinds else {}
        return self.calibration

    def rows(self, records: Sequence[Record], said: Mapping[str, metrics.Predictions]) -> list[dict[str, Any]]:
        found = []
        for i, record in enumerate(records):
            row: dict[str, Any] = {"text": record.fields["text"]}
            for kind, one in said.items():
                row[kind] = {"label": one.labels[i], "probability": round(float(one.probabilities[i].max()), 4)}
            found.append(row)
        return found

    def known(self, records: Sequence[Record]) -> dict[str, tuple[np.ndarray, list[str]]]:
        """For each kind, which records have a label of it, and these labels."""
        for record in records:
            self.places_of(record)
        labels = [self.labels_of(record) for record in records]
        return {
            kind: (np.array([kind in row for row in labels]), [row[kind] for row in labels if kind in row])
            for kind in self.kinds
        }

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        said = self.predict(runner, records)
        accuracies, scores, nats, count = [], [], 0.0, 0
        for kind, (there, gold) in self.known(records).items():
            if not gold:
                continue
            labels = [label for label, has in zip(said[kind].labels, there, strict=True) if has]
            accuracies.append(metrics.accuracy(gold, labels))
            scores.append(metrics.class_table(gold, labels, labels=self.names[kind]).average("macro").f1)
            nats += float(metrics.log_losses(gold, said[kind].probabilities[there], self.names[kind]).sum())
            count += len(gold)
        return {
            "mean_accuracy": float(np.mean(accuracies)),
            "mean_macro_f1": float(np.mean(scores)),
            "loss": nats / max(1, count),
        }

    def probe(
        self, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record]
    ) -> dict[str, metrics.Predictions]:
        """Logistic regression on frozen features, one for each kind; see `trust.probe`."""
        chosen = evenly(train, trust.PROBED)
        learned = trust.features(self, runner, chosen)
        asked = trust.features(self, runner, records)
        found = {}
        for kind, (there, gold) in self.known(chosen).items():
            names = self.names[kind]
            columns = np.array([[label == name for name in names] for label in gold]).reshape(-1, len(names))
            table = trust.regressed(learned[there], columns, asked)
            found[kind] = metrics.Predictions([names[place] for place in table.argmax(1)], table, names)
        return found

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, dict[str, metrics.Predictions]]:
        wanted = [str(record.fields["text"]) for record in test]
        found: dict[str, dict[str, metrics.Predictions]] = {}
        for kind, (there, gold) in self.known(train).items():
            texts = [str(record.fields["text"]) for record, has in zip(train, there, strict=True) if has]
            for system in (Majority(), TfidfLogisticRegression()):
                found.setdefault(system.name, {})[kind] = system.fit_predict(texts, gold, wanted)
        return found

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        known = self.known(records)
        right: dict[str, dict[str, np.ndarray]] = {}
        measured: dict[str, dict[str, np.ndarray]] = {}
        for name, said in systems.items():
            right[name] = {}
            for kind, (there, gold) in known.items():
                hits = np.full(len(records), np.nan)
                hits[there] = [
                    a == b for a, b in zip(np.array(said[kind].labels, dtype=object)[there], gold, strict=True)
                ]
                right[name][kind] = hits
            table = np.stack(list(right[name].values()), axis=1)  # (N, kinds)
            measured[name] = {"mean_accuracy": np.nanmean(table, axis=1)}
        report = assess_means(
            title=title,
            task=self.name,
            measured=measured,
            primary="mean_accuracy",
            predictions={
                name: [[said[kind].labels[i] for kind in self.kinds] for i in range(len(records))]
                for name, said in systems.items()
            },
            texts=[str(record.fields["text"]) for record in records],
            worst=worst_means(
                [str(record.fields["text"]) for record in records],
                [", ".join(self.labels_of(record).values()) for record in records],
                [", ".join(systems[TUNED][kind].labels[i] for kind in self.kinds) for i in range(len(records))],
                measured[TUNED]["mean_accuracy"],
                sources=[(record.file, record.row) for record in records],
            ),
            **fields,
        )
        for kind, (there, gold) in known.items():
            if not gold:
                continue
            part = assess_means(
                title=title,
                task=self.name,
                measured={name: {f"accuracy/{kind}": values[kind][there]} for name, values in right.items()},
                primary=f"accuracy/{kind}",
            )
            for system, one in zip(report.systems, part.systems, strict=True):
                labels = np.array(systems[system.name][kind].labels, dtype=object)[there].tolist()
                names, (truth, guess) = metrics.encode_labels(gold, labels)
                macro = Sampling().bootstrap(class_rows(truth, guess, len(names)), macro_f1_of_sums)
                system.metrics |= {**one.metrics, f"macro_f1/{kind}": macro}
                table = systems[system.name][kind].probabilities
                if table is not None:
                    sure, hits = np.asarray(table, dtype=float)[there].max(1), right[system.name][kind][there] > 0
                    system.metrics[f"ece/{kind}"] = Interval(metrics.calibration(sure, hits).ece)
                if system.name == TUNED:
                    report.tables[kind] = metrics.class_table(gold, labels)
                    report.notes += self.scaling_note(kind, np.asarray(table)[there], gold) if table is not None else []
            report.comparisons += part.comparisons
        return report

    def scaling_note(self, kind: str, table: np.ndarray, gold: Sequence[str]) -> list[str]:
        """What the temperature of a kind did to its calibration error on the test records."""
        if kind not in self.fitted:
            return []
        names = self.names[kind]
        found = trust.relied(self.fitted[kind], table, trust.places_of(gold, names), table.argmax(1))["scaling"]
        return [
            f"Scores of {kind} are divided by a temperature of {found.temperature:.2f}, fitted on {found.records:,} "
            f"validation records: the calibration error went from {100 * found.ece_before:.1f} to "
            f"{100 * found.ece_after:.1f} points on the test records."
        ]

    def describe(self) -> dict[str, Any]:
        return {"task": self.name, "labels": self.labels, "kinds": self.kinds}

"""Classification with labels that stand in an order (stars, grades), or on a path ("sport/football")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gptwo.data.batching import Batch
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.evaluate.assess import TUNED, Sampling
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.ordinal import confusion_rows, path_rows, quadratic_kappa_of_sums
from gptwo.evaluate.report import Report
from gptwo.evaluate.statistics import Comparison, f1_of_sums
from gptwo.model.heads import Model
from gptwo.recipe import TaskSection
from gptwo.tasks.classify import Classify


class Ordinal(Classify):
    """Labels in an order; a wrong one is the worse, the farther away it is.

    The label that is predicted is the median of the probabilities, which makes the expected distance smallest.

    Args:
        labels: from the lowest to the highest; None: those of the training records, which must be numbers then.
        class_weights: as in `Classify`.
    """

    figures = ("mean_absolute_error", "quadratic_kappa", "accuracy", "macro_f1", "loss")

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.labels, class_weights=section.class_weights)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        return cls(info["labels"])

    def fit(self, records: Sequence[Record]) -> None:
        if not self.given:
            found = {label for record in records for label in self._labels_of(record)}
            try:
                self.labels = sorted(found, key=float)
            except ValueError as error:
                raise UsageError(
                    "The order of the labels is not known.",
                    where="task.labels",
                    why=f"they are no numbers: {', '.join(sorted(found)[:8])}",
                    fix='task.labels = ["low", "middle", "high"]',
                ) from error
            self.given = True
        super().fit(records)

    def decide(self, table: np.ndarray) -> list:
        places = (table.cumsum(1) >= 0.5 - 1e-9).argmax(1)
        return [self.labels[place] for place in places]

    def places(self, labels: Sequence[str]) -> np.ndarray:
        """(N,) places of labels in their order."""
        return np.array([self.labels.index(label) for label in labels], dtype=int)

    def measure(self, gold: list, said: Predictions) -> dict[str, float]:
        figures = super().measure(gold, said)
        truth, places = self.places(gold), self.places(said.labels)
        counts = confusion_rows(truth, places, len(self.labels)).sum(0, keepdims=True)
        figures["mean_absolute_error"] = float(np.abs(truth - places).mean())
        figures["quadratic_kappa"] = float(quadratic_kappa_of_sums(len(self.labels))(counts)[0])
        return {key: figures[key] for key in self.figures}

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        report = super().report(title, records, systems, primary="mean_absolute_error", **fields)
        gold, sampling, size = self.places(self.gold(records)), Sampling(), len(self.labels)
        kappa = quadratic_kappa_of_sums(size)
        away = {name: np.abs(gold - self.places(said.labels)).astype(float) for name, said in systems.items()}
        rows = {name: confusion_rows(gold, self.places(said.labels), size) for name, said in systems.items()}
        for system in report.systems:
            system.metrics["mean_absolute_error"] = sampling.mean(away[system.name])
            system.metrics["quadratic_kappa"] = sampling.bootstrap(rows[system.name], kappa)
        for name in systems:
            if name != TUNED:
                difference, p_value = sampling.paired(
                    away[TUNED][:, None], lambda sums: sums[:, 0] / len(gold), away[name][:, None]
                )
                report.comparisons.append(
                    Comparison(TUNED, name, "mean_absolute_error", difference, p_value, "paired bootstrap")
                )
        return report

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "ordinal": True}


class Hierarchical(Classify):
    """Labels on paths: "sport/football" is nearer to "sport/tennis" than to "money".

    A branch is as likely as all labels below it together. The loss is the cross-entropy of the label and of each
    branch above it; the likeliest branch is chosen first, then what is likeliest below it.

    Args:
        labels, class_weights: as in `Classify`; weights hold for the labels, not for the branches.
        separator: parts the steps of a path.
    """

    figures = ("accuracy", "hierarchical_f1", "level_1_accuracy", "macro_f1", "loss")

    def __init__(self, labels: Sequence[str] | None = None, *, class_weights: Any = "none", separator: str = "/"):
        super().__init__(labels, class_weights=class_weights)
        self.separator = separator

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.labels, class_weights=section.class_weights, separator=section.hierarchy or "/")

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        return cls(info["labels"], separator=info["hierarchy"])

    @property
    def depth(self) -> int:
        """Steps of the longest path."""
        return max(len(label.split(self.separator)) for label in self.labels)

    def branches(self, level: int) -> list[str]:
        """For each label, the first `level` steps of its path."""
        return [self.branch(label, level) for label in self.labels]

    def branch(self, label: str, level: int) -> str:
        """The first `level` steps of a path."""
        return self.separator.join(label.split(self.separator)[:level])

    def members(self, level: int) -> np.ndarray:
        """(labels, branches) 1 where a label lies on a branch of a level."""
        found = self.branches(level)
        names = list(dict.fromkeys(found))
        return np.array([[float(branch == name) for name in names] for branch in found], dtype=np.float32)

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        scores, targets = self.scores(model, batch), batch.targets
        assert targets is not None
        weights = None if self.weights is None else self.weights.to(scores.device)
        total = torch.nn.functional.cross_entropy(
            scores, targets, weights, reduction="sum", label_smoothing=label_smoothing
        )
        shares = scores.softmax(1)
        for level in range(1, self.depth):
            members = torch.from_numpy(self.members(level)).to(scores.device)
            right = members[targets]  # (N, branches)
            total = total - ((shares @ members) * right).sum(1).clamp(min=1e-12).log().sum()
        return total

    def decide(self, table: np.ndarray) -> list:
        kept = np.array(table, dtype=float)
        for level in range(1, self.depth):
            members = self.members(level)
            best = (kept @ members).argmax(1)
            kept = kept * members.T[best]
        return [self.labels[place] for place in kept.argmax(1)]

    def measure(self, gold: list, said: Predictions) -> dict[str, float]:
        figures = super().measure(gold, said)
        values = self.values(gold, said)
        figures["hierarchical_f1"] = float(f1_of_sums(values[0].sum(0, keepdims=True))[0])
        figures["level_1_accuracy"] = float(values[1].mean())
        return {key: figures[key] for key in self.figures}

    def values(self, gold: Sequence[str], said: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """For each record the counts of its path (N, 3), and whether its first step is right (N,)."""
        first = [self.branch(a, 1) == self.branch(b, 1) for a, b in zip(gold, said.labels, strict=True)]
        return path_rows(gold, said.labels, self.separator), np.array(first, dtype=float)

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        report = super().report(title, records, systems, **fields)
        gold, sampling = self.gold(records), Sampling()
        for system in report.systems:
            paths, first = self.values(gold, systems[system.name])
            system.metrics["hierarchical_f1"] = sampling.bootstrap(paths, f1_of_sums)
            system.metrics["level_1_accuracy"] = sampling.mean(first)
        return report

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "hierarchy": self.separator}

"""Tasks whose records hold candidates: each gets a score, and those of a record are judged together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import DataError
from gptwo.model.heads import Model
from gptwo.tasks.base import Predictor
from gptwo.tasks.candidates import Candidates, by_last, head_scores, listwise_loss, table_of, unfold
from gptwo.tasks.runner import ModelRunner


class ListTask(Predictor):
    """Learn which of the candidates of a record are right; `encode` gives one example a record (see candidates.py)."""

    @abstractmethod
    def grades_of(self, record: Record) -> list[int]:
        """How right each candidate of a record is; 0 is not.

        Raises:
            DataError: the record does not say; names file and row.
        """

    def fit(self, records: Sequence[Record]) -> None:
        if not records:
            raise DataError("There are no records to learn from.")
        for record in records:
            self.check(record)

    def check(self, record: Record) -> None:
        self.grades_of(record)

    def scores(self, model: Model, found: Candidates) -> Tensor:
        """(S,) scores of the candidates."""
        return head_scores(model, found)

    def objective(self, scores: Tensor, grades: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The summed loss of (N, K) scores and grades."""
        return listwise_loss(scores, grades, label_smoothing)

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        found = unfold(batch)
        return self.objective(found.grid(self.scores(model, found)), found.grades, label_smoothing)

    def as_read(self, batch: Batch) -> Batch:
        return by_last(unfold(batch))

    def count(self, batch: Batch) -> float:
        assert batch.last is not None
        return len(batch.last)

    def mean_loss(self, said: Sequence[np.ndarray], grades: Sequence[Sequence[int]]) -> float:
        """The loss of scores that `predict` gave, by record."""
        return float(self.objective(*table_of(said, grades))) / len(said)

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> list[np.ndarray]:
        """Scores of the candidates of each record, as they stand in it."""
        examples = self.encode_all(runner, records, target=False)
        temperature = self.calibration.get("temperature", 1.0)
        return [scores / temperature for scores in candidate_scores(runner, examples, self.scores)]


def candidate_scores(runner: ModelRunner, examples: Sequence[Example], score: Any) -> list[np.ndarray]:
    """Scores of the candidates of each example, float32.

    Args:
        score: (model, Candidates) -> (S,) scores, as `head_scores`; or (S, C) states.
    """

    def forward(batch: Batch) -> tuple[Tensor, list[int]]:
        found = unfold(batch)
        return score(runner.model, found).float().cpu(), found.sizes

    said: list[np.ndarray] = [np.zeros(0)] * len(examples)
    for places, (scores, sizes) in runner.forward_batches(examples, forward):
        for place, part in zip(places, scores.split(sizes), strict=True):
            said[place] = part.numpy()
    return said

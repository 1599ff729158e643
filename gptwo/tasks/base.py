"""What a task is: how records become examples, scores become predictions, and predictions become figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.model.heads import HeadKind, Model
from gptwo.tokenizer import Tokenizer


@dataclass
class Predictions:
    """What a model says of records, in their order.

    Args:
        outputs: one for each record: a label, a list of labels, a list of tags.
        confidences: probability of each output, 0 to 1; empty where a task has none.
        probabilities: for each record, the probability of every label; empty where a task has none.
    """

    outputs: list[Any]
    confidences: list[float] = field(default_factory=list)
    probabilities: Any = None


class Task(ABC):
    """One thing a network can be tuned for.

    A task is made from recipe settings, learns its labels from the training records, and is stored with the model
    (`describe`), so that a folder alone can predict.
    """

    name: ClassVar[str]
    head: ClassVar[HeadKind]
    columns: ClassVar[tuple[str, ...]]  # fields a training record needs
    metric: str  # decides the best checkpoint
    maximise: bool = True
    labels: list[str]

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> None:
        """Learn the labels (and their weights) from the training records.

        Raises:
            DataError: the records cannot teach this task; names file and row.
        """

    @abstractmethod
    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0) -> Example:
        """A record as token ids with labels.

        Args:
            max_length: tokens at most; what is cut off is counted in `Example.truncated`.
            index: the record's place in its data set.

        Raises:
            DataError: the record does not fit the task (an unknown label); names file and row.
        """

    @abstractmethod
    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over the labels of a batch."""

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """What that sum is divided by, over all micro-batches of a step."""

    @abstractmethod
    def predict(
        self, model: Model, tokenizer: Tokenizer, records: Sequence[Record], *, max_length: int, precision: str = "fp32"
    ) -> Predictions:
        """What the model says of records, in their order."""

    @abstractmethod
    def gold(self, records: Sequence[Record]) -> list[Any]:
        """The right outputs, in the form of `Predictions.outputs`."""

    @abstractmethod
    def measure(self, gold: Sequence[Any], predictions: Predictions) -> dict[str, float]:
        """Figures by name; `metric` is among them."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a saved model must know to predict; goes into gptwo.json."""

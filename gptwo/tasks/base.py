"""What a task is: how records become examples, scores become predictions, and predictions become figures.

Most tasks are a `Predictor`, which has something to say of each record; a language model only has a likelihood.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.evaluate.report import Report
from gptwo.model.heads import HeadKind, Model
from gptwo.recipe import TaskSection
from gptwo.tasks.runner import ModelRunner
from gptwo.tokenizer import Tokenizer


class Task(ABC):
    """One thing a network can be tuned for.

    A task is made of a recipe (`of`), learns its labels from the training records (`fit`), and is stored with the
    model (`describe`), so that a folder alone can predict (`restored`).

    Attributes:
        name: as recipes and commands write it.
        head: the head it needs.
        columns: fields that a training record needs; `inputs` are those needed to predict.
        optional: fields that a record may have beside those.
        lists: fields whose value is a list.
        special_tokens: tokens that it adds to the vocabulary.
        labels: names by index; empty where there are none.
        calibration: what `calibrate` fitted, or what a saved model says of it.
        uncalibrated: why confidences are left as they are, for the report of a task that gives some.
        probed_at: whose hidden state `probe` looks at.
        zero_shot: whether `untuned` does without the head that is tuned.
    """

    name: ClassVar[str]
    head: HeadKind
    columns: tuple[str, ...]
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()
    labels: list[str]
    calibration: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    uncalibrated: ClassVar[str] = ""
    probed_at: ClassVar[str] = "the last token"
    zero_shot: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, section: TaskSection) -> Self:
        """The task of a recipe."""

    @classmethod
    @abstractmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        """The task of a saved model, from what `describe` gave.

        Args:
            info: `Pretrained.info`; of a model that gptwo did not tune, what its config.json says.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a saved model must know to predict; goes into gptwo.json."""

    @property
    @abstractmethod
    def figures(self) -> tuple[str, ...]:
        """What `evaluate` measures, known after `fit`; the one that usually decides the best checkpoint first."""

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> None:
        """Learn the labels and their weights from the training records, and what is to be measured.

        Raises:
            DataError: the records cannot teach this task; names file and row.
        """

    def check(self, record: Record) -> None:  # noqa: B027 - most tasks have nothing to check
        """Whether a record can be learned from; `gptwo doctor data` asks this of every record.

        Raises:
            DataError: it cannot; names file and row.
        """

    def fit_tokens(self, tokenizer: Tokenizer, max_length: int) -> None:  # noqa: B027 - for most tasks there is nothing
        """Learn from the training records what is counted in tokens, after `fit`."""

    def group(self, record: Record) -> str:
        """What a share of the records should have in proportion; nothing, unless a task says so."""
        return ""

    def labels_in(self, record: Record) -> Sequence[str]:
        """The labels of a record, as `labels` has them; none for a task without labels of records."""
        return ()

    def remember(self, train: Sequence[Record]) -> None:
        """Take in training records again, for a saved model whose figures are judged by them.

        Raises:
            UsageError: no figure of this task needs them.
        """
        raise UsageError(
            f"The task {self.name} is judged without training records.", where="--train", fix="leave it out"
        )

    def room(self, max_length: int) -> str:
        """What a record must fit into, in words, after `fit_tokens`; for the note on those that do not."""
        return f"{max_length:,} tokens"

    @abstractmethod
    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        """A record as token ids; several examples where it does not fit into one.

        Args:
            max_length: tokens of an example at most; what is cut off is counted in `Example.truncated`.
            index: the record's place in its data set.
            target: with what is to be learned; False to predict.

        Raises:
            DataError: the record does not fit the task (an unknown label); names file and row.
        """

    def encode_all(self, runner: ModelRunner, records: Sequence[Record], *, target: bool = True) -> list[Example]:
        """The examples of records one after the other; `Example.index` says whose each is."""
        return [
            example
            for index, record in enumerate(records)
            for example in self.encode(record, runner.tokenizer, runner.max_length, index, target=target)
        ]

    @abstractmethod
    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over the labels of a batch."""

    def as_read(self, batch: Batch) -> Batch:
        """A batch as the rows that the network reads in `loss`, by whose work a run's speed is judged."""
        return batch

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """What that sum is divided by, over all micro-batches of a step."""

    @abstractmethod
    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        """Figures of a model on records with targets: those of `figures`."""

    @abstractmethod
    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        """The verdict on test records; `systems` holds what `opinion` and the baselines gave, by name."""

    @abstractmethod
    def opinion(self, runner: ModelRunner, records: Sequence[Record]) -> Any:
        """What `report` needs of a model on records: predictions, or scores."""

    def untuned(self, base: Model, runner: ModelRunner, records: Sequence[Record]) -> Any:
        """What the report calls "before tuning", in the form of `opinion`.

        Args:
            base: the model as it was given, with its own head. A task that can be done without a fresh one uses it.
            runner: of the copy that will be tuned, whose head is fresh where `base` has not the task's.
        """
        return self.opinion(runner, records)

    def probe(self, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record]) -> Any:
        """What the features of an untuned network are worth with the cheapest head, in the form of `opinion`.

        Stands for the model before tuning where its own head would be a fresh one.

        Returns:
            None where the task has no such head.
        """
        return None

    def calibrate(
        self, runner: ModelRunner, records: Sequence[Record], *, target_precision: float | None
    ) -> dict[str, Any]:
        """Fit what makes the confidences of a tuned model mean something; kept in `calibration`.

        Args:
            records: of the validation data.
            target_precision: below which confidence to abstain is chosen for it; None: never abstain.

        Returns:
            Plain values for gptwo.json; nothing where there is nothing to fit, or too few records.
        """
        return {}

    @abstractmethod
    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        """What cheap opponents make of the test records, by name."""


class Predictor(Task):
    """A task that says something of each record."""

    @abstractmethod
    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> Any:
        """What the model says of records, in their order."""

    @abstractmethod
    def rows(self, records: Sequence[Record], said: Any) -> list[dict[str, Any]]:
        """What `gptwo predict` prints of each record, but for its place; `said` is what `predict` gave for them."""

    def opinion(self, runner: ModelRunner, records: Sequence[Record]) -> Any:
        return self.predict(runner, records)

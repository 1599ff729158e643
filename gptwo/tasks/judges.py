"""A tuned classifier as a judge of texts: which of its labels a text has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptwo.adapt.store import load
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.evaluate.metrics import Predictions
from gptwo.tasks import restore_task
from gptwo.tasks.classify import Classify
from gptwo.tasks.runner import ModelRunner


class Judge:
    """A classifier out of its folder.

    Args:
        model: a run folder, a model folder or a name.
        labels: that it will be asked about.
        where: the flag or key that named it, for messages.
        device, precision: as in prediction.

    Raises:
        MissingError: there is no such model.
        UsageError: it gives no single label to a text, or does not know one of these.
    """

    def __init__(
        self, model: str | Path, labels: Sequence[str], *, where: str, device: str = "cpu", precision: str = "fp32"
    ):
        self._loaded, self._precision = load(model, device=device), precision
        task = restore_task(self._loaded.info, self._loaded.model.head_kind)
        if not isinstance(task, Classify) or task.multi_label or self._loaded.tokenizer is None:
            raise UsageError(
                f"A judge gives one label to a text; this model is tuned for {task.name}.",
                where=f"{where}: {model}",
                fix="the folder of a model tuned with task classify",
            )
        missing = [label for label in labels if label not in task.labels]
        if missing:
            raise UsageError(
                f"The judge does not know {missing[0]!r}.",
                where=f"{where}: {model}",
                why=f"it knows {', '.join(task.labels)}",
                fix="a classifier that was tuned on records with these labels",
            )
        self._task = task

    def __call__(self, texts: Sequence[str]) -> Predictions:
        """Labels and probabilities of texts; an empty text is judged as a space."""
        loaded = self._loaded
        assert loaded.tokenizer is not None
        most = loaded.config.n_positions
        longest = min(loaded.info.get("max_length") or most, most)
        return self._task.predict(
            ModelRunner(loaded.model, loaded.tokenizer, longest, self._precision),
            [Record({"text": text or " "}, "<text>", row) for row, text in enumerate(texts, 1)],
        )

"""Using a tuned model: predictions for new records, and its figures on records with answers or on running text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptwo import runtime
from gptwo.data.documents import iter_documents
from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.language import score_texts
from gptwo.evaluate.report import Report, System
from gptwo.model import pretrained as models
from gptwo.tasks import restore_task
from gptwo.tasks.language import Language

TEXT_ENDINGS = (".txt", ".md", ".txt.gz", ".txt.zst", ".txt.xz")


def records_of_texts(texts: Sequence[str]) -> list[Record]:
    """Plain texts as records; a text is also its tokens, parted by white space."""
    return [Record({"text": text, "tokens": text.split() or [text]}, "<text>", i) for i, text in enumerate(texts, 1)]


def predict(
    model: str | Path,
    source: Path | str | Sequence[Record],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> list[dict[str, Any]]:
    """Labels or tags for records.

    Args:
        model: a folder or a name.
        source: a file of records, or records.

    Returns:
        One dictionary for each record: "label" and "probability" (or "labels"/"tokens" and "tags"), with "row".

    Raises:
        UsageError: the model is not tuned for labels or tags.
        DataError: a row cannot be used; nothing is predicted then, so that rows and predictions stay in step.
    """
    place = runtime.pick_device(device).value
    kind = runtime.pick_precision(precision, place).value
    loaded = models.load(model, device=place)
    task = restore_task(loaded.info)
    if isinstance(task, Language):
        raise UsageError("A language model writes text.", where=model, fix=f'gptwo generate --model {model} "prompt"')
    if isinstance(source, str | Path):
        rejects = Rejects(strict=True)
        records = list(
            read_records(
                source,
                columns=columns,
                required=task.inputs,
                format=format,
                rejects=rejects,
                lists=tuple(name for name in task.inputs if name in task.lists),
            )
        )
    else:
        records = list(source)
    said = task.predict(loaded.model, loaded.tokenizer, records, max_length=loaded.config.n_positions, precision=kind)
    rows: list[dict[str, Any]] = []
    for i, (record, label) in enumerate(zip(records, said.labels, strict=True)):
        row: dict[str, Any] = {"row": record.row}
        if task.name == "tag":
            row |= {"tokens": record.fields["tokens"], "tags": label}
        elif isinstance(label, list):
            row |= {"text": record.fields["text"], "labels": label, "probabilities": _table(task.labels, said, i)}
        else:
            probability = float(said.probabilities[i][task.labels.index(label)])
            row |= {"text": record.fields["text"], "label": label, "probability": round(probability, 4)}
        rows.append(row)
    return rows


def measure(
    model: str | Path,
    data: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    stride: int | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Report:
    """Figures of a model on records with answers, or (text files, a language model) on running text.

    Raises:
        DataError: rows that cannot be used, or no data.
    """
    place = runtime.pick_device(device).value
    kind = runtime.pick_precision(precision, place).value
    loaded = models.load(model, device=place)
    machine = runtime.describe_machine()
    if loaded.model.head_kind == "language" and all(str(path).endswith(TEXT_ENDINGS) for path in data):
        if loaded.tokenizer is None:
            raise UsageError("The model has no tokenizer.", where=loaded.folder)
        systems = []
        for path in data:
            texts = list(iter_documents([path]))
            if not texts:
                raise DataError("There is no text in the file.", where=path)
            score = score_texts(loaded.model, loaded.tokenizer, texts, stride=stride, precision=kind)
            note = f"{score.tokens:,} tokens, {score.bytes:,} bytes, stride {stride or loaded.config.n_positions // 2}"
            systems.append(System(f"{Path(path).name}", score.metrics(), "other", note=note))
        return Report(f"{model} on running text", "language", "bits_per_byte", systems, machine=machine)
    task = restore_task(loaded.info)
    rejects = Rejects(strict=True)
    records = list(
        read_records(
            list(data), columns=columns, required=task.columns, format=format, rejects=rejects, lists=task.lists
        )
    )
    how = {"max_length": loaded.config.n_positions, "precision": kind}
    said = task.opinion(loaded.model, loaded.tokenizer, records, **how)
    return task.report(f"{model} on {Path(data[0]).name}", records, {"Tuned": said}, machine=machine)


def _table(labels: Sequence[str], said: Any, row: int) -> dict[str, float]:
    return {name: round(float(said.probabilities[row][i]), 4) for i, name in enumerate(labels)}

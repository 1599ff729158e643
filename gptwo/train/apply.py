"""Using a tuned model: predictions for new records, and its figures on records with answers or on running text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptwo import hub, runtime
from gptwo.adapt.store import load
from gptwo.data.documents import iter_documents
from gptwo.data.files import expand
from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.language import score_texts
from gptwo.evaluate.report import Report, System
from gptwo.generate.native_network import on_native, open_on_native
from gptwo.generate.native_weights import is_packed
from gptwo.generate.which import pick_backend
from gptwo.model.pretrained import Pretrained
from gptwo.tasks import restore_task
from gptwo.tasks.base import Predictor, Task
from gptwo.tasks.code import Code
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import words_of
from gptwo.tokenizer import Tokenizer
from gptwo.train.parts import Part, check_weights

TEXT_ENDINGS = (".txt", ".md", ".txt.gz", ".txt.zst", ".txt.xz")


def records_of_texts(texts: Sequence[str]) -> list[Record]:
    """Plain texts as records; a text is also its words."""
    return [Record({"text": text, "tokens": words_of(text)}, "<text>", i) for i, text in enumerate(texts, 1)]


def predict(
    model: str | Path,
    source: Path | str | Sequence[Record],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str = "utf-8-sig",
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Labels or tags for records.

    Args:
        model: a folder or a name.
        source: a file of records, or records.
        backend, precision: see `computing`.
        threads: of the native engine.

    Returns:
        One dictionary for each record: its "row", and what the task says of it (for classification "label" and
        "probability", for tagging "tokens" and "tags").

    Raises:
        UsageError: the model is not tuned for labels or tags.
        DataError: a row cannot be used; nothing is predicted then, so that rows and predictions stay in step.
    """
    loaded, kind = computing(model, device, precision, backend, threads)
    task = restore_task(loaded.info, loaded.model.head_kind)
    if not isinstance(task, Predictor):
        raise UsageError("A language model writes text.", where=model, fix=f'gptwo generate --model {model} "prompt"')
    if isinstance(source, str | Path):
        records = records_of_files([source], loaded, task, task.inputs, columns, format, encoding)
    else:
        records = [with_inputs(record, task) for record in source]
    said = task.predict(runner_of(loaded, kind), records)
    found = []
    for record, row in zip(records, task.rows(records, said), strict=True):
        if not_finite(row):
            raise DataError(
                "The scores of the record are no numbers.",
                where=record.place(),
                why="the network's activations grew beyond what its precision holds",
                fix="--precision fp32; where that does not help, gptwo doctor model looks at the weights",
            )
        found.append({"row": record.row, **row})
    return found


def computing(
    model: str | Path, device: str, precision: str, backend: str, threads: int | None
) -> tuple[Pretrained, str]:
    """A model on what computes it, and the precision of PyTorch's part.

    Args:
        precision: "auto", "fp32", "bf16"; of the native engine also "int8", "int4".
        backend: "torch", "native", or "auto", which is native where only that has the precision or reads the folder.

    Raises:
        UsageError: an unknown backend, device or precision.
        MissingError: no such model, or a precision of the native engine, which is not here.
        DataError: a weight is no number.
    """
    if pick_backend(backend, model, device, precision)[0] == "native":
        folder = hub.resolve(model)
        if is_packed(folder):
            return open_on_native(folder, precision=precision, threads=threads), "fp32"
        loaded = load(model)
        check_weights(loaded)
        return on_native(loaded, precision=precision, threads=threads), "fp32"
    place = runtime.pick_device(device).value
    kind = runtime.pick_precision(precision, place).value
    loaded = load(model, device=place)
    check_weights(loaded)
    return loaded, kind


def not_finite(value: Any) -> bool:
    """Whether there is a NaN or an infinity anywhere in plain values."""
    if isinstance(value, dict):
        return any(map(not_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


def with_inputs(record: Record, task: Task) -> Record:
    """A plain text as a record of a task: several inputs are parted by tabs, and a list takes all that are left.

    Raises:
        DataError: too few parts, or too many.
    """
    if all(name in record.fields for name in task.inputs):
        return record
    parts: list[Any] = str(record.fields["text"]).split("\t")
    names = task.inputs
    if names[-1] in task.lists and len(parts) >= len(names):
        parts[len(names) - 1 :] = [parts[len(names) - 1 :]]
    if len(parts) != len(names):
        raise DataError(
            f"The text has {len(parts)} parts; {task.name} needs {', '.join(names)}.",
            where=record.place(),
            fix="part them by tabs, or give --file with these columns",
        )
    return Record({**record.fields, **dict(zip(names, parts, strict=True))}, record.file, record.row)


def measure(
    model: str | Path,
    data: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    encoding: str = "utf-8-sig",
    stride: int | None = None,
    train: Sequence[str] = (),
    execute: bool = False,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
) -> Report:
    """Figures of a model on records with answers, or (text files, a language model) on running text.

    Args:
        train: training records of the model, for figures that are judged by them (control).
        execute: run written code with its tests; what a folder says is not enough to run programs.
        backend, precision: see `computing`.
        threads: of the native engine.

    Raises:
        UsageError: `train` or `execute` for a task that has no use for it.
        DataError: rows that cannot be used, or no data.
    """
    loaded, kind = computing(model, device, precision, backend, threads)
    machine = runtime.describe_machine()
    files = [file for source in expand(data) for file in source.files]
    if loaded.model.head_kind == "language" and all(path.endswith(TEXT_ENDINGS) for path in files):
        systems = []
        for path in files:
            texts = list(iter_documents([path]))
            if not texts:
                raise DataError("There is no text in the file.", where=path)
            score = score_texts(loaded.model, tokenizer_of(loaded), texts, stride=stride, precision=kind)
            note = f"{score.tokens:,} tokens, {score.bytes:,} bytes, stride {stride or loaded.config.n_positions // 2}"
            systems.append(System(f"{Path(path).name}", score.metrics(), "other", note=note))
        return Report(f"{model} on running text", "language", "bits_per_byte", systems, machine=machine)
    task = restore_task(loaded.info, loaded.model.head_kind)
    if train:
        task.remember(records_of_files(train, loaded, task, task.columns, columns, format, encoding))
    if execute:
        if not isinstance(task, Code):
            raise UsageError(f"The task {task.name} writes no code.", where="--execute", fix="leave it out")
        task.run(True)
    records = records_of_files(data, loaded, task, task.columns, columns, format, encoding)
    runner = runner_of(loaded, kind)
    part = Part("test", records, [], [])
    part.encode(task, runner.tokenizer, runner.max_length, target=False)
    said = task.opinion(runner, records)
    title = f"{model} on {Path(data[0]).name}"
    return task.report(title, records, {"Tuned": said}, notes=part.cut(), machine=machine)


def records_of_files(
    paths: Sequence[str | Path],
    loaded: Pretrained,
    task: Task,
    required: Sequence[str],
    columns: Mapping[str, str] | None,
    format: str | None,
    encoding: str,
) -> list[Record]:
    """Every record of files, read as those were that the model was tuned on; `columns` go over that.

    Raises:
        DataError: a row that cannot be used.
    """
    wanted = {*required, *task.optional}
    kept = {name: column for name, column in (loaded.info.get("columns") or {}).items() if name in wanted}
    return list(
        read_records(
            list(paths),
            columns={**kept, **(columns or {})} or None,
            required=required,
            format=format,
            encoding=encoding,
            rejects=Rejects(strict=True),
            lists=tuple(name for name in required if name in task.lists),
            list_separator=loaded.info.get("label_separator"),
        )
    )


def tokenizer_of(loaded: Pretrained) -> Tokenizer:
    """The tokenizer of a model that needs one.

    Raises:
        UsageError: it has none.
    """
    if loaded.tokenizer is None:
        raise UsageError("The model has no tokenizer.", where=loaded.folder)
    return loaded.tokenizer


def runner_of(loaded: Pretrained, precision: str) -> ModelRunner:
    """A model with as many tokens of a record as it was tuned with."""
    longest = min(loaded.info.get("max_length") or loaded.config.n_positions, loaded.config.n_positions)
    return ModelRunner(loaded.model, tokenizer_of(loaded), longest, precision)

"""`gptwo doctor`: look for what is wrong before it costs a training run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwo.cli.common import parse_columns, print_json
from gptwo.cli.doctor_models import model, run, show_findings
from gptwo.cli.options import (
    ColumnsOption,
    DelimiterOption,
    EncodingOption,
    FormatOption,
    JsonOption,
    ListSeparatorOption,
    SectionOption,
)

if TYPE_CHECKING:
    from gptwo.data.sources import Record, Rejects

__all__ = ["data", "model", "run"]

TEXT_DOCUMENTS = 100_000


def data(
    train: Annotated[str, typer.Argument(help="Training data: a file, folder or pattern.")],
    test: Annotated[str | None, typer.Option(help="Test data.")] = None,
    valid: Annotated[str | None, typer.Option(help="Validation data.")] = None,
    task: Annotated[str | None, typer.Option(help="classify, tag, language, match, …; default by the file.")] = None,
    kinds: Annotated[str | None, typer.Option(help="Joint: the fields that hold labels, e.g. topic,emotion.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer, to count tokens.")] = None,
    columns: ColumnsOption = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens the model reads of one record.")] = None,
    format: FormatOption = None,
    encoding: EncodingOption = "utf-8",
    delimiter: DelimiterOption = None,
    section: SectionOption = None,
    list_separator: ListSeparatorOption = None,
    json: JsonOption = False,
) -> None:
    """Check a data set: labels, duplicates, leakage, truncation, encoding. Exit code 3 where something is an error."""
    from gptwo.data.doctor import PAIRED, REQUIRED, has_errors, inspect_records
    from gptwo.data.sources import Rejects
    from gptwo.errors import UsageError
    from gptwo.tokenizer import load_tokenizer

    if max_length is not None and tokenizer is None:
        raise UsageError("--max-length is in tokens.", fix="Give --tokenizer DIR too.")
    mapping = parse_columns(columns)
    several = list_separator is not None
    if mapping and "labels" in mapping:  # the task's own name is label; this one says that it holds several
        mapping, several = {"label" if name == "labels" else name: column for name, column in mapping.items()}, True
    task = task or _likely_task(train, mapping, format)
    options = {
        "columns": mapping,
        "format": format,
        "encoding": encoding,
        "delimiter": delimiter,
        "section": section,
        "list_separator": list_separator,
    }
    files = {split: path for split, path in (("train", train), ("valid", valid), ("test", test)) if path}
    rejects = {split: Rejects() for split in files}
    lists = {"classify": ("label",) if several else (), "tag": ("tokens", "tags")}.get(task, ())
    check, needed = None, REQUIRED.get(task, ("text",))
    named = [name.strip() for name in (kinds or "").split(",") if name.strip()]
    if named and task != "joint":
        raise UsageError(f"The task {task} has labels of one kind.", where="--kinds", fix="--task joint")
    if task in PAIRED or task == "joint":
        from gptwo.recipe import TaskSection
        from gptwo.tasks import make_task

        job = make_task(TaskSection(name=task, kinds=named))
        lists, check, needed = job.lists, job.check, job.columns
    records = {split: _read(path, task, needed, lists, rejects[split], options) for split, path in files.items()}
    findings = inspect_records(
        records["train"],
        valid=records.get("valid", ()),
        test=records.get("test", ()),
        task=task,
        kinds=named,
        tokenizer=load_tokenizer(tokenizer) if tokenizer else None,
        max_length=max_length,
        rejects=rejects,
        check=check,
    )
    if json:
        counts = {split: len(found) for split, found in records.items()}
        rows = [finding.as_json() for finding in findings]
        print_json({"task": task, "records": counts, "ok": not has_errors(findings), "findings": rows})
    else:
        folders = {str(Path(path).parent) + os.sep for path in files.values()}
        told = ", ".join(f"{split} {len(found):,}" for split, found in records.items())
        show_findings(findings, f"{task}: {told} records", folders)
    if has_errors(findings):
        raise typer.Exit(3)


def _likely_task(file: str, columns: dict[str, str] | None, format: str | None) -> str:
    from gptwo.data.files import format_of

    kind = format or format_of(file)
    if kind == "conll" or (columns and "tags" in columns) or _begins_as_conll(file, kind):
        return "tag"
    if kind == "txt" or (columns and set(columns) == {"text"}):
        return "language"
    return "classify"


def _begins_as_conll(file: str, kind: str | None) -> bool:
    if kind is not None or not Path(file).is_file():
        return False
    with open(file, "rb") as head:
        return head.read(32).startswith(b"-DOCSTART-")


def _read(
    path: str, task: str, required: tuple[str, ...], lists: tuple[str, ...], rejects: Rejects, options: dict
) -> list[Record]:
    """The records of one split; a text file's documents are records numbered from 1."""
    from itertools import islice

    from gptwo.data.documents import iter_documents
    from gptwo.data.files import format_of
    from gptwo.data.sources import Record, read_records

    if task == "language" and (options["format"] or format_of(path) or "txt") == "txt":
        found = iter_documents(path, encoding=options["encoding"], rejects=rejects)
        return [Record({"text": text}, path, number) for number, text in enumerate(islice(found, TEXT_DOCUMENTS), 1)]
    return list(read_records(path, required=required, lists=lists, rejects=rejects, **options))

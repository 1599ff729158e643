"""Looks for what is wrong with a data set before it costs a training run: every finding with its rows and a fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gptwo.data.duplicates import duplicate_findings
from gptwo.data.finding import Finding, Item, places
from gptwo.data.label_checks import class_findings, spelling_findings
from gptwo.data.rejects import Rejects
from gptwo.data.sources import Record
from gptwo.data.tag_checks import tag_findings
from gptwo.data.text_checks import encoding_findings, length_findings
from gptwo.errors import DataError, UsageError, amount, did_you_mean

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

__all__ = ["REQUIRED", "SEVERITIES", "Finding", "has_errors", "inspect_records"]

SEVERITIES = ("error", "warning", "info")
REQUIRED: dict[str, tuple[str, ...]] = {
    "classify": ("text", "label"),
    "joint": ("text",),  # and a field of each kind
    "tag": ("tokens", "tags"),
    "language": ("text",),
    "match": ("text_a", "text_b", "label"),
    "rank": ("query", "candidates", "relevant"),
    "choice": ("stem", "choices", "answer"),
    "extract": ("question", "context", "answers"),
    "translate": ("source", "target"),
    "summarize": ("document", "summary"),
    "answer": ("context", "question", "answers"),
    "dialogue": ("messages",),
    "control": ("control", "text"),
    "code": ("prompt", "code"),
}


WRITING = ("translate", "summarize", "answer", "dialogue", "control", "code")
PAIRED = ("match", "rank", "choice", "extract", *WRITING)  # their text is in the first two fields


def inspect_records(
    train: Sequence[Record],
    *,
    valid: Sequence[Record] = (),
    test: Sequence[Record] = (),
    task: str = "classify",
    kinds: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    rejects: Mapping[str, Rejects] | None = None,
    check: Callable[[Record], object] | None = None,
) -> list[Finding]:
    """Everything worth knowing about the records of a task, errors first.

    Args:
        train: records with the fields of the task: text and label (or labels, a list) for "classify", tokens and
            tags (lists) for "tag", text for "language".
        valid, test: further records, looked at by themselves and for leakage.
        task: a name of `REQUIRED`, which has the fields of each.
        kinds: "joint": the fields that hold labels.
        tokenizer: counts lengths in tokens; without one they are in characters and truncation is not checked.
        max_length: tokens the model reads of one record.
        rejects: split -> the rows that could not be read, which become findings too.
        check: raises `DataError` for a record that the task cannot learn from (`Task.check`).

    Raises:
        UsageError: an unknown task.
        DataError: no training records, or a record without the fields of the task.
    """
    if task not in REQUIRED:
        raise UsageError(f"Unknown task {task!r}.", fix=did_you_mean(task, REQUIRED))
    if not train:
        raise DataError("There are no training records to look at.")
    items = [
        _item(record, split, task, kinds)
        for split, records in (("train", train), ("valid", valid), ("test", test))
        for record in records
    ]
    findings = [finding for split, rejected in (rejects or {}).items() for finding in _rejected(split, rejected)]
    if check is not None:
        findings += _unusable(items, check)
    if task in ("classify", "match"):
        findings += spelling_findings((label, item) for item in items for label in item.labels)
        findings += class_findings(items)
    for kind in kinds:
        findings += _of_kind(items, kind)
    if task == "tag":
        findings += tag_findings(items)
    findings += duplicate_findings(items)
    findings += length_findings(items, tokenizer, max_length)
    findings += encoding_findings(items)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether any finding is an error."""
    return any(finding.severity == "error" for finding in findings)


def _of_kind(items: Sequence[Item], kind: str) -> list[Finding]:
    """What is to be said of one kind of label."""
    own = [replace(item, labels=_present(item.record.fields[kind])) for item in items]
    found = spelling_findings((label, item) for item in own for label in item.labels) + class_findings(own)
    return [replace(finding, what=f"{kind}: {finding.what}") for finding in found]


def _present(value: Any) -> tuple[str, ...]:
    """The labels of a field that may be empty."""
    return tuple(label for label in _strings(value) if label.strip()) if value is not None else ()


def _item(record: Record, split: str, task: str, kinds: Sequence[str] = ()) -> Item:
    fields = record.fields
    if task == "joint":
        if any(name not in fields for name in ("text", *kinds)):
            raise _lacking(record, ", ".join(("text", *kinds)))
        named = tuple(f"{kind}: {label}" for kind in kinds for label in _present(fields[kind]))
        return Item(record, split, str(fields["text"]), named)
    if task == "classify":
        labels = fields.get("labels", fields.get("label"))
        if "text" not in fields or labels is None:
            raise _lacking(record, "text and label")
        return Item(record, split, str(fields["text"]), tuple(sorted(set(_strings(labels)))))
    if task == "tag":
        tokens, tags = fields.get("tokens"), fields.get("tags")
        if not isinstance(tokens, list) or not isinstance(tags, list):
            raise _lacking(record, "tokens and tags, both lists")
        return Item(record, split, " ".join(map(str, tokens)), _strings(tags))
    if task in PAIRED:
        if any(name not in fields for name in REQUIRED[task]):
            raise _lacking(record, ", ".join(REQUIRED[task]))
        texts = [part for name in REQUIRED[task][:2] for part in _strings(fields[name])]
        return Item(record, split, "\n".join(texts), _strings(fields["label"]) if task == "match" else ())
    if "text" not in fields:
        raise _lacking(record, "text")
    return Item(record, split, str(fields["text"]))


def _unusable(items: Sequence[Item], check: Callable[[Record], object]) -> list[Finding]:
    """Records that a task cannot learn from, by what is wrong with them."""
    found: list[tuple[Item, DataError]] = []
    for item in items:
        try:
            check(item.record)
        except DataError as error:
            found.append((item, error))
    if not found:
        return []
    what = f"{amount(len(found), 'record')} cannot be used; the first: {found[0][1].what}"
    fix = found[0][1].fix or "Correct these records, or leave them out."
    return [Finding("unusable-records", "error", what, len(found), places(item for item, _ in found), fix)]


def _lacking(record: Record, fields: str) -> DataError:
    return DataError(f"A record lacks {fields}.", where=record.place(), why=f"its fields are {list(record.fields)}")


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)


def _rejected(split: str, rejects: Rejects) -> list[Finding]:
    if not rejects.total:
        return []
    reasons = ", ".join(f"{count:,} × {reason}" for reason, count in rejects.reasons.most_common(4))
    return [
        Finding(
            "rejected-rows",
            "error",
            f"{amount(rejects.total, 'row')} of the {split} data cannot be read: {reasons}",
            rejects.total,
            [f"{reject.file}:{reject.row}" for reject in rejects.first],
            "Correct these rows, the columns, the delimiter or the encoding.",
            {"split": split, "reasons": dict(rejects.reasons.most_common())},
        )
    ]

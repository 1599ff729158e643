"""Whether the records that the report is on stand in the training data too, equal or nearly so."""

from __future__ import annotations

from collections.abc import Sequence

from gptwo.data.duplicates import duplicate_findings
from gptwo.data.finding import Item
from gptwo.data.sources import Record
from gptwo.tasks.base import Task
from gptwo.train.parts import Part

MOST = 20_000  # training records that are compared; beyond that, an even sample


def leakage(parts: dict[str, Part], job: Task) -> list[str]:
    """Warnings for a report; none where all is well.

    Args:
        parts: train, valid and, where it is given, test.
    """
    split = "test" if "test" in parts else "valid"
    train = parts["train"].records
    stride = -(-len(train) // MOST)
    items = [Item(record, "train", text_of(record, job)) for record in train[::stride]]
    items += [Item(record, split, text_of(record, job)) for record in parts[split].records[:MOST]]
    found = {
        finding.check: finding
        for finding in duplicate_findings(items)
        if finding.check in ("leakage", "near-leakage") and finding.detail["split"] == split
    }
    least = "" if stride == 1 else f" (at least: 1 of {stride} training records was compared)"
    said = []
    if "leakage" in found:
        rows = ", ".join(found["leakage"].rows[:3])
        said.append(f"{found['leakage'].what}{least}, e.g. {rows}: the figures on them are memory, not skill.")
    if "near-leakage" in found:
        rows = ", ".join(found["near-leakage"].rows[:3])
        said.append(f"{found['near-leakage'].what}{least}, e.g. {rows}: look whether they are copies.")
    return said


def text_of(record: Record, job: Task) -> str:
    """What a task reads of a record, as one text."""
    names: Sequence[str] = job.inputs or job.columns
    parts = [record.fields.get(name, "") for name in names]
    return "\n".join(" ".join(map(str, part)) if isinstance(part, list | tuple) else str(part) for part in parts)

"""Checks of class labels: one class under several spellings, rare and absent classes, balance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from gptwo.data.duplicates import normalised
from gptwo.data.finding import Finding, Item, places
from gptwo.errors import amount

FEW_ROWS = 5
IMBALANCE = 10.0


def spelling_findings(labelled: Iterable[tuple[str, Item]], noun: str = "label") -> list[Finding]:
    """Labels that differ only by case, spaces, character width, or as 1 and 1.0 do.

    Args:
        labelled: every label with the record it stands in.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    holders: dict[str, list[Item]] = defaultdict(list)
    for label, item in labelled:
        spellings[_essence(label)][label] += 1
        if len(holders[label]) < 10:
            holders[label].append(item)
    findings = []
    for forms in spellings.values():
        if len(forms) < 2:
            continue
        usual, *others = [label for label, _ in forms.most_common()]
        listed = ", ".join(f"{label!r} ({count:,})" for label, count in forms.most_common())
        rare = [item for label in others for item in holders[label]]
        findings.append(
            Finding(
                "label-spelling",
                "error",
                f"one {noun} in {len(forms)} spellings: {listed}",
                sum(forms[label] for label in others),
                places(rare),
                f"Write {usual!r} everywhere; each spelling counts as a class of its own.",
                {"spellings": dict(forms.most_common())},
            )
        )
    return findings


def _essence(label: str) -> str:
    text = normalised(label)
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def class_findings(items: Sequence[Item]) -> list[Finding]:
    """How the classes are spread over the splits."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        counts[item.split].update(item.labels)
    train = counts["train"]
    findings = []
    if len(train) == 1 and not any(len(item.labels) > 1 for item in items):
        what = f"every training record has the label {next(iter(train))!r}"
        findings.append(
            Finding(
                "one-class", "error", what, train.total(), [], "Check the label column; a classifier needs two classes."
            )
        )
    for split in ("valid", "test"):
        findings += _absent(items, split, counts[split], train)
    few = [label for label, count in train.items() if count < FEW_ROWS]
    if few:
        listed = ", ".join(f"{label!r} ({train[label]})" for label in sorted(few, key=train.__getitem__)[:10])
        findings.append(
            Finding(
                "rare-classes",
                "warning",
                f"{amount(len(few), 'class')} with fewer than {FEW_ROWS} training records: {listed}",
                len(few),
                places(item for item in items if item.split == "train" and set(item.labels) & set(few)),
                "Collect more, join them to another class, or drop them; their measured quality means little.",
                {"classes": {label: train[label] for label in few}},
            )
        )
    if len(train) > 1:
        (most, high), (least, low) = train.most_common()[0], train.most_common()[-1]
        ratio = high / low
        findings.append(
            Finding(
                "class-balance",
                "warning" if ratio >= IMBALANCE else "info",
                f"{len(train)} classes; {most!r} has {high:,} training records, {least!r} {low:,} ({ratio:.1f} : 1); "
                f"always saying {most!r} is right in {high / _records(items, 'train'):.1%}",
                len(train),
                [],
                "Use class weights, and judge by macro F1 rather than accuracy." if ratio >= IMBALANCE else "",
                {split: dict(found.most_common()) for split, found in counts.items() if found},
            )
        )
    return findings


def _absent(items: Sequence[Item], split: str, found: Counter[str], train: Counter[str]) -> list[Finding]:
    unknown = [label for label in found if label not in train]
    findings = []
    if unknown:
        holders = [item for item in items if item.split == split and set(item.labels) & set(unknown)]
        listed = ", ".join(map(repr, sorted(unknown)[:10]))
        findings.append(
            Finding(
                "unknown-classes",
                "error",
                f"{amount(len(unknown), 'class')} of the {split} data are absent from the training data: {listed}",
                len(holders),
                places(holders),
                "Add training records of them, or correct the labels; a model cannot say what it never saw.",
                {"split": split, "classes": sorted(unknown)},
            )
        )
    unmeasured = sorted(label for label in train if label not in found)
    if found and unmeasured:
        listed = ", ".join(map(repr, unmeasured[:10]))
        what = f"{amount(len(unmeasured), 'class')} of the training data are absent from the {split} data: {listed}"
        fix = f"Add {split} records of them; how well they are recognised is not measured."
        detail = {"split": split, "classes": unmeasured}
        findings.append(Finding("unmeasured-classes", "warning", what, len(unmeasured), [], fix, detail))
    return findings


def _records(items: Sequence[Item], split: str) -> int:
    return sum(item.split == split for item in items)

"""Checks of tagged sentences: tokens and tags that do not match, the tagging scheme, transitions it does not allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gptwo.data.finding import Finding, Item, places
from gptwo.data.label_checks import spelling_findings
from gptwo.errors import amount


def tag_findings(items: Sequence[Item]) -> list[Finding]:
    """Everything about the tags of tagged sentences (`Item.labels` holds the tags of `record.fields["tokens"]`)."""
    findings = []
    uneven = [item for item in items if len(item.record.fields["tokens"]) != len(item.labels)]
    if uneven:
        what = f"{amount(len(uneven), 'sentence')} with unequal numbers of tokens and tags"
        fix = "Give every token one tag."
        findings.append(Finding("unequal-lengths", "error", what, len(uneven), places(uneven), fix))
    blank = [item for item in items if any(not str(token).strip() for token in item.record.fields["tokens"])]
    if blank:
        what, fix = f"{amount(len(blank), 'sentence')} with an empty token", "Remove the token and its tag."
        findings.append(Finding("empty-tokens", "warning", what, len(blank), places(blank), fix))
    findings += spelling_findings(((tag, item) for item in items for tag in set(item.labels)), "tag")
    schemes = {}
    for split in ("train", "valid", "test"):
        own = [item for item in items if item.split == split]
        if own:
            schemes[split], found = _scheme_findings(split, own)
            findings += found
    if len(set(schemes.values()) - {"none"}) > 1:
        listed = ", ".join(f"{split} {scheme}" for split, scheme in schemes.items())
        what = f"the splits are tagged in different schemes: {listed}"
        fix = "Convert them to one scheme; entities would be counted differently."
        findings.append(Finding("mixed-schemes", "error", what, len(schemes), [], fix, schemes))
    findings += _types(items)
    return findings


def entity_starts(tags: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(prefix, type, what stands before: "" for another type or nothing, else the prefix of the same type)."""
    before = ("", "")
    for tag in tags:
        prefix, _, kind = tag.partition("-")
        if tag != "O":
            yield prefix, kind, before[0] if before[1] == kind else ""
        before = ("", "") if tag == "O" else (prefix, kind)


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """IOB1, IOB2, BIOES, BILOU, "plain" (tags without prefixes), "none" (no entity at all) or "unknown"."""
    tags = {tag for sentence in sentences for tag in sentence} - {"O"}
    if not tags:
        return "none"
    prefixes = {tag.partition("-")[0] for tag in tags}
    if any("-" not in tag or tag.endswith("-") for tag in tags):
        return "unknown" if prefixes & set("BIESLU") and any("-" in tag for tag in tags) else "plain"
    if not prefixes <= set("BIESLU"):
        return "plain" if not prefixes & set("BI") else "unknown"
    if prefixes & set("ES"):
        return "unknown" if prefixes & set("LU") else "BIOES"
    if prefixes & set("LU"):
        return "BILOU"
    starts = [start for sentence in sentences for start in entity_starts(sentence)]
    loose_inside = sum(prefix == "I" and not before for prefix, _, before in starts)
    loose_begin = sum(prefix == "B" and not before for prefix, _, before in starts)
    return "IOB1" if loose_inside > loose_begin else "IOB2"


def illegal(tags: Sequence[str], scheme: str) -> int | None:
    """Index of the first tag that the scheme does not allow where it stands; None where all are right."""
    last, single = ("E", "S") if scheme == "BIOES" else ("L", "U")
    before = ("", "")
    for index, tag in enumerate([*tags, "O"]):
        prefix, kind = ("", "") if tag == "O" else (tag.partition("-")[0], tag.partition("-")[2])
        same = before[0] != "" and before[1] == kind
        if scheme == "IOB2":
            wrong = prefix == "I" and not same
        elif scheme == "IOB1":
            wrong = prefix == "B" and not same
        else:
            inside = before[0] in ("B", "I")  # the entity is not closed yet
            goes_on = prefix in ("I", last)
            wrong = goes_on != inside or (inside and not same) or prefix not in ("", "B", "I", last, single)
        if wrong:
            return index
        before = (prefix, kind)
    return None


def _scheme_findings(split: str, items: Sequence[Item]) -> tuple[str, list[Finding]]:
    scheme = scheme_of([item.labels for item in items])
    if scheme == "unknown":
        counts = Counter(tag.partition("-")[0] if "-" in tag else tag for item in items for tag in item.labels)
        listed = ", ".join(f"{prefix} ({count:,})" for prefix, count in counts.most_common(12))
        odd = [prefix for prefix in counts if prefix not in set("OBIESLU")]
        holders = [item for item in items if any(tag.partition("-")[0] in odd for tag in item.labels)]
        what = f"the {split} tags follow no scheme that is known; they begin with {listed}"
        fix = "Use IOB1, IOB2 (B-PER, I-PER, O), BIOES or BILOU; or tags without prefixes, as for parts of speech."
        return scheme, [Finding("unknown-scheme", "error", what, len(holders), places(holders), fix)]
    findings = []
    if scheme not in ("none", "plain"):
        wrong = [item for item in items if illegal(item.labels, scheme) is not None]
        if wrong:
            index = illegal(wrong[0].labels, scheme) or 0
            around = " ".join(wrong[0].labels[max(0, index - 1) : index + 2])
            what = f"{amount(len(wrong), split + ' sentence')} with tags that {scheme} does not allow, e.g. {around!r}"
            fix = "Correct the tags; an entity must begin and go on as the scheme says, or it is counted in parts."
            findings.append(Finding("illegal-transitions", "warning", what, len(wrong), places(wrong), fix))
    return scheme, findings


def _types(items: Sequence[Item]) -> list[Finding]:
    """How many entities of each type (or tags, in a plain scheme) there are."""
    scheme = scheme_of([item.labels for item in items])
    counts: dict[str, Counter[str]] = {}
    for item in items:
        found = counts.setdefault(item.split, Counter())
        if scheme in ("plain", "unknown"):
            found.update(item.labels)
            continue
        for prefix, kind, before in entity_starts(item.labels):
            if prefix in "BSU" or not before:
                found[kind] += 1
    train = counts.get("train", Counter())
    noun = "tags" if scheme in ("plain", "unknown") else f"entities ({scheme})"
    listed = ", ".join(f"{kind} {count:,}" for kind, count in train.most_common(12))
    detail = {"scheme": scheme, **{split: dict(found.most_common()) for split, found in counts.items()}}
    findings = [Finding("entity-types", "info", f"training {noun}: {listed or 'none'}", train.total(), [], "", detail)]
    for split, found in counts.items():
        unknown = sorted(set(found) - set(train))
        if split != "train" and unknown:
            what = (
                f"the {split} data has {amount(len(unknown), 'type')} absent from training: {', '.join(unknown[:10])}"
            )
            holders = [
                i for i in items if i.split == split and {t.partition("-")[2] or t for t in i.labels} & set(unknown)
            ]
            fix = "Add training sentences with them, or correct the tags."
            findings.append(Finding("unknown-classes", "error", what, len(holders), places(holders), fix))
    return findings

"""Records with choices, for the recipe choice.toml, out of FewCLUE's chid or cluewsc.

    python recipes/finetune/choice_data.py DATA/fewclue/chid OUT

chid asks for the idiom of a blank. cluewsc asks, one pair at a time, whether a pronoun means a name; the pairs of one
pronoun become one record where there are several and one of them is right. OUT gets train.jsonl and valid.jsonl from
the files *_few_all.json, test.jsonl from test_public.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILES = {"train": "train_few_all.json", "valid": "dev_few_all.json", "test": "test_public.json"}
BLANK = "___"


def idioms(rows: list[dict]) -> list[dict]:
    """Records of chid."""
    return [
        {"stem": row["content"].replace("#idiom#", BLANK), "choices": row["candidates"], "answer": row["answer"]}
        for row in rows
    ]


def pronouns(rows: list[dict]) -> list[dict]:
    """Records of cluewsc."""
    groups: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["text"], row["target"]["span2_index"]), []).append(row)
    records = []
    for (text, place), group in groups.items():
        names = list(dict.fromkeys(row["target"]["span1_text"] for row in group))
        right = {row["target"]["span1_text"] for row in group if row["label"] == "true"}
        if len(names) > 1 and len(right) == 1:
            end = place + len(group[0]["target"]["span2_text"])
            records.append({"stem": text[:place] + BLANK + text[end:], "choices": names, "answer": right.pop()})
    return records


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for part, name in FILES.items():
        rows = [json.loads(line) for line in (source / name).read_text(encoding="utf-8").splitlines() if line.strip()]
        records = idioms(rows) if "candidates" in rows[0] else pronouns(rows)
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(lines):,} records of {len(rows):,} rows")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

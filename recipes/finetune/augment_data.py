"""Records for the recipe augment.toml: TREC, questions and what they ask for.

    python recipes/finetune/augment_data.py DATA/sst_trec_etc OUT

OUT gets train.jsonl and test.jsonl with the six coarse labels (of "NUM:dist" the part before the colon).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        lines = (source / f"TREC.{part}").read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
        rows = [json.dumps({"text": text, "label": label.partition(":")[0]}) for label, text in pairs]
        (out / f"{part}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        print(f"{out / part}.jsonl: {len(rows):,} questions")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""`gptwo predict`: a tuned model on new texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.finetune import Count, File, Text, Texts


def predict(
    texts: Annotated[Texts, typer.Argument(help="texts; none or -: lines of standard input")] = None,
    model: Annotated[str, typer.Option(help="tuned model: a run folder, a model folder or a name")] = "",
    file: Annotated[File, typer.Option(help="records instead of texts: csv, tsv, jsonl, parquet, conll …")] = None,
    columns: Annotated[Text, typer.Option(help="our name = theirs: text=review")] = None,
    format: Annotated[Text, typer.Option(help="csv, tsv, jsonl, json, parquet, conll, label-first")] = None,
    out: Annotated[File, typer.Option(help="write JSON lines here instead of stdout")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32")] = "auto",
    threads: Annotated[Count, typer.Option(help="CPU threads")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object instead of JSON lines")] = False,
) -> None:
    """Give labels or tags to new texts, one JSON line each."""
    import json as codec
    import sys

    from gptwo import runtime
    from gptwo.cli.common import parse_columns, print_json
    from gptwo.errors import UsageError
    from gptwo.train.apply import predict as run
    from gptwo.train.apply import records_of_texts

    if not model:
        raise UsageError("Which model shall predict?", where="--model", fix="gptwo predict --model runs/mine 'a text'")
    runtime.set_threads(threads)
    if file is not None:
        source: object = file
    else:
        given = texts or ["-"]
        lines = [line.rstrip("\n") for line in sys.stdin] if given == ["-"] else given
        source = records_of_texts(lines)
    found = run(model, source, columns=parse_columns(columns), format=format, device=device, precision=precision)
    if json:
        print_json({"model": model, "predictions": found})
        return
    lines = [codec.dumps(row, ensure_ascii=False) for row in found]
    if out is not None:
        scratch = Path(f"{out}.writing")
        scratch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        scratch.replace(out)
        return
    for line in lines:
        print(line)

"""`gptwo evaluate`: how good a model is on data with known answers, or on running text."""

from __future__ import annotations

from typing import Annotated

import typer

from gptwo.cli.finetune import Count, File, Text


def evaluate(
    data: Annotated[list[str], typer.Argument(help="records with answers, or text files for a language model")],
    model: Annotated[str, typer.Option(help="a run folder, a model folder or a name")] = "",
    columns: Annotated[Text, typer.Option(help="our name = theirs: text=review,label=stars")] = None,
    format: Annotated[Text, typer.Option(help="csv, tsv, jsonl, json, parquet, conll, label-first")] = None,
    encoding: Annotated[str, typer.Option(help="of the records' files, e.g. gb18030")] = "utf-8-sig",
    stride: Annotated[Count, typer.Option(help="running text: new tokens of each window")] = None,
    out: Annotated[File, typer.Option(help="write report.json and report.html into this folder")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16, fp32")] = "auto",
    threads: Annotated[Count, typer.Option(help="CPU threads")] = None,
    fail_under: Annotated[Text, typer.Option(help="metric=value that must be reached, else exit 5")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the report as JSON on stdout")] = False,
) -> None:
    """Measure a model: a task's metrics on records, or perplexity and bits per byte on text."""
    from gptwo import runtime
    from gptwo.cli.common import check_gate, console, parse_columns, parse_gate, print_json
    from gptwo.errors import UsageError
    from gptwo.train.apply import measure

    if not model:
        raise UsageError("Which model shall be measured?", where="--model", fix="gptwo evaluate --model DIR data.jsonl")
    gate = parse_gate(fail_under)
    runtime.set_threads(threads)
    report = measure(
        model,
        data,
        columns=parse_columns(columns),
        format=format,
        encoding=encoding,
        stride=stride,
        device=device,
        precision=precision,
    )
    if out is not None:
        report.write(out)
    if json:
        print_json(report.to_dict())
    else:
        report.print(console())
    check_gate(report, gate)

"""`gptwo evaluate`: how good a model is on data with known answers, or on running text."""

from __future__ import annotations

from typing import Annotated

import typer

from gptwo.cli.options import (
    ColumnsOption,
    Count,
    DeviceOption,
    EncodingOption,
    FailUnderOption,
    File,
    FormatOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    ThreadsOption,
)


def evaluate(
    data: Annotated[list[str], typer.Argument(help="Records with answers, or text files for a language model.")],
    model: ModelOption = "",
    columns: ColumnsOption = None,
    format: FormatOption = None,
    encoding: EncodingOption = "utf-8-sig",
    stride: Annotated[Count, typer.Option(help="Running text: new tokens of each window.")] = None,
    out: Annotated[File, typer.Option(help="Write report.json and report.html into this folder.")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    fail_under: FailUnderOption = None,
    json: JsonOption = False,
) -> None:
    """Measure a model: a task's metrics on records, or perplexity and bits per byte on text."""
    from gptwo.cli.common import begin, check_gate, console, parse_columns, parse_gate, print_json
    from gptwo.train.apply import measure

    begin(model, threads, example="gptwo evaluate --model runs/mine test.jsonl")
    gate = parse_gate(fail_under)
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

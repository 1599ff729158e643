"""`gptwo evaluate`: how good a model is on data with known answers, on running text, or in a suite."""

from __future__ import annotations

from typing import Annotated

import typer

from gptwo.cli.flags import ALONE, RecordFlags, flat
from gptwo.cli.options import (
    BackendOption,
    Count,
    DeviceOption,
    FailUnderOption,
    File,
    JsonOption,
    ModelOption,
    PrecisionOption,
    Text,
    Texts,
    ThreadsOption,
)


@flat
def evaluate(
    data: Annotated[
        Texts, typer.Argument(help="Records with answers, text files for a language model, or a suite's data.")
    ] = None,
    model: ModelOption = "",
    suite: Annotated[
        Text,
        typer.Option(help="wikitext2, lambada, cloze, choice, hellaswag, copa, winograd, bits-per-byte or bias."),
    ] = None,
    shots: Annotated[Count, typer.Option(min=0, help="Classify with so many examples in the prompt.")] = None,
    train: Annotated[
        Texts,
        typer.Option(
            help="Shots: where examples are drawn from. Bias: training text to probe. Control: what judges learn from."
        ),
    ] = None,
    prompt: Annotated[
        Text, typer.Option(help=r"Shots: a record, ending with its label: '{text}\nLabel: {label}'.")
    ] = None,
    words: Annotated[Text, typer.Option(help="Shots: what is written for a label: pos=good,neg=bad.")] = None,
    tune: Annotated[
        File,
        typer.Option(
            help="Tune with this recipe, into --out: on --shots records of each label, else on each file of --train."
        ),
    ] = None,
    valid: Annotated[Texts, typer.Option(help="Tune without --shots: a validation file for each of --train.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Shots: how often examples are drawn.")] = 5,
    held_out: Annotated[Texts, typer.Option(help="Bias: text that was not trained on, beside --train.")] = None,
    canary: Annotated[Texts, typer.Option(help="Bias: a text with a number that stood in the training text.")] = None,
    classifier: Annotated[Text, typer.Option(help="Bias: a model that finds toxic texts.")] = None,
    toxic_label: Annotated[str, typer.Option(help="Bias: its label for them.")] = "toxic",
    languages: Annotated[str, typer.Option(help="Bias: languages of pairs and prompts.")] = "en,zh",
    card: Annotated[bool, typer.Option("--card", help="Suites: write the figures into the model's card.")] = False,
    limit: Annotated[Count, typer.Option(min=1, help="Suites and shots: records or lines at most.")] = None,
    seed: Annotated[int, typer.Option(help="Suites and shots: of everything that is drawn.")] = 0,
    records: RecordFlags = ALONE,
    stride: Annotated[Count, typer.Option(help="Running text: new tokens of each window.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Code: run it with its tests, within limits.")] = False,
    out: Annotated[File, typer.Option(help="Write report.json and report.html into this folder.")] = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    fail_under: FailUnderOption = None,
    json: JsonOption = False,
) -> None:
    """Measure a model: a task's metrics on records, perplexity and bits per byte on text, or a suite."""
    from gptwo.cli.common import begin, check_gate, choose_backend, console, parse_gate, print_json
    from gptwo.errors import UsageError
    from gptwo.train.apply import measure

    begin(model, threads, example="gptwo evaluate --model runs/mine test.jsonl")
    gate = parse_gate(fail_under)
    if valid and (tune is None or shots is not None):
        raise UsageError("Only given splits have validation files.", where="--valid", fix="--tune RECIPE, no --shots")
    if suite is not None and tune is not None:
        raise UsageError("A suite tunes nothing.", where="--tune", fix="give --suite or --tune, not both")
    if suite is not None and shots is not None:
        raise UsageError("A suite has its own prompts.", where="--shots", fix="give --suite or --shots, not both")
    if backend == "native" and tune is not None:
        raise UsageError("The native engine tunes nothing.", where="--backend", fix="--backend torch")
    if suite is not None:
        from gptwo.cli.suites import measure_suite

        report = measure_suite(
            suite,
            model,
            data or [],
            stride=stride,
            limit=limit,
            seed=seed,
            languages=languages,
            train=train or [],
            held_out=held_out or [],
            canaries=canary or [],
            classifier=classifier,
            toxic_label=toxic_label,
            card=card,
            device=device,
            precision=precision,
            backend=choose_backend(backend, model, device, precision),
            threads=threads,
        )
    elif not data:
        raise UsageError("Which data?", fix="gptwo evaluate --model runs/mine test.jsonl, or --suite NAME")
    elif tune is not None:
        from gptwo.cli.suites import tune_shots

        report = tune_shots(
            model,
            data,
            train or [],
            tune,
            valid=valid or [],
            shots=shots,
            draws=draws,
            seed=seed,
            **records.reading(),
            device=device,
            precision=precision,
            threads=threads,
            out=out,
        )
        out = None  # the report lies there already
    elif shots is not None:
        from gptwo.cli.suites import measure_shots

        report = measure_shots(
            model,
            data,
            train or [],
            shots=shots,
            draws=draws,
            seed=seed,
            prompt=prompt,
            words=words,
            **records.reading(),
            limit=limit,
            device=device,
            precision=precision,
            backend=choose_backend(backend, model, device, precision),
            threads=threads,
        )
    else:
        report = measure(
            model,
            data,
            **records.reading(),
            stride=stride,
            train=train or [],
            execute=execute,
            device=device,
            precision=precision,
            backend=choose_backend(backend, model, device, precision),
            threads=threads,
        )
    if out is not None:
        report.write(out)
    if json:
        print_json(report.to_dict())
    else:
        report.print(console())
    check_gate(report, gate)

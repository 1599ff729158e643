"""`gptwo explain`: how a model came to what it says of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.flags import ALONE, RecordFlags, flat
from gptwo.cli.options import (
    Count,
    DeviceOption,
    File,
    JsonOption,
    Text,
    Texts,
    ThreadsOption,
)


@flat
def explain(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a name.")],
    text: Annotated[str, typer.Argument(help="The text.")],
    target: Annotated[
        Text, typer.Option(help="What to explain: a label, or a continuation; default the likeliest.")
    ] = None,
    at: Annotated[Count, typer.Option(help="Explain what follows this token, or this word's tag; from 0.")] = None,
    html: Annotated[File, typer.Option(help="Write one self-contained page.")] = None,
    train: Annotated[Texts, typer.Option(help="Training records, to find the nearest among.")] = None,
    given: RecordFlags = ALONE,
    limit: Annotated[int, typer.Option(min=1, help="Training records at most.")] = 2000,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest training texts to show.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of integrated gradients.")] = 32,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Show attention, the logit lens, what each token and each part of the network contributed."""
    from itertools import islice

    from gptwo.cli.common import begin, console, print_json
    from gptwo.data.documents import iter_documents
    from gptwo.data.files import format_of
    from gptwo.data.sources import Record, Rejects, read_records
    from gptwo.explain.explanation import explain as explain_text

    begin(model, threads, example='gptwo explain gptwo-mini "The capital of France is"')
    rejects = Rejects(None)
    records: list[Record] = []
    if train and given.format is None and all(format_of(path) == "txt" for path in train):
        for path in train:
            records += [Record({"text": one}, path, row) for row, one in enumerate(iter_documents([path]), 1)]
        records = records[:limit]
    elif train:
        records = list(islice(read_records(train, **given.reading(), rejects=rejects), limit))
    found = explain_text(
        model, text, target=target, at=at, train=records, neighbours=neighbours, steps=steps, device=device or "auto"
    )
    if rejects.total:
        found.notes.append(rejects.summary())
    if html is not None:
        Path(html).parent.mkdir(parents=True, exist_ok=True)
        Path(html).write_text(found.html(), encoding="utf-8")
    if json:
        print_json(found.to_dict())
    else:
        found.print(console())
        if html is not None:
            console().print(f"page: {html}", markup=False)

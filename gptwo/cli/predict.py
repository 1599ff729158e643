"""`gptwo predict`: a tuned model on new texts."""

from __future__ import annotations

from typing import Annotated, BinaryIO

import typer

from gptwo.cli.flags import ALONE, RecordFlags, flat
from gptwo.cli.options import (
    BackendOption,
    DeviceOption,
    File,
    ModelOption,
    PrecisionOption,
    Texts,
    ThreadsOption,
)


@flat
def predict(
    texts: Annotated[Texts, typer.Argument(help="Texts; none or -: lines of standard input.")] = None,
    model: ModelOption = "",
    file: Annotated[File, typer.Option(help="Records instead of texts: csv, tsv, jsonl, parquet, conll …")] = None,
    records: RecordFlags = ALONE,
    out: Annotated[File, typer.Option(help="Write JSON lines here instead of stdout.")] = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of JSON lines.")] = False,
) -> None:
    """Give labels or tags to new texts, one JSON line each."""
    import json as codec
    import sys

    from gptwo.cli.common import begin, choose_backend, print_json, say
    from gptwo.errors import UsageError
    from gptwo.train.apply import predict as run
    from gptwo.train.apply import records_of_texts
    from gptwo.train.run import write_text

    begin(model, threads, example="gptwo predict --model runs/mine 'a text'")
    if file is not None and texts:
        raise UsageError("Texts and a file cannot both be given.", where="--file", fix="give one of them")
    if file is not None:
        source: object = file
    else:
        for text in texts or ():
            if is_file(text):
                say(f"note: {text!r} is taken as a text, though there is a file of this name: --file reads its records")
        source = records_of_texts(texts if texts and texts != ["-"] else lines_of(sys.stdin.buffer))
    found = run(
        model,
        source,
        **records.reading(),
        device=device,
        precision=precision,
        backend=choose_backend(backend, model, device, precision),
        threads=threads,
    )
    lines = [codec.dumps(row, ensure_ascii=False) for row in found]
    if out is not None:
        write_text(out, "".join(f"{line}\n" for line in lines))
    if json:
        print_json({"model": model, "records": len(found), **({"out": str(out)} if out else {"predictions": found})})
    elif out is None:
        for line in lines:
            print(line)


def is_file(text: str) -> bool:
    """Whether a text is the name of a file."""
    from pathlib import Path

    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a null byte in it
        return False


def lines_of(stream: BinaryIO) -> list[str]:
    """The lines of standard input.

    Raises:
        DataError: one is not UTF-8.
    """
    from gptwo.errors import DataError

    found = []
    for row, line in enumerate(stream, start=1):
        try:
            found.append(line.decode("utf-8-sig" if row == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise DataError(
                "The line is not UTF-8.",
                where=f"standard input:{row}",
                why=str(error),
                fix="convert it, e.g. with iconv",
            ) from error
    return found

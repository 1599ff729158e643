"""`gptwo tokenizer`: train a vocabulary on one's own text, and see how a text falls into tokens."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptwo.cli.common import console, print_json
from gptwo.cli.options import (
    EncodingOption,
    FormatOption,
    InputsArgument,
    JsonOption,
    SeparatorOption,
    TextColumnOption,
)
from gptwo.errors import DataError, UsageError

if TYPE_CHECKING:
    from gptwo.tokenizer.train import Compression

DEFAULT_HELD_OUT = "0.02"


def train(
    inputs: InputsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(help="Entries, the 256 bytes and the end of text among them.")] = 12_288,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure on: a share of every input that is left out of training, or files (repeatable). "
            f"0 measures nothing. Default {DEFAULT_HELD_OUT}.",
            show_default=False,
        ),
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="Train on an even sample of this many bytes where there are more.")
    ] = 32_000_000,
    min_frequency: Annotated[int, typer.Option(min=1, help="Merge only pairs that occur this often.")] = 2,
    text_column: TextColumnOption = "text",
    format: FormatOption = None,
    encoding: EncodingOption = "utf-8",
    separator: SeparatorOption = "<|endoftext|>",
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a tokenizer that is already in OUT.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a byte-level BPE on text files, and report bytes per token on held-out text."""
    from gptwo.data.documents import iter_documents
    from gptwo.data.files import STDIN
    from gptwo.data.rejects import Rejects
    from gptwo.tokenizer.sample import split_texts
    from gptwo.tokenizer.train import PIECE_CHARACTERS, Compression, measure, train_bpe

    share, held_files = _parse_held_out(held_out or [DEFAULT_HELD_OUT])
    files = _files_of(inputs, format)
    held = _files_of(held_files, format) if held_files else files if share else []
    if STDIN in files and share:
        raise UsageError(
            "Standard input can be read only once, so no share of it can be held out.",
            where="--held-out",
            fix="Give --held-out FILE to measure on, or --held-out 0.",
        )
    _check_out(out, overwrite)
    rejects = Rejects()

    def pieces(file: str, *, held_out: bool) -> Iterator[str]:
        documents = iter_documents(
            [file],
            text_column=text_column,
            separator=separator,
            format=format,
            encoding=encoding,
            rejects=Rejects() if held_out else rejects,  # what is read a second time is counted once
            longest=PIECE_CHARACTERS,
        )
        part = 0.0 if held_files else share
        return documents if held_out and not part else split_texts(documents, part, held_out=held_out)

    began = time.monotonic()
    with console().status(f"training {vocab_size:,} entries on {len(files):,} files"):
        with _ends_on_interrupt():
            tokenizer = train_bpe(
                (text for file in files for text in pieces(file, held_out=False)),
                vocab_size,
                max_bytes=max_bytes,
                min_frequency=min_frequency,
                seed=seed,
            )
        tokenizer.save(out)
    seconds = time.monotonic() - began
    measured: dict[str, Compression] = {}
    for file in held:
        with console().status(f"measuring on {file}"):
            measured[file] = measure(tokenizer, pieces(file, held_out=True))
    total = sum(measured.values(), Compression(0, 0, 0))

    if json:
        print_json(
            {
                "folder": str(out),
                "vocab_size": tokenizer.vocab_size,
                "end_id": tokenizer.end_id,
                "fingerprint": tokenizer.fingerprint,
                "seconds": round(seconds, 1),
                "held_out": {**_figures(total), "files": [{"file": f, **_figures(c)} for f, c in measured.items()]},
                "rejects": rejects.as_json(),
            }
        )
        return
    _print_measured(measured, total)
    if held and not total.tokens:
        _say("Nothing was held out: there is too little text for this share. Try --held-out 0.2.")
    if tokenizer.vocab_size < vocab_size:
        _say(
            f"The text gives {tokenizer.vocab_size:,} entries, not {vocab_size:,}: "
            f"no other pair of tokens occurs {min_frequency} times."
        )
    if rejects.total:
        _say(rejects.summary())
    _say(f"{tokenizer.vocab_size:,} entries, end id {tokenizer.end_id}, in {seconds:.1f} s: {out}")
    _say(f'Try: gptwo tokenizer inspect {out} "your text"')


def inspect(
    folder: Annotated[Path, typer.Argument(help="A tokenizer or model folder, or one tokenizer file.")],
    text: Annotated[str, typer.Argument(help="Text to split; - reads it from standard input.")],
    special: Annotated[
        bool, typer.Option("--special", help="Recognise special tokens such as <|endoftext|> in the text.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the tokens of a text: position, id, token as the vocabulary writes it, its bytes and its text."""
    from gptwo.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    ids = tokenizer.encode(text, special=special)
    tokens: list[dict[str, Any]] = [
        {"id": i, "token": tokenizer.id_to_token(i), "bytes": (raw := tokenizer.token_bytes(i)).hex(" ")}
        | {"text": raw.decode("utf-8", "replace")}
        for i in ids
    ]
    size = len(text.encode("utf-8", "replace"))
    decoded = tokenizer.decode(ids)
    about = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "start_id": tokenizer.start_id,
        "end_id": tokenizer.end_id,
        "fingerprint": tokenizer.fingerprint,
    }
    if json:
        print_json({**about, "text_bytes": size, "tokens": tokens, "decoded": decoded, "same": decoded == text})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("#", "id"):
        table.add_column(name, justify="right")
    for name in ("token", "bytes", "text"):
        table.add_column(name, overflow="fold")
    for place, token in enumerate(tokens):
        shown = Text(repr(token["text"])[1:-1] if not token["text"].isprintable() else token["text"])
        table.add_row(str(place), str(token["id"]), Text(str(token["token"])), token["bytes"], shown)
    console().print(table)
    rate = f", {size / len(ids):.3f} bytes per token" if ids else ""
    _say(f"{len(ids):,} tokens for {len(text):,} characters, {size:,} bytes{rate}")
    if decoded != text:
        _say(f"Decoded it reads differently: {decoded}")
    named = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None and name != "fingerprint")
    _say(f"{named}; fingerprint {tokenizer.fingerprint[:16]}…")


@contextmanager
def _ends_on_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once (the shell sees 130): the library's training never looks for signals."""
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _parse_held_out(values: list[str]) -> tuple[float, list[str]]:
    """A share, or files: what `--held-out` was given."""
    shares: list[float] = []
    files: list[str] = []
    for value in values:
        try:
            shares.append(float(value))
        except ValueError:
            files.append(value)
    if len(shares) > 1 or (shares and files):
        raise UsageError("Give one share, or files, not both.", where="--held-out")
    if shares and not 0 <= shares[0] < 1:
        raise UsageError(
            f"A held-out share of {values[0]} is not possible.",
            where="--held-out",
            fix="Give a number from 0 to below 1, such as 0.02, or a file.",
        )
    return (shares[0] if shares else 0.0), files


def _files_of(inputs: list[str], format: str | None) -> list[str]:
    """The files that paths, folders and patterns stand for."""
    from gptwo.data.files import expand

    return [file for source in expand(inputs, any_kind=format is not None) for file in source.files]


def _check_out(out: Path, overwrite: bool) -> None:
    """Find out before the training whether its result can be saved."""
    if (out / "tokenizer.json").exists() and not overwrite:
        raise UsageError(
            "The folder holds a tokenizer already.", where=out, fix="Choose another --out, or --overwrite."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError("The folder cannot be written.", where=out, why=os.strerror(error.errno or 0)) from error


def _figures(found: Compression) -> dict[str, Any]:
    return {
        "bytes": found.text_bytes,
        "characters": found.characters,
        "tokens": found.tokens,
        "bytes_per_token": round(found.bytes_per_token, 4),
        "characters_per_token": round(found.characters_per_token, 4),
    }


def _print_measured(measured: dict[str, Compression], total: Compression) -> None:
    from rich.table import Table
    from rich.text import Text

    if not total.tokens:
        return
    table = Table(title="held-out text", title_justify="left")
    table.add_column("file", overflow="fold")
    for name in ("bytes", "tokens", "bytes/token", "characters/token"):
        table.add_column(name, justify="right")
    rows = list(measured.items()) + ([("all", total)] if len(measured) > 1 else [])
    for name, found in rows:
        table.add_row(
            Text(name),
            f"{found.text_bytes:,}",
            f"{found.tokens:,}",
            f"{found.bytes_per_token:.3f}" if found.tokens else "–",
            f"{found.characters_per_token:.3f}" if found.tokens else "–",
        )
    console().print(table)


def _say(text: str) -> None:
    console().print(text, markup=False)

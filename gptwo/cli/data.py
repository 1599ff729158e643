"""`gptwo data`: turn files into training data, and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.common import console, parse_columns, print_json
from gptwo.cli.options import (
    ColumnsOption,
    DelimiterOption,
    EncodingOption,
    FormatOption,
    InputsArgument,
    JsonOption,
    ListSeparatorOption,
    SectionOption,
    SeparatorOption,
    StrictOption,
    TextColumnOption,
)


def pack(
    inputs: InputsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of the tokenizer.")],
    held_out: Annotated[
        int, typer.Option(min=0, help="Documents from the end of each input that go to OUT/valid.")
    ] = 0,
    text_column: TextColumnOption = "text",
    format: FormatOption = None,
    encoding: EncodingOption = "utf-8",
    separator: SeparatorOption = "<|endoftext|>",
    workers: Annotated[int | None, typer.Option(min=0, help="Encoding processes; default one per core.")] = None,
    shard_tokens: Annotated[int, typer.Option(min=1, help="Tokens per shard file.")] = 100_000_000,
    strict: StrictOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards that are already in OUT.")] = False,
    json: JsonOption = False,
) -> None:
    """Turn text files into token shards on disk: in parallel, in bounded memory; run again to go on after a stop."""
    from gptwo.data.shards import pack as pack_files

    manifest = pack_files(
        inputs,
        out,
        tokenizer,
        held_out=held_out,
        text_column=text_column,
        format=format,
        encoding=encoding,
        separator=separator,
        workers=workers,
        shard_tokens=shard_tokens,
        strict=strict,
        overwrite=overwrite,
    )
    manifests = _manifests(out) if held_out else [manifest]
    if json:
        print_json({"folder": str(out), "splits": {each.split: each.as_json() for each in manifests}})
        return
    for each in manifests:
        _print_manifest(each)
    if manifest.rejects:
        console().print(
            f"[yellow]{manifest.rejects:,} places could not be used as they are[/]: {out / 'rejects.jsonl'}"
        )


def show(
    folder: Annotated[Path, typer.Argument(help="A folder that gptwo data pack made.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of its tokenizer, to decode the first tokens.")] = None,
    tokens: Annotated[int, typer.Option(min=0, help="How many of the first tokens to show.")] = 64,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every shard with its sha256.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what lies in a folder of shards: counts per input, and its first tokens as text."""
    from gptwo.data.shards import Shards
    from gptwo.tokenizer import load_tokenizer

    found = []
    for manifest in _manifests(folder):
        assert manifest.folder is not None
        decoder = load_tokenizer(tokenizer) if tokenizer else None
        shards = Shards(manifest.folder, decoder)
        if verify:
            shards.verify()
        first = shards.read(0, min(tokens, shards.tokens)).tolist()
        found.append((manifest, first, decoder.decode(first) if decoder else None))
    if json:
        print_json([{**manifest.as_json(), "first_tokens": ids, "first_text": text} for manifest, ids, text in found])
        return
    for manifest, ids, text in found:
        _print_manifest(manifest)
        console().print("sha256 of every shard is right" if verify else "", end="\n" if verify else "")
        print(text if text is not None else " ".join(map(str, ids)))


def records(
    files: InputsArgument,
    columns: ColumnsOption = None,
    required: Annotated[str, typer.Option(help="Our names that no record may lack, parted by commas.")] = "",
    format: FormatOption = None,
    encoding: EncodingOption = "utf-8",
    lists: Annotated[str, typer.Option(help="Our names that hold several values, parted by commas.")] = "",
    list_separator: ListSeparatorOption = None,
    delimiter: DelimiterOption = None,
    section: SectionOption = None,
    first: Annotated[int, typer.Option(min=0, help="How many records to show.")] = 5,
    rejects: Annotated[Path | None, typer.Option(help="Write the rejected rows to this file.")] = None,
    strict: StrictOption = False,
    json: JsonOption = False,
) -> None:
    """Show the first records a task would read from files, and count the rows that cannot be used."""
    from gptwo.data.sources import Rejects, read_records

    shown, total = [], 0
    with Rejects(rejects, strict=strict) as rejected:
        for record in read_records(
            files,
            columns=parse_columns(columns),
            required=_names(required),
            format=format,
            rejects=rejected,
            encoding=encoding,
            lists=_names(lists),
            list_separator=list_separator,
            delimiter=delimiter,
            section=section,
        ):
            total += 1
            if len(shown) < first:
                shown.append(record)
    if json:
        fields = [{"file": record.file, "row": record.row, "fields": record.fields} for record in shown]
        print_json({"records": total, "rejects": rejected.as_json(), "first": fields})
        return
    from rich.table import Column, Table

    table = Table(
        Column("file:row", overflow="fold"), *dict.fromkeys(name for record in shown for name in record.fields)
    )
    for record in shown:
        table.add_row(record.place(), *(_cell(record.fields.get(str(column.header))) for column in table.columns[1:]))
    console().print(table)
    console().print(f"{total:,} records; {rejected.summary()}", markup=False)
    for reject in rejected.first[:first]:
        console().print(f"  {reject.place()}: {reject.reason}: {reject.raw[:100]}", markup=False)


def redact(
    inputs: InputsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the copies and redactions.jsonl.")],
    kinds: Annotated[str, typer.Option(help="What is taken out: email, phone, id, card.")] = "email,phone,id,card",
    format: FormatOption = None,
    encoding: EncodingOption = "utf-8",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are already in OUT.")] = False,
    json: JsonOption = False,
) -> None:
    """Copy text files without the e-mail addresses, phone, identity and card numbers in them."""
    from gptwo.data.redact import redact_files

    done = redact_files(
        inputs, out, kinds=_names(kinds), format=format, encoding=encoding or "utf-8", overwrite=overwrite
    )
    if json:
        print_json(done.to_dict())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("form")
    table.add_column("replaced", justify="right")
    for form, count in done.forms.most_common():
        table.add_row(form, f"{count:,}")
    console().print(table)
    console().print(
        f"{done.changed:,} of {done.rows:,} rows changed; each place is listed in {done.report}", markup=False
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _cell(value: object):
    from rich.text import Text

    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return Text(text if len(text) <= 200 else text[:200] + "…")


def _manifests(folder: Path) -> list:
    """The manifest of a folder, or those of its train and valid parts."""
    from gptwo.data.manifest import FILE_NAME, Manifest

    parts = [folder / part for part in ("train", "valid") if (folder / part / FILE_NAME).is_file()]
    return [Manifest.read(part) for part in parts] if parts else [Manifest.read(folder)]


def _print_manifest(manifest) -> None:
    from rich.table import Table
    from rich.text import Text

    title = f"{manifest.folder}: {manifest.tokens:,} tokens, {len(manifest.shards)} shard files of {manifest.dtype}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("input", overflow="fold")
    for name in ("documents", "empty", "bytes", "tokens", "bytes/token"):
        table.add_column(name, justify="right")
    for row in [*manifest.sources, manifest] if len(manifest.sources) > 1 else manifest.sources:
        counts = [f"{count:,}" for count in (row.documents, row.empty, row.bytes, row.tokens)]
        share = f"{row.bytes / row.tokens:.3f}" if row.tokens else "–"
        table.add_row(Text("all" if row is manifest else row.name), *counts, share)
    console().print(table)
    fingerprint, size = manifest.tokenizer["fingerprint"], manifest.tokenizer["vocab_size"]
    console().print(f"tokenizer {fingerprint[:16]}… of {size:,} entries, end id {manifest.tokenizer['end_id']}")

"""The options that several verbs share: one name, one meaning, one line of help.

The verb chooses the default; None leaves a key to the recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Text = str | None
Texts = list[str] | None
Number = float | None
Count = int | None
File = Path | None

# the machine
DeviceOption = Annotated[Text, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
PrecisionOption = Annotated[Text, typer.Option(help="auto, bf16, fp32; native also int8, int4.")]
BackendOption = Annotated[str, typer.Option(help="torch, native (CPU); auto: native for int8 and int4.")]
ThreadsOption = Annotated[Count, typer.Option(min=1, help="CPU threads.")]

# files of records and texts
InputsArgument = Annotated[list[str], typer.Argument(help="Files, folders, patterns, or - for standard input.")]
ColumnsOption = Annotated[
    Text, typer.Option(help="Our names and their columns: text=review,label=y; by index without a header: text=1.")
]
FormatOption = Annotated[
    Text,
    typer.Option(help="Where file names do not tell it: txt, csv, tsv, jsonl, json, parquet, conll, label-first."),
]
EncodingOption = Annotated[Text, typer.Option(help="Encoding of text files, e.g. utf-8, gb18030, latin-1, utf-16.")]
DelimiterOption = Annotated[Text, typer.Option(help="Between the columns of a csv file; default a comma.")]
SectionOption = Annotated[Text, typer.Option(help="Path of the list of rows inside a .json file.")]
ListSeparatorOption = Annotated[Text, typer.Option(help="What parts several values in a cell, e.g. '|'.")]
TextColumnOption = Annotated[str, typer.Option(help="Column or key of the text in tables and JSON.")]
SeparatorOption = Annotated[str, typer.Option(help="Line between two documents of a text file.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used (exit 3).")]
RecordsOption = Annotated[Texts, typer.Option(help="Training records: files, folders or globs.")]

# recipes and runs
RecipeArgument = Annotated[File, typer.Argument(help="Recipe (TOML); flags and --set go over it.")]
SetOption = Annotated[Texts, typer.Option("--set", help="Any recipe key: train.clip=0.5.")]
BatchSizeOption = Annotated[Count, typer.Option(help="Rows (running text) or records in a micro-batch.")]
LearningRateOption = Annotated[Number, typer.Option(help="Peak learning rate.")]
SeedOption = Annotated[Count, typer.Option(help="Of new weights, order and dropout.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of --out.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start anew in a used run folder.")]

# a model that is there
ModelOption = Annotated[str, typer.Option("--model", "-m", help="A run folder, a model folder or a name.")]
StartOption = Annotated[Text, typer.Option("--model", help="Model to start from: a name or a folder.")]

# what comes out
FailUnderOption = Annotated[Text, typer.Option(help="metric=value that must be reached, else exit 5.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

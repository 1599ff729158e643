"""`gptwo export`: a model for another run-time, if that run-time is shown to agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.options import JsonOption, Text, ThreadsOption


def export(
    model: Annotated[str, typer.Argument(help="A model folder, a run folder, an adapter's folder or a name.")],
    to: Annotated[
        str, typer.Option(help="onnx (onnxruntime), gguf (llama.cpp), hf (transformers, vLLM) or native (packed).")
    ],
    out: Annotated[Path, typer.Option(help="The file (gguf) or folder (onnx, hf, native).")],
    precision: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Of the weights: fp32, fp16, bf16, gguf also q8_0, q4_0, native fp32, bf16, int8, int4; auto: the "
            "smallest that changes no weight, native bf16.",
        ),
    ] = "auto",
    base: Annotated[Text, typer.Option(help="Base of an adapter, where it is not found by itself.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at --out.")] = False,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Write it without running it.")] = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Write a model for another run-time: ONNX, GGUF, the Hugging Face layout, or packed for gptwo's native engine.

    The export is run in that run-time beside the model first; where the two differ nothing is written (exit 5).
    """
    from dataclasses import asdict

    from gptwo.cli.common import begin, print_json, say
    from gptwo.export.run import export as run

    begin(model, threads, example=f"gptwo export runs/mine --to {to} --out {out}")
    made = run(model, to, out, precision=precision, base=base, overwrite=overwrite, unchecked=unchecked)
    if json:
        print_json({"model": model, **asdict(made)})
        return
    merged = f", its {made.merged} adapter merged" if made.merged else ""
    say(f"{out}: {made.precision}, {made.size / 1e6:,.1f} MB{merged}")
    say(str(made.check or "not checked: it was not run"))
    for note in [*made.notes, *(made.check.notes if made.check else [])]:
        say(f"note: {note}")

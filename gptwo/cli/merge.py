"""`gptwo merge`: an adapter into a plain model, if the plain model is shown to do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.options import File, JsonOption, Text


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of an adapter, or a run folder with one in best/.")],
    out: Annotated[Path, typer.Option(help="Folder of the plain model.")],
    base: Annotated[Text, typer.Option(help="Base of the adapter, where it is not found by itself.")] = None,
    prompts: Annotated[File, typer.Option(help="Texts to compare on, one a line; none: ten of gptwo's own.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a plain model that does what an adapter over its base does.

    Logits, greedy texts and tokenizers are compared first; where they differ nothing is written (exit 5).
    """
    from dataclasses import asdict

    from gptwo.adapt.gate import PROMPTS
    from gptwo.adapt.gate import merge as run
    from gptwo.cli.common import print_json, say
    from gptwo.errors import DataError

    texts = list(PROMPTS)
    if prompts is not None:
        try:
            texts = [line for line in prompts.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError("The file of prompts is not UTF-8.", where=prompts, why=str(error)) from error
    found = run(adapter, out, base=base, prompts=texts)
    if json:
        print_json({"adapter": adapter, "out": str(out), **asdict(found)})
        return
    text = "" if found.same_text is None else f", {found.same_text} of {found.prompts} greedy texts are equal"
    say(f"{out}: equal on {found.prompts} prompts (logits differ by {found.largest:.1e} of the largest{text})")

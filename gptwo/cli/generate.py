"""`gptwo generate`: continue a prompt, or a file of prompts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptwo.cli.common import choose_backend, print_json
from gptwo.cli.options import DeviceOption, ModelOption, PrecisionOption, ThreadsOption
from gptwo.errors import DataError, Interrupted, MissingError, UsageError
from gptwo.generate.options import help_of

if TYPE_CHECKING:
    from gptwo.generate.engine import Engine
    from gptwo.generate.native import NativeEngine
    from gptwo.generate.results import Generation


def _flag(name: str, *aliases: str) -> Any:
    """The flag of an option, with its name and meaning; without it the model's own default holds."""
    return typer.Option(f"--{name.replace('_', '-')}", *aliases, help=help_of(name), show_default=False)


def generate(
    model: ModelOption,
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; - reads it from standard input; none begins a new text.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='Prompts: a text file with one per line, or .jsonl with strings or {"prompt": …}.'),
    ] = None,
    max_new_tokens: Annotated[int | None, _flag("max_new_tokens")] = None,
    max_length: Annotated[int | None, _flag("max_length")] = None,
    min_new_tokens: Annotated[int | None, _flag("min_new_tokens")] = None,
    temperature: Annotated[float | None, _flag("temperature")] = None,
    top_k: Annotated[int | None, _flag("top_k")] = None,
    top_p: Annotated[float | None, _flag("top_p")] = None,
    min_p: Annotated[float | None, _flag("min_p")] = None,
    repetition_penalty: Annotated[float | None, _flag("repetition_penalty")] = None,
    presence_penalty: Annotated[float | None, _flag("presence_penalty")] = None,
    frequency_penalty: Annotated[float | None, _flag("frequency_penalty")] = None,
    no_repeat_ngram: Annotated[int | None, _flag("no_repeat_ngram")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help=help_of("stop") + r" May be repeated; \n is a new line.", show_default=False),
    ] = None,
    required: Annotated[
        list[str] | None,
        typer.Option("--required", "--must", help=help_of("required") + " May be repeated.", show_default=False),
    ] = None,
    ignore_end: Annotated[bool | None, _flag("ignore_end")] = None,
    n: Annotated[int | None, _flag("n", "-n")] = None,
    seed: Annotated[int | None, _flag("seed")] = None,
    num_beams: Annotated[int | None, _flag("num_beams", "--beams")] = None,
    length_penalty: Annotated[float | None, _flag("length_penalty")] = None,
    early_stopping: Annotated[str | None, typer.Option(help="Beam search: true, false or never.")] = None,
    logprobs: Annotated[bool | None, typer.Option("--logprobs", help=help_of("logprobs"))] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before its text.")] = False,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Print the text as it comes (default on a terminal).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    device: DeviceOption = "auto",
    backend: Annotated[str, typer.Option(help="torch, native (CPU); auto: native on a CPU, where it can.")] = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Texts that are written together at most.")] = 16,
    draft: Annotated[
        str | None,
        typer.Option(help="A smaller model that guesses ahead for the native engine; the text stays the same."),
    ] = None,
) -> None:
    """Continue a prompt."""
    options = {
        "max_new_tokens": max_new_tokens, "max_length": max_length, "min_new_tokens": min_new_tokens,
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty, "no_repeat_ngram": no_repeat_ngram,
        "stop": [_unescaped(text) for text in stop] if stop else None, "required": required or None,
        "ignore_end": ignore_end, "n": n, "seed": seed,
        "num_beams": num_beams, "length_penalty": length_penalty, "logprobs": logprobs,
        "early_stopping": {"true": True, "false": False, None: None}.get(early_stopping, early_stopping),
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    try:
        prompts = _prompts(prompt, file)
        engine = _engine(model, backend, device, precision, threads, max_batch, draft)
        chosen = engine.options(**options)
        single = len(prompts) == 1 and chosen.n == 1 and chosen.num_beams == 1
        if single and not as_json and (stream if stream is not None else sys.stdout.isatty()):
            texts = [_stream(engine, prompts[0], options, echo)]
        else:
            texts = engine.generate(prompts, **options)
            if as_json:
                print_json({"model": model, "generations": [asdict(text) for text in texts]})
            else:
                _print(texts, echo)
        for notice in dict.fromkeys(notice for text in texts for notice in text.notices):
            sys.stderr.write(f"gptwo: notice: {notice}\n")
    except KeyboardInterrupt:
        raise Interrupted("Stopped; the text ends here.") from None


def _engine(
    model: str, backend: str, device: str, precision: str, threads: int | None, max_batch: int, draft: str | None
) -> Engine | NativeEngine:
    """What writes."""
    if choose_backend(backend, model, device, precision, writes=True) == "native":
        from gptwo.generate.native import NativeEngine

        return NativeEngine(model, precision=precision, threads=threads, max_batch=max_batch, draft=draft)
    if draft is not None:
        raise UsageError("Only the native engine takes a draft.", where="--draft", fix="--backend native")
    from gptwo.generate.engine import Engine

    return Engine(model, device=device, precision=precision, threads=threads, max_batch=max_batch)


def _stream(engine: Engine | NativeEngine, prompt: str, options: dict[str, Any], echo: bool) -> Generation:
    """Print one text as it comes."""
    stream = engine.stream(prompt, **options)
    sys.stdout.write(prompt if echo else "")
    try:
        for piece in stream:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return stream.result


def _print(texts: list[Generation], echo: bool) -> None:
    """Print texts; several of them each under a line that says which it is."""
    for text in texts:
        if len(texts) > 1:
            start = " ".join(text.prompt.split())
            start = start if len(start) <= 60 else start[:59] + "…"
            score = "" if text.score is None else f", score {text.score:.3f}"
            sys.stdout.write(f"--- {text.prompt_index + 1}.{text.sample_index + 1} {start}{score}\n")
        sys.stdout.write((text.prompt if echo else "") + text.text + "\n")
    sys.stdout.flush()


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The prompts asked for: the argument, standard input, or the lines of a file."""
    if file is not None:
        if prompt is not None:
            raise UsageError("There is a prompt and a file of prompts.", where="--file", fix="give one of them")
        return _read(file)
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        text = sys.stdin.read()
        return [text.removesuffix("\n")]
    return [prompt or ""]


def _read(file: Path) -> list[str]:
    """Prompts of a file: each line of a text file, each record of a JSON-lines file; empty lines are passed over."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            "The file of prompts is not UTF-8.", where=file, why=str(error), fix="save it as UTF-8"
        ) from None
    except OSError as error:
        raise MissingError("The file of prompts cannot be read.", where=file, why=error.strerror) from None
    rows = [(row, line.removesuffix("\r")) for row, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError("The file of prompts is empty.", where=file)
    if file.suffix not in (".jsonl", ".ndjson"):
        return [line for _, line in rows]
    return [_record(line, f"{file}:{row}") for row, line in rows]


def _record(line: str, where: str) -> str:
    """The prompt of one line of a JSON-lines file."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError("The line is no JSON.", where=where, why=str(error)) from None
    value = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise DataError("The record holds no prompt.", where=where, fix='{"prompt": "…"} or a string on each line')
    return value


def _unescaped(text: str) -> str:
    r"""A stop string as a shell can pass it: \n, \t and \\ mean what they mean in most languages."""
    marks = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
    out, rest = "", text
    while rest:
        mark = rest[:2]
        out, rest = (out + marks[mark], rest[2:]) if mark in marks else (out + rest[0], rest[1:])
    return out

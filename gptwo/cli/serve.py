"""`gptwo serve`: models over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptwo.cli.options import DeviceOption, File, PrecisionOption, Texts, ThreadsOption


def serve(
    model: Annotated[
        Texts, typer.Option("--model", "-m", help="A run, a folder or a name; NAME=FOLDER names it. May be repeated.")
    ] = None,
    adapter: Annotated[
        Texts, typer.Option(help="NAME=FOLDER of an adapter over the first model, whose weights it shares.")
    ] = None,
    models_dir: Annotated[
        File, typer.Option(help="Serve every model in this folder; an admin key may load more from it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, help="Texts that are written together, for each model.")] = 16,
    max_queue: Annotated[int, typer.Option(min=1, help="Prompts that wait; more are answered with 429.")] = 256,
    cache: Annotated[
        str | None,
        typer.Option(help="Key/value cache of each model: tokens (20000) or bytes (512MB); default: for max-batch."),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share/--no-share", help="Texts that begin alike share their cache (native engine).")
    ] = True,
    prefill_chunk: Annotated[int, typer.Option(min=1, help="Tokens of prompts that are read in a step.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take.")] = 600.0,
    drain: Annotated[float, typer.Option(min=1, help="Seconds for requests under way when told to stop.")] = 30.0,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 2**20,
    max_prompts: Annotated[int, typer.Option(min=1, help="Prompts, inputs or documents in a request.")] = 128,
    max_n: Annotated[int, typer.Option(min=1, help="Texts of a prompt.")] = 16,
    api_keys: Annotated[File, typer.Option(help="Lines name=key; also $GPTWO_API_KEYS=name=key,name=key.")] = None,
    admin_keys: Annotated[
        File, typer.Option(help="Keys that may load and unload models; also $GPTWO_ADMIN_KEYS.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests a minute of one key or address.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at a time of one key or address.")] = None,
    cors_origin: Annotated[Texts, typer.Option(help="Web origin that may call. May be repeated.")] = None,
    tls_certificate: Annotated[File, typer.Option(help="PEM file; with --tls-key serves https.")] = None,
    tls_key: Annotated[File, typer.Option(help="PEM file.")] = None,
    chat_template: Annotated[File, typer.Option(help="Jinja template of chats, for models without one.")] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the log.")] = False,
    backend: Annotated[
        str, typer.Option(help="auto, native (CPU), torch; auto is native for models that write, where it can.")
    ] = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve models over OpenAI's interface, and the tasks they are tuned for."""
    from gptwo import runtime
    from gptwo.errors import MissingError, require

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "serve")
    from gptwo.serve.limits import read_keys
    from gptwo.serve.run import Address, serve
    from gptwo.serve.settings import Settings

    if models_dir is not None and not models_dir.is_dir():
        raise MissingError("There is no such folder.", where=models_dir)
    runtime.set_threads(threads)
    tokens, size = _cache(cache)
    admins = read_keys(admin_keys, "GPTWO_ADMIN_KEYS")
    keys = read_keys(api_keys, "GPTWO_API_KEYS")
    settings = Settings(
        max_batch=max_batch,
        max_queue=max_queue,
        prefill_chunk=prefill_chunk,
        cache_tokens=tokens,
        cache_bytes=size,
        share=share,
        max_body=max_body,
        max_prompts=max_prompts,
        max_n=max_n,
        timeout=timeout,
        drain=drain,
        keys={**keys, **{f"admin:{name}": key for name, key in admins.items()}},
        needs_key=bool(keys),
        admin_keys=frozenset(f"admin:{name}" for name in admins),
        rate=rate,
        concurrency=concurrency,
        origins=tuple(cors_origin or ()),
        log_prompts=log_prompts,
        models_dir=models_dir,
        chat_template=_template(chat_template),
        backend=backend,
        device=device or "auto",
        precision=precision or "auto",
        threads=threads,
    )
    address = Address(host, port, tls_certificate, tls_key)
    serve(address, [_named(one) for one in model or []], [_named(one) for one in adapter or []], settings)


def _named(text: str) -> tuple[str, str]:
    """`name=folder`, or a folder (or name) that is called by its last part.

    >>> _named("mine=runs/a"), _named("gptwo-mini")
    (('mine', 'runs/a'), ('gptwo-mini', 'gptwo-mini'))
    """
    name, sign, folder = text.partition("=")
    if sign and name and folder and "/" not in name:
        return name, folder
    path = Path(text)
    return (path.resolve().name if path.is_dir() else text), text


def _cache(given: str | None) -> tuple[int | None, int | None]:
    """Tokens or bytes of cache.

    >>> _cache("20000"), _cache("512MB")
    ((20000, None), (None, 512000000))
    """
    from gptwo.errors import UsageError
    from gptwo.model.weights import parse_size

    if given is None:
        return None, None
    try:
        tokens, size = (int(given), None) if given.isdecimal() else (None, parse_size(given))
    except UsageError:
        tokens = size = 0
    if not (tokens or size):
        raise UsageError(f"{given!r} is no size of a cache.", where="--cache", fix="tokens, or bytes: 512MB, 2GB")
    return tokens, size


def _template(file: Path | None) -> str | None:
    """The text of a template's file.

    Raises:
        MissingError: it cannot be read.
    """
    from gptwo.errors import MissingError

    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError("The chat template cannot be read.", where=file, why=str(error)) from error

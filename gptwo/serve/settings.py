"""What can be set about a server; the flags of `gptwo serve` have the same names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Limits and habits of a server.

    Args:
        max_batch: texts that are written together at most, for each model.
        max_queue: prompts that wait at most; more are answered with 429.
        prefill_chunk: tokens of prompts that a step reads at most.
        cache_tokens, cache_bytes: key/value cache for each model at most, by tokens or by bytes; None: as much as
            max_batch whole contexts take, with the native engine a quarter of the memory at most.
        share: texts that begin alike share the cache of their beginning (native engine).
        max_body: bytes of a request at most.
        max_prompts: prompts (or inputs, documents) of a request at most.
        max_n: texts of a prompt at most.
        timeout: seconds a request may take; a client asks for less with the header X-Request-Timeout.
        body_timeout: seconds a client may take to send its request.
        drain: seconds that requests under way get when the server is told to end.
        keys: API keys, name -> key.
        needs_key: whether every request must have one of them; without it only what admins do.
        admin_keys: names of the keys that may load and unload models.
        rate: requests a minute of one key (without keys: of one address); None: no limit.
        concurrency: requests under way of one key or address; None: no limit.
        origins: web origins that may call (CORS); none by default.
        log_prompts: write prompts and texts to the log.
        models_dir: where models may be loaded from by name while the server runs.
        chat_template: a Jinja template for models that have none of their own.
        backend: "native" (C++, on a CPU), "torch", or "auto": native for models that write, where it can.
        device, precision: as in `gptwo.Engine`; the native engine has int8 and int4 too, and its "auto" is bf16.
        threads: of the native engine; None: the CPUs of this process.
        strict: raise where the accounts do not add up when idle (tests).
    """

    max_batch: int = 16
    max_queue: int = 256
    prefill_chunk: int = 256
    cache_tokens: int | None = None
    cache_bytes: int | None = None
    share: bool = True
    max_body: int = 2**20
    max_prompts: int = 128
    max_n: int = 16
    timeout: float = 600.0
    body_timeout: float = 30.0
    drain: float = 30.0
    keys: dict[str, str] = field(default_factory=dict)
    needs_key: bool = False
    admin_keys: frozenset[str] = frozenset()
    rate: float | None = None
    concurrency: int | None = None
    origins: tuple[str, ...] = ()
    log_prompts: bool = False
    models_dir: Path | None = None
    chat_template: str | None = None
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    strict: bool = False

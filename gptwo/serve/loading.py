"""From a folder, a name or a model in memory to what answers: packed for the native engine, or a PyTorch network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptwo import hub
from gptwo.adapt.store import load
from gptwo.errors import GptwoError, MissingError, UsageError, did_you_mean
from gptwo.generate.engine import DTYPES
from gptwo.generate.native import NativeEngine, page_bytes, why_not
from gptwo.model.config_json import read_config, read_json
from gptwo.model.pretrained import INFO, Pretrained
from gptwo.runtime import pick_device, pick_precision
from gptwo.serve.settings import Settings
from gptwo.tasks import restore_task
from gptwo.tasks.language import Language
from gptwo.tasks.write import Write

BACKENDS = ("auto", "native", "torch")
PACKED = ("int8", "int4")  # precisions of the native engine alone


def open_model(source: str | Path | Pretrained, settings: Settings) -> Pretrained | NativeEngine:
    """A model ready to be served.

    Raises:
        UsageError: an unknown backend or precision.
        MissingError: there is no such model; or the native engine was asked for and cannot serve it.
        DataError, GptwoError: it cannot be read.
    """
    if settings.backend not in BACKENDS:
        fix = did_you_mean(settings.backend, BACKENDS)
        raise UsageError(f"There is no backend {settings.backend!r}.", where="--backend", fix=fix)
    try:
        if settings.backend != "torch" and writes(source):
            reason = _why_not(source, settings)
            if reason is None:
                return _native(source, settings)
            if settings.backend == "native" or settings.precision in PACKED:
                what = f"{source} cannot be served by the native engine." if isinstance(source, str | Path) else reason
                raise MissingError(what, where="--backend", why=reason, fix="--backend torch --precision fp32")
        return source if isinstance(source, Pretrained) else open_network(source, settings)
    except GptwoError:
        raise
    except Exception as error:  # a truncated or foreign file
        where = source if isinstance(source, str | Path) else None
        first = (str(error).splitlines() or [""])[0]
        raise GptwoError(f"The model cannot be read: {type(error).__name__}.", where=where, why=first) from error


def open_network(source: str | Path, settings: Settings) -> Pretrained:
    """A PyTorch network in the precision that was asked for; one that scores labels holds its weights in float32."""
    place = pick_device(settings.device).value
    asked = settings.precision
    if asked in PACKED and settings.backend != "torch":  # a model that does not write, beside those that do
        asked = "auto"
    wanted = "fp32" if asked == "auto" and place == "cpu" else pick_precision(asked, place).value
    loaded = load(source, device=place, dtype=DTYPES[wanted])
    if loaded.model.head_kind != "language":
        loaded.model.float()  # scores of labels are read as numbers of full precision
    return loaded


def writes(source: str | Path | Pretrained) -> bool:
    """Whether a model is there to write texts, and not to judge with a language head."""
    if isinstance(source, Pretrained):
        head: Any = source.model.head_kind
        info = source.info
    else:
        folder = hub.resolve(source)
        config, known = folder / "config.json", folder / INFO
        if not config.is_file():
            return False
        head = read_config(config).head or "language"
        info = read_json(known) if known.is_file() else {}
    return head == "language" and isinstance(restore_task(info, head), Language | Write)


def _why_not(source: str | Path | Pretrained, settings: Settings) -> str | None:
    reason = why_not(source, settings.device)
    if reason is None and pick_device(settings.device).value != "cpu":
        reason = "The native engine runs on the CPU, and this machine has a GPU (--device cpu takes the CPU)."
    if reason is None and isinstance(source, Pretrained) and source.model.transformer.wte.weight.device.type != "cpu":
        reason = "The native engine runs on the CPU, and this model does not lie there."
    return reason


def _native(source: str | Path | Pretrained, settings: Settings) -> NativeEngine:
    return NativeEngine(
        source,
        precision=settings.precision,
        threads=settings.threads,
        max_batch=settings.max_batch,
        cache_bytes=_cache_bytes(source, settings),
        share=settings.share,
    )


def _cache_bytes(source: str | Path | Pretrained, settings: Settings) -> int | None:
    """Of the native engine's cache, from bytes or from tokens."""
    if settings.cache_bytes is not None or settings.cache_tokens is None:
        return settings.cache_bytes
    from gptwo.generate._native import PAGE

    config = (
        source.config if isinstance(source, Pretrained) else read_config(hub.resolve(source) / "config.json").config
    )
    precision = "bf16" if settings.precision == "auto" else settings.precision
    return page_bytes(config, precision) * -(-settings.cache_tokens // PAGE)

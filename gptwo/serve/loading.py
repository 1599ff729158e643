"""From a folder, a name or a model in memory to what answers: packed for the native engine, or a PyTorch network."""

from __future__ import annotations

from pathlib import Path

from gptwo import hub
from gptwo.adapt.store import is_adapter, load
from gptwo.errors import GptwoError, MissingError, UsageError, did_you_mean
from gptwo.generate.engine import DTYPES
from gptwo.generate.native import NativeEngine, why_not
from gptwo.generate.native_build import page_bytes
from gptwo.generate.native_network import on_native, open_on_native
from gptwo.generate.native_packed import open_packed
from gptwo.generate.native_weights import is_packed
from gptwo.generate.which import BACKENDS, PACKED
from gptwo.model.config_json import read_config, read_info
from gptwo.model.pretrained import Pretrained
from gptwo.runtime import pick_device, pick_precision
from gptwo.serve.settings import Settings
from gptwo.tasks import restore_task
from gptwo.tasks.language import Language
from gptwo.tasks.write import Write


def open_model(source: str | Path | Pretrained, settings: Settings) -> Pretrained | NativeEngine:
    """A model ready to be served: an engine where it has a language head and the native engine can take it; otherwise a
    network, which where it scores labels is the native engine's too.

    Raises:
        UsageError: an unknown backend or precision.
        MissingError: there is no such model; or the native engine was asked for and cannot serve it.
        DataError, GptwoError: it cannot be read.
    """
    if settings.backend not in BACKENDS:
        fix = did_you_mean(settings.backend, BACKENDS)
        raise UsageError(f"There is no backend {settings.backend!r}.", where="--backend", fix=fix)
    try:
        packed = None if settings.backend == "torch" else _packed(source, settings)
        if packed is not None:
            return packed
        return source if isinstance(source, Pretrained) else open_network(source, settings)
    except GptwoError:
        raise
    except Exception as error:  # a truncated or foreign file
        where = source if isinstance(source, str | Path) else None
        first = (str(error).splitlines() or [""])[0]
        raise GptwoError(f"The model cannot be read: {type(error).__name__}.", where=where, why=first) from error


def _packed(source: str | Path | Pretrained, settings: Settings) -> Pretrained | NativeEngine | None:
    """The model on the native engine; None where PyTorch shall serve it."""
    reason = _why_not(source, settings)
    if reason is not None:
        if settings.backend == "native" or settings.precision in PACKED:
            where = source if isinstance(source, str | Path) else None
            fix = "--backend torch --precision fp32"
            raise MissingError("The native engine cannot serve this model.", where=where, why=reason, fix=fix)
        return None
    if isinstance(source, str | Path) and is_adapter(hub.resolve(source)):
        source = load(source)
    if use_of(source) != "labels":
        return _native(source, settings)
    if _packed_in(source) is not None and not isinstance(source, Pretrained):
        return open_on_native(hub.resolve(source), precision=settings.precision, threads=settings.threads)
    loaded = source if isinstance(source, Pretrained) else load(source)
    return on_native(loaded, precision=settings.precision, threads=settings.threads)


def open_network(source: str | Path, settings: Settings) -> Pretrained:
    """A PyTorch network in the precision that was asked for; one that scores labels holds its weights in float32."""
    place = pick_device(settings.device).value
    asked = settings.precision
    if asked in PACKED and settings.backend != "torch":  # a model that PyTorch serves, beside those of the engine
        asked = "auto"
    wanted = "fp32" if asked == "auto" and place == "cpu" else pick_precision(asked, place).value
    loaded = load(source, device=place, dtype=DTYPES[wanted])
    if loaded.model.head_kind != "language":
        loaded.model.float()  # scores of labels are read as numbers of full precision
    return loaded


def use_of(source: str | Path | Pretrained) -> str:
    """What a model is there for: "writing", "judging" with a language head, or "labels"."""
    if isinstance(source, Pretrained):
        head, info = source.model.head_kind, source.info
    else:
        folder = hub.resolve(source)
        head, info = read_config(folder / "config.json").head or "language", read_info(folder)
    if head != "language":
        return "labels"
    return "writing" if isinstance(restore_task(info, head), Language | Write) else "judging"


def _why_not(source: str | Path | Pretrained, settings: Settings) -> str | None:
    reason = why_not(source, settings.device)
    if reason is None and _packed_in(source) is None and pick_device(settings.device).value != "cpu":
        reason = "The native engine runs on the CPU, and this machine has a GPU (--device cpu takes the CPU)."
    if reason is None and isinstance(source, Pretrained) and source.model.transformer.wte.weight.device.type != "cpu":
        reason = "The native engine runs on the CPU, and this model does not lie there."
    return reason


def _packed_in(source: str | Path | Pretrained) -> str | None:
    """The precision of a packed folder; None for other models."""
    if isinstance(source, Pretrained) or not is_packed(hub.resolve(source)):
        return None
    return open_packed(hub.resolve(source) / hub.PACKED).precision


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
    precision = _packed_in(source) or ("bf16" if settings.precision == "auto" else settings.precision)
    return page_bytes(config, precision) * -(-settings.cache_tokens // PAGE)

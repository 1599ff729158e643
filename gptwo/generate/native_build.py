"""From an opened model to the C++ engine: precisions, threads, the bound of its cache."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from gptwo.errors import UsageError, did_you_mean
from gptwo.generate.native_weights import Opened, give
from gptwo.runtime import available_cpus

if TYPE_CHECKING:
    from gptwo.model.config import GPT2Config

PRECISIONS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
HEAD_OF = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8"}
CACHE_OF = {"fp32": "fp32", "bf16": "int8", "int8": "int8", "int4": "int8"}
CACHES = ("fp32", "bf16", "int8")
MAX_TOKENS = 256  # of one pass: a longer prompt goes in by chunks of so many


def build(
    opened: Opened,
    precision: str,
    *,
    threads: int | None = None,
    max_batch: int = 16,
    cache: str = "auto",
    cache_bytes: int | None = None,
    isa: str | None = None,
    share: bool = True,
) -> Any:
    """The C++ engine with a model's weights, and the adapter that it carries.

    Args:
        precision: one of `PRECISIONS`; the rest as for `NativeEngine`.

    Raises:
        UsageError: too small a cache or one of an unknown precision, no thread, an unknown instruction set.
        DataError: weights that do not fit the config.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"The number of threads must be at least 1, not {threads}.", where="--threads")
    config = opened.whole
    kind = CACHE_OF[precision] if cache == "auto" else cache
    if kind not in CACHES:
        fix = did_you_mean(kind, CACHES)
        raise UsageError(f"The cache has no precision {kind!r}.", where="cache", fix=fix)
    page, pages = page_bytes(config, precision, kind), -(-config.n_positions // _module().PAGE)
    if cache_bytes is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        cache_bytes = max(min(page * pages * max_batch, memory // 4), page * pages)
    elif cache_bytes < page:
        raise UsageError(
            f"cache_bytes is {cache_bytes:,}, and {_module().PAGE} tokens of this model need {page:,} bytes.",
            where="cache_bytes",
            fix=f"cache_bytes of at least {page * pages:,} for a full context",
        )
    try:
        native = _module().Engine(
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.inner,
            layer_norm_epsilon=config.layer_norm_epsilon,
            scale_by_layer=config.scale_attn_by_inverse_layer_idx,
            precision=PRECISIONS[precision],
            head=PRECISIONS[HEAD_OF[precision]],
            cache=PRECISIONS[kind],
            isa=os.environ.get("GPTWO_ISA", "") if isa is None else isa,
            threads=threads or available_cpus(),
            max_tokens=max(MAX_TOKENS, max_batch),
            cache_bytes=cache_bytes,
            share=share,
        )
    except ValueError as error:
        raise UsageError("The instruction set cannot be used.", where="GPTWO_ISA", why=str(error)) from None
    give(native, opened)
    if opened.carrying is not None:
        from gptwo.generate.native_adapters import add_adapter

        native.set_adapter(add_adapter(native, opened.carrying, whole=True))
    return native


def page_bytes(config: GPT2Config, precision: str, cache: str = "auto") -> int:
    """Bytes of a cache page: keys and values of its tokens in every layer and head."""
    kind = PRECISIONS[CACHE_OF[precision] if cache == "auto" else cache]
    return _module().page_bytes(config.n_layer, config.n_head, config.head_dim, kind)


def _module() -> Any:
    return importlib.import_module("gptwo.generate._native")

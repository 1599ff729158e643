"""Text out: choosing tokens, the loop that runs a model, and the engine that callers use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptwo.generate.options import SamplingOptions

if TYPE_CHECKING:
    from gptwo.generate.engine import Engine
    from gptwo.generate.results import Generation, Likelihood, Stream

__all__ = ["Engine", "Generation", "Likelihood", "SamplingOptions", "Stream"]

_HOMES = {
    "Engine": "gptwo.generate.engine",
    "Generation": "gptwo.generate.results",
    "Likelihood": "gptwo.generate.results",
    "Stream": "gptwo.generate.results",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used (PEP 562)."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

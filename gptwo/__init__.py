"""gptwo: GPT-2, whole. Pretrain it, fine-tune it for a task, measure it honestly, generate with it.

This file is the public API and nothing else. Names are imported when they are first used, so that
`import gptwo` costs milliseconds and loads neither torch nor numpy (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptwo import evaluate
    from gptwo.adapt.store import load, save
    from gptwo.generate.engine import Engine
    from gptwo.tokenizer import Tokenizer, load_tokenizer
    from gptwo.train.finetune import finetune
    from gptwo.train.pretrain import pretrain

__version__ = "0.1.0"

__all__ = [
    "load",
    "save",
    "finetune",
    "pretrain",
    "evaluate",
    "Engine",
    "Tokenizer",
    "load_tokenizer",
    "__version__",
]

# name -> the module it lives in; `evaluate` is the subpackage itself.
_HOMES = {
    "load": "gptwo.adapt.store",
    "save": "gptwo.adapt.store",
    "finetune": "gptwo.train.finetune",
    "pretrain": "gptwo.train.pretrain",
    "Engine": "gptwo.generate.engine",
    "Tokenizer": "gptwo.tokenizer",
    "load_tokenizer": "gptwo.tokenizer",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "evaluate":
        return importlib.import_module("gptwo.evaluate")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gptwo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

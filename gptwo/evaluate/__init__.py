"""How good a model is: metrics, intervals, cheap baselines, compression baselines and the report.

Everything here works on plain lists and numpy arrays; nothing imports torch. `assess` builds a whole `Report`
from the predictions of several systems; the other modules are its parts.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Report": "report",
    "System": "report",
    "DataFile": "report",
    "Example": "report",
    "Sample": "report",
    "Comparison": "statistics",
    "Interval": "statistics",
    "Predictions": "metrics",
    "ClassTable": "metrics",
    "ConfusionMatrix": "metrics",
    "Calibration": "metrics",
    "load_events": "report",
    "read_report": "report",
    "assess_classification": "assess",
    "assess_multilabel": "assess",
    "assess_tagging": "assess",
    "assess_language": "assess",
    "assess_means": "means",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

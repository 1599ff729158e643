"""Which backend computes: to write the native engine where it can, else where it or its precisions are asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gptwo import hub
from gptwo.errors import MissingError, UsageError, did_you_mean
from gptwo.generate.native import why_not
from gptwo.generate.native_build import PRECISIONS
from gptwo.generate.native_weights import is_packed

BACKENDS = ("auto", "torch", "native")
PACKED = ("int8", "int4")  # precisions of the native engine alone
WRITES = ("auto", *PRECISIONS)
DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")  # of GPUs: NVIDIA's, Jetson's, AMD's, WSL's


def pick_writer(name: str, model: Any, device: str, precision: str) -> tuple[str, str | None]:
    """As `pick_backend`, for what writes texts: "auto" is the native engine wherever it can serve the model.

    On a CPU it is faster and starts without PyTorch. A GPU goes before it, but for packed weights.
    """
    if name == "auto" and precision in WRITES and device in ("auto", "cpu") and why_not(model, device) is None:
        packed = isinstance(model, str | Path) and is_packed(hub.resolve(model))
        if packed or device == "cpu" or not sees_gpu():
            return "native", None
    return pick_backend(name, model, device, precision)


def sees_gpu() -> bool:
    """Whether PyTorch may find a GPU here; it is imported only where a driver is."""
    if sys.platform == "linux" and not any(Path(place).exists() for place in DRIVERS):
        return False
    from gptwo.runtime import pick_device

    return pick_device("auto").value != "cpu"


def pick_backend(name: str, model: Any, device: str, precision: str) -> tuple[str, str | None]:
    """ "native" or "torch", and where it is not what was asked for, why, in a sentence.

    Args:
        name: one of `BACKENDS`.
        model: a folder, a name, or a loaded model.
        device, precision: as they were asked for.

    Raises:
        UsageError: an unknown backend, or a precision that it does not have.
        MissingError: a precision of the native engine, which cannot serve the model here.
    """
    if name not in BACKENDS:
        raise UsageError(f"There is no backend {name!r}.", where="--backend", fix=did_you_mean(name, BACKENDS))
    if precision not in WRITES:
        raise UsageError(
            f"There is no precision {precision!r}.", where="--precision", fix=did_you_mean(precision, WRITES)
        )
    packed = precision in PACKED
    alone = isinstance(model, str | Path) and is_packed(hub.resolve(model))  # nothing else reads the folder
    if name == "torch" and packed:
        raise UsageError(
            f"{precision} is a precision of the native engine.", where="--precision", fix="--backend native"
        )
    if name == "torch" or (name == "auto" and not packed and not alone):
        return "torch", None
    reason = why_not(model, device)
    if reason is None:
        return "native", None
    if packed:
        raise MissingError(f"{precision} is a precision of the native engine.", why=reason, fix="--precision bf16")
    return "torch", f"{reason} PyTorch computes instead."

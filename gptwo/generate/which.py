"""Which backend computes: the native engine where it is asked for or its precisions are, else PyTorch."""

from __future__ import annotations

from typing import Any

from gptwo.errors import MissingError, UsageError, did_you_mean
from gptwo.generate.native import why_not

BACKENDS = ("auto", "torch", "native")
PACKED = ("int8", "int4")  # precisions of the native engine alone


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
    packed = precision in PACKED
    if name == "torch" and packed:
        raise UsageError(
            f"{precision} is a precision of the native engine.", where="--precision", fix="--backend native"
        )
    if name == "torch" or (name == "auto" and not packed):
        return "torch", None
    reason = why_not(model, device)
    if reason is None:
        return "native", None
    if packed:
        raise MissingError(f"{precision} is a precision of the native engine.", why=reason, fix="--precision bf16")
    return "torch", f"{reason} PyTorch computes instead."

"""The model an adapter belongs to: how it is named, recognised and found again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from gptwo import hub
from gptwo.adapt.parts import Base
from gptwo.errors import DataError, MissingError, UsageError
from gptwo.model.heads import Model
from gptwo.model.pretrained import Pretrained

SAMPLED = 64  # numbers of each tensor that a fingerprint looks at


def fingerprint(model: Model) -> str:
    """sha256 of names, shapes and some numbers of each tensor below the head; the same in every precision.

    Numbers are taken evenly over a tensor and rounded to bfloat16, so it costs milliseconds, and a network whose
    weights were tuned has another one.
    """
    digest = hashlib.sha256()
    for name, tensor in model.transformer.named_parameters():
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + some.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def base_of(pretrained: Pretrained, name: str | None = None) -> Base:
    """What an adapter over a model has to remember of it.

    Args:
        pretrained: a plain model.
        name: what the user called it; None: its folder.

    Raises:
        UsageError: it is in no folder, so that nobody could find it again.
    """
    if pretrained.folder is None:
        raise UsageError(
            "An adapter names the model it belongs to, and this one is in no folder.",
            fix='save it first: gptwo.save(model, "models/base"), then tune over that folder',
        )
    folder = Path(pretrained.folder).expanduser().resolve()
    by_name = name and not Path(name).is_absolute() and not Path(name).expanduser().exists()
    shown = name if name and by_name else str(folder)
    tokenizer = pretrained.tokenizer.fingerprint if pretrained.tokenizer else None
    return Base(shown, str(folder), fingerprint(pretrained.model), tokenizer)


def find_base(adapter: Path, described: dict[str, Any], content: dict[str, Any]) -> Path:
    """The folder of an adapter's base: where it was, beside where the adapter is now, or by its name.

    Args:
        adapter: the adapter's folder.
        described: "adapter" of its gptwo.json; empty for one of peft.
        content: its adapter_config.json.

    Raises:
        MissingError: it is not here.
    """
    known = described.get("base", {})
    name = known.get("name") or content.get("base_model_name_or_path")
    places = [known.get("folder"), known.get("relative") and str(adapter / known["relative"]), name]
    for place in places:
        if place and Path(place).expanduser().is_dir():
            return hub.resolve(place)
    if not name:
        raise MissingError(
            "The adapter does not say which model it belongs to.",
            where=adapter,
            fix="name it: gptwo merge ADAPTER --base MODEL",
        )
    try:
        return hub.resolve(name)
    except MissingError as error:
        raise MissingError(
            f"The adapter belongs to the model {name}, which is not here.",
            where=adapter,
            why=error.why or error.what,
            fix="put that model there, or say where it is: gptwo merge ADAPTER --base FOLDER",
        ) from error


def check_base(adapter: Path, known: dict[str, Any], base: Pretrained) -> None:
    """Whether a model is the one that an adapter was tuned over; one that never said cannot be told.

    Raises:
        DataError: it is another one.
    """
    wanted = known.get("fingerprint")
    found = fingerprint(base.model)
    if wanted and wanted != found:
        raise DataError(
            f"The adapter belongs to another base than {base.folder or 'this model'}.",
            where=adapter,
            why=f"it was tuned over {known.get('name')} with fingerprint {wanted[:12]}…, this one has {found[:12]}…",
            fix="bring back the base it was tuned over, or say where it is: gptwo merge ADAPTER --base FOLDER",
        )


def stored_base(base: Base, folder: Path) -> dict[str, Any]:
    """What gptwo.json of an adapter says of its base."""
    known: dict[str, Any] = dict(vars(base))
    known["relative"] = os.path.relpath(base.folder, folder.resolve())
    return known

"""A packed folder: weights as the native CPU engine holds them, so that a start reads them and packs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptwo.export.check import EQUAL, NEW_TOKENS, Check, difference, prompt_ids, scores, worst
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_backend import NativeBackend
from gptwo.generate.native_build import PRECISIONS, build
from gptwo.generate.native_network import on_native, open_on_native
from gptwo.generate.native_packed import digest, write_packed
from gptwo.generate.native_weights import open_model
from gptwo.hub import PACKED
from gptwo.model.card import model_card
from gptwo.model.pretrained import Pretrained

TYPES = tuple(PRECISIONS)
PLACES = 3  # in each text where scores are compared: after its whole, its half, and its quarter


def write(pretrained: Pretrained, folder: Path, precision: str) -> Path:
    """Write the packed weights of a model into a folder; returns their file."""
    opened, head = open_model(pretrained), {}
    if opened.head != "language":
        head = {
            name: tensor.detach().float().numpy() for name, tensor in pretrained.model.projection.named_parameters()
        }
    native = build(opened, precision, max_batch=1)
    write_packed(native, pretrained.config, precision, folder / PACKED, digest(pretrained.folder), head)
    return folder / PACKED


@torch.inference_mode()
def check(pretrained: Pretrained, folder: Path, precision: str) -> Check:
    """Load a packed folder and compare it with the model packed at load: the same scores and texts, to the last bit."""
    if pretrained.model.head_kind != "language":
        return check_labels(pretrained, folder, precision)
    ours = NativeEngine(pretrained, precision=precision, max_batch=1)
    theirs = NativeEngine(folder, max_batch=1)
    name = f"the native engine ({theirs.native.isa})"
    texts = prompt_ids(pretrained, leave=NEW_TOKENS)
    found, moved, same, wrong = [], [], 0, []
    for ids in texts:
        room = max(1, min(NEW_TOKENS, pretrained.config.n_positions - len(ids)))
        for place in {max(1, len(ids) >> halved) for halved in range(PLACES)}:
            before, after = last_scores(ours, ids[:place]), last_scores(theirs, ids[:place])
            found.append(difference(before, after))
            moved.append(difference(scores(pretrained.model, ids[:place])[-1], after))
            if not after.isfinite().all():
                return Check(name, len(texts), float("nan"), 0.0, None, ["its scores are no numbers"])
        same += greedy(ours, ids, room) == greedy(theirs, ids, room)
    lost = worst(moved)
    if precision == "fp32" and not lost <= EQUAL:
        wrong.append(f"the weights in the file give scores that differ by {lost:.1e}")
    notes = [f"{precision} alone moves scores by {lost:.1e} of the largest one"] if precision != "fp32" and lost else []
    return Check(name, len(texts), worst(found), 0.0, same, wrong, notes)


def check_labels(pretrained: Pretrained, folder: Path, precision: str) -> Check:
    """As `check`, for a head of labels."""
    ours, theirs = on_native(pretrained, precision=precision), open_on_native(folder)
    network: Any = theirs.model.transformer
    texts = prompt_ids(pretrained)
    told = [[scores(one.model, ids) for ids in texts] for one in (pretrained, ours, theirs)]
    lost, found = (worst([difference(*pair) for pair in zip(one, told[2], strict=True)]) for one in told[:2])
    wrong = []
    if precision == "fp32" and not lost <= EQUAL:
        wrong.append(f"the weights in the file give scores that differ by {lost:.1e}")
    notes = [f"{precision} alone moves scores by {lost:.1e} of the largest one"] if precision != "fp32" and lost else []
    name = f"the native engine ({network.native.isa})"
    return Check(name, len(texts), found, 0.0, None, wrong, notes)


def last_scores(engine: NativeEngine, ids: Sequence[int]) -> Tensor:
    """The scores after the last of some tokens: (V,)."""
    return NativeBackend(engine).prefill([ids], 0)[1][0]


def greedy(engine: NativeEngine, ids: Sequence[int], count: int) -> list[int]:
    """The likeliest continuation."""
    return engine.generate([list(ids)], temperature=0.0, max_new_tokens=count)[0].ids


def card(pretrained: Pretrained, precision: str, name: str) -> str:
    """README.md of a packed folder."""
    text = model_card(pretrained.model, pretrained.tokenizer, pretrained.info, name)
    source = digest(pretrained.folder)
    verb = "generate" if pretrained.model.head_kind == "language" else "predict"
    lines = [
        text.partition("\n```python")[0].rstrip(),
        f"| weights | {precision}, packed for gptwo's native CPU engine |",
        *([f"| made from | weights with the sha256 {source} |"] if source else []),
        "",
        "```sh",
        f'gptwo {verb} --model THIS_FOLDER "Once upon a time"',
        "```",
        "",
        "Only gptwo's native engine reads `packed.safetensors`. Everything else takes the model that it was made from.",
    ]
    return "\n".join([*lines, ""])

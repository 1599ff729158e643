"""The kinds of adapters that tests go through, and how their weights are moved."""

from __future__ import annotations

import torch

from gptwo.adapt.parts import AdapterConfig

ADDED = {  # kinds that add something to what the base gives, and nothing at the start
    "lora": {"rank": 3},
    "lora of some layers": {"name": "lora", "rank": 2, "alpha": 5, "targets": ["c_attn", "mlp.c_proj"]},
    "rank-stabilised": {"name": "lora", "rank": 4, "rank_stabilised": True},
    "dora": {"name": "lora", "rank": 2, "dora": True},
    "adalora": {"rank": 2, "initial_rank": 3},
    "ia3": {},
    "bitfit": {},
    "lora and a layer norm": {"name": "lora", "rank": 2, "also": ["ln_f"]},
    "houlsby": {"width": 3},
    "pfeiffer": {"width": 3},
    "parallel": {"width": 3},
}
VIRTUAL = {"prefix": {"tokens": 5}, "prompt": {"tokens": 5}}
KINDS = ADDED | VIRTUAL
MERGED = [name for name in ADDED if name not in ("houlsby", "pfeiffer", "parallel")]


def shake(model, size: float, seed: int = 1) -> None:
    """Move every parameter that is tuned."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=size)


def config_of(kind: str, **more) -> AdapterConfig:
    return AdapterConfig(**{"name": kind, **KINDS[kind], **more})

"""Tuning with adapters beside peft + transformers: time of a step and peak memory, in turn, in one run.

    python bench/adapt.py                                     # everything; about 25 minutes on two cores
    python bench/adapt.py --methods lora --rounds 1 --steps 2 # one method, quickly

GPT-2 124M with random weights, rows of random tokens, language modelling. Printed: seconds of a step as the median over
the rounds, peak resident memory, tuned parameters, ratios.

Methods
    full      every weight
    lora      rank 8 on c_attn
    adalora   rank 12 falling to 8 on c_attn, c_proj and c_fc

Systems
    trainer   transformers' Trainer with its defaults (fp32) over peft's model; AdaLoRA's budget is moved as peft asks
    tuned     a plain loop over peft's model: bf16 autocast, sdpa, fused AdamW, dropout 0
    gptwo     this project's training loop; bf16 where the machine gains from it, dropout 0
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import (
    GPT2,
    NO_DROPOUT,
    Figures,
    RowsOf,
    in_turn,
    loop_ends,
    machine,
    medians,
    our_ends,
    our_recipe,
    print_table,
    ratio,
    trainer_ends,
)

METHODS = ("full", "lora", "adalora")
SYSTEMS = ("trainer", "tuned", "gptwo")
WARM = 1  # steps before the clock
ADAPTERS: dict[str, dict] = {
    "full": {"name": "none"},
    "lora": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["c_attn"]},
    "adalora": {"name": "adalora", "rank": 8, "initial_rank": 12, "rank_every": 1, "rank_warmup": 0.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="measured steps")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(*options.worker, options)))
        return
    results = {
        method: in_turn(options.systems, options.rounds, lambda system, _, method=method: (system, method))
        for method in options.methods
    }
    print(f"machine: {machine()}\n")
    head = ("method", "system", "tuned parameters", "seconds a step", "peak memory", "gptwo is faster by")
    print_table((*head, "gptwo's memory"), [row for method, found in results.items() for row in rows_of(method, found)])
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def rows_of(method: str, found: dict[str, list[Figures]]) -> list[tuple[str, ...]]:
    """The systems of one method as rows of the table."""
    seconds, peaks = medians(found, "seconds"), medians(found, "peak")
    return [
        (
            method,
            system,
            f"{runs[0]['tuned']:,}",
            f"{seconds[system]:.2f}",
            f"{peaks[system] / 1e9:.2f} GB",
            f"{ratio(seconds, system, 'gptwo'):.2f} ×",
            f"{ratio(peaks, 'gptwo', system):.0%}",
        )
        for system, runs in found.items()
    ]


# the worker: one system, one method -------------------------------------------------------------------------------


def measure(system: str, method: str, options: argparse.Namespace) -> Figures:
    """Seconds of a step, peak memory and tuned parameters of one system; runs in its own process."""
    import torch

    from gptwo import runtime

    runtime.set_threads()
    torch.manual_seed(0)
    steps = WARM + options.steps
    ids = torch.randint(0, GPT2["vocab_size"], (steps * options.rows, options.length + 1))
    work = {"trainer": by_trainer, "tuned": by_loop, "gptwo": by_gptwo}[system]
    ends, tuned = work(method, ids, options.rows, steps)
    return {"seconds": (ends[-1] - ends[WARM - 1]) / options.steps, "peak": runtime.peak_memory(), "tuned": tuned}


def foreign(method: str, steps: int, **settings: float):
    """transformers' model with peft's adapter over it, and what moves AdaLoRA's budget after each step."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**GPT2, **settings))
    if method == "full":
        return model.train(), None
    import peft

    if method == "lora":
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True
        )
        return peft.get_peft_model(model, config).train(), None
    config = peft.AdaLoraConfig(
        task_type="CAUSAL_LM",
        init_r=12,
        target_r=8,
        lora_alpha=24,
        tinit=0,
        tfinal=max(1, steps // 3),
        deltaT=1,
        total_step=steps + 1,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
    )
    tuned = peft.get_peft_model(model, config).train()
    return tuned, tuned.base_model.update_and_allocate


def tuned_of(model) -> int:
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


def by_trainer(method: str, ids, rows: int, steps: int) -> tuple[list[float], int]:
    model, moved = foreign(method, steps)
    data = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids]
    return trainer_ends(model, data, rows=rows, steps=steps, moved=moved), tuned_of(model)


def by_loop(method: str, ids, rows: int, steps: int) -> tuple[list[float], int]:
    model, moved = foreign(method, steps, **NO_DROPOUT)
    batches = [{"input_ids": part[:, :-1], "labels": part[:, :-1]} for part in ids.split(rows)]
    return loop_ends(model, batches, moved=moved), tuned_of(model)


def by_gptwo(method: str, ids, rows: int, steps: int) -> tuple[list[float], int]:
    import torch

    from gptwo.adapt.apply import apply_adapter
    from gptwo.model.config import GPT2Config
    from gptwo.model.heads import Model
    from gptwo.train.pretrain import NextToken

    recipe = our_recipe(rows, steps, {f"adapter.{key}": value for key, value in ADAPTERS[method].items()})
    model = Model(GPT2Config(**GPT2).with_dropout(0.0)).initialise(torch.Generator().manual_seed(0))
    adapter = None if method == "full" else apply_adapter(model, recipe.adapter)
    return our_ends(model, NextToken(), RowsOf(ids, rows), recipe, adapter), tuned_of(model)


if __name__ == "__main__":
    main()

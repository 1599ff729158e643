"""Tuning with adapters beside peft + transformers: time of a step and peak memory, in turn, in one run.

    python bench/adapt.py                                     # everything; about 25 minutes on two cores
    python bench/adapt.py --methods lora --rounds 1 --steps 2 # one method, quickly

GPT-2 124M with random weights, rows of random tokens, language modelling. Each measurement is a process of its own, so
that peak memory is its own; the systems take turns in every round, so that a change of the machine's speed meets all
of them. Printed: seconds of a step as the median over the rounds, peak resident memory, tuned parameters, ratios.

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
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("full", "lora", "adalora")
SYSTEMS = ("trainer", "tuned", "gptwo")
GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
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
    results = {method: run(method, options) for method in options.methods}
    print_results(results)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def run(method: str, options: argparse.Namespace) -> dict[str, list[dict]]:
    """All systems in turn, `rounds` times."""
    found: dict[str, list[dict]] = {system: [] for system in options.systems}
    sizes = ["--steps", str(options.steps), "--rows", str(options.rows), "--length", str(options.length)]
    for number in range(options.rounds):
        for system in options.systems:
            command = [sys.executable, __file__, "--worker", system, method, *sizes]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{method} {system} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                continue
            found[system].append(json.loads(done.stdout.splitlines()[-1]))
            one = found[system][-1]
            print(
                f"{method} round {number + 1} {system}: {one['seconds']:.2f} s a step, {one['peak'] / 1e9:.2f} GB",
                file=sys.stderr,
            )
    return found


def print_results(results: dict[str, dict[str, list[dict]]]) -> None:
    """One Markdown table."""
    print(f"machine: {machine()}\n")
    print("method | system | tuned parameters | seconds a step | peak memory | gptwo is faster by | gptwo's memory")
    print("---|---|---|---|---|---|---")
    for method, systems in results.items():
        systems = {name: found for name, found in systems.items() if found}
        seconds = {name: statistics.median(one["seconds"] for one in found) for name, found in systems.items()}
        peaks = {name: statistics.median(one["peak"] for one in found) for name, found in systems.items()}
        for name, found in systems.items():
            faster = seconds[name] / seconds["gptwo"] if "gptwo" in seconds else float("nan")
            memory = peaks["gptwo"] / peaks[name] if "gptwo" in peaks else float("nan")
            print(
                f"{method} | {name} | {found[0]['tuned']:,} | {seconds[name]:.2f} | {peaks[name] / 1e9:.2f} GB "
                f"| {faster:.2f} × | {memory:.0%}"
            )


def machine() -> str:
    from gptwo.runtime import describe_machine

    found = describe_machine()
    return f"{found['processor']}, {found['cpus']} cores, {found['instruction_set']}, torch {found['torch']}"


# the worker: one system, one method -------------------------------------------------------------------------------


def measure(system: str, method: str, options: argparse.Namespace) -> dict:
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
    """transformers' model, with peft's adapter over it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**GPT2, **settings))
    if method == "full":
        return model.train()
    import peft

    if method == "lora":
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True
        )
    else:
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
    return peft.get_peft_model(model, config).train()


def tuned_of(model) -> int:
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


def by_trainer(method: str, ids, rows: int, steps: int) -> tuple[list[float], int]:
    """transformers' Trainer with its defaults; times are taken in a callback."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model = foreign(method, steps)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if method == "adalora":
                model.base_model.update_and_allocate(state.global_step + 1)

        def on_step_end(self, args, state, control, **kwargs):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=rows,
            max_steps=steps,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        data = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids]
        Trainer(model, arguments, train_dataset=data, callbacks=[Clock()]).train()
    return ends, tuned_of(model)


def by_loop(method: str, ids, rows: int, steps: int) -> tuple[list[float], int]:
    """A hand-tuned loop over peft's model."""
    import torch

    model = foreign(method, steps, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    moving = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=5e-5, weight_decay=0.0, fused=True)
    ends = []
    for number, part in enumerate(ids.split(rows)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=part[:, :-1], labels=part[:, :-1]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        if method == "adalora":
            model.base_model.update_and_allocate(number + 1)
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())
        ends.append(time.perf_counter())
    return ends, tuned_of(model)


def by_gptwo(method: str, ids, rows: int, steps: int) -> tuple[list[float], int]:
    """Our own training loop, through `gptwo.train.trainer.train`."""
    import torch

    from gptwo.adapt.apply import apply_adapter
    from gptwo.data.batching import Batch
    from gptwo.model.config import GPT2Config
    from gptwo.model.heads import Model
    from gptwo.recipe import load_recipe
    from gptwo.train.pretrain import NextToken
    from gptwo.train.track import Trackers
    from gptwo.train.trainer import Hooks, train

    ends: list[float] = []

    class Clock:
        name = "clock"

        def on_event(self, event: dict) -> None:
            if event["kind"] == "step":
                ends.append(time.perf_counter())

        def close(self) -> None:
            pass

    class Rows:
        batches_per_epoch = steps

        def epoch(self, epoch: int):
            def batch(n: int) -> Batch:
                part = ids[n * rows : (n + 1) * rows]
                return Batch(ids=part[:, :-1].contiguous(), labels=part[:, 1:].contiguous())

            return batch

    settings = {
        "train.steps": steps,
        "train.batch_size": rows,
        "train.log_every": 1,
        "train.checkpoint_every": 10**6,
        "train.precision": "bf16",
        "optimizer.weight_decay": 0.0,
        **{f"adapter.{key}": value for key, value in ADAPTERS[method].items()},
    }
    recipe = load_recipe(None, settings, environment={})
    model = Model(GPT2Config(**GPT2).with_dropout(0.0)).initialise(torch.Generator().manual_seed(0))
    adapter = None if method == "full" else apply_adapter(model, recipe.adapter)
    with tempfile.TemporaryDirectory() as folder:
        hooks = Hooks(adapter=adapter)
        train(model, NextToken(), Rows(), recipe=recipe, folder=Path(folder), trackers=Trackers([Clock()]), hooks=hooks)
    return ends, tuned_of(model)


if __name__ == "__main__":
    main()

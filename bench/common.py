"""What the measurements share: processes in turn, medians, tables, and the training steps of each system.

Each measurement is a process of its own, so that peak memory is its own; the systems take turns in every round, so
that a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
QUIET = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}  # of transformers' Trainer

Figures = dict[str, float]


def machine() -> str:
    """What the figures were measured on."""
    from gptwo.runtime import describe_machine

    found = describe_machine()
    return f"{found['processor']}, {found['cpus']} cores, {found['instruction_set']}, torch {found['torch']}"


# --- in turn


def worker(*arguments: str) -> Figures | None:
    """What this script prints when it is run again with its own options and `--worker`; None where that failed."""
    command = [sys.executable, *sys.argv, "--worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(
    systems: Sequence[str], rounds: int, arguments: Callable[[str, int], Sequence[str]]
) -> dict[str, list[Figures]]:
    """The figures of each system, measured once in every round.

    Args:
        arguments: what `worker` is told for a system in a round.
    """
    found: dict[str, list[Figures]] = {system: [] for system in systems}
    for number in range(rounds):
        for system in systems:
            told = arguments(system, number)
            figures = worker(*told)
            if figures is not None:
                found[system].append(figures)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                print(f"round {number + 1}, {' '.join(told)}: {shown}", file=sys.stderr)
    return {system: runs for system, runs in found.items() if runs}


def medians(found: dict[str, list[Figures]], key: str) -> Figures:
    """Of each system the median of a figure over the rounds."""
    return {system: statistics.median(figures[key] for figures in runs) for system, runs in found.items()}


def ratio(figures: Figures, system: str, other: str) -> float:
    """One system's figure over another's; not a number where one was not measured."""
    return figures.get(system, math.nan) / figures.get(other, math.nan)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as Markdown."""
    print(" | ".join(head))
    print("|".join(["---"] * len(head)))
    for row in rows:
        print(" | ".join(row))


# --- data


def data_folder(name: str) -> Path:
    """Where a data set lies: in GPTWO_DATA or ~/.cache/gptwo-data."""
    return Path(os.environ.get("GPTWO_DATA", "~/.cache/gptwo-data")).expanduser() / name


def read_labelled(path: Path) -> list[tuple[int, str]]:
    """(label, text) of lines "0 a text"."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(int(line[0]), line[2:].strip()) for line in lines if line.strip()]


def padded(batch: Sequence[tuple[list[int], int]], pad: int) -> dict:
    """(ids, label) pairs as transformers takes them."""
    import torch

    width = max(len(ids) for ids, _ in batch)
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch]),
        "labels": torch.tensor([label for _, label in batch]),
    }


class RowsOf:
    """Token ids (steps * rows, length + 1) as the batches of our training loop."""

    def __init__(self, ids, rows: int):
        self.ids, self.rows = ids, rows
        self.batches_per_epoch = len(ids) // rows

    def epoch(self, epoch: int) -> Callable:
        from gptwo.data.batching import Batch

        def batch(n: int) -> Batch:
            part = self.ids[n * self.rows : (n + 1) * self.rows]
            return Batch(ids=part[:, :-1].contiguous(), labels=part[:, 1:].contiguous())

        return batch


# --- the steps of each system; all return when each step ended, in seconds


def trainer_ends(
    model, data, *, rows: int, steps: int, collate: Callable | None = None, moved: Callable[[int], None] | None = None
) -> list[float]:
    """transformers' Trainer with its defaults; times are taken in a callback.

    Args:
        moved: told the number of each step, from 1, right after the optimizer's.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if moved:
                moved(state.global_step + 1)

        def on_step_end(self, args, state, control, **kwargs):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=rows, max_steps=steps, remove_unused_columns=collate is None, **QUIET
        )
        Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()]).train()
    return ends


def loop_ends(
    model, batches: Iterable[dict], *, compiled: bool = False, moved: Callable[[int], None] | None = None
) -> list[float]:
    """A hand-tuned loop over a model of transformers or peft: bf16 autocast, fused AdamW; `moved` as above."""
    import torch

    moving = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=5e-5, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if compiled else model
    ends = []
    for number, batch in enumerate(batches, 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = forward(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        if moved:
            moved(number)
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())
        ends.append(time.perf_counter())
    return ends


def our_recipe(rows: int, steps: int, settings: dict | None = None):
    """The recipe of measured steps: logged each, no checkpoint, bf16 where the machine gains from it."""
    from gptwo.recipe import load_recipe

    return load_recipe(
        None,
        {
            "train.steps": steps,
            "train.batch_size": rows,
            "train.log_every": 1,
            "train.checkpoint_every": 10**6,
            "train.precision": "bf16",
            "optimizer.weight_decay": 0.0,
            **(settings or {}),
        },
        environment={},
    )


def our_ends(model, objective, source, recipe, adapter=None) -> list[float]:
    """Our own training loop, through `gptwo.train.trainer.train`."""
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

    with tempfile.TemporaryDirectory() as folder:
        hooks, trackers = Hooks(adapter=adapter), Trackers([Clock()])
        train(model, objective, source, recipe=recipe, folder=Path(folder), trackers=trackers, hooks=hooks)
    return ends

"""Training speed and memory beside transformers, in turn, in one run.

    python bench/train.py                      # everything; about 25 minutes on two cores
    python bench/train.py --only lm --rounds 1 # one part, quickly

Each measurement is a process of its own, so that peak memory is its own; the systems take turns in every round, so
that a change of the machine's speed meets all of them. Printed: tokens (records) per second as the median over the
rounds, the share of the machine's bf16 matrix ceiling measured in the same round, peak resident memory, and ratios.

Systems
    trainer   transformers' Trainer with its defaults (fp32, AdamW, dropout 0.1)
    tuned     a plain loop over transformers: bf16 autocast, sdpa, fused AdamW, dropout 0
    compiled  the same with torch.compile
    gptwo     this project's training loop; with bf16 where the machine gains from it, dropout 0
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SHAPES = {"4x512": (4, 512), "2x1024": (2, 1024)}
SYSTEMS = ("trainer", "tuned", "compiled", "gptwo")
GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
RECORDS = 8  # records in a batch of the classification part
WARM = {"trainer": 1, "tuned": 1, "compiled": 2, "gptwo": 1}  # steps before the clock: allocation, compilation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="measured steps of language modelling")
    parser.add_argument("--only", choices=("lm", "sst2"))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--sst2", type=Path, help="stsa.binary.train; default: in GPTWO_DATA or ~/.cache/gptwo-data")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "SHAPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        system, shape = options.worker
        work = classify_step if shape == "sst2" else language_step
        print(json.dumps(measure(system, shape, options, work)))
        return
    shapes = [] if options.only == "sst2" else list(SHAPES)
    if options.only != "lm":
        if find_sst2(options.sst2) is None:
            print("SST-2 is not here: the classification part is left out (--sst2 FILE)", file=sys.stderr)
        else:
            shapes.append("sst2")
    results = [run(shape, options) for shape in shapes]
    print_results(results)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def run(shape: str, options: argparse.Namespace) -> dict:
    """All systems in turn, `rounds` times."""
    rounds: dict[str, list[dict]] = {system: [] for system in options.systems}
    for number in range(options.rounds):
        for system in options.systems:
            command = [sys.executable, __file__, "--worker", system, shape, "--steps", str(options.steps)]
            if options.sst2:
                command += ["--sst2", str(options.sst2)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{shape} {system} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            rounds[system].append(found)
            print(
                f"{shape} round {number + 1} {system}: {found['rate']:.1f}/s, {found['peak'] / 1e9:.2f} GB, "
                f"ceiling {found['ceiling'] / 1e9:.0f} GFLOP/s",
                file=sys.stderr,
            )
    return {"shape": shape, "rounds": rounds}


def print_results(results: list[dict]) -> None:
    """One table for each shape, as Markdown."""
    print(f"machine: {machine()}\n")
    for result in results:
        unit = "records/s" if result["shape"] == "sst2" else "tokens/s"
        systems = {name: found for name, found in result["rounds"].items() if found}
        rates = {name: statistics.median(one["rate"] for one in found) for name, found in systems.items()}
        peaks = {name: statistics.median(one["peak"] for one in found) for name, found in systems.items()}
        shares = {name: statistics.median(one["share"] for one in found) for name, found in systems.items()}
        print(f"{result['shape']} | {unit} | share of ceiling | peak memory | gptwo is faster by | gptwo's memory")
        print("---|---|---|---|---|---")
        for name in systems:
            faster = rates["gptwo"] / rates[name] if "gptwo" in rates else float("nan")
            memory = peaks["gptwo"] / peaks[name] if "gptwo" in peaks else float("nan")
            print(
                f"{name} | {rates[name]:.1f} | {shares[name]:.0%} | {peaks[name] / 1e9:.2f} GB "
                f"| {faster:.2f} × | {memory:.0%}"
            )
        print()


def machine() -> str:
    from gptwo.runtime import describe_machine

    found = describe_machine()
    return f"{found['processor']}, {found['cpus']} cores, {found['instruction_set']}, torch {found['torch']}"


class Step(NamedTuple):
    """When a step ended, and what it did: tokens or records, floating-point operations."""

    end: float
    units: float
    flops: float


# the worker: one system, one shape --------------------------------------------------------------------------------


def measure(system: str, shape: str, options: argparse.Namespace, work: Callable) -> dict:
    """Rate, peak memory and share of the ceiling of one system; runs in its own process."""
    import torch

    from gptwo import runtime

    runtime.set_threads()
    torch.manual_seed(0)
    ceiling = runtime.matmul_rate("bf16", "cpu")
    steps = list(work(system, shape, options))
    ceiling = max(ceiling, runtime.matmul_rate.__wrapped__("bf16", "cpu"))
    measured = steps[WARM[system] :]
    seconds = steps[-1].end - steps[WARM[system] - 1].end
    return {
        "rate": sum(step.units for step in measured) / seconds,
        "share": sum(step.flops for step in measured) / seconds / ceiling,
        "ceiling": ceiling,
        "peak": runtime.peak_memory(),
    }


def flops_of(tokens: float, row: float, head: float) -> float:
    """Forward and backward: 6 for each weight a token meets, 6 * layers * width * row for causal attention."""
    blocks = 12 * GPT2["n_layer"] * GPT2["n_embd"] ** 2
    return tokens * (6 * (blocks + head) + 6 * GPT2["n_layer"] * GPT2["n_embd"] * row)


def language_step(system: str, shape: str, options: argparse.Namespace) -> Iterator[Step]:
    """Steps of language modelling on random tokens."""
    import torch

    rows, length = SHAPES[shape]
    steps = WARM[system] + options.steps
    flops = flops_of(rows * length, length, GPT2["vocab_size"] * GPT2["n_embd"])
    ids = torch.randint(0, GPT2["vocab_size"], (steps * rows, length + 1))
    if system == "gptwo":
        yield from gptwo_steps(None, ids, rows, steps, rows * length, flops)
        return
    from transformers import GPT2Config, GPT2LMHeadModel

    if system == "trainer":
        model = GPT2LMHeadModel(GPT2Config(**GPT2))
        data = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids]
        yield from trainer_steps(model, data, rows, steps, lambda _: (rows * length, flops))
        return
    config = GPT2Config(**GPT2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa")
    model = GPT2LMHeadModel(config).train()
    batches = [{"input_ids": part[:, :-1], "labels": part[:, :-1]} for part in ids.split(rows)]
    yield from loop_steps(model, batches, system == "compiled", lambda _: (rows * length, flops))


def classify_step(system: str, shape: str, options: argparse.Namespace) -> Iterator[Step]:
    """Steps of SST-2 classification, in batches of 8 records."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    records = read_sst2(find_sst2(options.sst2))
    # any byte-level vocabulary does for speed; lengths are those of GPT-2's where its files are beside the data
    bpe = find_bpe()
    if bpe is None:
        backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()

        def encode(text: str) -> list[int]:
            return backend.encode(text).ids
    else:
        from gptwo.tokenizer import load_tokenizer

        encode = load_tokenizer(bpe).encode
    steps = WARM[system] + 6 * options.steps
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [records[i] for i in order[: steps * RECORDS]]
    examples = [(encode(text), label) for label, text in chosen]

    def work(batch: list[tuple[list[int], int]]) -> tuple[float, float]:
        tokens = sum(len(ids) for ids, _ in batch)
        return RECORDS, flops_of(tokens, tokens / RECORDS, 0)

    groups = [examples[i : i + RECORDS] for i in range(0, len(examples), RECORDS)]
    if system == "gptwo":
        mean = sum(len(ids) for ids, _ in examples) / len(examples)
        yield from gptwo_steps(examples, None, RECORDS, steps, RECORDS, flops_of(RECORDS * mean, mean, 0))
        return
    from transformers import GPT2Config, GPT2ForSequenceClassification

    dropout = {} if system == "trainer" else {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    pad = 50256
    model = GPT2ForSequenceClassification(GPT2Config(**GPT2, **dropout, num_labels=2, pad_token_id=pad)).train()

    def padded(batch: list[tuple[list[int], int]]) -> dict:
        width = max(len(ids) for ids, _ in batch)
        return {
            "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch]),
            "labels": torch.tensor([label for _, label in batch]),
        }

    if system == "trainer":
        yield from trainer_steps(model, examples, RECORDS, steps, lambda n: work(groups[n]), collate=padded)
    else:
        batches = [padded(group) for group in groups]
        yield from loop_steps(model, batches, system == "compiled", lambda n: work(groups[n]))


def trainer_steps(model, data, rows, steps, work, collate=None) -> Iterator[Step]:
    """Steps of transformers' Trainer with its defaults; times are taken in a callback."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ends: list[float] = []

    class Clock(TrainerCallback):
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
            remove_unused_columns=collate is None,
        )
        Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()]).train()
    for number, end in enumerate(ends):
        yield Step(end, *work(number))


def loop_steps(model, batches, compiled: bool, work) -> Iterator[Step]:
    """Steps of the hand-tuned loop over transformers."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if compiled else model
    for number, batch in enumerate(batches):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = forward(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())
        yield Step(time.perf_counter(), *work(number))


def gptwo_steps(examples, ids, rows, steps, units, flops) -> Iterator[Step]:
    """Steps of our own training loop, through `gptwo.train.trainer.train`."""
    import torch

    from gptwo.data.batching import Batch, Example
    from gptwo.data.loader import ExampleBatches
    from gptwo.model.config import GPT2Config
    from gptwo.model.heads import Model
    from gptwo.recipe import load_recipe
    from gptwo.tasks.classify import Classify
    from gptwo.train.finetune import PACKED_ROW
    from gptwo.train.pretrain import NextToken
    from gptwo.train.track import Trackers
    from gptwo.train.trainer import train

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

    config = GPT2Config(**GPT2).with_dropout(0.0)
    if examples is None:
        model, objective, source = Model(config), NextToken(), Rows()
    else:
        model, objective = Model(config, "sequence", labels=2), Classify(["0", "1"])
        found = [Example(text, target=label, index=i) for i, (text, label) in enumerate(examples)]
        source = ExampleBatches(found, size=rows, seed=0, row_tokens=PACKED_ROW)
    model.initialise(torch.Generator().manual_seed(0))
    settings = {"train.steps": steps, "train.batch_size": rows, "train.log_every": 1, "optimizer.weight_decay": 0.0}
    recipe = load_recipe(None, {**settings, "train.checkpoint_every": 10**6, "train.precision": "bf16"}, environment={})
    with tempfile.TemporaryDirectory() as folder:
        train(model, objective, source, recipe=recipe, folder=Path(folder), trackers=Trackers([Clock()]))
    for end in ends:
        yield Step(end, units, flops)


def find_sst2(given: Path | None) -> Path | None:
    folder = Path(os.environ.get("GPTWO_DATA", "~/.cache/gptwo-data")).expanduser()
    path = given or folder / "sst_trec_etc" / "stsa.binary.train"
    return path if path.is_file() else None


def find_bpe() -> Path | None:
    folder = Path(os.environ.get("GPTWO_DATA", "~/.cache/gptwo-data")).expanduser() / "gpt2_bpe"
    return folder if folder.is_dir() else None


def read_sst2(path: Path) -> list[tuple[int, str]]:
    """(label, text) of lines "0 a text"."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(int(line[0]), line[2:].strip()) for line in lines if line.strip()]


if __name__ == "__main__":
    main()

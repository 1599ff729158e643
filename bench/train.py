"""Training speed and memory beside transformers, in turn, in one run.

    python bench/train.py                      # everything; about 25 minutes on two cores
    python bench/train.py --only lm --rounds 1 # one part, quickly

Printed: tokens (records) per second as the median over the rounds, the share of the machine's bf16 matrix ceiling
measured in the same round, peak resident memory, and ratios.

Systems
    trainer   transformers' Trainer with its defaults (fp32, AdamW, dropout 0.1)
    tuned     a plain loop over transformers: bf16 autocast, sdpa, fused AdamW, dropout 0
    compiled  the same with torch.compile
    gptwo     this project's training loop; with bf16 where the machine gains from it, dropout 0
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from common import (
    GPT2,
    NO_DROPOUT,
    Figures,
    RowsOf,
    data_folder,
    in_turn,
    loop_ends,
    machine,
    medians,
    our_ends,
    our_recipe,
    padded,
    print_table,
    ratio,
    read_labelled,
    trainer_ends,
)

SHAPES = {"4x512": (4, 512), "2x1024": (2, 1024)}
SYSTEMS = ("trainer", "tuned", "compiled", "gptwo")
RECORDS = 8  # records in a batch of the classification part
WARM = {"trainer": 1, "tuned": 1, "compiled": 2, "gptwo": 1}  # steps before the clock: allocation, compilation
PAD = 50256  # transformers' models get the end token for padding

Work = tuple[float, float]  # of a step: tokens or records, floating-point operations


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
    options.sst2 = options.sst2 or data_folder("sst_trec_etc") / "stsa.binary.train"
    if options.worker:
        print(json.dumps(measure(*options.worker, options)))
        return
    shapes = [] if options.only == "sst2" else list(SHAPES)
    if options.only != "lm":
        if options.sst2.is_file():
            shapes.append("sst2")
        else:
            print("SST-2 is not here: the classification part is left out (--sst2 FILE)", file=sys.stderr)
    results = {
        shape: in_turn(options.systems, options.rounds, lambda system, _, shape=shape: (system, shape))
        for shape in shapes
    }
    print(f"machine: {machine()}\n")
    for shape, found in results.items():
        print_results(shape, found)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def print_results(shape: str, found: dict[str, list[Figures]]) -> None:
    """The table of one shape."""
    rates, peaks, shares = medians(found, "rate"), medians(found, "peak"), medians(found, "share")
    unit = "records/s" if shape == "sst2" else "tokens/s"
    print_table(
        (shape, unit, "share of ceiling", "peak memory", "gptwo is faster by", "gptwo's memory"),
        [
            (
                system,
                f"{rates[system]:.1f}",
                f"{shares[system]:.0%}",
                f"{peaks[system] / 1e9:.2f} GB",
                f"{ratio(rates, 'gptwo', system):.2f} ×",
                f"{ratio(peaks, 'gptwo', system):.0%}",
            )
            for system in found
        ],
    )
    print()


# the worker: one system, one shape --------------------------------------------------------------------------------


def measure(system: str, shape: str, options: argparse.Namespace) -> Figures:
    """Rate, peak memory and share of the ceiling of one system; runs in its own process."""
    import torch

    from gptwo import runtime

    runtime.set_threads()
    torch.manual_seed(0)
    ceiling = runtime.matmul_rate("bf16", "cpu")
    warm = WARM[system]
    ends, done = classify(system, options) if shape == "sst2" else write(system, *SHAPES[shape], warm + options.steps)
    ceiling = max(ceiling, runtime.matmul_rate.__wrapped__("bf16", "cpu"))
    seconds = ends[-1] - ends[warm - 1]
    return {
        "rate": sum(units for units, _ in done[warm:]) / seconds,
        "share": sum(flops for _, flops in done[warm:]) / seconds / ceiling,
        "ceiling": ceiling,
        "peak": runtime.peak_memory(),
    }


def flops_of(tokens: float, row: float, head: float) -> float:
    """Forward and backward: 6 for each weight a token meets, 6 * layers * width * row for causal attention."""
    blocks = 12 * GPT2["n_layer"] * GPT2["n_embd"] ** 2
    return tokens * (6 * (blocks + head) + 6 * GPT2["n_layer"] * GPT2["n_embd"] * row)


def write(system: str, rows: int, length: int, steps: int) -> tuple[list[float], list[Work]]:
    """Steps of language modelling on random tokens: when each ended, and what it did."""
    import torch

    done = [(rows * length, flops_of(rows * length, length, GPT2["vocab_size"] * GPT2["n_embd"]))] * steps
    ids = torch.randint(0, GPT2["vocab_size"], (steps * rows, length + 1))
    if system == "gptwo":
        from gptwo.train.pretrain import NextToken

        return our_ends(ours("language"), NextToken(), RowsOf(ids, rows), our_recipe(rows, steps)), done
    from transformers import GPT2Config, GPT2LMHeadModel

    if system == "trainer":
        data = [{"input_ids": row[:-1], "labels": row[:-1]} for row in ids]
        return trainer_ends(GPT2LMHeadModel(GPT2Config(**GPT2)), data, rows=rows, steps=steps), done
    model = GPT2LMHeadModel(GPT2Config(**GPT2, **NO_DROPOUT, attn_implementation="sdpa")).train()
    batches = [{"input_ids": part[:, :-1], "labels": part[:, :-1]} for part in ids.split(rows)]
    return loop_ends(model, batches, compiled=system == "compiled"), done


def classify(system: str, options: argparse.Namespace) -> tuple[list[float], list[Work]]:
    """Steps of SST-2 classification in batches of 8 records: when each ended, and what it did."""
    import torch

    records, encode = read_labelled(options.sst2), encoder()
    steps = WARM[system] + 6 * options.steps
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    examples = [(encode(records[i][1]), records[i][0]) for i in order[: steps * RECORDS]]
    if system == "gptwo":
        from gptwo.data.batching import Example
        from gptwo.data.loader import ExampleBatches
        from gptwo.tasks.classify import Classify
        from gptwo.train.finetune import PACKED_ROW

        mean = sum(len(ids) for ids, _ in examples) / len(examples)
        found = [Example(ids, target=label, index=i) for i, (ids, label) in enumerate(examples)]
        source = ExampleBatches(found, size=RECORDS, seed=0, row_tokens=PACKED_ROW)
        ends = our_ends(ours("sequence"), Classify(["0", "1"]), source, our_recipe(RECORDS, steps))
        return ends, [(RECORDS, flops_of(RECORDS * mean, mean, 0))] * steps
    from transformers import GPT2Config, GPT2ForSequenceClassification

    groups = [examples[i : i + RECORDS] for i in range(0, len(examples), RECORDS)]
    tokens = [sum(len(ids) for ids, _ in group) for group in groups]
    done = [(RECORDS, flops_of(count, count / RECORDS, 0)) for count in tokens]
    dropout = {} if system == "trainer" else NO_DROPOUT
    model = GPT2ForSequenceClassification(GPT2Config(**GPT2, **dropout, num_labels=2, pad_token_id=PAD)).train()
    if system == "trainer":
        return trainer_ends(model, examples, rows=RECORDS, steps=steps, collate=lambda batch: padded(batch, PAD)), done
    return loop_ends(model, [padded(group, PAD) for group in groups], compiled=system == "compiled"), done


def encoder() -> Callable[[str], list[int]]:
    """Any byte-level vocabulary does for speed; lengths are those of GPT-2's where its files are beside the data."""
    folder = data_folder("gpt2_bpe")
    if folder.is_dir():
        from gptwo.tokenizer import load_tokenizer

        return load_tokenizer(folder).encode
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return lambda text: backend.encode(text).ids


def ours(head: str):
    """Our network with fresh weights, without dropout."""
    import torch

    from gptwo.model.config import GPT2Config
    from gptwo.model.heads import Model

    model = Model(GPT2Config(**GPT2).with_dropout(0.0), head, labels=0 if head == "language" else 2)
    return model.initialise(torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()

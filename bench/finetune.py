"""The same fine-tuning by transformers' Trainer and by gptwo: accuracy on the test set, and the time the steps took.

    python bench/finetune.py --train stsa.binary.train --test stsa.binary.test     # lines "0 a text"

Both start from gptwo-mini with a fresh head and take the same epochs, batch size and learning rate; everything else is
each one's default (Trainer: float32; gptwo: bf16 where the machine gains from it). A process each, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from common import QUIET, Figures, in_turn, medians, padded, print_table, ratio, read_labelled

SYSTEMS = ("trainer", "gptwo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--model", default="gptwo-mini")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        system, seed = options.worker
        work = by_trainer if system == "trainer" else by_gptwo
        print(json.dumps(work(options, int(seed))))
        return
    found = in_turn(SYSTEMS, options.seeds, lambda system, seed: (system, str(seed)))
    seconds = medians(found, "seconds")
    print_table(
        ("system", "accuracy, mean over seeds", "seconds of training, median", "gptwo is faster by"),
        [
            (
                system,
                f"{statistics.mean(figures['accuracy'] for figures in runs):.1%}",
                f"{seconds[system]:.1f}",
                f"{ratio(seconds, system, 'gptwo'):.2f} ×",
            )
            for system, runs in found.items()
        ],
    )


def by_trainer(options: argparse.Namespace, seed: int) -> Figures:
    import torch
    from transformers import AutoTokenizer, GPT2ForSequenceClassification, Trainer, TrainingArguments

    import gptwo

    folder = str(gptwo.load(options.model).folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    pad = tokenizer.eos_token_id
    model = GPT2ForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=pad).float()

    def collate(batch: list[tuple[int, str]]) -> dict:
        found = tokenizer([text for _, text in batch])["input_ids"]
        return padded([(ids, label) for ids, (label, _) in zip(found, batch, strict=True)], pad)

    test = read_labelled(options.test)
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=seed,
            remove_unused_columns=False,
            **QUIET,
        )
        trainer = Trainer(model, arguments, train_dataset=read_labelled(options.train), data_collator=collate)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        said = trainer.predict(test).predictions.argmax(1)
    return {"seconds": seconds, "accuracy": sum(int(a == b) for a, (b, _) in zip(said, test, strict=True)) / len(test)}


def by_gptwo(options: argparse.Namespace, seed: int) -> Figures:
    import gptwo
    from gptwo.train.events import read_events

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = gptwo.finetune(
            options.model,
            task="classify",
            train=str(options.train),
            test=str(options.test),
            out=out,
            settings={
                "data.format": "label-first",
                "data.valid_share": 0.01,
                "train.epochs": options.epochs,
                "train.batch_size": options.batch_size,
                "train.seed": seed,
                "optimizer.learning_rate": options.learning_rate,
                "track.trackers": ["events"],
            },
        )
        events = read_events(out)
        times = {event["kind"]: event["time"] for event in events if event["kind"] in ("start", "end")}
        return {"seconds": times["end"] - times["start"], "accuracy": run.report.tuned.value("accuracy")}


if __name__ == "__main__":
    main()

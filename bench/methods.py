"""Every way to tune gptwo-mini, on two data sets with several seeds: weights tuned, memory, seconds, quality.

    python bench/methods.py --trec DATA/sst_trec_etc --chnsenticorp DATA/chnsenticorp --out runs/methods

TREC (questions, English, 6 classes): 1,000 training records, 5 epochs. ChnSentiCorp (hotel and other reviews, Chinese,
2 classes): 400 records of at most 64 tokens, 3 epochs. Of the rates given for a method the one that is best on TREC's
validation records with the first seed is used everywhere. Each run is a process of its own, so that peak memory is its
own. A run that is already in the folder is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

METHODS: dict[str, dict] = {  # recipe keys of each method; `rates`: learning rates to choose from
    "all weights": {"rates": [3e-4, 1e-3]},
    "head": {"rates": [3e-3, 1e-2], "freeze.policy": "head"},
    "last two blocks": {"rates": [3e-4, 1e-3], "freeze.policy": "last", "freeze.last": 2},
    "BitFit": {"rates": [1e-3, 5e-3], "adapter.name": "bitfit"},
    "IA3": {"rates": [3e-3, 1e-2], "adapter.name": "ia3"},
    "LoRA, rank 8": {"rates": [1e-3, 3e-3], "adapter.name": "lora"},
    "LoRA, rank 8, rank-stabilised": {
        "rates": [1e-3, 3e-3],
        "adapter.name": "lora",
        "adapter.rank_stabilised": True,
    },
    "DoRA, rank 8": {"rates": [1e-3, 3e-3], "adapter.name": "lora", "adapter.dora": True},
    "AdaLoRA, rank 12 to 8": {"rates": [1e-3, 3e-3], "adapter.name": "adalora"},
    "Houlsby": {"rates": [1e-3, 3e-3], "adapter.name": "houlsby"},
    "Pfeiffer": {"rates": [1e-3, 3e-3], "adapter.name": "pfeiffer"},
    "parallel": {"rates": [1e-3, 3e-3], "adapter.name": "parallel"},
    "prefix, 16 tokens": {"rates": [3e-3, 1e-2], "adapter.name": "prefix"},
    "prompt, 16 tokens": {"rates": [3e-3, 1e-2], "adapter.name": "prompt"},
}
SETS = {
    "TREC": {"records": 1000, "test": 500, "train.epochs": 5, "data.max_length": 64},
    "ChnSentiCorp": {"records": 400, "test": 600, "train.epochs": 3, "data.max_length": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trec", type=Path, required=True, help="folder with TREC.train and TREC.test")
    parser.add_argument("--chnsenticorp", type=Path, required=True, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="gptwo-mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--worker", nargs=4, metavar=("METHOD", "SET", "SEED", "RATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options, *options.worker)
        return
    prepare(options)
    found: dict[str, dict[str, list[dict]]] = {}
    for method in options.methods:
        first = {rate: measure(options, method, "TREC", 0, rate) for rate in METHODS[method]["rates"]}
        rate = max(first, key=lambda tried: first[tried]["valid"])
        found[method] = {
            name: [measure(options, method, name, seed, rate) for seed in range(options.seeds)] for name in SETS
        }
        print_results({method: found[method]}, file=sys.stderr)
    print_results(found)


def prepare(options: argparse.Namespace) -> None:
    """Records of both sets as {"text", "label"}; TREC's coarse classes."""
    lines = {
        part: [line.split(" ", 1) for line in read(options.trec / f"TREC.{part}").splitlines() if line.strip()]
        for part in ("train", "test")
    }
    questions = {
        part: [{"text": text, "label": label.split(":")[0]} for label, text in rows] for part, rows in lines.items()
    }
    random.Random(0).shuffle(questions["train"])
    reviews = {}
    for part, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        rows = csv.DictReader(read(options.chnsenticorp / f"{name}.tsv").splitlines(), delimiter="\t", quoting=3)
        reviews[part] = [{"text": row["text_a"], "label": row["label"]} for row in rows]
        random.Random(0).shuffle(reviews[part])
    records = SETS["TREC"]["records"]
    parts = {
        "TREC": {
            "train": questions["train"][:records],
            "valid": questions["train"][records : records + 300],
            "test": questions["test"][: SETS["TREC"]["test"]],
        },
        "ChnSentiCorp": {
            "train": reviews["train"][: SETS["ChnSentiCorp"]["records"]],
            "valid": reviews["valid"][:300],
            "test": reviews["test"][: SETS["ChnSentiCorp"]["test"]],
        },
    }
    for name, found in parts.items():
        (options.out / name).mkdir(parents=True, exist_ok=True)
        for part, rows in found.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (options.out / name / f"{part}.jsonl").write_text(text, encoding="utf-8")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def measure(options: argparse.Namespace, method: str, name: str, seed: int, rate: float) -> dict:
    """The figures of one run, from its file where it has been run before."""
    file = options.out / name / f"{method} {rate} {seed}.json"
    if not file.exists():
        command = [sys.executable, *sys.argv, "--worker", method, name, str(seed), str(rate)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{method} on {name} failed:\n{done.stderr[-3000:]}")
        file.write_text(done.stdout.splitlines()[-1])
        print(f"{method}, {name}, seed {seed}, rate {rate}: {file.read_text()}", file=sys.stderr)
    return json.loads(file.read_text())


def work(options: argparse.Namespace, method: str, name: str, seed: str, rate: str) -> None:
    import gptwo
    from gptwo import runtime
    from gptwo.train.events import read_events

    folder = options.out / name
    run = gptwo.finetune(
        options.model,
        task="classify",
        **{part: str(folder / f"{part}.jsonl") for part in ("train", "valid", "test")},
        out=folder / f"{method} {rate} {seed}".replace(" ", "-").replace(",", ""),
        overwrite=True,
        settings={
            "train.batch_size": 16,
            "train.seed": int(seed),
            "train.threads": options.threads,
            "train.metric": "accuracy",
            "train.log_every": 5,
            "model.dropout": 0.1,
            "optimizer.learning_rate": float(rate),
            "schedule.warmup": 0.1,
            "track.trackers": ["events"],
            **{key: value for key, value in METHODS[method].items() if "." in key},
            **{key: value for key, value in SETS[name].items() if "." in key},
        },
    )
    events = read_events(run.folder)
    steps = [event for event in events if event["kind"] == "step"]
    epoch = steps[-1]["tokens"] / SETS[name]["train.epochs"]
    tuned = next(event["tuned"] for event in events if event["kind"] == "start")
    print(
        json.dumps(
            {
                "tuned": tuned,
                "seconds": epoch / statistics.median(event["tokens_per_second"] for event in steps),
                "peak": runtime.peak_memory(),
                "valid": max(event["metrics"]["accuracy"] for event in events if event["kind"] == "eval"),
                "test": run.report.tuned.value("accuracy"),
                "f1": run.report.tuned.value("macro_f1"),
                "others": {s.name: s.value("accuracy") for s in run.report.systems},
            }
        )
    )


def print_results(found: dict[str, dict[str, list[dict]]], file=None) -> None:
    """Mean and, behind ±, standard deviation over the seeds."""
    head = "".join(f" | {name}: accuracy | macro F1 | seconds an epoch | peak memory" for name in SETS)
    print(f"method | tuned weights{head}\n---|---{'|---' * 4 * len(SETS)}", file=file)
    for method, sets in found.items():
        cells = [method, f"{sets['TREC'][0]['tuned']:,}"]
        for runs in sets.values():
            cells += [
                *(spread([100 * run[key] for run in runs]) for key in ("test", "f1")),
                f"{statistics.median(run['seconds'] for run in runs):.1f}",
                f"{statistics.median(run['peak'] for run in runs) / 1e9:.2f} GB",
            ]
        print(" | ".join(cells), file=file)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


if __name__ == "__main__":
    main()

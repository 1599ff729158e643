"""The main job from end to end, offline: `make demo`.

Loads gptwo-mini, lets it write, tunes it on a small set of customer-service messages (English and Chinese), prints an
honest report, saves, reloads and predicts new messages. The data is demo data; see examples/data/README.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import gptwo
from gptwo.cli.common import console, run

DATA = Path(__file__).parent / "data"
OUT = Path("runs/demo")
PROMPTS = ["The history of the city", "In this chapter, we will", "第一条 为了", "打开终端，"]
NEW = [
    "hi, my parcel was due on Monday and I still have nothing",
    "can I get my money back? it arrived broken",
    "你好，帮我把收货地址改成公司的",
    "付款一直失败，换了两张卡都不行",
]


def main() -> None:
    started = time.perf_counter()
    out = console()
    out.rule("1. gptwo-mini writes (sampled at temperature 0.8)")
    engine = gptwo.Engine("gptwo-mini")
    for prompt, text in zip(PROMPTS, engine.generate(PROMPTS, max_new_tokens=40, temperature=0.8, seed=1), strict=True):
        out.print(f"[bold]{prompt}[/bold]{text.text}\n", soft_wrap=True)

    out.rule("2. tune it: 10 intents of a shop's customers, English and Chinese, with early stopping")
    done = gptwo.finetune(
        "gptwo-mini",
        task="classify",
        train=str(DATA / "intents.train.jsonl"),
        test=str(DATA / "intents.test.jsonl"),
        out=OUT,
        settings={
            "train.epochs": 10,
            "train.batch_size": 16,
            "train.patience": 5,
            "train.log_every": 20,
            "optimizer.learning_rate": 3e-4,
            "data.valid_share": 0.15,
        },
        overwrite=True,
    )

    out.rule("3. the verdict: before, after, and cheap baselines on the same test set")
    done.report.print(out)

    out.rule("4. reload and predict new messages")
    from gptwo.train.apply import predict, records_of_texts

    for row in predict(OUT, records_of_texts(NEW)):
        out.print(f"{row['label']:<18} {row['probability']:.2f}  {row['text']}")

    out.rule("5. next")
    out.print(
        f"""the report with plots    {OUT}/report.html
predict more             gptwo predict --model {OUT} "where is my order?"
generate                 gptwo generate --model gptwo-mini "The history of"

your own data: a csv with the columns text and label
    gptwo doctor data mine.csv --task classify
    gptwo finetune --model gptwo-mini --task classify --train mine.csv --out runs/mine
    gptwo init classify        # a recipe with every setting explained
finished in {time.perf_counter() - started:.0f} s"""
    )


if __name__ == "__main__":
    sys.exit(run(main))

"""Make the folder that ships from a finished run of mini.toml: weights in bf16, tokenizer, recipe, curve, model card.

python bench/language.py --model runs/mini --data mini --json figures.json
python recipes/pretrain/mini_card.py runs/mini figures.json gptwo/models/gptwo-mini
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from gptwo.model.pretrained import load, save
from gptwo.train.track import read_events

CARD = """---
license: cc-by-sa-4.0
language: [en, zh]
tags: [gpt2, gptwo]
---

# gptwo-mini

A bilingual (English and Chinese) GPT-2 of {parameters:.1f} million parameters: {n_layer} blocks, {n_embd} wide,
{n_head} heads, {n_positions} positions, a byte-level BPE of {vocab_size:,} entries of its own. It is meant to be tuned
on small tasks, to try the tools with, and to learn from. It knows little, and what it writes is not to be relied on.

## Data

Openly licensed text, {train_tokens:.1f} million tokens, read {passes:.1f} times:

| source | licence |
|---|---|
| English Wikipedia (2019) | CC BY-SA 3.0 |
| Chinese statutes, regulations and judicial interpretations | outside copyright (PRC Copyright Law, article 5) |
| transcripts of meetings and talks, English and Chinese (audreyt/transcript) | CC0 |
| Linux and open-source articles in Chinese (LCTT) | CC BY-SA 4.0 |
| digital.gov, opensource.guide, Plurality | public domain, CC BY 4.0, CC0 |
| Dynamics 365 manuals in Chinese | CC BY 4.0 |
| OpenStax Psychology and Sociology | CC BY 4.0 |
| Dive into Deep Learning, English and Chinese | Apache-2.0 |
| HowToCook, KdConv, Tatoeba, short stories of the public domain | public domain, Apache-2.0, CC BY 2.0 FR |
| 宋词 (chinese-poetry) | MIT |
| dialogues of CrossWOZ and SGD | Apache-2.0, CC BY-SA 4.0 |
| instructions (LLaMA-Factory's samples), a sample of CLUECorpusSmall | Apache-2.0 |

Chinese is narrow: law, manuals and meeting transcripts. Because of the share-alike sources the weights are under
CC BY-SA 4.0.

## Held-out text

Bits per byte on the last 100 documents of each language, which nothing was trained on; lower is better. The network
reads in windows of {n_positions:,} tokens, half of them new; the n-gram models were trained on all of the same
{train_tokens:.1f} million tokens (bytes: on the language's own training text).

| | English | Chinese |
|---|---|---|
{figures}

## Training

`recipes/pretrain/mini.toml` (as it was run: recipe.toml beside this card), {steps:,} steps of {step_tokens:,} tokens,
{minutes:.0f} minutes on one {device}; Muon and AdamW, warm-up, stable, decay. Loss (nats per token) on held-out text:

| step | {curve_steps} |
|---|{rule}|
| loss | {curve_losses} |

## Limits

No filtering for toxic or personal content was done beyond what the sources did. The model was not tuned to follow
instructions and must not be used to decide about people.
"""


def main(run: Path, figures: Path, out: Path) -> None:
    found = load(run)
    events = read_events(run)
    evaluations = [event for event in events if event["kind"] == "eval"]
    last = [event for event in events if event["kind"] == "step"][-1]
    machine = json.loads((run / "environment.json").read_text())["machine"]
    measured = json.loads(figures.read_text())
    names = [name for name in measured["en"] if name not in ("bytes", "tokens", "loss")]
    rows = [
        f"| {name.replace('model', 'gptwo-mini')} | {measured['en'][name]:.3f} | {measured['zh'][name]:.3f} |"
        for name in names
    ]
    shards = run.parent / "shards" / "train" / "manifest.json"
    tokens = json.loads(shards.read_text())["tokens"]
    card = CARD.format(
        parameters=sum(tensor.numel() for tensor in found.model.parameters()) / 1e6,
        **{name: getattr(found.config, name) for name in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")},
        train_tokens=tokens / 1e6,
        passes=last["tokens"] / tokens,
        figures="\n".join(rows),
        steps=last["step"],
        step_tokens=round(last["tokens"] / last["step"]),
        minutes=(events[-1]["time"] - events[0]["time"]) / 60,
        device=machine.get("gpu", f"machine of {machine['cpus']} CPU cores"),
        curve_steps=" | ".join(str(event["step"]) for event in evaluations),
        rule="|".join("---" for _ in evaluations),
        curve_losses=" | ".join(f"{event['metrics']['loss']:.3f}" for event in evaluations),
    )
    found.config = found.model.config = found.config.with_dropout(0.0)  # who tunes it chooses it
    save(found, out, dtype=torch.bfloat16, card=card)
    shutil.copy(run / "recipe.toml", out / "recipe.toml")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:]))

"""A short model card for a saved model."""

from __future__ import annotations

import json
from typing import Any

from gptwo.model.heads import Model
from gptwo.tokenizer import Tokenizer

PIPELINES = {"language": "text-generation", "sequence": "text-classification", "token": "token-classification"}
CLASSES = {
    "language": "GPT2LMHeadModel",
    "sequence": "GPT2ForSequenceClassification",
    "token": "GPT2ForTokenClassification",
}


def model_card(model: Model, tokenizer: Tokenizer | None, info: dict[str, Any], name: str) -> str:
    """README.md of a model folder: what it is, its sizes, what is known of its origin, how to use it.

    Args:
        info: what gptwo.json will say.
        name: title of the card.
    """
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    kind = {"language": "language model", "sequence": "text classifier", "token": "token classifier"}[model.head_kind]
    lines = [
        "---",
        "library_name: gptwo",
        f"pipeline_tag: {PIPELINES[model.head_kind]}",
        "tags: [gpt2]",
        "---",
        f"# {name}",
        "",
        f"A GPT-2 {kind} with {count / 1e6:.1f} million parameters.",
        "",
        "| | |",
        "|---|---|",
        f"| layers, heads, width | {config.n_layer}, {config.n_head}, {config.n_embd} |",
        f"| context | {config.n_positions} tokens |",
        f"| vocabulary | {config.vocab_size:,} tokens{f' ({tokenizer.kind})' if tokenizer else ''} |",
    ]
    labels = info.get("labels", [])
    if labels:
        shown = ", ".join(labels[:20]) + (f" … ({len(labels)} in all)" if len(labels) > 20 else "")
        lines.append(f"| labels | {shown} |")
    for key, value in info.items():
        if key != "labels" and not isinstance(value, dict | list):
            lines.append(f"| {key} | {json.dumps(value, ensure_ascii=False)} |")
    lines += [
        "",
        "```python",
        "import gptwo",
        'model = gptwo.load("THIS_FOLDER")',
        "# or",
        f"from transformers import {CLASSES[model.head_kind]}",
        f'model = {CLASSES[model.head_kind]}.from_pretrained("THIS_FOLDER")',
        "```",
        "",
    ]
    return "\n".join(lines)

"""The Hugging Face layout, run in transformers beside the model it came from.

A model folder of gptwo is in that layout already (gptwo/model/config_json.py, weights.py, gptwo/tokenizer/save.py);
what an export adds is a precision, and the proof that transformers reads it as we do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gptwo.errors import GptwoError, require
from gptwo.export.check import EQUAL, NEW_TOKENS, Check, difference, follows, greedy, prompt_ids, scores, worst
from gptwo.model import pretrained as models
from gptwo.model.card import CLASSES
from gptwo.model.config_json import read_json
from gptwo.model.pretrained import Pretrained

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What others look for in config.json: vLLM chooses by architectures, llama.cpp's converter reads n_ctx.
KEYS = ("architectures", "model_type", "n_ctx", "n_positions", "vocab_size", "tie_word_embeddings", "eos_token_id")


def write(pretrained: Pretrained, folder: Path, precision: str) -> Path:
    """Write a model folder with weights of a precision, a key of `DTYPES`."""
    return models.save(pretrained, folder, dtype=DTYPES[precision])


@torch.inference_mode()
def check(pretrained: Pretrained, folder: Path, precision: str) -> Check:
    """Load a folder with transformers' own classes and compare; both compute in float32 with the stored weights.

    Raises:
        MissingError: transformers is not installed.
        GptwoError: it does not load the folder.
    """
    transformers = require("transformers", "export")
    model = models.load(folder).model
    wrong = rounded_otherwise(pretrained, model, DTYPES[precision])
    content = read_json(folder / "config.json")
    wrong += [f"config.json lacks {key}" for key in KEYS if key not in content]
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        theirs = getattr(transformers, CLASSES[model.head_kind]).from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if pretrained.tokenizer else None
    except Exception as error:  # whatever their loader meets
        raise GptwoError("transformers does not load the folder.", where=folder, why=str(error)[:300]) from error
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
    texts = prompt_ids(pretrained, leave=NEW_TOKENS)
    found, same = [], 0
    for ids in texts:
        ours = scores(model, ids)
        logits = theirs(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]
        found.append(difference(ours, logits))
        if model.head_kind == "language":
            room = min(NEW_TOKENS, model.config.n_positions - len(ids))
            cache = None

            def step(new: list[int]) -> torch.Tensor:
                nonlocal cache
                answer = theirs(torch.tensor([new]), past_key_values=cache, use_cache=True)
                cache = answer.past_key_values
                return answer.logits[0, -1]

            same += follows(model, ids, greedy(step, ids, room), EQUAL)
    if pretrained.tokenizer is not None and tokenizer is not None:
        wrong += other_tokens(pretrained, tokenizer)
    texts_equal = same if model.head_kind == "language" else None
    return Check(f"transformers {transformers.__version__}", len(texts), worst(found), EQUAL, texts_equal, wrong)


def rounded_otherwise(pretrained: Pretrained, written: torch.nn.Module, dtype: torch.dtype) -> list[str]:
    """Which weights in the file are not the model's own, rounded."""
    stored = dict(written.named_parameters())
    unlike = []
    for name, parameter in pretrained.model.named_parameters():
        wanted = parameter.to(dtype).to(stored[name].dtype)
        if not torch.equal(wanted, stored[name]) or not wanted.isfinite().all():
            unlike.append(name)
    if not unlike:
        return []
    more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
    return [f"the weights {unlike[0]}{more} are no numbers, or none that {str(dtype).removeprefix('torch.')} can hold"]


def other_tokens(pretrained: Pretrained, tokenizer: Any) -> list[str]:
    """Texts that transformers' tokenizer splits otherwise, in words."""
    from gptwo.adapt.gate import PROMPTS

    assert pretrained.tokenizer is not None
    unlike = [
        text
        for text, ids in zip(PROMPTS, pretrained.tokenizer.encode_batch(PROMPTS), strict=True)
        if tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] != ids
    ]
    return [f"AutoTokenizer gives other tokens for {len(unlike)} texts, {unlike[0]!r} first"] if unlike else []

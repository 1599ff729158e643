"""Looks at a model folder: does it load, does its tokenizer fit, are its weights numbers, does it do what it says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from gptwo.adapt.gate import compare
from gptwo.adapt.store import load
from gptwo.data.doctor import SEVERITIES
from gptwo.data.finding import Finding
from gptwo.errors import GptwoError, MissingError
from gptwo.model.pretrained import Pretrained
from gptwo.tasks import restore_task

TEXTS = (
    "The city lies on a river, and most of its people live near the water.",
    "这座城市靠着一条河，大多数人住在水边。",
    "tabs\tand\n\nlines, 3,141 numbers, “quotes”, émigré, 🙂",
)
LARGE = 1e4  # a weight beyond it has run away


def inspect_model(folder: str | Path, adapter: str | Path | None = None) -> list[Finding]:
    """Everything worth knowing about a model folder, errors first.

    Args:
        folder: of a model or a run, or a name.
        adapter: the folder of an adapter that was merged into it: both must do the same.

    Raises:
        MissingError: there is no such folder.
    """
    try:
        loaded = load(folder)
    except MissingError:
        raise
    except GptwoError as error:
        what = f"the folder does not load: {error.what}" + (f" ({error.where})" if error.where else "")
        return [Finding("loads", "error", what, fix=error.fix or "Get the files again from where they came.")]
    findings = [*weights(loaded), *tokenizer(loaded), *labels(loaded), *answers(loaded)]
    if adapter is not None:
        findings += parity(loaded, adapter)
    count = sum(tensor.numel() for tensor in loaded.model.parameters())
    head = {"language": "a language model", "sequence": "a text classifier", "token": "a tagger"}
    what = f"it loads: {head[loaded.model.head_kind]} of {count:,} parameters, {loaded.config.n_positions:,} positions"
    findings.append(Finding("loads", "info", what))
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def weights(loaded: Pretrained) -> Iterator[Finding]:
    """Weights that are no numbers, that have run away, or that are all the same."""
    tensors = {name: tensor.detach().float() for name, tensor in loaded.model.named_parameters()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    large = [name for name, tensor in tensors.items() if name not in broken and tensor.abs().max() > LARGE]
    flat = [
        name
        for name, tensor in tensors.items()
        if tensor.ndim > 1 and tensor.numel() > 1 and name not in broken and tensor.min() == tensor.max()
    ]
    if broken:
        what = f"{len(broken)} of {len(tensors)} tensors hold values that are no numbers (NaN or infinite)"
        fix = "Training diverged before it was saved, or the file is damaged: go back to an earlier checkpoint."
        yield Finding("finite-weights", "error", what, len(broken), broken[:10], fix)
    if large:
        what = f"{len(large)} tensors hold weights beyond {LARGE:g}"
        yield Finding(
            "large-weights", "warning", what, len(large), large[:10], "Look at the run: gptwo doctor run RUN."
        )
    if flat:
        what = f"{len(flat)} matrices hold one value everywhere"
        fix = "They were never trained or loaded; compare with the source of the weights."
        yield Finding("flat-weights", "warning", what, len(flat), flat[:10], fix)
    if loaded.fresh:
        what = f"{len(loaded.fresh)} tensors are not in the folder and were drawn at random"
        fix = "A head is fresh until the model is tuned for a task."
        yield Finding("fresh-weights", "warning", what, len(loaded.fresh), loaded.fresh[:10], fix)


def tokenizer(loaded: Pretrained) -> Iterator[Finding]:
    """Whether the tokenizer is there, fits the embedding, and gives texts back."""
    words, rows = loaded.tokenizer, loaded.config.vocab_size
    if words is None:
        yield Finding(
            "tokenizer", "error", "the folder has no tokenizer", fix="Copy tokenizer.json of the model into the folder."
        )
        return
    if words.vocab_size > rows:
        what = f"the tokenizer has {words.vocab_size:,} ids, the embedding only {rows:,} rows"
        fix = "This is another model's tokenizer, or tokens were added to it alone (Pretrained.add_special_tokens)."
        yield Finding("tokenizer", "error", what, fix=fix)
        return
    if words.vocab_size < rows:
        what = f"{rows - words.vocab_size:,} of {rows:,} rows of the embedding belong to no token"
        fix = "Fine if the vocabulary was padded for speed; otherwise it is another model's tokenizer."
        few = rows - words.vocab_size <= max(128, 0.01 * rows)
        yield Finding("spare-rows", "info" if few else "warning", what, rows - words.vocab_size, fix=fix)
    if words.end_id is None:
        fix = 'add_special_tokens(["<|endoftext|>"]), or mark it in tokenizer_config.json.'
        yield Finding(
            "end-token", "warning", "the tokenizer has no end token: generation cannot end by itself", fix=fix
        )
    changed = [text for text in TEXTS if words.decode(words.encode(text), skip_special=True) != text]
    if changed and words.kind == "bpe":
        what = f"{len(changed)} of {len(TEXTS)} texts do not come back from their tokens"
        fix = "The vocabulary lacks bytes: vocab.json and merges.txt may not belong together."
        yield Finding("round-trip", "error", what, len(changed), [text[:40] for text in changed], fix)


def labels(loaded: Pretrained) -> Iterator[Finding]:
    """Whether gptwo.json names a task we know, with labels that fit the head."""
    try:
        task = restore_task(loaded.info, loaded.model.head_kind)
    except (GptwoError, KeyError, TypeError) as error:
        what = f"the task cannot be read from gptwo.json: {str(error).splitlines()[0]}"
        yield Finding("task", "error", what, fix="Save the model anew with gptwo, or repair gptwo.json.")
        return
    width = loaded.model.projection.out_features
    if loaded.model.head_kind != "language" and len(loaded.labels) != width:
        what = f"the head has {width} rows, gptwo.json names {len(loaded.labels)} labels"
        yield Finding("labels", "error", what, fix="Save the model with all of its labels.")
    temperature = task.calibration.get("temperature")
    if temperature is not None:
        asked = task.calibration.get("abstain_below")
        more = "" if asked is None else f", abstains below {asked:.3f}"
        yield Finding("calibration", "info", f"confidences are calibrated: temperature {temperature:.2f}{more}")


@torch.inference_mode()
def answers(loaded: Pretrained) -> Iterator[Finding]:
    """Whether the network gives finite scores, and a language model better ones than guessing."""
    words, model = loaded.tokenizer, loaded.model
    if words is None or words.vocab_size > loaded.config.vocab_size:
        return
    losses: list[float] = []
    for text in TEXTS:
        ids = torch.tensor([words.encode(text)[: loaded.config.n_positions]])
        if ids.shape[1] < 2:
            continue
        scores = model(ids).float()  # (1, T, V or labels)
        if not torch.isfinite(scores).all():
            what = "the scores of a plain text are no numbers"
            fix = "See finite-weights; with finite weights, try --precision fp32."
            yield Finding("finite-scores", "error", what, rows=[text[:40]], fix=fix)
            return
        if model.head_kind == "language":
            losses.append(float(torch.nn.functional.cross_entropy(scores[0, :-1], ids[0, 1:])))
    if losses and min(losses) >= 0.98 * math.log(loaded.config.vocab_size):
        what = f"plain texts cost {min(losses):.2f} nats a token or more, guessing costs {_ln(loaded):.2f} (ln V)"
        fix = "The network has learned nothing, or reads with another model's tokenizer."
        yield Finding("no-better-than-guessing", "warning", what, fix=fix, detail={"losses": losses})
    elif losses:
        what = f"plain texts cost {min(losses):.2f} to {max(losses):.2f} nats a token; guessing costs {_ln(loaded):.2f}"
        yield Finding("answers", "info", what, detail={"losses": losses})


def parity(loaded: Pretrained, adapter: str | Path) -> Iterator[Finding]:
    """Whether a merged model does what its adapter does over its base."""
    try:
        found = compare(load(adapter), loaded)
    except GptwoError as error:
        what = f"the adapter cannot be compared: {error.what}"
        yield Finding("merged", "error", what, fix=error.fix or "Give the folder of the adapter that was merged.")
        return
    if found.holds:
        what = f"the model equals its adapter on {found.prompts} prompts (logits within {found.largest:.1e})"
        yield Finding("merged", "info", what)
    else:
        fix = "Merge it again: gptwo merge ADAPTER --out FOLDER"
        yield Finding("merged", "error", f"the model is not what its adapter gives: {found.why_not()}", fix=fix)


def _ln(loaded: Pretrained) -> float:
    return math.log(loaded.config.vocab_size)

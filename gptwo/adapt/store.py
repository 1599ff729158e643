"""Loading and saving models that may carry an adapter: `gptwo.load` and `gptwo.save`.

An adapter's folder holds the two files of peft.py, gptwo.json (task, labels, and the base with its fingerprint), a
README, and a tokenizer only where it is another than the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gptwo import hub
from gptwo.adapt.apply import apply_adapter
from gptwo.adapt.base import base_of, check_base, find_base, stored_base
from gptwo.adapt.merge import merged
from gptwo.adapt.parts import Adapter
from gptwo.adapt.peft import CONFIG, WEIGHTS
from gptwo.adapt.peft_read import read_adapter
from gptwo.adapt.peft_write import write_adapter
from gptwo.errors import DataError, UsageError
from gptwo.model import pretrained as models
from gptwo.model.config_json import INFO, read_info, read_json, write_json
from gptwo.model.folder import whole_folder
from gptwo.model.heads import HeadKind
from gptwo.model.pretrained import Pretrained, is_model_file, resize_embeddings
from gptwo.recipe import Recipe
from gptwo.tokenizer import find_tokenizer


def load(
    name_or_folder: str | Path,
    *,
    head: HeadKind | None = None,
    labels: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int | torch.Generator = 0,
    revision: str | None = None,
    base: str | Path | None = None,
) -> Pretrained:
    """Load a model, or an adapter together with its base, by name or folder, ready for use (`model.eval()`).

    Args:
        name_or_folder: see `gptwo.hub.resolve`; an adapter is a folder with adapter_config.json, ours or of peft.
        head: "language", "sequence" or "token"; None is the head that was saved. Another head than the saved one
            is fresh: Normal(0, initializer_range), zero bias.
        labels: names of the labels; needed for a fresh label head. Other labels than the saved ones make a
            fresh head.
        device, dtype: where and in which precision the weights are held.
        seed: of a fresh head, or a CPU generator; the same seed gives the same head on every device.
        revision: branch, tag or commit on the hub.
        base: of an adapter: the model it belongs to, where it is not found by itself.

    Raises:
        MissingError: the model, an adapter's base, or a file is not here; the message says what to place where.
        DataError: not a GPT-2, a damaged or unfitting file, or an adapter over another base.
        UsageError: labels are needed, or given to a language model; another head than the adapter's.
    """
    folder = hub.resolve(name_or_folder, revision=revision)
    if not is_adapter(folder):
        return models.load(folder, head=head, labels=labels, device=device, dtype=dtype, seed=seed)
    content = read_json(folder / CONFIG)
    info = read_info(folder)
    described = info.pop("adapter", {})
    found = hub.resolve(base) if base is not None else find_base(folder, described, content)
    below = as_language_model(plain(load(found, device=device, dtype=dtype, **language_head(found))))
    loaded = put_on(folder, below, info, described)
    if loaded.model.head_kind != "language":
        del loaded.model.lm_head  # the base's; nothing switches back to it here
    if head not in (None, loaded.model.head_kind) or (labels is not None and list(labels) != loaded.labels):
        raise UsageError(
            f"The adapter has a {loaded.model.head_kind} head"
            + (f" with the labels {', '.join(loaded.labels)}." if loaded.labels else "."),
            where=folder,
            fix="merge it into a plain model first, which can get another head: gptwo merge ADAPTER --out FOLDER",
        )
    return loaded


def language_head(folder: Path) -> dict[str, Any]:
    """How a base is loaded: without a label head of its own; an adapter brings one where it needs it."""
    return {} if is_adapter(folder) else {"head": "language"}


def as_language_model(pretrained: Pretrained) -> Pretrained:
    """A plain model with a language head in place of its label head, the token embedding or fresh; for a base."""
    model = pretrained.model
    if model.head_kind == "language":
        return pretrained
    weight = model.transformer.wte.weight
    made = models.allocate(model.config, "language", 0, weight.device, weight.dtype)
    made.transformer = model.transformer
    made.tie()
    if not model.config.tie_word_embeddings:
        models.draw_head(made, models.generator(0))
    return replace(pretrained, model=made.eval(), info={})


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def put_on(folder: Path, base: Pretrained, info: dict[str, Any], described: dict[str, Any]) -> Pretrained:
    """Put the adapter of a folder on a plain model, which is changed in place.

    Args:
        info, described: gptwo.json of the folder, and "adapter" in it.

    Raises:
        DataError: it belongs to another base, or does not fit.
    """
    known = described.get("base", {})
    check_base(folder, known, base)
    tokenizer = find_tokenizer(folder) or base.tokenizer
    wanted = described.get("tokenizer")
    if wanted and (tokenizer is None or tokenizer.fingerprint != wanted):
        raise DataError(
            "The base has another tokenizer than the one the adapter was tuned with.",
            where=base.folder,
            fix="bring back the base's tokenizer, or put the right one into the adapter's folder",
        )
    remembered = base_of(base, known.get("name")) if base.folder else None
    model = base.model
    if described.get("vocab_size", 0) > model.config.vocab_size:
        resize_embeddings(model, described["vocab_size"])
    adapter = read_adapter(folder, model)
    adapter.base = remembered
    if adapter.head != "language":
        count = model.projection.out_features
        info = {**info, "labels": info.get("labels") or [f"LABEL_{index}" for index in range(count)]}
        if len(info["labels"]) != count:
            raise DataError(
                f"The head has {count} labels, gptwo.json names {len(info['labels'])}.", where=folder / INFO
            )
    return Pretrained(model.eval(), tokenizer, model.config, folder, info, adapter=adapter)


def carry(start: Pretrained, base: Pretrained, recipe: Recipe) -> Adapter | None:
    """Put the adapter that a recipe asks for on a model that is about to be tuned.

    Args:
        start: changed in place: it carries the adapter, and everything else in it is frozen.
        base: what it was made from; the adapter will name it.
        recipe: sections adapter, model and train (the seed) are used.

    Returns:
        The adapter; None where the recipe asks for none.

    Raises:
        UsageError: the base is in no folder or has random weights; as `apply_adapter`.
    """
    if recipe.adapter.name == "none":
        return None
    if recipe.model.random:
        raise UsageError(
            "An adapter over random weights would belong to no model.",
            where="model.random",
            fix="leave model.random out, or adapter.name",
        )
    known = base_of(base, recipe.model.base)
    if recipe.model.tokenizer:
        known = replace(known, tokenizer=None)  # not the base's: it is saved with the adapter
    adapter = apply_adapter(start.model, recipe.adapter, seed=recipe.train.seed)
    adapter.base = known
    start.adapter, start.config = adapter, start.model.config
    return adapter


def plain(pretrained: Pretrained) -> Pretrained:
    """A model without an adapter; one that carries an adapter is merged first.

    Raises:
        UsageError: its adapter cannot be merged.
    """
    return pretrained if pretrained.adapter is None else merged(pretrained)


def save(
    pretrained: Pretrained,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    card: str | None = None,
) -> Path:
    """Save a model, or of one that carries an adapter the adapter alone; returns the folder.

    The folder appears whole or not at all. An earlier one of gptwo is replaced, files that are none of a model's
    stay in it; any other folder that is not empty is left alone.

    Args:
        dtype: of a plain model: precision of the weights in the file; None keeps the one in memory. bfloat16
            halves the size.
        max_shard_size: of a plain model: bytes, or text such as "500MB"; a larger one is split into several files.
        card: text of README.md; None writes a short one.

    Raises:
        UsageError: a foreign folder is in the way.
        GptwoError: the disk is full or the place cannot be written.
    """
    adapter = pretrained.adapter
    if adapter is None:
        return models.save(pretrained, folder, dtype=dtype, max_shard_size=max_shard_size, card=card)
    target = Path(folder).expanduser()
    tokenizer = pretrained.tokenizer
    described: dict[str, Any] = {"name": adapter.config.name, "vocab_size": pretrained.config.vocab_size}
    if adapter.base is not None:
        described["base"] = stored_base(adapter.base, target)
    if tokenizer is not None:
        described["tokenizer"] = tokenizer.fingerprint
    with whole_folder(target, INFO, is_adapter_file) as temporary:
        write_adapter(adapter, pretrained.model, temporary)
        if tokenizer is not None and (adapter.base is None or tokenizer.fingerprint != adapter.base.tokenizer):
            tokenizer.save(temporary)
        write_json({**pretrained.info, "adapter": described}, temporary / INFO)
        text = card if card is not None else adapter_card(pretrained, target.name)
        (temporary / "README.md").write_text(text, encoding="utf-8")
    return target


def is_adapter_file(name: str) -> bool:
    """Whether a file of an earlier folder goes when an adapter is written anew."""
    return name in (CONFIG, WEIGHTS) or is_model_file(name)


def adapter_card(pretrained: Pretrained, name: str) -> str:
    """README.md of an adapter's folder."""
    adapter = pretrained.adapter
    assert adapter is not None
    named = dict(pretrained.model.named_parameters())
    count = sum(named[tuned].numel() for tuned in adapter.tuned)
    base = adapter.base.name if adapter.base else "unknown"
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {Path(base).name if Path(base).is_absolute() else base}",
            "tags: [gpt2, gptwo]",
            "---",
            f"# {name}",
            "",
            f"An adapter ({adapter.config.name}, {count:,} parameters) over {Path(base).name}, which it needs.",
            "",
            "```python",
            "import gptwo",
            'model = gptwo.load("THIS_FOLDER")',
            "```",
            "",
        ]
    )

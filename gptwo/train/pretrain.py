"""Pretraining: running text to a language model, from fresh weights or going on from a model."""

from __future__ import annotations

from pathlib import Path

import torch

from gptwo import runtime
from gptwo.data.batching import Batch
from gptwo.data.loader import TokenBlocks
from gptwo.data.pack import pack
from gptwo.data.shards import Shards
from gptwo.errors import UsageError
from gptwo.evaluate.language import bytes_of_tokens, score_shards
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models
from gptwo.model.config import GPT2Config, preset
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE, linear_cross_entropy
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import ModelSection, Recipe
from gptwo.tokenizer import Tokenizer, load_tokenizer
from gptwo.train.run import open_run, write_environment
from gptwo.train.track import make_trackers
from gptwo.train.trainer import Hooks, train


class NextToken:
    """The objective of language modelling: every next token, end of text included."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> torch.Tensor:
        hidden = model.transformer(batch.ids, batch.positions, batch.documents)
        return linear_cross_entropy(hidden, model.projection.weight, batch.labels, label_smoothing=label_smoothing)

    def count(self, batch: Batch) -> int:
        return int((batch.labels != IGNORE).sum())


def pretrain(recipe: Recipe, out: str | Path, *, resume: bool = False, overwrite: bool = False) -> Pretrained:
    """Train a language model on running text.

    Args:
        recipe: model, data.train (text files, folders or token shards), data.valid, train and the rest.
        out: the run folder; the best model is in out/best.
        resume: go on from the newest checkpoint of `out`.
        overwrite: start anew in a used folder.

    Returns:
        The best model.

    Raises:
        UsageError: the recipe leaves out the tokenizer, the size or the data.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    options = recipe.train
    runtime.set_threads(options.threads)
    device = runtime.pick_device(options.device).value
    if not recipe.data.train:
        raise UsageError("There is no text to train on.", where="data.train", fix='--train "texts/*.txt"')
    folder = open_run(out, recipe, resume=resume, overwrite=overwrite)
    start = start_model(recipe.model, options.seed)
    tokenizer, model = start.tokenizer, start.model.to(device)
    torch.manual_seed(options.seed)

    shards = open_shards(recipe.data.train, folder / "shards" / "train", tokenizer, folder)
    valid = open_shards(recipe.data.valid, folder / "shards" / "valid", tokenizer, folder) if recipe.data.valid else None
    block = recipe.data.block_size or model.config.n_positions
    if block > model.config.n_positions:
        raise UsageError(
            f"Rows of {block} tokens do not fit the network's {model.config.n_positions} positions.",
            where="data.block_size",
        )
    source = TokenBlocks(shards, block=block, rows=options.batch_size, seed=options.seed)
    precision = runtime.pick_precision(options.precision, device).value
    sizes = bytes_of_tokens(tokenizer)
    write_environment(folder, {"train": shards.manifest.tokens, "valid": valid.manifest.tokens if valid else 0})

    def evaluate() -> dict[str, float]:
        score = score_shards(
            model,
            valid,
            sizes,
            block=block,
            rows=options.batch_size,
            limit=options.evaluate_batches,
            precision=precision,
        )
        return score.metrics()

    def sample() -> list[str]:
        engine = Engine(start, precision=precision)
        prompts = options.sample_prompts or [""]
        found = engine.generate(prompts, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=options.seed)
        return [prompt + generation.text for prompt, generation in zip(prompts, found, strict=True)]

    hooks = Hooks(
        evaluate=evaluate if valid else None,
        metric=options.metric or "loss",
        save_best=lambda: models.save(start, folder / "best"),
        sample=sample if options.sample_every else None,
    )
    with make_trackers(
        recipe.track.trackers, folder, project=recipe.track.project, recipe=recipe.model_dump()
    ) as trackers:
        train(model, NextToken(), source, recipe=recipe, folder=folder, trackers=trackers, hooks=hooks, resume=resume)
    if valid is None:
        models.save(start, folder / "best")
    return models.load(folder / "best", device=device)


def start_model(section: ModelSection, seed: int) -> Pretrained:
    """The model a run starts from: a base, the shape of a base with random weights, a preset, or a size of its own.

    Raises:
        UsageError: no tokenizer, or no size.
    """
    if section.base:
        start = models.load(section.base)
        tokenizer = load_tokenizer(section.tokenizer) if section.tokenizer else start.tokenizer
        if tokenizer is None:
            raise UsageError(f"The model {section.base!r} has no tokenizer.", where="model.tokenizer")
        config = start.config if section.dropout is None else start.config.with_dropout(section.dropout)
        if section.random:
            return models.create(config, tokenizer, seed=seed)
        start.tokenizer = tokenizer
        set_dropout(start, config)
        return start
    if not section.tokenizer:
        raise UsageError(
            "Fresh weights need a tokenizer.",
            where="model.tokenizer",
            fix="train one: gptwo tokenizer train texts/*.txt --vocab-size 12288 --out tokenizer",
        )
    tokenizer = load_tokenizer(section.tokenizer)
    return models.create(fresh_config(section, tokenizer), tokenizer, seed=seed)


def fresh_config(section: ModelSection, tokenizer: Tokenizer) -> GPT2Config:
    """The config of a fresh network: a preset with single sizes changed."""
    if section.preset is None and None in (section.n_layer, section.n_embd, section.n_head):
        raise UsageError(
            "Fresh weights need a size.", where="model", fix="give model.preset, or n_layer, n_embd and n_head"
        )
    values = vars(preset(section.preset or "gpt2")).copy()
    for name in ("n_layer", "n_embd", "n_head", "n_positions"):
        if getattr(section, name) is not None:
            values[name] = getattr(section, name)
    values |= {
        "vocab_size": tokenizer.vocab_size,
        "tie_word_embeddings": section.tie_word_embeddings,
        "scale_attn_by_inverse_layer_idx": section.scale_attn_by_inverse_layer_idx,
    }
    return GPT2Config(**values).with_dropout(section.dropout or 0.0)


def set_dropout(start: Pretrained, config: GPT2Config) -> None:
    """Give a loaded network the dropout rates of a config."""
    start.config = start.model.config = start.model.transformer.config = config
    start.model.transformer.drop.p = config.embd_pdrop
    for block in start.model.transformer.h:
        block.attn.dropout = config.attn_pdrop
        block.attn.resid_dropout.p = block.mlp.dropout.p = config.resid_pdrop


def open_shards(paths: list[str], out: Path, tokenizer: Tokenizer, folder: Path) -> Shards:
    """Token shards as they are, or text packed into `out` first."""
    if len(paths) == 1 and (Path(paths[0]).expanduser() / "manifest.json").is_file():
        return Shards(Path(paths[0]).expanduser(), tokenizer)
    kept = folder / "tokenizer"
    tokenizer.save(kept)
    pack(paths, out, kept)
    return Shards(out, tokenizer)

"""Pretraining: running text to a language model, from fresh weights or going on from a model."""

from __future__ import annotations

from pathlib import Path

import torch

from gptwo.adapt.freeze import freeze
from gptwo.adapt.store import carry, load, plain, save
from gptwo.data.batching import Batch
from gptwo.data.loader import TokenBlocks
from gptwo.data.pack import pack
from gptwo.data.shards import Shards
from gptwo.errors import DataError, UsageError, amount
from gptwo.evaluate.language import bytes_of_tokens, language_loss, score_shards
from gptwo.evaluate.report import Report, System, load_events
from gptwo.evaluate.report import Sample as SampleText
from gptwo.generate.engine import Engine
from gptwo.model import pretrained as models
from gptwo.model.config import GPT2Config, preset
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import ModelSection, Recipe, TrainSection
from gptwo.tokenizer import Tokenizer, load_tokenizer
from gptwo.train.checkpoint import check_space
from gptwo.train.events import read_events
from gptwo.train.lock import hold
from gptwo.train.run import changed_keys, open_run, settle, without_effect, write_environment
from gptwo.train.session import run_session
from gptwo.train.trainer import Hooks, unknown_metric

FIGURES = ("loss", "perplexity", "bits_per_byte")
FRESH = (  # what only fresh weights have a use for
    *("model.preset", "model.n_layer", "model.n_embd", "model.n_head", "model.n_positions"),
    *("model.tie_word_embeddings", "model.scale_attn_by_inverse_layer_idx"),
)
DATA = ("data.train", "data.valid", "data.block_size")  # what pretraining reads of the data


class NextToken:
    """The objective of language modelling: every next token, end of text included."""

    def loss(self, model: Model, batch: Batch, label_smoothing: float = 0.0) -> torch.Tensor:
        return language_loss(model, batch, label_smoothing)

    def count(self, batch: Batch) -> int:
        return int((batch.labels != IGNORE).sum())


def pretrain(recipe: Recipe, out: str | Path, *, resume: bool = False, overwrite: bool = False) -> Pretrained:
    """Train a language model on running text.

    Args:
        recipe: model, data.train (text files, folders or token shards), data.valid, train and the rest.
        out: the run folder; the best model is in out/best, and with data.valid a report beside it.
        resume: go on from the newest checkpoint of `out`.
        overwrite: start anew in a used folder.

    Returns:
        The best model.

    Raises:
        UsageError: the recipe leaves out the tokenizer, the size or the data.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    if not recipe.data.train:
        raise UsageError("There is no text to train on.", where="data.train", fix='--train "texts/*.txt"')
    check_validation(recipe)
    start, tokenizer = start_model(recipe.model, recipe.train.seed)
    with hold(out):
        folder = open_run(out, recipe, resume=resume, overwrite=overwrite)
        return train_on_text(start, tokenizer, recipe, folder, resume=resume)


def train_on_text(
    start: Pretrained, tokenizer: Tokenizer, recipe: Recipe, folder: Path, *, resume: bool = False
) -> Pretrained:
    """Train a language model in a run folder that is open; raises as `pretrain`."""
    options = recipe.train
    device, precision = settle(recipe, folder, resume=resume)
    adapter = carry(start, start, recipe)
    model = start.model.to(device.value)
    among = adapter.tuned if adapter else None
    choice = recipe.freeze
    tuned = freeze(model, choice.policy, last=choice.last, pattern=choice.pattern, among=among)
    check_space(folder, model, options.keep_last, adapter.tensors(model) if adapter else None)
    block = block_of(recipe, model.config)
    parts = open_texts(recipe, tokenizer, folder)
    valid = parts.get("valid")
    source = TokenBlocks(parts["train"], block=block, rows=options.batch_size, seed=options.seed)
    sizes = bytes_of_tokens(tokenizer)
    hashes = {name: [file.sha256 for file in part.manifest.shards] for name, part in parts.items()}
    if adapter and adapter.base:
        hashes["base"] = [adapter.base.fingerprint]
    machine = write_environment(folder, device, precision, hashes, resume=resume)

    def evaluate(model: Model = model) -> dict[str, float]:
        assert valid is not None
        rows, limit = options.batch_size, options.evaluate_batches
        return score_shards(
            model, valid, sizes, block=block, rows=rows, limit=limit, precision=precision.value
        ).metrics()

    def sample() -> list[str]:
        engine = Engine(start, precision=precision.value)
        prompts = options.sample_prompts or [""]
        found = engine.generate(prompts, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=options.seed)
        return [prompt + generation.text for prompt, generation in zip(prompts, found, strict=True)]

    hooks = Hooks(
        evaluate=evaluate if valid else None,
        metric=options.metric or "loss",
        save_best=lambda: save(start, folder / "best"),
        sample=sample if options.sample_every else None,
        adapter=adapter,
    )
    notes = without_effect("pretrain", [key for key in changed_keys(recipe) if not is_used(key, recipe)])
    outcome = run_session(
        model,
        NextToken(),
        source,
        recipe=recipe,
        folder=folder,
        hooks=hooks,
        tuned=tuned,
        precision=precision,
        resume=resume,
        notices=notes,
    )
    if valid is None:
        save(start, folder / "best")
    best = load(folder / "best", device=device.value)
    if valid is not None:
        measured = f"Measured on {held_out(valid, block, options)} of held-out text; {valid.tokens:,} tokens there are."
        chosen = f"The best checkpoint is that of step {outcome.progress.best_step:,}, by {hooks.metric}."
        report = Report(
            f"pretraining on {outcome.progress.tokens:,} tokens",
            "language",
            "bits_per_byte",
            [System("Trained", evaluate(best.model), "tuned")],
            events=load_events(folder / "events.jsonl"),
            samples=samples_of(read_events(folder)),
            notes=[*notes, measured, chosen],
            recipe=recipe.model_dump(exclude_none=True),
            machine=machine,
        )
        report.write(folder)
    return best


def is_used(key: str, recipe: Recipe) -> bool:
    """Whether pretraining reads a key."""
    section = key.partition(".")[0]
    if section == "data":
        return key in DATA
    return section != "task" and not (recipe.model.base and key in FRESH)


def held_out(valid: Shards, block: int, options: TrainSection) -> str:
    """How much of the held-out text an evaluation reads."""
    blocks = max(1, (valid.tokens - 1) // block)
    read = min(blocks, (options.evaluate_batches or blocks) * options.batch_size)
    return f"{amount(read, 'block')} of {block:,} tokens" + (", spread evenly," if read < blocks else "")


def samples_of(events: list[dict]) -> list[SampleText]:
    """What the model wrote on the way, the last samples only."""
    found = [event for event in events if event["kind"] == "sample"][-1:]
    return [SampleText("", text, step=event["step"]) for event in found for text in event["texts"]]


def check_validation(recipe: Recipe) -> None:
    """What is asked of held-out text needs some.

    Raises:
        UsageError: there is none, or the metric is not one that is measured on it.
    """
    options = recipe.train
    if not recipe.data.valid:
        asked = [name for name in ("patience", "metric") if getattr(options, name) is not None]
        if asked:
            raise UsageError(
                f"train.{asked[0]} needs held-out text.", where="data.valid", fix='--valid "held-out/*.txt"'
            )
    elif options.metric is not None and options.metric not in FIGURES:
        raise unknown_metric(options.metric, list(FIGURES))


def start_model(section: ModelSection, seed: int) -> tuple[Pretrained, Tokenizer]:
    """The model a run starts from: a base, the shape of a base with random weights, a preset, or a size of its own.

    Raises:
        UsageError: no tokenizer, one that does not fit, or no size.
    """
    if section.base:
        start = plain(load(section.base, head="language"))
        tokenizer = load_tokenizer(section.tokenizer) if section.tokenizer else start.tokenizer
        if tokenizer is None:
            raise UsageError(f"The model {section.base!r} has no tokenizer.", where="model.tokenizer")
        config = start.config if section.dropout is None else start.config.with_dropout(section.dropout)
        if section.random:
            return models.create(config, tokenizer, seed=seed), tokenizer
        if tokenizer.vocab_size > config.vocab_size:
            raise UsageError(
                f"The tokenizer has {tokenizer.vocab_size} ids, the model {config.vocab_size} rows for them.",
                where="model.tokenizer",
                fix="leave it out, to take the model's own",
            )
        start.tokenizer = tokenizer
        set_dropout(start, config)
        return start, tokenizer
    if not section.tokenizer:
        raise UsageError(
            "Fresh weights need a tokenizer.",
            where="model.tokenizer",
            fix="train one: gptwo tokenizer train texts/*.txt --vocab-size 12288 --out tokenizer",
        )
    tokenizer = load_tokenizer(section.tokenizer)
    return models.create(fresh_config(section, tokenizer), tokenizer, seed=seed), tokenizer


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


def block_of(recipe: Recipe, config: GPT2Config) -> int:
    """Tokens in a row.

    Raises:
        UsageError: more than the network has positions.
    """
    block = recipe.data.block_size or config.n_positions
    if block > config.n_positions:
        raise UsageError(
            f"Rows of {block} tokens do not fit the network's {config.n_positions} positions.",
            where="data.block_size",
            fix=f"data.block_size = {config.n_positions}",
        )
    return block


def open_texts(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> dict[str, Shards]:
    """The tokens of data.train, and of data.valid where it is given.

    Raises:
        UsageError: shards beside other files.
        DataError: text that cannot be read, or no held-out text.
    """
    given = {"train": recipe.data.train, "valid": recipe.data.valid}
    parts = {
        name: open_shards(paths, folder / "shards" / name, tokenizer, folder) for name, paths in given.items() if paths
    }
    if "valid" in parts and parts["valid"].tokens < 2:
        raise DataError("The held-out text is empty.", where=parts["valid"].folder)
    return parts


def open_shards(paths: list[str], out: Path, tokenizer: Tokenizer, folder: Path) -> Shards:
    """Token shards as they are, or text packed into `out` first."""
    if len(paths) == 1 and (Path(paths[0]).expanduser() / "manifest.json").is_file():
        return Shards(Path(paths[0]).expanduser(), tokenizer)
    shards = [path for path in paths if (Path(path).expanduser() / "manifest.json").is_file()]
    if shards:
        raise UsageError(
            "Token shards come as one folder, with nothing beside it.",
            where=f"{', '.join(shards)} among {len(paths)} paths",
            fix="pack all texts into one folder: gptwo data pack TEXTS --tokenizer DIR --out SHARDS",
        )
    kept = folder / "tokenizer"
    tokenizer.save(kept)
    pack(paths, out, kept)
    return Shards(out, tokenizer)

"""A network with its tokenizer and what is known about it: made, loaded, saved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from gptwo import hub
from gptwo.errors import MissingError, UsageError
from gptwo.model import tensorflow
from gptwo.model.card import model_card
from gptwo.model.config import GPT2Config
from gptwo.model.config_json import (
    INFO,
    OTHER_HEADS,
    Description,
    config_json,
    generation_config_json,
    read_config,
    read_info,
    write_json,
)
from gptwo.model.folder import whole_folder
from gptwo.model.gpt2 import initialise
from gptwo.model.heads import PROJECTIONS, HeadKind, Model
from gptwo.model.weights import Stored, open_weights, read_into, write_weights
from gptwo.tokenizer import TOKENIZER_FILES, Tokenizer, find_tokenizer

if TYPE_CHECKING:
    from gptwo.adapt.parts import Adapter


@dataclass
class Pretrained:
    """A model and what belongs to it.

    Args:
        model: the network with its head.
        tokenizer: None where the folder has none (a network over symbols that are no text).
        config: the network's sizes, those of `model.config`.
        folder: where it was loaded from; None for a new one.
        info: what gptwo.json says: "task", "labels" (names by index), calibration, recipe and data hashes.
        fresh: names of parameters that were not loaded but drawn at random.
        adapter: what stands in the network beside its own weights; None for a plain model.
    """

    model: Model
    tokenizer: Tokenizer | None
    config: GPT2Config
    folder: Path | None = None
    info: dict[str, Any] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    adapter: Adapter | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the labels by index; empty for a language model."""
        return list(self.info.get("labels", []))

    def add_special_tokens(self, names: Sequence[str]) -> list[int]:
        """Give the tokenizer tokens such as "<|user|>" and the network rows for them; returns their ids.

        Raises:
            UsageError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise UsageError("The model has no tokenizer to add tokens to.", where=self.folder)
        ids = self.tokenizer.add_special_tokens(names)
        resize_embeddings(self.model, max(self.config.vocab_size, self.tokenizer.vocab_size))
        self.config = self.model.config
        return ids


def load(
    name_or_folder: str | Path,
    *,
    head: HeadKind | None = None,
    labels: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int | torch.Generator = 0,
    revision: str | None = None,
) -> Pretrained:
    """Load a plain model by name or folder; the arguments are those of `gptwo.load`.

    Raises:
        MissingError: the model or a file of it is not here; the message says what to place where.
        DataError: not a GPT-2, or a damaged or unfitting file.
        UsageError: labels are needed, or given to a language model.
    """
    folder = hub.resolve(name_or_folder, revision=revision)
    described = describe(folder)
    if described.architecture in OTHER_HEADS and head is None:
        raise UsageError(
            f"The head of {described.architecture} is not one of ours.",
            where=folder / "config.json",
            fix='give head="language", "sequence" or "token"; only the network below it is taken over',
        )
    stored = open_weights(folder)
    saved = described.head or saved_head(stored)
    kind = head or saved
    if kind == "language" and labels is not None:
        raise UsageError("A language model has no labels.", fix='give head="sequence" or head="token" with labels')
    saved_names = saved_labels(described, saved, stored)
    names = list(labels) if labels is not None else (saved_names if kind == saved else [])
    if kind != "language" and not names:
        raise UsageError(f"A fresh {kind} head needs the names of its labels.", fix='give labels=["…", "…"]')
    is_fresh = kind != saved or names != saved_names

    model = allocate(described.config, kind, len(names), device, dtype)
    fresh = read_into(model, stored, skip_head=is_fresh)
    if fresh:
        draw_head(model, generator(seed))
    info = read_info(folder)
    info.pop("labels", None)
    if is_fresh:
        info.pop("calibration", None)  # it belonged to the old head
    elif described.problem_type:
        info.setdefault("problem_type", described.problem_type)
    if kind != "language":
        info["labels"] = names
    return Pretrained(model.eval(), find_tokenizer(folder), described.config, folder, info, fresh)


def create(
    config: GPT2Config,
    tokenizer: Tokenizer | None = None,
    *,
    head: HeadKind = "language",
    labels: Sequence[str] = (),
    device: str | torch.device = "cpu",
    seed: int | torch.Generator = 0,
) -> Pretrained:
    """A new model with random weights (GPT-2's initialisation), float32.

    Args:
        seed: a number, or a CPU generator; the same seed gives the same weights on every device, and torch's
            global generator is left alone.

    Raises:
        UsageError: the tokenizer has more ids than the config has rows, or a label head has no labels.
    """
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise UsageError(
            f"The tokenizer has {tokenizer.vocab_size} ids, the network {config.vocab_size} rows for them.",
            where="model.vocab_size",
            fix=f"vocab_size = {tokenizer.vocab_size}",
        )
    model = allocate(config, head, len(labels), "cpu", torch.float32)
    model.initialise(generator(seed))
    info: dict[str, Any] = {} if head == "language" else {"labels": list(labels)}
    return Pretrained(model.to(device).eval(), tokenizer, config, None, info)


def save(
    pretrained: Pretrained,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    card: str | None = None,
) -> Path:
    """Save a plain model as a folder that gptwo and transformers load; the arguments are those of `gptwo.save`.

    Raises:
        UsageError: a foreign folder is in the way, or the model carries an adapter.
        GptwoError: the disk is full or the place cannot be written.
    """
    if pretrained.adapter is not None:
        raise UsageError(
            "The model carries an adapter; its network is not a plain GPT-2.",
            fix="gptwo.save writes the adapter alone; gptwo merge makes a plain model",
        )
    model, tokenizer = pretrained.model, pretrained.tokenizer
    labels, width = len(pretrained.labels), model.projection.out_features
    if model.head_kind != "language" and labels != width:
        raise UsageError(f"The head has {width} labels, info['labels'] names {labels}.")
    precision = str(dtype or next(model.parameters()).dtype).removeprefix("torch.")

    target = Path(folder).expanduser()
    with whole_folder(target, INFO, is_model_file) as temporary:
        write_weights(model, temporary, dtype=dtype, max_shard_size=max_shard_size)
        write_description(pretrained, temporary, precision)
        text = card if card is not None else model_card(model, tokenizer, pretrained.info, target.name)
        (temporary / "README.md").write_text(text, encoding="utf-8")
    return target


def write_description(pretrained: Pretrained, folder: Path, precision: str) -> None:
    """What stands beside the weights: Hugging Face's configs, the tokenizer, gptwo.json.

    Args:
        precision: of the weights, as config.json names it ("float32").
    """
    model, tokenizer = pretrained.model, pretrained.tokenizer
    start_id, end_id = (tokenizer.start_id, tokenizer.end_id) if tokenizer else (None, None)
    content = config_json(model.config, model.head_kind, pretrained.labels, start_id, end_id, precision)
    if "problem_type" in pretrained.info:
        content["problem_type"] = pretrained.info["problem_type"]
    write_json(content, folder / "config.json")
    if model.head_kind == "language":
        write_json(generation_config_json(start_id, end_id), folder / "generation_config.json")
    if tokenizer is not None:
        tokenizer.save(folder)
    write_json(pretrained.info, folder / INFO)


def resize_embeddings(model: Model, vocab_size: int) -> None:
    """Give the token embedding (and the vocabulary projection) more rows, in place, for added special tokens.

    A new row is the mean of the old ones, so a new token begins as an average one (Hewitt 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html). The config follows; a tied head stays tied.

    Raises:
        UsageError: fewer rows than there are.
    """
    old = model.config.vocab_size
    if vocab_size < old:
        raise UsageError(
            f"The embedding has {old} rows and cannot shrink to {vocab_size}: ids would lose their meaning.",
            fix=f"vocab_size >= {old}",
        )
    if vocab_size == old:
        return
    config = replace(model.config, vocab_size=vocab_size)
    embedding = model.transformer.wte
    embedding.weight = with_mean_rows(embedding.weight, vocab_size)
    embedding.num_embeddings = vocab_size
    if model.head_kind == "language":
        if not config.tie_word_embeddings:
            model.lm_head.weight = with_mean_rows(model.lm_head.weight, vocab_size)
        model.lm_head.out_features = vocab_size
    model.config = model.transformer.config = config
    model.tie()


def with_mean_rows(weight: Tensor, rows: int) -> nn.Parameter:
    """The parameter with its rows' mean appended until it has `rows` rows."""
    mean = weight.detach().float().mean(0, keepdim=True).to(weight.dtype)
    grown = torch.cat([weight.detach(), mean.expand(rows - len(weight), -1)])
    return nn.Parameter(grown, requires_grad=weight.requires_grad)


def describe(folder: Path) -> Description:
    """Sizes, head and labels of a model folder, from config.json or OpenAI's hparams.json."""
    if (folder / "config.json").is_file():
        return read_config(folder / "config.json")
    if tensorflow.is_checkpoint(folder):
        return Description(tensorflow.read_config(folder), "GPT2LMHeadModel")
    there = sorted(entry.name for entry in folder.iterdir())
    why = f"there is {', '.join(there[:12]) or 'nothing'}{' …' if len(there) > 12 else ''}"
    if "adapter_config.json" in there:
        why = "it is an adapter, which gptwo.load puts on top of its base"
    raise MissingError(
        "The folder holds no model: config.json is missing.",
        where=folder,
        why=why,
        fix=f"give a folder with config.json and model.safetensors. {hub.available()}",
    )


def saved_head(stored: dict[str, Stored]) -> HeadKind:
    """The head whose tensors are there; a bare network counts as a language model."""
    first_words = {name.split(".")[0] for name in stored}
    return cast(HeadKind, next((kind for kind, name in PROJECTIONS.items() if name in first_words), "language"))


def saved_labels(described: Description, saved: HeadKind, stored: dict[str, Stored]) -> list[str]:
    """Names of the saved labels; config.json may leave them out, then the head's rows are numbered."""
    weight = stored.get(f"{PROJECTIONS[saved]}.weight")
    if saved == "language" or weight is None or described.labels:
        return [] if saved == "language" else described.labels
    return [f"LABEL_{index}" for index in range(weight.shape[0])]


def allocate(config: GPT2Config, head: str, labels: int, device: str | torch.device, dtype: torch.dtype) -> Model:
    """A network whose parameters are not filled yet; no random number is drawn."""
    with torch.device("meta"):
        model = Model(config, cast(HeadKind, head), labels)
    model.to(dtype).to_empty(device=device)
    model.tie()
    return model


def generator(seed: int | torch.Generator) -> torch.Generator:
    """A CPU generator from a seed; a generator as it is."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def draw_head(model: Model, random: torch.Generator) -> None:
    """Fresh weights for the head only, drawn on the CPU in float32."""
    head = copy.deepcopy(model.projection).to("cpu", torch.float32)
    initialise(head, model.config, random)
    model.projection.load_state_dict(head.state_dict())


def is_model_file(name: str) -> bool:
    """Whether a file belongs to a model folder, so that an old one goes when the folder is written anew."""
    known = ("config.json", "generation_config.json", "special_tokens_map.json", "merges.txt", "added_tokens.json")
    endings = (".safetensors", ".safetensors.index.json", ".tiktoken")
    return name in (*known, *TOKENIZER_FILES, "tokenizer_config.json", INFO, "README.md") or name.endswith(endings)

"""What tasks that write are made of: prompts that fit, options of decoding, texts written and what references cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.data.batching import Batch, Example
from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.evaluate.assess_text import Counted
from gptwo.generate.engine import Engine
from gptwo.generate.native_network import NativeNetwork
from gptwo.generate.options import SamplingOptions
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.model.pretrained import Pretrained
from gptwo.tasks.runner import ModelRunner
from gptwo.tokenizer import Tokenizer

ROWS = 32  # sequences, or beams, that are written together
CHUNK = 2**24  # logits held at a time
SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # options that mean: draw
TASKS_OWN = ("n", "max_new_tokens", "max_length")  # options of generation that a task decides


@dataclass
class Written:
    """What a system wrote for N records.

    Args:
        texts: N texts.
        costs: (N, 2) nats and tokens of the first reference of each; None for a system that gives no probabilities.
        cut: tokens of each source that the system did not see.
        ended: whether each text came to its end by itself, and not by the limit.
        ranks: dialogue: how many wrong candidates are liked better than the right reply; -1 where not asked.
        tries: code: all programs written for each record.
    """

    texts: list[str]
    costs: np.ndarray | None = None
    cut: list[int] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    ranks: list[int] | None = None
    tries: list[list[str]] | None = None


def write(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]
) -> list[tuple[str, bool]]:
    """A text for each prompt of token ids, and whether it ended by itself."""
    network = model.transformer
    own = network.engine if isinstance(network, NativeNetwork) else None
    engine = own or Engine(Pretrained(model, tokenizer, model.config), max_batch=ROWS)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = engine.generate([list(prompts[i]) for i in order], **options)
    texts: list[tuple[str, bool]] = [("", True)] * len(prompts)
    for place, one in zip(order, found, strict=True):
        texts[place] = (one.text, one.finish_reason != "length")
    return texts


def costs_of(runner: ModelRunner, examples: Sequence[Example], records: int) -> np.ndarray:
    """(records, 2) nats and number of the labels of examples, added up over the examples of a record."""
    model, network = runner.model, runner.model.transformer

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.labels is not None
        if isinstance(network, NativeNetwork):
            return torch.tensor(network.costs(batch.ids, batch.labels)), (batch.labels != IGNORE).sum(1)
        places = (batch.labels.flatten() != IGNORE).nonzero().squeeze(1)
        hidden = model.transformer(batch.ids, batch.positions, batch.documents, read=places)  # (labels, C)
        rows, labels = places // batch.ids.shape[1], batch.labels.flatten()[places]
        nats = torch.zeros(len(batch.ids), device=hidden.device)
        step = max(1, CHUNK // model.config.vocab_size)
        for row, part, wanted in zip(rows.split(step), hidden.split(step), labels.split(step), strict=True):
            nats.index_add_(0, row, F.cross_entropy(model.logits(part).float(), wanted, reduction="none"))
        return nats, rows.bincount(minlength=len(nats))

    costs = np.zeros((records, 2))
    for places, (nats, counts) in runner.forward_batches(examples, forward):
        for place, cost, count in zip(places, nats.tolist(), counts.tolist(), strict=True):
            costs[examples[place].index] += cost, count
    return costs


def cut_to_fit(
    tokenizer: Tokenizer, text: str, render: Callable[[str], str], room: int
) -> tuple[list[int], int] | None:
    """Ids of render(text) with as much of the beginning of the text as `room` tokens hold, and how many were cut off;
    None where not one token of it has room."""
    ids = tokenizer.encode(render(text))
    if len(ids) <= room:
        return ids, 0
    _, offsets = tokenizer.encode_with_offsets(text)
    keep = len(offsets) - (len(ids) - room)
    while keep > 0:  # a cut may change how the text around it is tokenized
        ids = tokenizer.encode(render(text[: offsets[keep - 1][1]].rstrip()))
        if len(ids) <= room:
            return ids, len(offsets) - keep
        keep -= len(ids) - room
    return None


def decode_options(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of generation: those of a task, and what a recipe says over them.

    >>> decode_options({"num_beams": 4, "length_penalty": 1.0}, {"num_beams": 1})
    {'num_beams': 1, 'length_penalty': 1.0, 'temperature': 0.0}
    >>> decode_options({"num_beams": 4}, {"temperature": 0.8})
    {'num_beams': 1, 'temperature': 0.8, 'seed': 0}

    Raises:
        UsageError: an unknown option, a value out of range, or an option that the task decides.
    """
    for name in TASKS_OWN:
        if name in given:
            raise UsageError(
                f"The task decides {name}.", where=f"task.decode.{name}", fix="tokens at most: task.max_target"
            )
    samples = any(name in given for name in SAMPLING)
    if given.get("num_beams", 1) > 1:
        own = {name: value for name, value in own.items() if name not in (*SAMPLING, "seed")}
    chosen = {**own, **({"num_beams": 1} if samples else {}), **given}
    if chosen.get("num_beams", 1) == 1 and "temperature" not in chosen:
        chosen["temperature"] = 1.0 if samples else 0.0
    if SamplingOptions.make(None, **chosen).draws:
        chosen.setdefault("seed", 0)
    return chosen


def plain_text(value: Any) -> str:
    """A field as text: a list of sentences is joined by spaces.

    >>> plain_text(["One.", " Two."]), plain_text(" 3 ")
    ('One. Two.', '3')
    """
    parts = value if isinstance(value, list | tuple) else [value]
    return " ".join(filter(None, (str(part).strip() for part in parts if part is not None)))


def evenly(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` records, evenly spread over all."""
    if count >= len(records):
        return list(records)
    return [records[i * len(records) // count] for i in range(count)]


def value_of(figure: Counted | float) -> float:
    """The figure of the whole test set."""
    return figure.value if isinstance(figure, Counted) else figure

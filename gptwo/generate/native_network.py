"""The native engine in the place of a PyTorch network: everything that asks a model for hidden states runs on it.

A model whose `transformer` is a `NativeNetwork` predicts, judges and is measured as before; its head stays where it
was, in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gptwo.errors import DataError, UsageError
from gptwo.generate.native import NativeEngine, pick
from gptwo.generate.native_build import build
from gptwo.generate.native_packed import AGAIN, read_head
from gptwo.generate.native_states import hidden_states
from gptwo.generate.native_weights import open_model
from gptwo.model.heads import PROJECTIONS, HeadKind, Model
from gptwo.model.loss import IGNORE

if TYPE_CHECKING:
    from gptwo.model.cache import Cache
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import Pretrained


class NativeNetwork(nn.Module):
    """Stands in for `GPT2` where no gradient and no cache is asked for.

    Args:
        native: the C++ engine.
        config: what texts see.
        engine: over the same weights, where the model has a language head; it writes.
    """

    def __init__(self, native: Any, config: GPT2Config, engine: NativeEngine | None = None):
        super().__init__()
        self.native, self.config, self.engine = native, config, engine
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says where batches go: to the CPU

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """Hidden states; see `GPT2.forward`. Padding is not computed, and its states are zero.

        Raises:
            UsageError: a cache, positions that do not count on from 0 in each document, more tokens than positions.
        """
        if cache is not None:
            raise UsageError(
                "The native engine keeps keys and values by itself; this needs PyTorch's network.",
                where="--backend",
                fix="--backend torch",
            )
        tokens, starts, ends = texts_of(ids.numpy(), None if documents is None else documents.numpy())
        lengths = ends - starts
        if len(lengths) and lengths.max() > self.config.n_positions:
            raise UsageError(
                f"The sequence has {lengths.max()} tokens; this network has {self.config.n_positions} positions.",
                fix="shorten the text, or cut it into windows",
            )
        if positions is not None:
            check_positions(positions.expand(ids.shape).numpy().reshape(-1), starts, ends)
        real = np.zeros(tokens.size, bool)
        for start, end in zip(starts, ends, strict=True):
            real[start:end] = True
        wanted = np.flatnonzero(real)
        if read is not None:
            wanted = np.intersect1d(read.numpy(), wanted)
        parts = np.split(wanted, np.searchsorted(wanted, ends[:-1]))
        asked = [i for i, part in enumerate(parts) if len(part)]
        found = hidden_states(
            self.native,
            [tokens[starts[i] : ends[i]].tolist() for i in asked],
            [parts[i] - starts[i] for i in asked],
            [-1 if self.engine is None else self.engine.way.adapter] * len(asked),
            self.config.n_embd,
            None if self.engine is None else self.engine.give_way,
        )
        states = np.zeros((tokens.size, self.config.n_embd), np.float32)
        states[wanted] = np.concatenate(found) if found else 0
        if read is not None:
            return torch.from_numpy(states[read.numpy()])  # (N, C)
        return torch.from_numpy(states).view(*ids.shape, -1)  # (B, T, C)

    def judge(self, rows: Sequence[list[int]], starts: Sequence[int]) -> list[tuple[list[float], list[bool]]]:
        """How likely tokens are under the language head, as the engine has it packed; see `Writer.judge`."""
        assert self.engine is not None
        return self.engine.judge(rows, starts)

    def costs(self, ids: Tensor, labels: Tensor) -> list[float]:
        """What the labels of each row cost; arguments as those of `nats`, a row being one text."""
        rows, starts, owners = [], [], []
        for row, follows in enumerate(labels.numpy()):
            places = np.flatnonzero(follows != IGNORE)
            for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                if len(run):
                    rows.append([*ids[row, : run[-1] + 1].tolist(), int(follows[run[-1]])])
                    starts.append(int(run[0]) + 1)
                    owners.append(row)
        costs = [0.0] * len(labels)
        for row, (logprobs, _) in zip(owners, self.judge(rows, starts), strict=True):
            costs[row] -= sum(logprobs)
        return costs

    def nats(self, ids: Tensor, documents: Tensor | None, labels: Tensor) -> float:
        """What the labels of a batch cost under the language head, as the engine has it packed.

        Args:
            ids, documents: (B, T); see `GPT2.forward`.
            labels: (B, T) the token that follows each, IGNORE where it is not asked for.
        """
        assert self.engine is not None
        tokens, starts, ends = texts_of(ids.numpy(), None if documents is None else documents.numpy())
        follows, total = labels.numpy().reshape(-1), 0.0
        for start, end in zip(starts, ends, strict=True):
            asked = np.flatnonzero(follows[start:end] != IGNORE)
            if not len(asked):
                continue
            first, last = asked[0], asked[-1]
            row = [*tokens[start : start + last + 1].tolist(), int(follows[start + last])]
            logprobs, _ = self.engine.score(row, int(first) + 1)
            total -= float(np.array(logprobs)[asked - first].sum())
        return total


def texts_of(ids: np.ndarray, documents: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The texts in the rows of a batch.

    Args:
        ids, documents: (B, T); see `GPT2.forward`.

    Returns:
        (B * T,) the ids, and where each text begins and ends in them.
    """
    document = np.where(ids < 0, -1, 0 if documents is None else documents)
    begins = np.ones(ids.shape, bool)  # a text or padding begins here
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], ids.size)
    text = document.reshape(-1)[starts] >= 0
    return ids.reshape(-1), starts[text], ends[text]


def check_positions(positions: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Raise `UsageError` where the positions of a text are not 0, 1, 2 …"""
    for start, end in zip(starts, ends, strict=True):
        if not np.array_equal(positions[start:end], np.arange(end - start)):
            raise UsageError("The native engine counts positions on from 0 in each text.", fix="--backend torch")


def model_of(engine: NativeEngine) -> Model:
    """What tasks ask, over an engine: its network, whose language head is in the engine alone."""
    return _over(NativeNetwork(engine.native, engine.config, engine), "language")


def _over(network: NativeNetwork, head: str) -> Model:
    """A model over a network, without its head."""
    model = Model.__new__(Model)
    nn.Module.__init__(model)
    model.config, model.head_kind = network.config, cast(HeadKind, head)
    model.transformer = cast(Any, network)
    return model.eval()


def open_on_native(folder: Path, *, precision: str = "auto", threads: int | None = None) -> Pretrained:
    """The model of a packed folder, on the native engine; arguments and errors as those of `NativeEngine`.

    Raises:
        DataError: a damaged file, or one that does not fit the config.
    """
    from gptwo.model.pretrained import Pretrained, describe

    opened = open_model(folder)
    assert opened.packed is not None
    if opened.head == "language":
        engine = NativeEngine(folder, precision=precision, threads=threads)
        return Pretrained(model_of(engine), engine.tokenizer, engine.config, folder, engine.info)
    pick(precision)
    native = build(opened, opened.packed.choose(precision), threads=threads)
    head, described = read_head(opened.packed), describe(folder)
    labels, width = head["weight"].shape
    if width != opened.config.n_embd or (described.labels and len(described.labels) != labels):
        raise DataError("The packed head does not fit the config.", where=opened.packed.file, fix=AGAIN)
    model = _over(NativeNetwork(native, opened.config), opened.head)
    if opened.head == "token":
        model.dropout = nn.Dropout(0.0)
    projection = nn.Linear(width, labels, bias="bias" in head).requires_grad_(False)
    projection.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in head.items()})
    setattr(model, PROJECTIONS[model.head_kind], projection)
    info = {**opened.info, "labels": described.labels or [f"LABEL_{place}" for place in range(labels)]}
    if described.problem_type:
        info.setdefault("problem_type", described.problem_type)
    return Pretrained(model.eval(), opened.tokenizer, opened.config, folder, info)


def on_native(pretrained: Pretrained, *, precision: str = "auto", threads: int | None = None) -> Pretrained:
    """A model whose network is the native engine; what was given may be forgotten, its blocks are held no longer.

    An adapter that can be merged is merged; through others every text goes.

    Args:
        pretrained: with any head, on the CPU.
        precision: see `NativeEngine`.
        threads: CPU threads; None: those this process may run on.

    Raises:
        MissingError: the engine was not built.
        UsageError: an unknown precision.
    """
    if pretrained.model.head_kind == "language":
        engine = NativeEngine(pretrained, precision=precision, threads=threads)
        network = NativeNetwork(engine.native, engine.config, engine)
    else:
        opened = open_model(pretrained)
        network = NativeNetwork(build(opened, pick(precision), threads=threads), opened.config)
    model = copy.copy(pretrained.model)
    model._modules = {**model._modules, "transformer": network}
    model.config = network.config
    return replace(pretrained, model=model.eval(), config=network.config, adapter=None)

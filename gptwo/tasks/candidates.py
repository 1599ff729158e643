"""Lists to choose from: the candidates of a record are judged together, each as a sequence of its own.

An example holds the sequences of all candidates of a record, one after the other, so that a shuffled batch never parts
them. The label of a sequence's last token is the candidate's grade + 1; 0 marks further tokens whose own likelihood
counts. Before the network the sequences become rows.

N records    S candidates of all records    K candidates of the longest list    T tokens    C width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gptwo.data.batching import Batch, Example
from gptwo.generate.native_network import NativeNetwork
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE
from gptwo.tokenizer import PAD_ID

MARK = 0  # label of a token whose likelihood counts


@dataclass(frozen=True)
class Candidates:
    """A batch as the network sees it.

    Args:
        ids: (S, T) a candidate a row, padded on the right; the candidates of a record stand together.
        lengths: (S,) tokens of each.
        counted: (S, T) tokens whose own likelihood counts.
        grades: (N, K) of each candidate, -1 beyond the end of a list.
        sizes: candidates of each of the N records.
    """

    ids: Tensor
    lengths: Tensor
    counted: Tensor
    grades: Tensor
    sizes: list[int]

    def grid(self, values: Tensor, fill: float = float("-inf")) -> Tensor:
        """(S,) values as (N, K), filled up where a list is shorter."""
        return pad_sequence(list(values.split(self.sizes)), batch_first=True, padding_value=fill)


def join(
    sequences: Sequence[Sequence[int]],
    grades: Sequence[int],
    index: int,
    truncated: int = 0,
    counted_from: Sequence[int] | None = None,
) -> Example:
    """One example of the candidates of a record.

    Args:
        sequences: token ids of each candidate, at least one.
        grades: of each, from 0.
        index, truncated: as in `Example`.
        counted_from: for each, the first token whose likelihood counts.
    """
    ids: list[int] = []
    labels: list[int] = []
    for place, sequence in enumerate(sequences):
        first = counted_from[place] if counted_from is not None else len(sequence) - 1
        ids += sequence
        labels += [IGNORE] * first + [MARK] * (len(sequence) - 1 - first) + [grades[place] + 1]
    return Example(ids, labels, index=index, truncated=truncated)


def unfold(batch: Batch) -> Candidates:
    """The candidates of a batch as rows."""
    assert batch.labels is not None
    kept = (batch.ids >= 0).flatten()
    ids, labels = batch.ids.flatten()[kept], batch.labels.flatten()[kept]
    ends = (labels > MARK).nonzero().squeeze(1)  # (S,) among the tokens that are kept
    lengths = ends.diff(prepend=ends.new_tensor([-1]))
    owner = owner_of(batch, kept.nonzero().squeeze(1)[ends])  # (S,)
    turn = owner.argsort(stable=True)
    parts = lengths.tolist()

    def rows(values: Tensor, fill: int) -> Tensor:
        return pad_sequence(list(values.split(parts)), batch_first=True, padding_value=fill)[turn]

    sizes = owner.bincount(minlength=len(batch.indices)).tolist()
    grades = (labels[ends] - 1)[turn]
    table = pad_sequence(list(grades.split(sizes)), batch_first=True, padding_value=-1)
    return Candidates(rows(ids, PAD_ID), lengths[turn], rows(labels, IGNORE) >= MARK, table, sizes)


def owner_of(batch: Batch, where: Tensor) -> Tensor:
    """The example, by its place in the batch, that each token belongs to.

    Args:
        where: (M,) places of tokens in the flattened rows.
    """
    assert batch.last is not None
    order = batch.last.argsort()
    return order[torch.searchsorted(batch.last[order], where)]


def head_scores(model: Model, found: Candidates) -> Tensor:
    """(S,) scores of the candidates by a head of one label at their last tokens, float32."""
    return model.logits(last_states(model, found)).float().squeeze(1)


def last_states(model: Model, found: Candidates) -> Tensor:
    """(S, C) hidden states of the candidates' last tokens."""
    return model.transformer(found.ids, read=by_last(found).last)


def by_last(found: Candidates) -> Batch:
    """The rows of candidates, read at their last tokens."""
    S, T = found.ids.shape
    return Batch(found.ids, last=torch.arange(S, device=found.ids.device) * T + found.lengths - 1)


def by_counted(found: Candidates) -> Batch:
    """The rows of candidates, read where the next token's likelihood counts; that token is the label."""
    next_ids = found.ids[:, 1:].where(found.counted[:, 1:], IGNORE)
    return Batch(found.ids, labels=F.pad(next_ids, (0, 1), value=IGNORE))


def likelihoods(model: Model, found: Candidates, weight: Tensor | None = None) -> Tensor:
    """(S,) mean log-likelihood of the counted tokens of each candidate, in nats, float32.

    Args:
        weight: (V, C) vocabulary projection; None is the model's own, which it has as a language head.
    """
    network = model.transformer
    if weight is None and isinstance(network, NativeNetwork):
        return torch.tensor(native_likelihoods(network, found), dtype=torch.float32)
    if weight is None:
        weight = model.projection.weight
    counted = found.counted[:, 1:]  # (S, T - 1)
    before = F.pad(counted, (0, 1)).flatten().nonzero().squeeze(1)  # what stands at a token predicts the next one
    hidden = model.transformer(found.ids, read=before)  # (counted tokens, C)
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()  # (counted tokens, V)
    each = -F.cross_entropy(logits, found.ids[:, 1:][counted], reduction="none")
    sizes = counted.sum(1)
    total = each.new_zeros(len(sizes)).index_add(0, counted.nonzero()[:, 0], each)
    return total / sizes.clamp(min=1)


def native_likelihoods(network: NativeNetwork, found: Candidates) -> list[float]:
    """As `likelihoods`, by the native engine; what candidates begin with alike is read once."""
    rows, starts = [], []
    for ids, length, counted in zip(found.ids.tolist(), found.lengths.tolist(), found.counted.tolist(), strict=True):
        rows.append(ids[:length])
        starts.append(counted.index(True, 1))  # from there to the end
    return [float(np.mean(nats)) for nats, _ in network.judge(rows, starts)]


def listwise_loss(scores: Tensor, grades: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum over records of the cross-entropy of softmax(scores) against the grades' shares.

    With one candidate of grade 1 this is plain cross-entropy over the list. Cao et al. 2007, "Learning to Rank: From
    Pairwise Approach to Listwise Approach" (with the grades themselves as shares).

    Args:
        scores: (N, K), -inf beyond the end of a list.
        grades: (N, K), -1 beyond the end of a list.
        label_smoothing: share of the target spread evenly over the list.
    """
    real = grades >= 0
    wanted = grades.clamp(min=0).float()
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-12)
    even = real / real.sum(1, keepdim=True)
    wanted = (1 - label_smoothing) * wanted + label_smoothing * even
    return -(wanted * scores.log_softmax(1).masked_fill(~real, 0.0)).sum()


def pairwise_loss(scores: Tensor, grades: Tensor) -> Tensor:
    """Sum over records of the mean of log(1 + exp(s_j - s_i)) over all pairs where i is the better candidate.

    Burges et al. 2005, "Learning to Rank using Gradient Descent". Arguments as in `listwise_loss`.
    """
    better = (grades[:, :, None] > grades[:, None, :]) & (grades >= 0)[:, None, :]  # (N, K, K)
    kept = scores.masked_fill(grades < 0, 0.0)
    losses = F.softplus(kept[:, None, :] - kept[:, :, None]).masked_fill(~better, 0.0)
    return (losses.sum((1, 2)) / better.sum((1, 2)).clamp(min=1)).sum()


def table_of(scores: Sequence[np.ndarray], grades: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Scores and grades of N records as the losses take them: (N, K) each."""
    return (
        pad_sequence([torch.as_tensor(row).float() for row in scores], batch_first=True, padding_value=float("-inf")),
        pad_sequence([torch.as_tensor(row) for row in grades], batch_first=True, padding_value=-1),
    )

"""From logits to the next token: penalties, filters and the draw, each a plain function.

The order is that of transformers' `generate`, so the same options give the same distribution:

    logit_bias -> repetition -> presence, frequency -> no_repeat_ngram -> min_new_tokens
    -> temperature -> top_k -> top_p -> min_p -> draw

    R rows (sequences)    V vocabulary    W tokens of history
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gptwo.generate.options import SamplingOptions

MINUS_INFINITY = float("-inf")
CANDIDATES = 512  # tokens that top_p sorts on a CPU before it falls back to sorting the vocabulary


# --- functions that need the logits alone


def bias_logits(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add bias[id] to the logits of each id; (R, V) -> (R, V)."""
    ids = torch.tensor(list(bias), device=logits.device)
    values = torch.tensor(list(bias.values()), device=logits.device, dtype=logits.dtype)
    return logits.index_add(1, ids, values.expand(logits.shape[0], -1))


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature, the largest logit moved to 0 first so that nothing overflows."""
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Only the k largest logits of each row stay, ties with the k-th included; the others become -inf.

    Fan et al. 2018, "Hierarchical Neural Story Generation".
    """
    threshold = torch.topk(logits, min(k, logits.shape[-1])).values[:, -1:]  # (R, 1)
    return logits.masked_fill(logits < threshold, MINUS_INFINITY)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Only the fewest likeliest tokens that together reach probability p stay, ties with the last included.

    On a CPU the few likeliest tokens are looked at first, because sorting a whole vocabulary takes longer than
    choosing them; where they do not reach p, everything is sorted.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    V = logits.shape[-1]
    log_total = logits.logsumexp(-1, keepdim=True)  # (R, 1)
    for count in (V,) if logits.is_cuda or CANDIDATES >= V else (CANDIDATES, V):
        values = torch.topk(logits, count).values if count < V else logits.sort(-1, descending=True).values
        probabilities = (values - log_total).exp()
        before = probabilities.cumsum(-1) - probabilities  # what the likelier tokens reach without this one
        inside = before < p
        inside[:, 0] = True
        if count == V or not bool(inside[:, -1].any()):
            break
    threshold = values.masked_fill(~inside, float("inf")).amin(-1, keepdim=True)  # (R, 1)
    return logits.masked_fill(logits < threshold, MINUS_INFINITY)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Only tokens at least p times as likely as the likeliest stay.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".
    """
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), MINUS_INFINITY)


# --- functions that look back at the text


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Positive logits of tokens seen are divided by the penalty, negative ones multiplied.

    `seen` is (R, V) boolean. Keskar et al. 2019, "CTRL", section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalise_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """Subtract `presence` once and `frequency` per occurrence; `counts` (R, V) is of generated tokens only."""
    return logits - presence * (counts > 0) - frequency * counts


def ban_repeated_ngrams(logits: Tensor, ids: Tensor, size: int) -> Tensor:
    """Tokens that would complete an n-gram of `size` tokens that stands in the row already become -inf.

    `ids` is (R, W), padded on the left with negative numbers. Paulus et al. 2017, section 2.5.
    """
    if ids.shape[1] < size:
        return logits
    suffix = ids[:, ids.shape[1] + 1 - size :]  # (R, size - 1)
    windows = ids.unfold(1, size, 1)  # (R, W - size + 1, size)
    same = (windows[..., :-1] == suffix[:, None]).all(-1) & (windows[..., 0] >= 0)
    V = logits.shape[-1]
    banned = torch.zeros(logits.shape[0], V + 1, dtype=torch.bool, device=logits.device)
    last = windows[..., -1]
    banned.scatter_(1, torch.where(same & (last < V), last, V), True)  # column V takes what is not banned
    return logits.masked_fill(banned[:, :V], MINUS_INFINITY)


class History:
    """What the penalties of `options` need to know of the text so far, and no more; updated token by token.

    Args:
        options: of all rows.
        prompts: R lists of token ids.
        generated: R lists of token ids already generated after the prompts.
        vocab_size: V, columns of the logits.
        end_id: the token that min_new_tokens holds back, or None.
    """

    def __init__(
        self,
        options: SamplingOptions,
        prompts: Sequence[Sequence[int]],
        generated: Sequence[Sequence[int]],
        vocab_size: int,
        end_id: int | None,
        device: torch.device | str = "cpu",
    ):
        self.options, self.end_id = options, end_id
        rows = [[*prompt, *new] for prompt, new in zip(prompts, generated, strict=True)]
        self.seen = self.counts = self.ids = self.lengths = None
        if options.repetition_penalty != 1:
            self.seen = _counted(rows, vocab_size, device) > 0
        if options.presence_penalty or options.frequency_penalty:
            self.counts = _counted(generated, vocab_size, device)
        if options.no_repeat_ngram:
            width = max(len(row) for row in rows)
            padded = [[-1] * (width - len(row)) + row for row in rows]
            self.ids = torch.tensor(padded, dtype=torch.long, device=device).reshape(len(rows), width)
        if options.min_new_tokens and end_id is not None:
            self.lengths = torch.tensor([len(new) for new in generated], device=device)

    def append(self, ids: Tensor) -> None:
        """One new token per row, (R,)."""
        column = ids[:, None]
        if self.seen is not None:
            self.seen.scatter_(1, column, True)
        if self.counts is not None:
            self.counts.scatter_add_(1, column, torch.ones_like(column, dtype=self.counts.dtype))
        if self.ids is not None:
            self.ids = torch.cat([self.ids, column], 1)
        if self.lengths is not None:
            self.lengths += 1

    def select(self, rows: Tensor) -> None:
        """Row i becomes old row rows[i]."""
        for name in ("seen", "counts", "ids", "lengths"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[rows])


def _counted(rows: Sequence[Sequence[int]], vocab_size: int, device: torch.device | str) -> Tensor:
    """How often each token stands in each row, (R, V)."""
    counts = np.zeros((len(rows), vocab_size), dtype=np.float32)
    for count, row in zip(counts, rows, strict=True):
        np.add.at(count, [token for token in row if 0 <= token < vocab_size], 1)
    return torch.from_numpy(counts).to(device)


# --- the pipeline and the draw


def constrain(logits: Tensor, options: SamplingOptions, history: History) -> Tensor:
    """What holds for greedy choice, sampling and beam search alike: bias, penalties and bans; (R, V) -> (R, V).

    A row whose every token would be banned is left without its bans.
    """
    if options.logit_bias:
        logits = bias_logits(logits, options.logit_bias)
    if history.seen is not None:
        logits = penalise_repetition(logits, history.seen, options.repetition_penalty)
    if history.counts is not None:
        logits = penalise_counts(logits, history.counts, options.presence_penalty, options.frequency_penalty)
    free = logits
    if history.ids is not None:
        logits = ban_repeated_ngrams(logits, history.ids, options.no_repeat_ngram)
    if history.lengths is not None:
        early = (history.lengths < options.min_new_tokens)[:, None]
        ends = torch.arange(logits.shape[-1], device=logits.device) == history.end_id
        logits = logits.masked_fill(early & ends, MINUS_INFINITY)
    if logits is not free:
        logits = torch.where(logits.amax(-1, keepdim=True) == MINUS_INFINITY, free, logits)
    return logits


def shape(logits: Tensor, options: SamplingOptions) -> Tensor:
    """What sampling does to the distribution: temperature, top_k, top_p, min_p; (R, V) -> (R, V)."""
    if options.temperature != 1:
        logits = scale_temperature(logits, options.temperature)
    if options.top_k:
        logits = keep_top_k(logits, options.top_k)
    if options.top_p < 1:
        logits = keep_top_p(logits, options.top_p)
    if options.min_p:
        logits = keep_min_p(logits, options.min_p)
    return logits


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row by inverting the cumulative distribution, (R, V) and (R,) in [0, 1) -> (R,).

    Tokens are walked in the order of their ids: rounding of another batch shape then moves a border by some 1e-7
    of probability, while in sorted order two near-equal tokens could change places with all their mass.
    """
    cumulative = logits.softmax(-1, dtype=torch.float32).cumsum(-1, dtype=torch.float64)  # (R, V)
    total = cumulative[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)

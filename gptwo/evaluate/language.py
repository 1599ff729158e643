"""How well a network predicts text: loss per token, perplexity, and bits per byte.

Bits per byte divide by the bytes of the text, so networks with different vocabularies, and compressors, compare.

    B rows    T tokens in a row
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptwo.data.batching import Batch, Example, collate
from gptwo.data.shards import Shards
from gptwo.errors import UsageError
from gptwo.generate.native_network import NativeNetwork
from gptwo.model.heads import Model
from gptwo.model.loss import IGNORE, linear_cross_entropy
from gptwo.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextScore:
    """The cost of a text under a network.

    Args:
        nats: negative log-likelihood, summed over tokens.
        tokens: tokens that were predicted.
        bytes: bytes of UTF-8 they stand for.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite above what a float holds."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits to write one byte of the text."""
        return self.nats / math.log(2) / max(1, self.bytes)

    def __add__(self, other: TextScore) -> TextScore:
        return TextScore(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    def metrics(self) -> dict[str, float]:
        """The three figures by name."""
        return {"loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def language_loss(model: Model, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the labels of a batch in nats, summed; the model has a language head."""
    places, labels = batch.learned()
    hidden = model.transformer(batch.ids, batch.positions, batch.documents, read=places)  # (B, T, C) or (labels, C)
    return linear_cross_entropy(hidden, model.projection.weight, labels, label_smoothing=label_smoothing)


@torch.inference_mode()
def score_batches(
    model: Model, batches: Iterable[Batch], token_bytes: np.ndarray, precision: str = "fp32"
) -> TextScore:
    """The cost of batches of running text.

    Args:
        model: with a language head, in eval mode.
        batches: with labels.
        token_bytes: (V,) bytes each token stands for (`bytes_of_tokens`).
        precision: of matrix products, "fp32" or "bf16".
    """
    device = next(model.parameters()).device
    nats, tokens, size = 0.0, 0, 0
    for batch in batches:
        labels = batch.labels
        if labels is None:
            raise UsageError("A batch without labels has no loss.")
        batch = batch.to(device)
        if isinstance(model.transformer, NativeNetwork):
            nats += model.transformer.nats(batch.ids, batch.documents, labels)
        else:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                nats += float(language_loss(model, batch))
        real = labels[labels != IGNORE].numpy()
        tokens += len(real)
        size += int(token_bytes[real].sum())
    return TextScore(nats, tokens, size)


def bytes_of_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) how many bytes of text each id stands for; 0 for the end token, which stands for none."""
    sizes = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], dtype=np.int64)
    if tokenizer.end_id is not None:
        sizes[tokenizer.end_id] = 0
    return sizes


def score_shards(
    model: Model,
    shards: Shards,
    token_bytes: np.ndarray,
    *,
    block: int,
    rows: int = 8,
    limit: int | None = None,
    precision: str = "fp32",
) -> TextScore:
    """The cost of token shards, cut into blocks without overlap, spread evenly where only `limit` batches are read."""

    def batches() -> Iterator[Batch]:
        blocks = max(1, (shards.tokens - 1) // block)
        chosen = range(blocks)
        if limit and blocks > limit * rows:
            chosen = [i * blocks // (limit * rows) for i in range(limit * rows)]
        for start in range(0, len(chosen), rows):
            texts = [
                shards.read(i * block, min(block + 1, shards.tokens - i * block)) for i in chosen[start : start + rows]
            ]
            yield collate([Example(text[:-1].tolist(), text[1:].tolist()) for text in texts if len(text) > 1])

    return score_batches(model, batches(), token_bytes, precision)


def score_texts(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    stride: int | None = None,
    rows: int = 8,
    precision: str = "fp32",
) -> TextScore:
    """The cost of documents, each begun by the end token and read in windows.

    Args:
        model: with a language head, in eval mode.
        texts: documents.
        stride: new tokens in each window after the first; the rest of it is context. None: half the positions.

    Returns:
        The score over all documents; the end of a document is not counted.

    Raises:
        UsageError: a stride outside 1..n_positions.
    """
    size = model.config.n_positions
    stride = stride or max(1, size // 2)
    if not 1 <= stride <= size:
        raise UsageError(f"The stride must lie in 1..{size}, not {stride}.", where="--stride")
    first = tokenizer.start_id if tokenizer.start_id is not None else tokenizer.end_id
    windows: list[Example] = []
    for ids in tokenizer.encode_batch(list(texts)):
        ids = ([first] if first is not None else []) + ids
        done = 1  # ids[0] is given
        while done < len(ids):
            end = min(len(ids), done + (stride if done > 1 else size))
            begin = max(0, end - size - 1)
            window = ids[begin:end]
            labels = [IGNORE] * (done - begin - 1) + ids[done:end]
            windows.append(Example(window[:-1], labels))
            done = end
    windows.sort(key=lambda window: len(window.ids))
    batches = (collate(windows[start : start + rows]) for start in range(0, len(windows), rows))
    return score_batches(model, batches, bytes_of_tokens(tokenizer), precision)

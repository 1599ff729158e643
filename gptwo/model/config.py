"""The shape of a GPT-2: one dataclass with the field names of Hugging Face's config.json, and the published sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gptwo.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class GPT2Config:
    """Sizes and switches of a GPT-2 network.

    Args:
        vocab_size: rows of the token embedding; ids run from 0 to vocab_size - 1.
        n_positions: the longest sequence, in tokens (learned positions).
        n_embd: width of the hidden states; a multiple of n_head.
        n_layer: number of blocks.
        n_head: attention heads in each block.
        n_inner: width of the MLP's middle; None means 4 * n_embd.
        embd_pdrop, resid_pdrop, attn_pdrop: dropout after the embeddings, on what a block adds to the
            residual stream, and on the attention weights; 0 to 1.
        layer_norm_epsilon: added to the variance in every layer norm.
        initializer_range: standard deviation of fresh weights; projections into the residual stream get
            initializer_range / sqrt(2 * n_layer) (GPT-2 paper, section 2.3).
        scale_attn_by_inverse_layer_idx: divide the attention scores of block i by i + 1 (Mistral's GPT-2 runs).
        tie_word_embeddings: the vocabulary projection is the token embedding.

    Raises:
        UsageError: a size below 1, a rate outside 0..1, or n_embd not a multiple of n_head.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self):
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.", where=f"model.{name}")
        for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} must lie in 0..1, not {getattr(self, name)}.", where=f"model.{name}")
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}.",
                where="model.n_embd",
                fix=f"n_embd = {max(1, self.n_embd // self.n_head) * self.n_head}",
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def inner(self) -> int:
        """Width of the MLP's middle."""
        return self.n_inner or 4 * self.n_embd

    def with_dropout(self, rate: float) -> GPT2Config:
        """The same network with all three dropout rates set to `rate`."""
        return replace(self, embd_pdrop=rate, resid_pdrop=rate, attn_pdrop=rate)


# Radford et al. 2019, table 2; the names are those of the released checkpoints.
PRESETS: dict[str, GPT2Config] = {
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
}


def preset(name: str) -> GPT2Config:
    """The config of a published size.

    Raises:
        UsageError: no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}.", where="model.preset", fix=did_you_mean(name, PRESETS))
    return PRESETS[name]

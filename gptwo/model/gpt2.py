"""GPT-2: token ids in, hidden states out (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Heads and losses stand outside, in heads.py and loss.py. Module names are those of Hugging Face's GPT2Model, so
weights and adapters travel; linear layers are plain `nn.Linear` (the transposes are in weights.py).

    B rows (sequences, or packed sequences)    C width of the hidden states (n_embd)
    T tokens in a row                          H heads, D width of a head; C = H * D
    S tokens seen so far, cache included       V vocabulary
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gptwo.errors import UsageError
from gptwo.model.attention import attention_mask, blocked_attention, blocked_attention_pays
from gptwo.model.cache import Beginning, KeyValues
from gptwo.model.config import GPT2Config


class Attention(nn.Module):
    """Causal self-attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        self.layer = layer
        self.heads = config.n_head
        self.scale = 1.0 / math.sqrt(config.head_dim)
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.dropout = config.attn_pdrop
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Beginning | None, read: Tensor | None = None) -> Tensor:
        B, T, C = x.shape
        query, key, value = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, T, C) -> (B, H, T, D)
            for part in self.c_attn(x).split(C, dim=2)
        )
        if cache is not None:
            key, value = cache.append(self.layer, key, value)  # (B, H, S, D)
        dropout = self.dropout if self.training else 0.0
        if blocked_attention_pays(query, key):
            mixed = blocked_attention(query, key, value, mask, self.scale, dropout)
        else:
            mixed = F.scaled_dot_product_attention(
                query, key, value, mask, dropout, is_causal=mask is None and T > 1, scale=self.scale
            )  # (B, H, T, D)
        mixed = mixed.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(_at(mixed, read)))


class MLP(nn.Module):
    """Two linear layers around GELU in its tanh form (Hendrycks & Gimpel 2016, section 2)."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner)
        self.c_proj = nn.Linear(config.inner, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)  # (B, T, inner)
        if self.training and x.device.type == "cpu":
            # The backward pass computes GELU again: a quarter fewer activations for a hundredth of the time.
            draws = type(self.c_proj) is not nn.Linear  # an adapter's layer may have dropout of its own
            return self.dropout(checkpoint(self.project, x, use_reentrant=False, preserve_rng_state=draws))
        return self.dropout(self.project(x))

    def project(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(x, approximate="tanh"))


class Block(nn.Module):
    """Attention, then MLP, each after its own layer norm and added to the residual stream."""

    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Beginning | None, read: Tensor | None = None) -> Tensor:
        x = _at(x, read) + self.attn(self.ln_1(x), mask, cache, read)
        return x + self.mlp(self.ln_2(x))


def _at(x: Tensor, read: Tensor | None) -> Tensor:
    """The tokens at some places of the flattened rows, (B, T, C) -> (N, C); all of them as they are for None."""
    return x if read is None else x.flatten(0, 1).index_select(0, read)


class GPT2(nn.Module):
    """The network up to its last layer norm.

    Args:
        config: sizes and switches.

    Attributes:
        prefix: keys and values that every row sees before its first token, from an adapter (gptwo/adapt/prefix.py);
            None without one. It takes the first `prefix.tokens` positions; config.n_positions are those left.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations
            (Chen et al. 2016); set it before training where memory is short.
    """

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.register_module("prefix", None)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KeyValues | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of a batch.

        Args:
            ids: (B, T) token ids; a negative id is padding and may stand anywhere that `documents` says -1,
                or at the end of a row.
            positions: (B, T) or (T,) position of each token, 0 to n_positions - 1; counted on from the cache's
                length when None.
            documents: (B, T) which document each token belongs to; a token sees the earlier tokens of its own
                document only. None: each row is one document. With padding on the left, or several documents
                packed into a row, this and `positions` make the result equal to each document alone.
            cache: keys and values of earlier tokens; the new ones are added to it.
            read: (N,) places in the flattened B * T whose hidden states are wanted; the last block computes no others
                behind its attention. None: all.

        Returns:
            (B, T, C) hidden states after the last layer norm, those of padding without meaning; (N, C) with `read`.

        Raises:
            UsageError: more tokens than positions, or more than the cache can hold.
        """
        T = ids.shape[1]
        if positions is None:
            past = 0 if cache is None else cache.length
            if past + T > self.config.n_positions:
                raise UsageError(
                    f"The sequence has {past + T} tokens; this network has {self.config.n_positions} positions.",
                    fix="shorten the text, or cut it into windows",
                )
            positions = torch.arange(past, past + T, device=ids.device)
        before, kept = 0, cache
        if self.prefix is not None:
            before, kept = self.prefix.tokens, self.prefix.stand_before(self, cache)
            positions = positions + before
        if cache is None:
            mask = attention_mask(T, documents, 0, ids.device, before)
        else:
            mask = cache.reserve(T, documents)

        x = self.drop(self.wte(ids.clamp(min=0)) + self.wpe(positions))  # (B, T, C)
        for block in self.h:
            wanted = read if block is self.h[-1] else None
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, mask, kept, wanted, use_reentrant=False)
            else:
                x = block(x, mask, kept, wanted)
        if cache is not None:
            cache.advance(T)
        return self.ln_f(x)


def initialise(module: nn.Module, config: GPT2Config, generator: torch.Generator | None = None) -> None:
    """Fresh weights for a network or a part of it (GPT-2 paper, section 2.3).

    Normal(0, initializer_range) for matrices, smaller by sqrt(2 * n_layer) for the two projections into the
    residual stream of each block; zero biases; layer norms at one and zero.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear | nn.Embedding):
            std = config.initializer_range
            if name.endswith("c_proj"):
                std /= math.sqrt(2 * config.n_layer)
            nn.init.normal_(part.weight, std=std, generator=generator)
            if getattr(part, "bias", None) is not None:
                nn.init.zeros_(part.bias)

"""The key/value cache: what attention has already seen, in buffers of a fixed size."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gptwo.errors import UsageError
from gptwo.model.attention import attention_mask
from gptwo.model.config import GPT2Config

# B rows (sequences), H heads, L slots (the longest sequence), D width of a head, T new tokens


class Beginning(Protocol):
    """What attention asks of a cache: `Cache`, whoever stands in its place, and `Before`."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take the keys and values of new tokens in one layer; returns those that they see, their own at the end."""


class KeyValues(Beginning, Protocol):
    """What `GPT2.forward` asks of a cache."""

    @property
    def length(self) -> int:
        """Tokens so far."""

    def reserve(self, new: int, documents: Tensor | None) -> Tensor | None:
        """Make room for `new` tokens; returns what each of them sees, a mask as of `attention_mask`."""

    def advance(self, new: int) -> None:
        """Count `new` tokens as seen."""


class Cache:
    """Keys and values of every layer for a batch of sequences.

    All rows fill the same number of slots. Rows of different length are padded on the left: their first slots
    carry document -1 and no token sees them.

    Args:
        config: the network's shape.
        batch: rows B.
        length: slots L, at most config.n_positions tokens of each row can be real.
        device, dtype: where and in which precision keys and values are held.
    """

    def __init__(
        self,
        config: GPT2Config,
        batch: int,
        length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        shape = (config.n_layer, batch, config.n_head, length, config.head_dim)  # (layers, B, H, L, D)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.documents: Tensor | None = None  # (B, L) once a row has padding or several documents
        self.prefix = 0  # slots before the first token, filled by `begin_with`
        self.length = 0

    @property
    def batch(self) -> int:
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[3] - self.prefix

    def begin_with(self, keys: Tensor, values: Tensor) -> None:
        """Put keys and values that every row sees before its first token, (layers, H, P, D); they count as no token."""
        self.prefix = keys.shape[2]
        for name, first in (("keys", keys), ("values", values)):
            slots = getattr(self, name)  # (layers, B, H, L, D)
            first = first[:, None].expand(-1, slots.shape[1], -1, -1, -1).to(slots.dtype)
            setattr(self, name, torch.cat([first, slots], 3))

    def reserve(self, new: int, documents: Tensor | None) -> Tensor | None:
        """Note the documents of `new` tokens; returns the mask of what they see, as `attention_mask` does.

        Raises:
            UsageError: the cache has fewer than `new` free slots.
        """
        if self.length + new > self.capacity:
            raise UsageError(
                f"The cache holds {self.capacity} tokens; {self.length} are in it and {new} more were given.",
                fix="trim the sequence, or make the cache longer",
            )
        seen = None
        if documents is not None or self.documents is not None:
            if self.documents is None:
                self.documents = torch.zeros(self.batch, self.capacity, dtype=torch.long, device=self.keys.device)
            span = slice(self.length, self.length + new)
            self.documents[:, span] = 0 if documents is None else documents
            seen = self.documents[:, : self.length + new]
        return attention_mask(new, seen, self.length, self.keys.device, self.prefix)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, H, T, D) of one layer; returns all of that layer, (B, H, prefix + S, D)."""
        start = self.prefix + self.length
        end = start + keys.shape[2]
        self.keys[layer, :, :, start:end] = keys
        self.values[layer, :, :, start:end] = values
        return self.keys[layer, :, :, :end].to(keys.dtype), self.values[layer, :, :, :end].to(keys.dtype)

    def advance(self, new: int) -> None:
        """Count `new` tokens as seen, after every layer has appended them."""
        self.length += new

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """Row i becomes a copy of old row rows[i]; rows may repeat or leave some out (beams, finished sequences).

        Args:
            since: the first token that needs to be moved, where rows stay as many as they are and old row rows[i] has
                the same tokens as row i before it (beams of one prompt): only the tokens from there on are copied.
        """
        if since:
            self._move(rows, slice(self.prefix + since, self.prefix + self.length))
        else:
            filled = slice(0, self.prefix + self.length)
            for name in ("keys", "values"):
                old = getattr(self, name)  # (layers, B, H, L, D)
                new = old.new_empty(old.shape[0], len(rows), *old.shape[2:])
                new[..., filled, :] = old[..., filled, :][:, rows]
                setattr(self, name, new)
        if self.documents is not None:
            self.documents = self.documents[rows]

    def _move(self, rows: Tensor, span: slice) -> None:
        """Copy the slots of `span` from old rows into those that get another one."""
        changed = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        for slots in (self.keys, self.values):
            slots[:, changed, :, span] = slots[:, rows[changed], :, span]

    def repeat(self, times: int) -> None:
        """Each row becomes `times` neighbouring copies."""
        self.reorder(torch.arange(self.batch, device=self.keys.device).repeat_interleave(times))


class Before:
    """Keys and values that stand before those of a whole pass: what takes a cache's place where nothing is kept.

    Args:
        keys, values: (layers, H, P, D), seen by every row.
    """

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values = keys, values

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer with the prefix before them, (B, H, P + T, D)."""
        rows = keys.shape[0]
        first = (part[layer].to(keys.dtype).expand(rows, -1, -1, -1) for part in (self.keys, self.values))
        return torch.cat([next(first), keys], 2), torch.cat([next(first), values], 2)

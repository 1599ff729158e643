"""Keys and values of texts that run together, come and go, and are of different lengths.

All texts end in the same column, so a step writes one column and attention reads one slice, without gathering:

    row 0    . . . . a b c d e|          a text that joins is laid before the end,
    row 1    . . a b c d e f g|          one that leaves gives its place to the last row,
    row 2    . . . . . . . a b|          columns before the longest text are not read

    R rows (texts)    H heads    S columns, L of them allocated    D width of a head
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config

SLACK = 32  # columns beyond the texts when the buffers are laid anew, or a quarter of them where that is more


def columns_for(longest: int) -> int:
    """Columns that are allocated for texts of at most so many tokens."""
    return longest + max(SLACK, longest // 4)


class RowsCache:
    """Stands where `GPT2.forward` takes a cache, for one new token of each row.

    Args:
        config: the network's shape.
        device, dtype: where and in which precision keys and values are held.
    """

    def __init__(self, config: GPT2Config, device: torch.device, dtype: torch.dtype):
        self.config, self.device, self.dtype = config, device, dtype
        self.clear()

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        config = self.config
        empty = (config.n_layer, 0, config.n_head, 0, config.head_dim)  # (layers, rows, H, columns, D)
        self.keys = torch.zeros(empty, device=self.device, dtype=self.dtype)
        self.values = torch.zeros(empty, device=self.device, dtype=self.dtype)
        self.documents = torch.zeros(0, 0, dtype=torch.long, device=self.device)
        self.prefix = self.end = 0
        self.starts: list[int] = []  # of each row, the column of its first token

    @property
    def rows(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> int:
        """The first column that is read: virtual tokens must stand right before it."""
        return 0 if self.prefix else min(self.starts, default=0)

    @property
    def length(self) -> int:
        """Columns that are read before the new ones."""
        return self.end - self.first

    @property
    def held(self) -> int:
        """Tokens of all rows."""
        return sum(self.end - start for start in self.starts)

    def join(self, source: Cache, row: int, tokens: int, times: int) -> None:
        """Add rows with the keys and values of the last `tokens` columns of a row of another cache.

        Args:
            times: how many rows, all alike.
        """
        if not self.rows:
            self.clear()
            self.prefix, self.end = source.prefix, tokens
        if self.rows + times > self.keys.shape[1] or tokens > self.end:
            self._lay(self.rows + times, max(self.end - min(self.starts, default=self.end), tokens))
        rows = slice(self.rows, self.rows + times)
        place = slice(self.prefix + self.end - tokens, self.prefix + self.end)
        at = slice(source.prefix + source.length - tokens, source.prefix + source.length)
        for own, other in ((self.keys, source.keys), (self.values, source.values)):
            own[:, rows, :, : self.prefix] = other[:, row, None, :, : self.prefix]
            own[:, rows, :, place] = other[:, row, None, :, at]
        self.documents[rows] = -1
        self.documents[rows, self.end - tokens : self.end] = 0
        self.starts += [self.end - tokens] * times

    def leave(self, row: int) -> None:
        """Drop a row; the last row takes its number."""
        last = self.rows - 1
        start = self.starts.pop()
        if not self.starts:
            self.clear()
            return
        if row != last:
            self.starts[row] = start
            place = slice(self.prefix + start, self.prefix + self.end)
            for own in (self.keys, self.values):
                own[:, row, :, place] = own[:, last, :, place]
            self.documents[row] = self.documents[last]

    def make_room(self) -> None:
        """Have a free column; to be called before each step of the network."""
        if self.end == self.documents.shape[1]:
            self._lay(self.rows, self.end - min(self.starts))

    # --- as `GPT2.forward` sees it

    def reserve(self, new: int, documents: Tensor | None) -> Tensor | None:
        """What each row sees of the columns that are read and the new one, or None for all of them."""
        self.documents[: self.rows, self.end] = 0
        if max(self.starts) == self.first:
            return None
        return self.documents[: self.rows, self.first : self.end + 1]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new column of one layer, (R, H, 1, D); returns all that is read, (R, H, prefix + S, D)."""
        begin, end = self.first and self.prefix + self.first, self.prefix + self.end
        self.keys[layer, : self.rows, :, end] = keys[:, :, 0]
        self.values[layer, : self.rows, :, end] = values[:, :, 0]
        rows = (self.keys[layer, : self.rows, :, begin : end + 1], self.values[layer, : self.rows, :, begin : end + 1])
        return rows[0].to(keys.dtype), rows[1].to(values.dtype)

    def advance(self, new: int) -> None:
        """Count the column as seen."""
        self.end += new

    def _lay(self, rows: int, width: int) -> None:
        """New buffers for so many rows and for texts of `width` columns, what is held moved to their end."""
        config, begin, used = self.config, min(self.starts, default=self.end), self.rows
        kept = self.end - begin if used else 0
        capacity = 1 << (rows - 1).bit_length()
        columns = columns_for(width)
        shape = (config.n_layer, capacity, config.n_head, self.prefix + columns, config.head_dim)
        documents = torch.full((capacity, columns), -1, device=self.device)
        old, new = (self.prefix + begin, self.prefix + self.end), (self.prefix + width - kept, self.prefix + width)
        for name in ("keys", "values"):
            fresh = torch.zeros(shape, device=self.device, dtype=self.dtype)
            if used:
                held = getattr(self, name)
                fresh[:, :used, :, : self.prefix] = held[:, :used, :, : self.prefix]
                fresh[:, :used, :, new[0] : new[1]] = held[:, :used, :, old[0] : old[1]]
            setattr(self, name, fresh)
        if used:
            documents[:used, width - kept : width] = self.documents[:used, begin : self.end]
        self.documents = documents
        self.starts = [start - begin + width - kept for start in self.starts]
        self.end = width

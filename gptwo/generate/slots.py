"""Keys and values of texts that run together, come and go, and are of different lengths.

    row 0    a b c d e . . .          each text begins in the first column, and its next token goes behind its last;
    row 1    a b c d e f g .          one that joins takes the next row,
    row 2    a b . . . . . .          one that leaves gives its place to the last row

Buffers keep their place in memory until they have to grow, and the lengths lie on the device: that is what lets a
GPU repeat a recorded step.

    R rows (texts)    H heads    S columns    D width of a head    P virtual tokens, which stand before the first column
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptwo.model.cache import Cache
from gptwo.model.config import GPT2Config

SLACK = 32  # columns beyond the texts when the buffers are laid anew, or a quarter of them where that is more
FEWEST = 128  # columns on a GPU


def columns_for(longest: int, device: torch.device) -> int:
    """Columns that are allocated for texts of at most so many tokens; few sizes on a GPU, whose steps are recorded."""
    if device.type == "cuda":
        return max(FEWEST, 1 << (longest - 1).bit_length())
    return longest + max(SLACK, longest // 4)


class Slots:
    """Stands where `GPT2.forward` takes a cache, for one new token of each row.

    Args:
        config: the network's shape.
        device, dtype: where and in which precision keys and values are held.
    """

    def __init__(self, config: GPT2Config, device: torch.device, dtype: torch.dtype):
        self.config, self.device, self.dtype = config, device, dtype
        self.laid = 0  # how often the buffers have moved
        self.prefix = 0  # P
        self.counts: list[int] = []  # tokens of each row
        self.shown = (0, 0)  # rows and columns that the next step works on
        self.recorded = False  # whether that step will be repeated for texts of other lengths
        self._take(0, 0)

    @property
    def rows(self) -> int:
        return len(self.counts)

    @property
    def capacity(self) -> tuple[int, int]:
        """Rows and columns that are allocated."""
        return self.keys.shape[1], self.keys.shape[3] - self.prefix

    @property
    def length(self) -> int:
        """Columns that hold something."""
        return max(self.counts, default=0)

    @property
    def held(self) -> int:
        """Tokens of all rows."""
        return sum(self.counts)

    def join(self, source: Cache, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Add texts that another cache has read.

        Args:
            rows: which row of `source` each of them is; several may be of one.
            tokens: how many it has; they stand in the last columns of `source`.
        """
        if not self.rows and self.prefix != source.prefix:
            self.prefix = source.prefix
            self._take(0, 0)
        self.reserve_room(self.rows + len(rows), max(tokens) + 1)
        first, joined = 0, self.rows
        for start in range(1, len(rows) + 1):  # neighbours of one length are copied together
            alike = start < len(rows) and tokens[start] == tokens[first]
            if not alike or rows[start] != rows[start - 1] + 1:
                into, of = slice(joined + first, joined + start), slice(rows[first], rows[start - 1] + 1)
                self._copy(source, into, of, tokens[first])
                first = start
        self.lengths[joined : joined + len(rows)] = torch.tensor(tokens, device=self.device)
        self.counts += tokens

    def _copy(self, source: Cache, into: slice, of: slice, tokens: int) -> None:
        """The virtual tokens, and the last columns of other rows."""
        at = slice(source.prefix + source.length - tokens, source.prefix + source.length)
        for own, other in ((self.keys, source.keys), (self.values, source.values)):
            if self.prefix:
                own[:, into, :, : self.prefix] = other[:, of, :, : self.prefix]
            own[:, into, :, self.prefix : self.prefix + tokens] = other[:, of, :, at]

    def leave(self, row: int) -> None:
        """Drop a row; the last row takes its number."""
        last = self.rows - 1
        count = self.counts.pop()
        if not self.counts:
            self.clear()
        elif row != last:
            self.counts[row] = count
            self.lengths[row] = count
            for own in (self.keys, self.values):
                own[:, row, :, : self.prefix + count] = own[:, last, :, : self.prefix + count]

    def clear(self) -> None:
        """Drop all rows, and give the memory back; a GPU keeps it for its recorded steps."""
        self.counts = []
        if self.device.type != "cuda":
            self._take(0, 0)

    def select(self, rows: Sequence[int], since: int = 0) -> None:
        """Row i becomes a copy of old row rows[i]; rows may repeat or leave some out.

        Args:
            since: tokens that row i and old row rows[i] have in common: they are not copied.
        """
        if list(rows) != list(range(self.rows)):
            self.reserve_room(len(rows), self.length + 1)
            changed = [i for i, row in enumerate(rows) if i != row]
            into = torch.tensor(changed, dtype=torch.long, device=self.device)
            index = torch.tensor([rows[i] for i in changed], dtype=torch.long, device=self.device)
            span = slice(self.prefix + since if since else 0, self.prefix + self.length)
            for own in (self.keys, self.values):
                own[:, into, :, span] = own[:, index, :, span]
            self.lengths[into] = self.lengths[index]
            self.counts = [self.counts[row] for row in rows]

    def reserve_room(self, rows: int, columns: int) -> None:
        """Have room for so many rows and columns."""
        capacity = self.capacity
        if rows > capacity[0] or columns > capacity[1]:
            self._lay(max(rows, self.rows), max(columns, self.length + 1))

    def show(self, rows: int, columns: int, recorded: bool = False) -> None:
        """Say what the next step works on: these many rows, idle ones included, and the columns that they see."""
        self.shown, self.recorded = (rows, columns), recorded

    # --- as `GPT2.forward` sees it

    def reserve(self, new: int, documents: Tensor | None) -> Tensor | None:
        """What each row sees: the virtual tokens, its own and the new one; None where all see all columns."""
        rows, columns = self.shown
        if not self.recorded and min(self.counts) + 1 == columns:
            return None
        seen = torch.arange(-self.prefix, columns, device=self.device) <= self.lengths[:rows, None]
        return seen[:, None, None]  # (R, 1, 1, P + S)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one layer, (R, H, 1, D); returns all that is read, (R, H, P + S, D)."""
        rows, columns = self.shown
        index, place = torch.arange(rows, device=self.device), self.lengths[:rows] + self.prefix
        found = []
        for own, new in ((self.keys[layer], keys), (self.values[layer], values)):
            own[index, :, place] = new[:, :, 0].to(own.dtype)
            found.append(own[:rows, :, : self.prefix + columns].to(new.dtype))
        return found[0], found[1]

    def advance(self, new: int) -> None:
        """Count the tokens as seen, on the device; idle rows stay within their columns."""
        rows, _ = self.shown
        self.lengths[:rows] = (self.lengths[:rows] + new).clamp(max=self.capacity[1] - 1)

    def grown(self) -> None:
        """Count the tokens of a step as seen, here."""
        self.counts = [count + 1 for count in self.counts]

    # --- inside

    def _take(self, rows: int, columns: int) -> None:
        """Fresh buffers."""
        config = self.config
        shape = (config.n_layer, rows, config.n_head, self.prefix + columns, config.head_dim)
        self.keys = torch.zeros(shape, device=self.device, dtype=self.dtype)
        self.values = torch.zeros(shape, device=self.device, dtype=self.dtype)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=self.device)  # (R,) tokens of each row
        self.laid += 1

    def _lay(self, rows: int, columns: int) -> None:
        """Larger buffers, with what is held in the old ones."""
        keys, values, used, held = self.keys, self.values, self.rows, self.prefix + self.length
        least = self.capacity if self.device.type == "cuda" else (self.capacity[0], 0)
        self._take(max(1 << (rows - 1).bit_length(), least[0]), max(columns_for(columns, self.device), least[1]))
        for own, old in ((self.keys, keys), (self.values, values)):
            own[:, :used, :, :held] = old[:, :used, :, :held]
        self.lengths[:used] = torch.tensor(self.counts, dtype=torch.long, device=self.device)

"""Token shards on disk, read as one long array: what pretraining draws its batches from.

`pack` makes them; `Shards` maps them into memory, so that a corpus larger than memory costs none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptwo.data.documents import iter_documents
from gptwo.data.files import file_sha256
from gptwo.data.manifest import Manifest, ShardFile, SourceCount
from gptwo.data.pack import pack
from gptwo.errors import DataError

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

__all__ = ["Manifest", "ShardFile", "Shards", "SourceCount", "iter_documents", "pack"]


class Shards:
    """A folder of token shards as one sequence of ids; the end id closes every document.

    Args:
        folder: a folder that `pack` made.
        tokenizer: when given, must be the one the shards were made with.

    Attributes:
        manifest: what is in the folder.
        tokens: number of ids.
        end_id: the id that closes a document.

    Raises:
        DataError: no manifest, a missing or incomplete shard, another tokenizer.
    """

    def __init__(self, folder: str | Path, tokenizer: Tokenizer | None = None):
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        self.tokens = self.manifest.tokens
        self.end_id: int = self.manifest.tokenizer["end_id"]
        if tokenizer is not None:
            self.check_tokenizer(tokenizer)
        self._maps = [self._map(shard) for shard in self.manifest.shards]
        self._starts = [0]
        for shard in self.manifest.shards:
            self._starts.append(self._starts[-1] + shard.tokens)
        if self._starts[-1] != self.tokens:
            raise DataError(
                f"The manifest says {self.tokens:,} tokens, its shards hold {self._starts[-1]:,}.", where=self.folder
            )

    def _map(self, shard: ShardFile) -> np.ndarray:
        path, dtype = self.folder / shard.file, self.manifest.numpy_dtype
        size = path.stat().st_size if path.is_file() else None
        if size != shard.tokens * dtype.itemsize:
            raise DataError(
                "A shard is missing." if size is None else "A shard is incomplete.",
                where=path,
                why=f"expected {shard.tokens * dtype.itemsize:,} bytes, found {size or 0:,}",
                fix="Copy the folder again, or pack the texts again with --overwrite.",
            )
        return np.memmap(path, dtype=dtype, mode="r")

    def __len__(self) -> int:
        return self.tokens

    def read(self, start: int, count: int) -> np.ndarray:
        """Ids `start` to `start + count`, as int64, across shard files.

        Raises:
            IndexError: the range leaves 0..tokens.
        """
        if start < 0 or count < 0 or start + count > self.tokens:
            raise IndexError(f"tokens {start}..{start + count} of {self.tokens}")
        result = np.empty(count, dtype=np.int64)
        filled = 0
        number = bisect_right(self._starts, start) - 1
        while filled < count:
            offset = start + filled - self._starts[number]
            part = self._maps[number][offset : offset + count - filled]
            result[filled : filled + len(part)] = part
            filled += len(part)
            number += 1
        return result

    def documents(self) -> Iterator[np.ndarray]:
        """The ids of one document after another, without the end id (an end id inside a text does not occur)."""
        pending: list[np.ndarray] = []
        for start in range(0, self.tokens, 1 << 20):
            block = self.read(start, min(1 << 20, self.tokens - start))
            begin: int = 0
            for end in np.flatnonzero(block == self.end_id).tolist():
                yield np.concatenate([*pending, block[begin:end]])
                pending, begin = [], end + 1
            pending.append(block[begin:])

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise `DataError` unless the shards were made with this tokenizer."""
        mine = self.manifest.tokenizer["fingerprint"]
        if mine != tokenizer.fingerprint:
            raise DataError(
                "The shards were made with another tokenizer.",
                where=self.folder,
                why=f"fingerprint of the shards {mine[:16]}…, of the tokenizer {tokenizer.fingerprint[:16]}…",
                fix="Use the tokenizer the shards were made with, or pack the texts again with this one.",
            )

    def verify(self) -> None:
        """Read every shard and compare its sha256 with the manifest.

        Raises:
            DataError: naming the first shard that differs.
        """
        for shard in self.manifest.shards:
            found = file_sha256(self.folder / shard.file)
            if found != shard.sha256:
                raise DataError(
                    "A shard is damaged.",
                    where=self.folder / shard.file,
                    why=f"sha256 is {found[:16]}…, the manifest says {shard.sha256[:16]}…",
                    fix="Copy the folder again, or pack the texts again with --overwrite.",
                )

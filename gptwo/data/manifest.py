"""The manifest of a folder of token shards: what is in it, from what, made by which tokenizer."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gptwo.errors import DataError

FILE_NAME = "manifest.json"
FORMAT = "gptwo-shards-1"


@dataclass
class ShardFile:
    """One file of token ids: its name in the folder, number of tokens, and sha256 of its bytes."""

    file: str
    tokens: int
    sha256: str


@dataclass
class SourceCount:
    """What came from one input: documents, bytes of UTF-8 text, tokens with the end ids, documents without text."""

    name: str
    files: int = 0
    documents: int = 0
    empty: int = 0
    bytes: int = 0
    tokens: int = 0


@dataclass
class Manifest:
    """What stands in manifest.json.

    Args:
        tokenizer: fingerprint, vocab_size, end_id and kind of the tokenizer.
        dtype: "uint16" or "uint32", little-endian.
        tokens: number of ids in all shards, the end ids included.
        documents: number of documents, each closed by the end id.
        bytes: UTF-8 bytes of their text.
        empty: documents without text, which were left out.
        rejects: rows or lines reported in rejects.jsonl.
        split: "all", or "train" and "valid" where documents were held out.
        inputs: digest of the inputs and settings, by which a second run recognises the same work.
    """

    tokenizer: dict
    dtype: str
    tokens: int
    documents: int
    bytes: int
    empty: int
    rejects: int
    shards: list[ShardFile]
    sources: list[SourceCount]
    split: str = "all"
    inputs: str = ""
    gptwo: str = ""
    format: str = FORMAT
    folder: Path | None = field(default=None, compare=False)

    @property
    def numpy_dtype(self) -> np.dtype:
        """The little-endian type of one id on disk."""
        return np.dtype("<u2" if self.dtype == "uint16" else "<u4")

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0

    def as_json(self) -> dict:
        value = dataclasses.asdict(self)
        value.pop("folder")
        return value

    def write(self, folder: Path) -> None:
        """Write manifest.json under a temporary name and rename it: its presence says the folder is complete."""
        self.folder = folder
        temporary = folder / (FILE_NAME + ".partial")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.as_json(), file, ensure_ascii=False, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / FILE_NAME)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read a folder's manifest.

        Raises:
            DataError: there is none (what is there is said), or it is of another format.
        """
        folder = Path(folder)
        path = folder / FILE_NAME
        if not path.is_file():
            why, fix = (
                "the folder has no manifest.json",
                "Make it with: gptwo data pack FILES --out DIR --tokenizer DIR",
            )
            if not folder.exists():
                why = "the folder does not exist"
            elif (folder / "train" / FILE_NAME).is_file():
                fix = f"It was packed with held-out documents: use {folder / 'train'} or {folder / 'valid'}."
            elif (folder / ".pack").is_dir():
                why = "packing was interrupted and is not finished"
                fix = "Run the same gptwo data pack command again; it goes on where it stopped."
            raise DataError("This is no folder of packed tokens.", where=folder, why=why, fix=fix)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.get("format") != FORMAT:
                raise ValueError(f"its format is {value.get('format')!r}, expected {FORMAT!r}")
            known = {f.name for f in dataclasses.fields(cls)} - {"folder"}
            value = {key: item for key, item in value.items() if key in known}
            value["shards"] = [ShardFile(**shard) for shard in value["shards"]]
            value["sources"] = [SourceCount(**source) for source in value["sources"]]
            return cls(**value, folder=folder)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                "The manifest cannot be read.", where=path, why=str(error), fix="Pack the texts again with --overwrite."
            ) from error

"""Tokenizer files of every common kind, found in a folder or named, to one `Tokenizer`."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers

from gptwo.tokenizer.base import Tokenizer
from gptwo.tokenizer.byte_level import END_OF_TEXT, ByteLevelTokenizer, build_backend


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from a folder or a file."""
    folder = Path(path)
    if (folder / "tokenizer.json").exists():
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        names = ("vocab.json", "merges.txt") if (folder / "vocab.json").exists() else ("encoder.json", "vocab.bpe")
        vocab = json.loads((folder / names[0]).read_text(encoding="utf-8"))
        lines = (folder / names[1]).read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        backend = build_backend(vocab, merges)
    end = END_OF_TEXT if backend.token_to_id(END_OF_TEXT) is not None else None
    return ByteLevelTokenizer(backend, end_token=end)

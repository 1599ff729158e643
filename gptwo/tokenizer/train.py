"""Training a byte-level BPE vocabulary on one's own text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import pre_tokenizers, trainers

from gptwo.tokenizer.byte_level import END_OF_TEXT, ByteLevelTokenizer, build_backend


def train_bpe(sources: Iterable[str | Path], vocab_size: int, *, end_token: str = END_OF_TEXT) -> ByteLevelTokenizer:
    """Train on an iterable of texts (str) or files (Path)."""
    backend = build_backend({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(_texts(sources), trainer)
    model = json.loads(backend.to_str())["model"]
    vocab = {**model["vocab"], end_token: len(model["vocab"])}
    return ByteLevelTokenizer(build_backend(vocab, [tuple(pair) for pair in model["merges"]]), end_token=end_token)


def _texts(sources: Iterable[str | Path]) -> Iterator[str]:
    for source in sources:
        if isinstance(source, Path):
            yield from source.read_text(encoding="utf-8").split(f"\n{END_OF_TEXT}\n")
        else:
            yield source

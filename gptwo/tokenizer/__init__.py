"""Text to token ids and back: byte-level BPE (GPT-2) and BERT vocabularies (Chinese GPT-2) behind one interface."""

from __future__ import annotations

from gptwo.tokenizer.base import PAD_ID, StreamDecoder, Tokenizer
from gptwo.tokenizer.load import TOKENIZER_FILES, find_tokenizer, load_tokenizer
from gptwo.tokenizer.train import train_bpe

__all__ = [
    "PAD_ID",
    "TOKENIZER_FILES",
    "StreamDecoder",
    "Tokenizer",
    "find_tokenizer",
    "load_tokenizer",
    "train_bpe",
]

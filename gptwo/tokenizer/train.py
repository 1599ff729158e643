"""Training a byte-level BPE vocabulary on one's own text, and measuring how few tokens it needs for other text.

Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; over bytes as in GPT-2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import pre_tokenizers, trainers

from gptwo.errors import DataError, UsageError
from gptwo.tokenizer.base import Tokenizer, repair_surrogates
from gptwo.tokenizer.byte_level import END_OF_TEXT, ByteLevelTokenizer, build_backend
from gptwo.tokenizer.sample import CUT, cut_rare_pairs, sample_texts, split_texts
from gptwo.tokenizer.vocabulary import open_text

SMALLEST_VOCABULARY = 257  # the 256 bytes and the end of text
DEFAULT_MAX_BYTES = 32_000_000
PIECE_CHARACTERS = 16_384


def train_bpe(
    sources: Path | Iterable[str | Path],
    vocab_size: int,
    *,
    end_token: str = END_OF_TEXT,
    held_out: float = 0.0,
    max_bytes: int = DEFAULT_MAX_BYTES,
    min_frequency: int = 2,
    seed: int = 0,
) -> ByteLevelTokenizer:
    """Train a byte-level BPE with GPT-2's splitting rule; the end of text is the last id, as in GPT-2.

    Text is streamed: memory depends on `max_bytes` and not on the size of the sources. 32 MB of Chinese alone take
    1.2 GB; with English, whose words repeat, far less (0.5 GB for 20 MB of English and 12 MB of Chinese).

    Args:
        sources: texts (str), files (Path; UTF-8, documents parted by lines that hold `end_token`), or both mixed.
        vocab_size: entries wanted, at least 257. Fewer come out where the text has fewer frequent pairs.
        end_token: closes a text; where it occurs in the sources it parts documents and is never learned as text.
        held_out: share (0 to 1) of each file, or of all texts, that is left out of training, evenly spread; the
            rest is what `split_texts(…, held_out=True)` yields.
        max_bytes: train on an even sample of this many bytes where the sources have more.
        min_frequency: merge only pairs that occur this often.
        seed: of the sample.

    Raises:
        UsageError: a vocabulary below 257, a share outside 0..1, or a bare string in place of an iterable.
        DataError, MissingError: a file is not UTF-8 or not there; there is no text at all.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UsageError(
            f"A vocabulary of {vocab_size} is too small.",
            why="The 256 bytes and the end of text have an entry each.",
            fix=f"Give at least {SMALLEST_VOCABULARY}; 8,000 to 16,000 suit a small model.",
        )
    if isinstance(sources, str):
        raise UsageError("Texts come as a list, files as Path.", fix="train_bpe([text], …) or train_bpe(Path(file), …)")
    sources = [sources] if isinstance(sources, Path) else sources
    sample = sample_texts(_training_texts(sources, end_token, held_out), max_bytes, seed)
    if not any(sample):
        raise DataError("There is no text to train on.", fix="Name files with text, or hold out a smaller share.")

    backend = build_backend({}, [])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(CUT, "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=min_frequency,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(cut_rare_pairs(sample, vocab_size), trainer)
    model = json.loads(backend.to_str())["model"]
    vocab = {**model["vocab"], end_token: len(model["vocab"])}
    return ByteLevelTokenizer(build_backend(vocab, [tuple(pair) for pair in model["merges"]]), end_token=end_token)


@dataclass(frozen=True)
class Compression:
    """How a tokenizer does on a text.

    Args:
        text_bytes: size of the text in UTF-8.
        characters: size of the text in characters.
        tokens: ids it falls into.
    """

    text_bytes: int
    characters: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that one token stands for on average; more is better. 0 without any text."""
        return self.text_bytes / self.tokens if self.tokens else 0.0

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens if self.tokens else 0.0

    def __add__(self, other: Compression) -> Compression:
        return Compression(
            self.text_bytes + other.text_bytes, self.characters + other.characters, self.tokens + other.tokens
        )


def measure(tokenizer: Tokenizer, texts: Iterable[str], *, batch: int = 64) -> Compression:
    """Encode texts, `batch` of them at a time in parallel, and count."""
    total, held = Compression(0, 0, 0), []

    def count(texts: list[str]) -> Compression:
        size = sum(len(repair_surrogates(text).encode("utf-8")) for text in texts)
        return Compression(size, sum(map(len, texts)), sum(map(len, tokenizer.encode_batch(texts))))

    for text in texts:
        held.append(text)
        if len(held) == batch:
            total, held = total + count(held), []
    return total + count(held)


def read_pieces(path: Path, separator: str = END_OF_TEXT, *, longest: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The documents of a text file, long ones in parts of about `longest` characters cut at a line's end if it has one.

    Args:
        path: a UTF-8 file whose documents are parted by lines that hold only `separator`.
    """
    lines: list[str] = []
    size, line = 0, "\n"
    with open_text(path) as file:
        while True:
            begins = line.endswith("\n")  # a line that is too long comes in several parts
            if not (line := file.readline(longest)):
                break
            ends = begins and line.strip() == separator
            if not ends:
                lines.append(line)
                size += len(line)
            if lines and (ends or size >= longest):
                yield "".join(lines)
                lines, size = [], 0
    if lines:
        yield "".join(lines)


def _training_texts(sources: Iterable[str | Path], end_token: str, held_out: float) -> Iterator[str]:
    """Every training part of the sources, without the end token; files hold out each its share, texts together."""
    files: list[Path] = []

    def texts() -> Iterator[str]:
        for source in sources:
            if isinstance(source, Path):
                files.append(source)
            else:
                yield repair_surrogates(source)

    for text in split_texts(texts(), held_out, held_out=False):
        yield from text.split(end_token)
    for file in files:
        for piece in split_texts(read_pieces(file, end_token), held_out, held_out=False):
            yield from piece.split(end_token)

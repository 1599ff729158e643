"""Running text: WikiText-2 at the level of tokens and of words, and bits per byte of any file.

Both readings of WikiText-2 are in use and far apart: the token-level figure of transformers' guide ("Perplexity of
fixed-length models") depends on the vocabulary; the word-level figure of Radford et al. 2019 does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from gptwo.data.batching import Example, collate
from gptwo.data.documents import iter_documents
from gptwo.data.files import format_of
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.language import TextScore, bytes_of_tokens, score_batches, score_texts
from gptwo.evaluate.report import Report
from gptwo.evaluate.suites.base import Subject, SuiteOptions, one_file, suite_report
from gptwo.evaluate.suites.detokenize import detokenize_text
from gptwo.model.loss import IGNORE

WIKITEXT = ("test.txt", "wiki.test.tokens", "wiki.test.raw", "valid.txt", "wiki.valid.tokens")


def strided_windows(ids: Sequence[int], size: int, stride: int) -> list[Example]:
    """Windows of at most `size` tokens, each begun `stride` tokens after the one before.

    Every token but the first is judged once, with at least size - stride tokens before it (the first window's and
    the text's own beginning apart). With stride == size the first token of each window is not judged, as in
    transformers' guide.
    """
    found, done = [], 1
    for begin in range(0, len(ids), stride):
        end = min(begin + size, len(ids))
        first = max(done, begin + 1)
        if first < end:
            labels = [IGNORE] * (first - begin - 1) + list(ids[first:end])
            found.append(Example(list(ids[begin : end - 1]), labels))
        done = end
        if end == len(ids):
            break
    return found


def score_stream(subject: Subject, ids: Sequence[int], stride: int, rows: int = 8) -> TextScore:
    """The cost of one long text in strided windows; its first token is given."""
    windows = strided_windows(ids, subject.context, stride)
    tokenizer = subject.engine.codec.need("Perplexity")
    batches = (collate(windows[start : start + rows]) for start in range(0, len(windows), rows))
    return score_batches(subject.model, batches, bytes_of_tokens(tokenizer))


def stride_of(subject: Subject, options: SuiteOptions) -> int:
    """The stride that was asked for, or half the context.

    Raises:
        UsageError: it lies outside the context.
    """
    stride = options.stride or max(1, subject.context // 2)
    if not 1 <= stride <= subject.context:
        raise UsageError(f"The stride must lie in 1..{subject.context}, not {stride}.", where="--stride")
    return stride


def wikitext2(subject: Subject, data: Sequence[str | Path], options: SuiteOptions) -> Report:
    """Perplexity of WikiText-2, at the level of tokens (as it stands) and of words (de-tokenized).

    Args:
        data: the tokenized file (with " @-@ " and "<unk>"), or its folder.
    """
    path = one_file(data, WIKITEXT)
    text = path.read_text(encoding="utf-8")
    if options.limit is not None:
        text = "".join(text.splitlines(keepends=True)[: options.limit])
    if not text.strip():
        raise DataError("There is no text in the file.", where=path)
    tokenizer = subject.engine.codec.need("Perplexity")
    stride = stride_of(subject, options)
    by_token = score_stream(subject, tokenizer.encode(text), stride)

    natural = detokenize_text(text)
    first = tokenizer.start_id if tokenizer.start_id is not None else tokenizer.end_id
    given = [first] if first is not None else []
    by_word = score_stream(subject, given + tokenizer.encode(natural.text), stride)
    units = natural.words + natural.lines
    metrics = {
        "perplexity/word": _perplexity(by_word.nats, units),
        "perplexity/word, line ends not counted": _perplexity(by_word.nats, natural.words),
        "perplexity/token": by_token.perplexity,
        "bits_per_byte/word": by_word.bits_per_byte,
        "bits_per_byte/token": by_token.bits_per_byte,
    }
    begun = "begun by the end token, every token counts" if given else "the first token is given and does not count"
    protocol = {
        "token level": "the text as it stands, one stream, no start token, no de-tokenizer (as transformers' guide)",
        "token level, normaliser": f"{by_token.tokens:,} tokens of this vocabulary; the first is given",
        "word level": f"one stream, {begun}; exp of nats over the words of the tokenized text",
        "word level, de-tokenizer": f"gptwo's, invertible; {natural.unrestored:,} of {natural.words:,} words lost",
        "word level, normaliser": f"{natural.words:,} words and {natural.lines:,} line ends = {units:,}",
        "stride": f"{stride} of {subject.context} tokens",
    }
    return suite_report(
        subject,
        "wikitext2",
        "WikiText-2",
        metrics,
        protocol,
        primary="perplexity/word",
        files=[(path, natural.lines)],
        recipe={"words": natural.words, "line_ends": natural.lines, "tokens": by_token.tokens, "stride": stride},
    )


def bits_per_byte(subject: Subject, data: Sequence[str | Path], options: SuiteOptions) -> Report:
    """Bits per byte of any text files, comparable between vocabularies and with compressors."""
    if not data:
        raise UsageError("Which files shall be measured?", fix="gptwo evaluate --suite bits-per-byte FILE…")
    tokenizer = subject.engine.codec.need("Bits per byte")
    stride = stride_of(subject, options)
    scores: list[TextScore] = []
    documents = []
    for path in data:
        known = format_of(str(path)) is not None or Path(path).is_dir()
        texts = list(islice(iter_documents([str(path)], format=None if known else "txt"), options.limit))
        if not texts:
            raise DataError("There is no text in the file.", where=path)
        documents.append(len(texts))
        scores.append(score_texts(subject.model, tokenizer, texts, stride=stride))
    whole = sum(scores[1:], scores[0])
    metrics = {"bits_per_byte": whole.bits_per_byte, "perplexity": whole.perplexity, "loss": whole.loss}
    if len(scores) > 1:
        for path, score in zip(data, scores, strict=True):
            metrics[f"bits_per_byte/{Path(path).name}"] = score.bits_per_byte
    protocol = {
        "normaliser": f"{whole.bytes:,} bytes of UTF-8; perplexity: {whole.tokens:,} tokens of this vocabulary",
        "stride": f"{stride} of {subject.context} tokens",
        "de-tokenizer": "none",
        "documents": "each begun by the end token; the end of a document is not counted",
    }
    return suite_report(
        subject,
        "bits-per-byte",
        "bits per byte",
        metrics,
        protocol,
        primary="bits_per_byte",
        files=list(zip(data, documents, strict=True)),
    )


def _perplexity(nats: float, units: int) -> float:
    """exp(nats / units); infinite above what a float holds."""
    loss = nats / max(1, units)
    return math.exp(loss) if loss < 700 else math.inf

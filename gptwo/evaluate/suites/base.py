"""What all suites share: the model under test, its judgement of token rows, and the report with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gptwo.data.files import file_sha256
from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.report import DataFile, Report, System
from gptwo.generate.codec import windows
from gptwo.generate.engine import Engine
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_network import model_of
from gptwo.generate.writer import Writer
from gptwo.model.heads import Model


@dataclass(frozen=True)
class Subject:
    """The model under test.

    Args:
        name: as the reader of the report shall see it.
        engine: the model, on its device and in its precision.
    """

    name: str
    engine: Engine | NativeEngine

    @property
    def model(self) -> Model:
        """The network with its language head."""
        return self.engine.backend.model if isinstance(self.engine, Engine) else model_of(self.engine)

    @property
    def context(self) -> int:
        """Tokens of the longest input."""
        return self.engine.config.n_positions


@dataclass(frozen=True)
class SuiteOptions:
    """What a user may set; each suite takes what concerns it.

    Args:
        stride: running text: new tokens of each window; None is half the context.
        limit: records (running text: lines) at most; None is all.
        seed: of everything that is drawn.
        resamples: of the bootstrap.
        languages: bias: which pairs and prompts, of "en" and "zh".
        samples: bias: continuations of each prompt.
        train, held_out: bias: files of training text to probe for memorisation, and of text that was not trained on.
        canaries: bias: texts with a number in them that stood in the training text.
        toxicity: bias: texts to the probability that each is toxic, by a classifier of the user's.
    """

    stride: int | None = None
    limit: int | None = None
    seed: int = 0
    resamples: int = 2000
    languages: tuple[str, ...] = ("en", "zh")
    samples: int = 4
    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    canaries: tuple[str, ...] = ()
    toxicity: Callable[[Sequence[str]], Sequence[float]] | None = None


@dataclass(frozen=True)
class Judged:
    """How likely a row's judged tokens are.

    Args:
        logprobs: natural logarithms, one for each judged token.
        likeliest: whether each was the network's first choice.
        truncated: tokens of the context that were cut off on the left.
    """

    logprobs: list[float]
    likeliest: list[bool]
    truncated: int = 0

    @property
    def total(self) -> float:
        """Log-probability of all judged tokens."""
        return sum(self.logprobs)


def judge(engine: Writer, rows: Sequence[tuple[list[int], int]]) -> list[Judged]:
    """Log-probabilities of ids[start:] after ids[:start], for each (ids, start) with start >= 1.

    A row longer than the context loses tokens on the left, as in lm-evaluation-harness; where the judged part alone
    is longer, it is judged window by window, each token after at least half a context.
    """
    size = engine.config.n_positions
    pieces, cuts = [], []
    for row, (ids, start) in enumerate(rows):
        cut = max(0, min(len(ids) - size - 1, start - 1))
        cuts.append(cut)
        pieces += [(row, *window) for window in windows(ids[cut:], start - cut, size)]
    logprobs: list[list[float]] = [[] for _ in rows]
    likeliest: list[list[bool]] = [[] for _ in rows]
    scores = engine.judge([ids for _, ids, _ in pieces], [start for _, _, start in pieces])
    for (row, _, _), (values, first_choices) in zip(pieces, scores, strict=True):
        logprobs[row] += values
        likeliest[row] += first_choices
    return [Judged(*found) for found in zip(logprobs, likeliest, cuts, strict=True)]


def judge_pairs(engine: Writer, pairs: Sequence[tuple[str, str]]) -> list[Judged]:
    """`judge` for (context, continuation) texts; each distinct pair is computed once."""
    distinct = list(dict.fromkeys(pairs))
    judged = judge(engine, [engine.codec.joined(*pair) for pair in distinct])
    found = dict(zip(distinct, judged, strict=True))
    return [found[pair] for pair in pairs]


def records_of(data: Sequence[str | Path], limit: int | None) -> tuple[list[Record], Rejects]:
    """Records of local files, and what could not be used.

    Raises:
        DataError: no file, a damaged one, or none with a usable row.
        UsageError: no data was named.
    """
    if not data:
        raise UsageError("This suite needs a local file of records.", fix="gptwo evaluate --suite NAME FILE.jsonl")
    rejects = Rejects(None)
    records: Iterator[Record] = read_records([str(path) for path in data], rejects=rejects, encoding="utf-8-sig")
    return list(islice(records, limit)), rejects


def field_of(record: Record, *names: str) -> Any:
    """The first of several fields that a record has.

    Raises:
        DataError: it has none of them.
    """
    for name in names:
        if record.fields.get(name) is not None:
            return record.fields[name]
    raise DataError(
        f"The record has no {' or '.join(repr(name) for name in names)}.",
        where=record.place(),
        why=f"it has {', '.join(map(repr, record.fields)) or 'no fields'}",
        fix="see the guide's page on evaluating for the fields of each suite",
    )


def one_file(data: Sequence[str | Path], names: Sequence[str]) -> Path:
    """The one file of running text: given itself, or a folder that holds one of `names`.

    Raises:
        UsageError: none or several were given.
        DataError: it is not there.
    """
    if len(data) != 1:
        raise UsageError(f"This suite reads one text, not {len(data)}.", fix=f"give {names[0]}, or its folder")
    path = Path(data[0]).expanduser()
    if path.is_dir():
        path = next((path / name for name in names if (path / name).is_file()), path / names[0])
    if not path.is_file():
        raise DataError("There is no such file.", where=path, fix=f"give {', '.join(names)}, or their folder")
    return path


def suite_report(
    subject: Subject,
    suite: str,
    title: str,
    metrics: dict[str, Any],
    protocol: dict[str, str],
    *,
    primary: str,
    baselines: Sequence[System] = (),
    files: Sequence[tuple[str | Path, int]] = (),
    **fields: Any,
) -> Report:
    """A report of one model, whose notes state the protocol, word for word what was divided by what.

    Args:
        protocol: what a figure depends on ("normaliser", "stride", "de-tokenizer", …) to its value here.
        files: (path, records) of the data.
        fields: further fields of `Report`.
    """
    notes = [f"{key}: {value}" for key, value in protocol.items()] + list(fields.pop("notes", []))
    return Report(
        title=f"{subject.name}: {title}",
        task=suite,
        primary=primary,
        systems=[System(subject.name, metrics, "tuned" if baselines else "other"), *baselines],
        data=[
            DataFile("test", str(path), count, sha256=file_sha256(Path(path)) if Path(path).is_file() else "")
            for path, count in files
        ],
        notes=notes,
        recipe={"suite": suite, "protocol": dict(protocol), **fields.pop("recipe", {})},
        **fields,
    )

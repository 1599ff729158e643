"""What `gptwo evaluate --suite` and `--shots` call: flags to options, the model loaded, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def subject_of(model: str, device: str, precision: str, backend: str = "torch", threads: int | None = None) -> Any:
    """The model under test, on its device, in its precision, on "torch" or the "native" engine."""
    from gptwo.evaluate.suites.base import Subject
    from gptwo.generate.engine import Engine
    from gptwo.generate.native import NativeEngine

    if backend == "native":
        return Subject(model, NativeEngine(model, precision=precision, threads=threads))
    return Subject(model, Engine(model, device=device, precision=precision))


def measure_suite(
    suite: str,
    model: str,
    data: Sequence[str],
    *,
    device: str,
    precision: str,
    backend: str,
    threads: int | None,
    classifier: str | None,
    toxic_label: str,
    languages: str,
    card: bool,
    **options: Any,
) -> Any:
    """The report of a suite; with `card` its figures are also written into the model's README.md.

    Raises:
        UsageError: an unknown suite, or a classifier without that label.
    """
    from gptwo import hub, runtime
    from gptwo.evaluate.suites import run_suite, suite_of
    from gptwo.evaluate.suites.base import SuiteOptions
    from gptwo.evaluate.suites.card import write_section

    suite_of(suite)  # a wrong name is told before the model is loaded
    chosen = SuiteOptions(
        languages=tuple(part.strip() for part in languages.split(",") if part.strip()),
        toxicity=_toxicity(classifier, toxic_label, device) if classifier else None,
        **{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()},
    )
    report = run_suite(suite, subject_of(model, device, precision, backend, threads), data, chosen)
    report.machine = runtime.describe_machine()
    if card:
        heading = {"bias": "Bias, toxicity, memorisation"}.get(suite, f"Measured: {suite}")
        write_section(hub.resolve(model), report, heading)
    return report


def measure_shots(
    model: str,
    data: Sequence[str],
    train: Sequence[str],
    *,
    shots: int,
    draws: int,
    seed: int,
    prompt: str | None,
    words: str | None,
    columns: dict[str, str] | None,
    format: str | None,
    encoding: str,
    limit: int | None,
    device: str,
    precision: str,
    backend: str,
    threads: int | None,
) -> Any:
    """The report of classification with examples in the prompt.

    Raises:
        UsageError: shots without training records to draw them from.
        DataError: a file without a usable row.
    """
    from itertools import islice

    from gptwo import runtime
    from gptwo.cli.common import parse_columns
    from gptwo.data.sources import Rejects, read_records
    from gptwo.errors import UsageError
    from gptwo.evaluate.shots import PATTERN, Shots, few_shot

    if shots and not train:
        raise UsageError("Where shall the examples come from?", where="--train", fix="--train train.csv")
    pattern = prompt.replace("\\n", "\n").replace("\\t", "\t") if prompt else PATTERN
    chosen = Shots(shots, tuple(range(seed, seed + draws)), pattern, parse_columns(words) or {})
    rejects = Rejects(None)
    how: dict[str, Any] = {"columns": columns, "format": format, "encoding": encoding, "rejects": rejects}
    test = list(islice(read_records(list(data), **how), limit))
    examples = list(read_records(list(train), **how)) if train else []
    report = few_shot(subject_of(model, device, precision, backend, threads), examples, test, chosen)
    report.machine = runtime.describe_machine()
    if rejects.total:
        report.notes.append(rejects.summary())
    return report


def tune_shots(
    model: str,
    data: Sequence[str],
    train: Sequence[str],
    recipe: Path,
    *,
    valid: Sequence[str],
    shots: int | None,
    draws: int,
    seed: int,
    columns: dict[str, str] | None,
    format: str | None,
    encoding: str,
    device: str,
    precision: str,
    threads: int | None,
    out: Path | None,
) -> Any:
    """The report of tuning on few records of each label, once for each draw or given split.

    Raises:
        UsageError: no training records, or a folder in use.
    """
    from gptwo.errors import UsageError
    from gptwo.train.fewshot import tune_few_shots

    if not train:
        raise UsageError("Where shall the records come from?", where="--train", fix="--shots 16 --train train.csv")
    given: dict[str, Any] = {"data.columns": columns, "data.format": format, "data.encoding": encoding}
    given |= {"train.threads": threads}
    chosen = {"train.device": device, "train.precision": precision}
    given |= {key: value for key, value in chosen.items() if value != "auto"}  # else as the recipe has it
    return tune_few_shots(
        model,
        train=train,
        valid=valid,
        test=data,
        shots=shots,
        seeds=range(seed, seed + draws),
        out=out or "runs/few-shot",
        recipe=recipe,
        settings={key: value for key, value in given.items() if value is not None},
    )


def _toxicity(classifier: str, label: str, device: str) -> Any:
    """Texts to probabilities of the toxic label, by a tuned classifier."""
    from gptwo.adapt.store import load
    from gptwo.errors import UsageError, did_you_mean
    from gptwo.train.apply import predict, records_of_texts

    labels = load(classifier).labels
    if label not in labels:
        raise UsageError(
            f"The classifier has no label {label!r}.", where="--toxic-label", fix=did_you_mean(label, labels)
        )

    def judge(texts: Sequence[str]) -> list[float]:
        rows = predict(classifier, records_of_texts([text or " " for text in texts]), device=device)
        return [1.0 * (label in row["labels"]) if "labels" in row else 1.0 * (row["label"] == label) for row in rows]

    return judge

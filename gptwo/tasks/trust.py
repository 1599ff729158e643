"""What every classifier has beside its labels: calibrated confidences, abstention, and a probe of untuned features."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gptwo.data.batching import Batch
from gptwo.data.sources import Record
from gptwo.evaluate import metrics
from gptwo.evaluate.calibration import (
    FEWEST,
    Scaling,
    choose_threshold,
    fit_temperature,
    judge_threshold,
    tempered,
)
from gptwo.evaluate.metrics import Predictions
from gptwo.evaluate.worst import confidences
from gptwo.model.heads import Model
from gptwo.tasks.base import Task, forward_batches
from gptwo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gptwo.tasks.classify import Classify

PROBED = 5000  # training records of a probe at most
PROBE_NOTE = (
    "Before tuning: a linear probe, logistic regression on the untuned network's hidden state at the last token."
)


def calibrate(
    job: Classify,
    model: Model,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    *,
    max_length: int,
    precision: str,
    target_precision: float | None,
) -> dict[str, Any]:
    """Fit a temperature, and a threshold where a precision is asked for; see `Task.calibrate`."""
    job.calibration = {}
    if len(records) < FEWEST:
        return {}
    said = job.predict(model, tokenizer, records, max_length=max_length, precision=precision)
    gold = job.gold(records)
    table = np.asarray(said.probabilities, dtype=float)
    truth: Any = metrics.indicator(gold, job.labels) if job.multi_label else _places(gold, job.labels)
    temperature = fit_temperature(table, truth, independent=job.multi_label)
    job.calibration = {"temperature": round(temperature, 4), "records": len(records)}
    if target_precision is not None and not job.multi_label:
        sure, right = sureness(job.calibrated(said)), [a == b for a, b in zip(gold, said.labels, strict=True)]
        threshold = choose_threshold(sure, right, target_precision)
        job.calibration |= {"target_precision": target_precision, "abstain_below": threshold}
    return job.calibration


def reliance(job: Classify, records: Sequence[Record], said: Predictions | None) -> dict[str, Any]:
    """The fields of a report on what `calibrate` fitted.

    Args:
        said: predictions of the calibrated model on the test records.
    """
    found: dict[str, Any] = {}
    temperature = job.calibration.get("temperature")
    if temperature is None or said is None or said.probabilities is None or not len(records):
        return found
    gold = job.gold(records)
    table = np.asarray(said.probabilities, dtype=float)
    plain = tempered(table, 1 / temperature, independent=job.multi_label)
    if job.multi_label:
        truth = metrics.indicator(gold, job.labels).ravel()
        before, after = (metrics.calibration(part.ravel(), truth).ece for part in (plain, table))
    else:
        right = [a == b for a, b in zip(gold, said.labels, strict=True)]
        places = _places(said.labels, job.labels)
        before, after = (metrics.calibration(part[np.arange(len(part)), places], right).ece for part in (plain, table))
    found["scaling"] = Scaling(temperature, job.calibration["records"], before, after)
    target = job.calibration.get("target_precision")
    if target is not None:
        right = [a == b for a, b in zip(gold, said.labels, strict=True)]
        found["abstention"] = judge_threshold(sureness(said), right, target, job.calibration["abstain_below"])
    return found


def sureness(said: Predictions) -> np.ndarray:
    """(N,) the probability of what was predicted."""
    found = confidences(said)
    return np.zeros(len(said.labels)) if found is None else found


def probe(
    job: Classify,
    model: Model,
    tokenizer: Tokenizer,
    train: Sequence[Record],
    records: Sequence[Record],
    *,
    max_length: int,
    precision: str,
    seed: int = 0,
) -> Predictions:
    """Logistic regression on frozen features: what the untuned network knows of the task.

    The features are the hidden states at the last token, each standardised; at most 5,000 training records are used
    (Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes").
    """
    chosen = list(train) if len(train) <= PROBED else random.Random(seed).sample(list(train), PROBED)
    how = {"max_length": max_length, "precision": precision}
    learned = features(job, model, tokenizer, chosen, **how)
    asked = features(job, model, tokenizer, records, **how)
    gold = job.gold(chosen)
    if job.multi_label:
        columns: Any = metrics.indicator(gold, job.labels)
    else:
        columns = _places(gold, job.labels)[:, None] == np.arange(len(job.labels))
    table = regressed(learned, columns, asked, independent=job.multi_label)
    return Predictions(job.decide(table), table, job.labels)


def regressed(learned: np.ndarray, columns: np.ndarray, asked: np.ndarray, *, independent: bool = False) -> np.ndarray:
    """(N, labels) probabilities by logistic regression.

    Args:
        learned, asked: (M, C) and (N, C) features.
        columns: (M, labels) which labels the learned ones have.
        independent: any number of labels each, instead of one.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(learned)
    learned, asked = scaler.transform(learned), scaler.transform(asked)
    table = np.tile(columns.mean(0), (len(asked), 1))  # of a label that all have, or none
    if independent:
        for place in np.flatnonzero(columns.any(0) & ~columns.all(0)):
            model_of = LogisticRegression(C=0.1, max_iter=1000).fit(learned, columns[:, place])
            table[:, place] = model_of.predict_proba(asked)[:, 1]
    elif columns.any(0).sum() > 1:
        whole = LogisticRegression(C=0.1, max_iter=1000).fit(learned, columns.argmax(1))
        table[:] = 0.0
        table[:, whole.classes_] = whole.predict_proba(asked)
    return table


def features(
    job: Task, model: Model, tokenizer: Tokenizer, records: Sequence[Record], *, max_length: int, precision: str
) -> np.ndarray:
    """(N, C) hidden states at the last token of each record."""
    examples = job.encode_all(records, tokenizer, max_length, target=False)

    def last_hidden(batch: Batch) -> Tensor:
        return model.transformer(batch.ids, batch.positions, batch.documents, read=batch.last).float()  # (N, C)

    found = np.zeros((len(examples), model.config.n_embd), dtype=np.float32)
    for places, states in forward_batches(model, examples, precision, last_hidden):
        found[places] = states.cpu().numpy()
    return found


def _places(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    _, (found,) = metrics.encode_labels(labels, labels=names)
    return found

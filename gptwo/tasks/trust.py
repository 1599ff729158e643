"""What tasks with labels have beside them: calibrated confidences, abstention, and a probe of untuned features."""

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
from gptwo.tasks.base import Task
from gptwo.tasks.runner import ModelRunner

if TYPE_CHECKING:
    from gptwo.tasks.classify import Classify

PROBED = 5000  # training records of a probe at most
FRESH_NOTE = "Before tuning: the head is new and has learned nothing, so these figures are what chance gives."

ZERO_SHOT_NOTE = (
    "Before tuning: the choice whose tokens the model that the run began with finds likeliest on average, by its "
    "language head."
)


def calibrate(
    job: Classify, runner: ModelRunner, records: Sequence[Record], *, target_precision: float | None
) -> dict[str, Any]:
    """Fit a temperature, and a threshold where a precision is asked for; see `Task.calibrate`."""
    job.calibration = {}
    said = job.predict(runner, records)
    gold = job.gold(records)
    table = np.asarray(said.probabilities, dtype=float)
    if job.multi_label:
        job.calibration = fitted(table, metrics.indicator(gold, job.labels), independent=True)
    else:
        chosen = places_of(said.labels, job.labels)
        job.calibration = fitted(table, places_of(gold, job.labels), chosen, target_precision)
    return job.calibration


def fitted(
    table: np.ndarray,
    truth: np.ndarray,
    chosen: np.ndarray | None = None,
    target_precision: float | None = None,
    *,
    independent: bool = False,
) -> dict[str, Any]:
    """A temperature, and where a precision is asked for the confidence below which to abstain; as gptwo.json has them.

    Args:
        table: (N, K) probabilities.
        truth: (N,) gold classes, or (N, K) booleans where `independent`.
        chosen: (N,) predicted classes.

    Returns:
        Nothing of fewer than 20 records.
    """
    if len(table) < FEWEST:
        return {}
    temperature = round(fit_temperature(table, truth, independent=independent), 4)
    found: dict[str, Any] = {"temperature": temperature, "records": len(table)}
    if target_precision is not None and chosen is not None:
        sure = tempered(table, temperature)[np.arange(len(table)), chosen]
        threshold = choose_threshold(sure.tolist(), (chosen == truth).tolist(), target_precision)
        found |= {"target_precision": target_precision, "abstain_below": threshold}
    return found


def reliance(job: Classify, records: Sequence[Record], said: Predictions | None) -> dict[str, Any]:
    """The fields of a report on what `calibrate` fitted.

    Args:
        said: predictions of the calibrated model on the test records.
    """
    if not job.calibration or said is None or said.probabilities is None or not len(records):
        return {}
    gold, table = job.gold(records), np.asarray(said.probabilities, dtype=float)
    if not job.multi_label:
        return relied(job.calibration, table, places_of(gold, job.labels), places_of(said.labels, job.labels))
    temperature, truth = job.calibration["temperature"], metrics.indicator(gold, job.labels).ravel()
    plain = tempered(table, 1 / temperature, independent=True)
    before, after = (metrics.calibration(part.ravel(), truth).ece for part in (plain, table))
    return {"scaling": Scaling(temperature, job.calibration["records"], before, after)}


def relied(calibration: dict[str, Any], table: np.ndarray, truth: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """The fields of a report on what `fitted` gave.

    Args:
        table: (N, K) calibrated probabilities of the test records.
        truth, chosen: (N,) gold and predicted classes.
    """
    temperature, right, rows = calibration["temperature"], chosen == truth, np.arange(len(table))
    parts = (tempered(table, 1 / temperature), table)
    before, after = (metrics.calibration(part[rows, chosen], right).ece for part in parts)
    found: dict[str, Any] = {"scaling": Scaling(temperature, calibration["records"], before, after)}
    target = calibration.get("target_precision")
    if target is not None:
        sure = table[rows, chosen]
        found["abstention"] = judge_threshold(sure.tolist(), right.tolist(), target, calibration["abstain_below"])
    return found


def before_notes(job: Task, *, probed: bool, fresh: bool) -> list[str]:
    """What stands for the model before tuning, for the report.

    Args:
        probed: whether a probe does.
        fresh: whether the head that will be tuned is a new one.
    """
    if probed:
        state = f"the untuned network's hidden state at {job.probed_at}"
        return [f"Before tuning: a linear probe, logistic regression on {state}."]
    if job.zero_shot:
        return [ZERO_SHOT_NOTE] if fresh or job.head == "language" else []
    return [FRESH_NOTE] if fresh and job.head != "language" else []


def unseen_notes(job: Task, train: Sequence[Record]) -> list[str]:
    """Labels that are asked for and that nothing teaches."""
    seen = {label for record in train for label in job.labels_in(record)}
    unseen = [label for label in job.labels if label not in seen] if seen else []
    return [f"Labels that no training record has, so that they cannot be learned: {', '.join(unseen)}."] * bool(unseen)


def fit_notes(job: Task, records: int) -> list[str]:
    """Why no temperature was fitted, where a reader may look for one; after `calibrate`.

    Args:
        records: of the validation data.
    """
    if job.calibration:
        return []
    if type(job).calibrate is not Task.calibrate:
        return [f"No temperature was fitted: {records:,} validation records are fewer than {FEWEST}."]
    return [f"No temperature was fitted: {job.uncalibrated}."] if job.uncalibrated else []


def probe(
    job: Classify, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record], *, seed: int = 0
) -> Predictions:
    """Logistic regression on frozen features: what the untuned network knows of the task.

    The features are the hidden states at the last token, each standardised; at most 5,000 training records are used
    (Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes").
    """
    chosen = list(train) if len(train) <= PROBED else random.Random(seed).sample(list(train), PROBED)
    learned = features(job, runner, chosen)
    asked = features(job, runner, records)
    gold = job.gold(chosen)
    if job.multi_label:
        columns: Any = metrics.indicator(gold, job.labels)
    else:
        columns = places_of(gold, job.labels)[:, None] == np.arange(len(job.labels))
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


def features(job: Task, runner: ModelRunner, records: Sequence[Record]) -> np.ndarray:
    """(N, C) hidden states at the last token of each record."""
    examples = job.encode_all(runner, records, target=False)

    def last_hidden(batch: Batch) -> Tensor:
        return runner.model.transformer(batch.ids, batch.positions, batch.documents, read=batch.last).float()  # (N, C)

    found = np.zeros((len(examples), runner.model.config.n_embd), dtype=np.float32)
    for places, states in runner.forward_batches(examples, last_hidden):
        found[places] = states.cpu().numpy()
    return found


def places_of(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(N,) places of labels among the names."""
    _, (found,) = metrics.encode_labels(labels, labels=names)
    return found

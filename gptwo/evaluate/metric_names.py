"""How each metric is called, which way is better, and how its value is written for a reader.

A key may carry a part of the data after a slash: "bits_per_byte/zh" is bits per byte on the Chinese part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricName:
    """Title for a reader; `unit` is "share" (0..1, written as a percentage), "number", "bits" or "nats"."""

    title: str
    higher_is_better: bool
    unit: str


_SHARES = {
    "accuracy": "Accuracy",
    "subset_accuracy": "Subset accuracy",
    "token_accuracy": "Token accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "samples_f1": "Samples F1",
    "entity_precision": "Entity precision",
    "entity_recall": "Entity recall",
    "entity_f1": "Entity F1",
    "entity_macro_f1": "Entity macro F1",
    "token_macro_f1": "Token macro F1",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "exact_match": "Exact match",
    "mean_accuracy": "Mean accuracy",
    "mean_macro_f1": "Mean macro F1",
    "level_1_accuracy": "Accuracy of the first step",
    "hierarchical_f1": "Hierarchical F1",
    "mrr": "MRR",
    "ndcg_10": "nDCG@10",
    "hits_1": "Hits@1",
    "hits_3": "Hits@3",
    "hits_5": "Hits@5",
    "hits_10": "Hits@10",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "distinct_1": "Distinct-1",
    "distinct_2": "Distinct-2",
    "control_accuracy": "Control accuracy",
    "required_words": "Required words met",
    **{f"pass_{k}": f"pass@{k}" for k in (1, 5, 10, 100)},
}
METRICS = {
    **{key: MetricName(title, True, "share") for key, title in _SHARES.items()},
    "ece": MetricName("Calibration error", False, "share"),
    "slot_error": MetricName("Slot error rate", False, "share"),
    "self_bleu": MetricName("Self-BLEU", False, "share"),
    "mean_absolute_error": MetricName("Mean absolute error", False, "number"),
    "quadratic_kappa": MetricName("Quadratic kappa", True, "number"),
    "log_loss": MetricName("Log-loss", False, "nats"),
    "loss": MetricName("Loss", False, "nats"),
    "perplexity": MetricName("Perplexity", False, "number"),
    "bleu": MetricName("BLEU", True, "number"),
    "chrf": MetricName("chrF", True, "number"),
    "bits_per_byte": MetricName("Bits per byte", False, "bits"),
    "bits_per_token": MetricName("Bits per token", False, "bits"),
    "bits_per_character": MetricName("Bits per character", False, "bits"),
    "bias_effect": MetricName("Bias effect size", False, "number"),
    "counterfactual_gap": MetricName("Counterfactual gap", False, "nats"),
    "toxic_share": MetricName("Toxic share", False, "share"),
    "verbatim_share": MetricName("Verbatim share", False, "share"),
    "recited_tokens": MetricName("Recited tokens", False, "number"),
    "exposure": MetricName("Exposure", False, "bits"),
}


def metric_name(key: str) -> MetricName:
    """What is known of a metric key; an unknown key is a number where more is better.

    "loss" at the end of an unknown key ("valid_loss") makes less better; "_spread" at the end of a key is the metric's
    deviation over several draws.
    """
    base, _, part = key.partition("/")
    if base.endswith("_spread"):
        whole = metric_name(base.removesuffix("_spread"))
        known = MetricName(f"{whole.title}, deviation over draws", False, whole.unit)
        return MetricName(f"{known.title}, {part}", False, known.unit) if part else known
    known = METRICS.get(base)
    if known is None:
        lower = base.endswith(("loss", "perplexity", "error"))
        known = MetricName(base.replace("_", " ").capitalize(), not lower, "number")
    return MetricName(f"{known.title}, {part}", known.higher_is_better, known.unit) if part else known


def format_value(key: str, value: float | None) -> str:
    """A value for a table: shares as percentages with one digit, others with as many digits as mean something."""
    if value is None or not math.isfinite(value):
        return "–"
    unit = metric_name(key).unit
    if unit == "share":
        return f"{100 * value:.1f}"
    if unit == "number":
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.3f}"


def format_difference(key: str, value: float) -> str:
    """The size of a difference with its unit: "2.1 points", "0.041 bits"."""
    kind = metric_name(key)
    if kind.unit == "share":
        return f"{abs(100 * value):.1f} points"
    return format_value(key, abs(value)) + ("" if kind.unit == "number" else f" {kind.unit}")


def unit_title(key: str) -> str:
    """The metric with its unit, for a heading or an axis: "Accuracy, %", "Log-loss, nats"."""
    kind = metric_name(key)
    suffix = {"share": ", %", "nats": ", nats"}.get(kind.unit, "")
    return kind.title + suffix


def best_of(key: str, values: list[float | None]) -> set[int]:
    """Indices of the best among `values` as they are written (ties are all best); None and NaN never are."""
    written = {i: round(v, 10) for i, v in enumerate(values) if v is not None and math.isfinite(v)}
    if not written:
        return set()
    choose = max if metric_name(key).higher_is_better else min
    top = format_value(key, choose(written.values()))
    return {i for i, value in written.items() if format_value(key, value) == top}


def lower_first(title: str) -> str:
    """ "Macro F1" as "macro F1"; an abbreviation keeps its capitals ("ROC AUC", "F1")."""
    return title if len(title) < 2 or not title[1].islower() else title[0].lower() + title[1:]

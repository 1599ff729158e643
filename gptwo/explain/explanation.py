"""One text, one prediction, and everything that can be said about how the network came to it.

>>> from gptwo.explain import explain                                     # doctest: +SKIP
>>> found = explain("gptwo-mini", "The capital of France is")             # doctest: +SKIP
>>> found.outcomes[0]["name"], found.integrated_gradients                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gptwo.adapt.store import load
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError, did_you_mean
from gptwo.explain.attribution import contributions, integrated_gradients, leave_one_out
from gptwo.explain.lens import logit_lens
from gptwo.explain.neighbours import nearest
from gptwo.explain.trace import Objective, fixed_prefix, trace
from gptwo.generate.codec import Codec
from gptwo.generate.decoder import evaluating
from gptwo.model.loss import IGNORE
from gptwo.model.pretrained import Pretrained
from gptwo.runtime import pick_device
from gptwo.tasks import restore_task
from gptwo.tasks.sequences import encode_text, head_and_tail, words_of
from gptwo.tasks.tag import Tag
from gptwo.tokenizer import Tokenizer

OUTCOMES = 10
ATTENTION_TOKENS = 128  # a longer text has its attention left out: it grows with the square


@dataclass
class Explanation:
    """What `explain` found; plain JSON values. Nats above 0 speak for the explained outcome.

    Args:
        model: name or folder; `head`: its kind.
        text: as given.
        tokens: what the network read up to the explained token, as the reader shall see them.
        outcomes: the likeliest: {"name", "id", "probability"}.
        target: the explained one, in the same form.
        integrated_gradients: of each token; `gap` is what their sum misses.
        leave_one_out: of each token.
        attention: layer, head, looking token, seen token: weights 0..1; None where the text is too long.
        lens: of each layer from the embeddings (0) up: {"layer", "target", "rank", "top"}, "top" the likeliest
            {"name", "probability"} of each token.
        layers: of each block {"attention", "mlp"}; `heads`: of each block one value a head.
        neighbours: {"similarity", "text", "file", "row"}, with "next" or "label".
        notes: what the reader should know.
    """

    model: str
    head: str
    text: str
    tokens: list[str]
    outcomes: list[dict[str, Any]]
    target: dict[str, Any]
    integrated_gradients: list[float]
    gap: float
    leave_one_out: list[float]
    attention: list[list[list[list[float]]]] | None
    lens: list[dict[str, Any]]
    layers: list[dict[str, float]]
    heads: list[list[float]]
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def html(self) -> str:
        """One self-contained page."""
        from gptwo.explain.page import render

        return render(self)

    def print(self, console: Any = None) -> None:
        """Coloured tokens and tables on a terminal."""
        from gptwo.explain.printing import print_explanation

        print_explanation(self, console)


def explain(
    model: str | Path | Pretrained,
    text: str,
    *,
    target: str | None = None,
    at: int | None = None,
    train: Sequence[Record] = (),
    neighbours: int = 5,
    steps: int = 32,
    device: str = "auto",
) -> Explanation:
    """Explain what a model says of a text, or would write next.

    Args:
        model: a folder, a name, or a loaded model; float32 is used.
        target: the outcome to explain: a label, or for a language model the text whose first token is meant; None is
            the likeliest.
        at: a language model: explain what follows this token (from 0; negative from the end; default the last);
            a tagger: explain this word's tag (default the first that is not "O").
        train: training records with "text" (and "label"), to find neighbours among.
        neighbours: how many.
        steps: of integrated gradients.

    Raises:
        UsageError: an unknown target, a place outside the text, a text longer than the context.
        DataError: a training record without a text.
    """
    name = str(model) if not isinstance(model, Pretrained) else str(model.folder or "model")
    loaded = model if isinstance(model, Pretrained) else load(model, device=pick_device(device).value)
    with fixed_prefix(loaded.model):
        return _explain(loaded, name, text, target, at, train, neighbours, steps)


def _explain(
    loaded: Pretrained,
    name: str,
    text: str,
    target: str | None,
    at: int | None,
    train: Sequence[Record],
    neighbours: int,
    steps: int,
) -> Explanation:
    """As `explain`, of a loaded model."""
    network, tokenizer = loaded.model, Codec(loaded.tokenizer, loaded.config.vocab_size).need("An explanation")
    places = read(loaded, tokenizer, text)
    ids, place, notes = _chosen(loaded, places, at)
    row = torch.tensor(ids, device=next(network.parameters()).device)
    inside = trace(network, row)
    with torch.no_grad(), evaluating(network):
        hidden = network.transformer.ln_f(inside.residual[-1])[-1]  # (C,)
        scores = network.logits(hidden).float()
    names = _Names(loaded, tokenizer)
    chosen = names.find(target) if target is not None else int(scores.argmax())
    several = loaded.info.get("multi_label") or loaded.info.get("problem_type") == "multi_label_classification"
    objective = _objective(chosen, bool(several) and network.head_kind == "sequence")
    shares = scores.sigmoid() if several and network.head_kind == "sequence" else scores.softmax(-1)
    best = shares.topk(min(OUTCOMES, len(shares))).indices.tolist()
    outcomes = [{"name": names.of(i), "id": i, "probability": float(shares[i])} for i in best]

    gradients = integrated_gradients(network, row, objective, steps=steps)
    parts = contributions(network, row, objective)
    attention = None
    if len(ids) <= ATTENTION_TOKENS:
        attention = inside.attention(network).double().round(decimals=4).tolist()
    else:
        notes.append(f"attention is left out: {len(ids)} tokens, more than {ATTENTION_TOKENS}")
    found = Explanation(
        model=name,
        head=network.head_kind,
        text=text,
        tokens=[token_text(tokenizer, i) for i in ids],
        outcomes=outcomes,
        target={"name": names.of(chosen), "id": chosen, "probability": float(shares[chosen])},
        integrated_gradients=gradients.tokens,
        gap=gradients.gap,
        leave_one_out=leave_one_out(network, row, objective),
        attention=attention,
        lens=[
            {
                "layer": line.layer,
                "target": line.target,
                "rank": line.rank,
                "top": [[{"name": names.of(i), "probability": p} for i, p in token] for token in line.top],
            }
            for line in logit_lens(network, inside, chosen, objective)
        ],
        layers=[{"attention": a, "mlp": m} for a, m in zip(parts.attention, parts.mlp, strict=True)],
        heads=parts.heads,
        notes=notes,
    )
    if place is not None:
        found.notes.append(place)
    if network.transformer.prefix is not None and attention is not None:
        seen = sum(sum(line) for layer in attention for head in layer for line in head)
        rows = sum(len(head) for layer in attention for head in layer)
        found.notes.append(
            f"{network.transformer.prefix.tokens} virtual tokens of the adapter stand before the text; "
            f"{100 * (1 - seen / rows):.0f} % of the attention goes to them and is not drawn"
        )
    tuned_for = loaded.info.get("task")
    if network.head_kind == "sequence" and tuned_for not in (None, "classify"):
        found.notes.append(
            f"the model was tuned for {tuned_for!r}, whose records have several fields; read is one text"
        )
    if train and network.head_kind == "token":
        notes.append("neighbours are looked for language models and text classifiers only")
    elif train:
        found.neighbours = _neighbours(loaded, tokenizer, hidden, train, neighbours)
    return found


@dataclass(frozen=True)
class Reading:
    """How a text is read.

    Args:
        ids: what goes into the network.
        explained: tokens whose outcome can be explained; the last one is the default, if `words` is None.
        words: a tagger's words, one for each of `explained`.
        truncated: tokens that were cut out.
    """

    ids: list[int]
    explained: list[int]
    words: list[str] | None = None
    truncated: int = 0


def read(loaded: Pretrained, tokenizer: Tokenizer, text: str) -> Reading:
    """A text as the model's task reads it."""
    config = loaded.config
    longest = min(loaded.info.get("max_length") or config.n_positions, config.n_positions)
    kind = loaded.model.head_kind
    if kind == "language":
        ids = Codec(tokenizer, config.vocab_size).context(text)
        if len(ids) > config.n_positions:
            raise UsageError(
                f"The text has {len(ids)} tokens; this network has {config.n_positions} positions.",
                fix="explain a shorter text",
            )
        return Reading(ids, list(range(len(ids))))
    if kind == "sequence":
        ids, truncated = head_and_tail(encode_text(tokenizer, text), longest)
        return Reading(ids, [len(ids) - 1], truncated=truncated)
    task = restore_task(loaded.info, kind)
    if not isinstance(task, Tag):
        raise UsageError(
            f"A text alone is no record of the task {task.name!r}.",
            where=loaded.folder,
            fix="explain a language model, a text classifier or a tagger",
        )
    words = words_of(text)
    if not words:
        raise UsageError("There is no word to tag in the text.")
    examples = task.encode(Record({"tokens": words}, "<text>", 1), tokenizer, longest, target=False)
    if len(examples) > 1:
        raise UsageError("The text is too long to be tagged at once.", fix="explain a single sentence")
    marked = [i for i, label in enumerate(examples[0].labels or []) if label != IGNORE]
    return Reading(list(examples[0].ids), marked, words)


def _chosen(loaded: Pretrained, reading: Reading, at: int | None) -> tuple[list[int], str | None, list[str]]:
    """The ids up to the explained token (later ones cannot matter), what it is, and notes."""
    notes = [f"{reading.truncated} tokens in the middle of the text were cut out"] if reading.truncated else []
    count = len(reading.explained)
    if at is None:
        at = count - 1
        if reading.words is not None:
            at = _first_entity(loaded, reading)
    elif not -count <= at < count:
        raise UsageError(f"The place {at} is outside the text of {count} places.", where="--at", fix=f"0..{count - 1}")
    at %= count
    ids = reading.ids[: reading.explained[at] + 1]
    if reading.words is not None:
        return ids, f"explained is the tag of word {at}, {reading.words[at]!r}", notes
    if at < count - 1:
        return ids, f"explained is what follows token {at}", notes
    return ids, None, notes


@torch.no_grad()
def _first_entity(loaded: Pretrained, reading: Reading) -> int:
    """The first word whose likeliest tag is not "O"; the last word where there is none."""
    network = loaded.model
    row = torch.tensor([reading.ids], device=next(network.parameters()).device)
    with evaluating(network):
        tags = network(row)[0, reading.explained].argmax(-1).tolist()
    outside = loaded.labels.index("O") if "O" in loaded.labels else -1
    return next((i for i, tag in enumerate(tags) if tag != outside), len(tags) - 1)


def _objective(target: int, alone: bool) -> Objective:
    """Log-probability of an outcome; `alone`: of several labels each is decided by itself."""
    if alone:
        return lambda scores: F.logsigmoid(scores[..., target])
    return lambda scores: scores.log_softmax(-1)[..., target]


class _Names:
    """Outcomes by name: labels, or tokens."""

    def __init__(self, loaded: Pretrained, tokenizer: Tokenizer):
        self.labels = loaded.labels if loaded.model.head_kind != "language" else []
        self.tokenizer = tokenizer

    def of(self, index: int) -> str:
        if self.labels:
            return self.labels[index]
        return token_text(self.tokenizer, index)

    def find(self, name: str) -> int:
        """The outcome of a name.

        Raises:
            UsageError: no label, or an empty text.
        """
        if self.labels:
            if name not in self.labels:
                raise UsageError(f"There is no label {name!r}.", where="--target", fix=did_you_mean(name, self.labels))
            return self.labels.index(name)
        ids = self.tokenizer.encode(name)
        if not ids:
            raise UsageError("The target is empty.", where="--target", fix='--target " Paris"')
        return ids[0]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as the reader shall see it; bytes that are no whole character stand as ⟨e4⟩."""
    if not 0 <= token < tokenizer.vocab_size:
        return f"⟨{token}⟩"
    if token in tokenizer.special_ids:
        return tokenizer.id_to_token(token) or f"⟨{token}⟩"
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"⟨{byte:02x}⟩" for byte in raw)


def _neighbours(
    loaded: Pretrained, tokenizer: Tokenizer, query: Tensor, train: Sequence[Record], count: int
) -> list[dict[str, Any]]:
    """The nearest training texts, as the page shows them."""
    language = loaded.model.head_kind == "language"
    longest = min(loaded.info.get("max_length") or loaded.config.n_positions, loaded.config.n_positions)
    texts, sources = [], []
    for record in train:
        text = record.fields.get("text", record.fields.get("tokens"))
        if text is None:
            raise DataError("The training record has no text.", where=record.place(), fix="--columns text=…")
        ids = encode_text(tokenizer, " ".join(map(str, text)) if isinstance(text, list) else str(text))
        for start in range(0, len(ids), longest):
            texts.append(ids[start : start + longest])
            sources.append(record)
            if not language:  # a classifier has read head and tail
                texts[-1] = head_and_tail(ids, longest)[0]
                break
    found = nearest(loaded.model, query, texts, every_token=language, count=count)
    rows = []
    for one in found:
        record, ids = sources[one.text], texts[one.text]
        before = tokenizer.decode(ids[max(0, one.token - 40) : one.token + 1])
        row: dict[str, Any] = {"similarity": one.similarity, "text": before, "file": record.file, "row": record.row}
        if language:
            row["next"] = token_text(tokenizer, ids[one.token + 1])
        elif record.fields.get("label") is not None:
            row["label"] = str(record.fields["label"])
        rows.append(row)
    return rows

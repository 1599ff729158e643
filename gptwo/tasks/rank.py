"""Ranking: a query and its candidates, the relevant ones to the top.

Each candidate is read with the query as a pair, "query <separator> candidate", and gets one score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from gptwo.data.batching import Example
from gptwo.data.sources import Record
from gptwo.errors import DataError
from gptwo.evaluate.assess import TUNED
from gptwo.evaluate.means import assess_means, worst_means
from gptwo.evaluate.ranking import BM25, order_of, random_scores, ranking_values
from gptwo.evaluate.report import Report
from gptwo.recipe import TaskSection
from gptwo.tasks import trust
from gptwo.tasks.candidates import join, last_states, pairwise_loss
from gptwo.tasks.lists import ListTask, candidate_scores
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.sequences import encode_pair
from gptwo.tasks.texts import evenly
from gptwo.tokenizer import Tokenizer

RANDOM = "Random order"


class Rank(ListTask):
    """Order candidates by how well they answer a query.

    Args:
        loss: "listwise" (softmax over the candidates of a query) or "pairwise" (each better candidate against each
            worse one).
    """

    name = "rank"
    head = "sequence"
    columns = ("query", "candidates", "relevant")
    inputs = ("query", "candidates")
    lists = ("candidates", "relevant")
    figures = ("mrr", "ndcg_10", "hits_1", "loss")
    uncalibrated = "scores put the candidates of a query in order, they are no probabilities"
    probed_at = "the last token of each candidate, by whether it is relevant"

    def __init__(self, loss: str = "listwise"):
        self.kind = loss
        self.labels = ["relevance"]

    @classmethod
    def of(cls, section: TaskSection) -> Self:
        return cls(section.loss)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        return cls(info.get("loss", "listwise"))

    def candidates_of(self, record: Record) -> list[str]:
        """The candidates of a record.

        Raises:
            DataError: there are none.
        """
        found = [str(candidate) for candidate in record.fields["candidates"]]
        if not found:
            raise DataError("The query has no candidates.", where=record.place(), fix="leave it out")
        return found

    def grades_of(self, record: Record) -> list[int]:
        """How relevant each candidate is; 0 is not.

        The field `relevant` holds a whole number for each candidate, or the relevant candidates themselves.

        Raises:
            DataError: neither of these, or no candidate is relevant.
        """
        candidates, given = self.candidates_of(record), [str(value) for value in record.fields["relevant"]]
        if len(given) == len(candidates) and all(value.isdecimal() for value in given):
            grades = [int(value) for value in given]
        elif strange := [value for value in given if value not in candidates]:
            raise DataError(
                f"{strange[0]!r} in `relevant` is not one of the {len(candidates)} candidates.",
                where=record.place(),
                fix="give a whole number for each candidate (0: not relevant), or the relevant candidates themselves",
            )
        else:
            grades = [int(candidate in given) for candidate in candidates]
        if not any(grades):
            raise DataError("None of the candidates is relevant.", where=record.place(), fix="leave the query out")
        return grades

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        query, candidates = str(record.fields["query"]), self.candidates_of(record)
        grades = self.grades_of(record) if target else [0] * len(candidates)
        pairs = [encode_pair(tokenizer, query, candidate, max_length) for candidate in candidates]
        return [join([ids for ids, _ in pairs], grades, index, truncated=max(cut for _, cut in pairs))]

    def objective(self, scores: Tensor, grades: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if self.kind == "pairwise":
            return pairwise_loss(scores, grades)
        return super().objective(scores, grades, label_smoothing)

    def rows(self, records: Sequence[Record], said: list[np.ndarray]) -> list[dict[str, Any]]:
        found = []
        for i, (record, scores) in enumerate(zip(records, said, strict=True)):
            candidates = self.candidates_of(record)
            ranked = [{"candidate": candidates[p], "score": round(float(scores[p]), 4)} for p in order_of(scores, i)]
            found.append({"query": record.fields["query"], "ranked": ranked})
        return found

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        said = self.predict(runner, records)
        grades = [self.grades_of(record) for record in records]
        values = ranking_values(grades, said)
        return {
            **{key: float(values[key].mean()) for key in self.figures if key in values},
            "loss": self.mean_loss(said, grades),
        }

    def probe(self, runner: ModelRunner, train: Sequence[Record], records: Sequence[Record]) -> list[np.ndarray]:
        """Logistic regression on frozen features of single candidates; see `trust.probe`."""
        lists = max(1, trust.PROBED // max(len(self.candidates_of(record)) for record in train))
        chosen = evenly(train, lists)
        states = [
            candidate_scores(runner, self.encode_all(runner, part, target=False), last_states)
            for part in (chosen, records)
        ]
        relevant = np.array([grade > 0 for record in chosen for grade in self.grades_of(record)])
        columns = np.stack([~relevant, relevant], axis=1)
        shares = trust.regressed(np.concatenate(states[0]), columns, np.concatenate(states[1]))[:, 1]
        return np.split(np.log(np.clip(shares, 1e-12, 1.0)), np.cumsum([len(one) for one in states[1]])[:-1])

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, list[np.ndarray]]:
        known = BM25(candidate for record in [*train, *test] for candidate in self.candidates_of(record))
        return {
            RANDOM: random_scores([len(self.candidates_of(record)) for record in test]),
            "BM25": [known.scores(str(record.fields["query"]), self.candidates_of(record)) for record in test],
        }

    def report(self, title: str, records: Sequence[Record], systems: dict[str, Any], **fields: Any) -> Report:
        grades = [self.grades_of(record) for record in records]
        measured = {name: ranking_values(grades, scores) for name, scores in systems.items()}
        candidates = [self.candidates_of(record) for record in records]
        best = [order_of(scores, i)[0] for i, scores in enumerate(systems[TUNED])]
        return assess_means(
            title=title,
            task=self.name,
            measured=measured,
            primary=self.figures[0],
            predictions={name: [scores.round(6).tolist() for scores in said] for name, said in systems.items()},
            texts=[str(record.fields["query"]) for record in records],
            worst=worst_means(
                [str(record.fields["query"]) for record in records],
                [row[int(np.argmax(known))] for row, known in zip(candidates, grades, strict=True)],
                [row[place] for row, place in zip(candidates, best, strict=True)],
                measured[TUNED]["mrr"],
                sources=[(record.file, record.row) for record in records],
            ),
            **fields,
        )

    def describe(self) -> dict[str, Any]:
        return {"task": self.name, "labels": self.labels, "loss": self.kind}

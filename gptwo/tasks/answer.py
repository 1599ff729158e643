"""Questions about a text, answered in free words; a question without an answer is answered so too.

The answer need not stand in the text, unlike in extractive question answering, which points at a span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess_text import Counted, mean_of
from gptwo.evaluate.spans import BestSentence, FrequentKind
from gptwo.evaluate.text_metrics import answer_f1, exact_match, is_cjk, normalize_answer
from gptwo.recipe import TaskSection
from gptwo.tasks.texts import Written, plain_text
from gptwo.tasks.write import Write

NO_ANSWER = "unanswerable"


class Answer(Write):
    """Learn to answer a question about a context; exact match and F1 by the rules of SQuAD (of CMRC 2018 for Chinese).

    Args:
        no_answer: what is written for a question without an answer (an empty list of answers).
        others: as in `Write`.
    """

    name = "answer"
    source, target, output = "context", "answers", "answer"
    columns = ("context", "question", "answers")
    inputs = ("context", "question")
    lists = ("answers",)
    template = "{context}\nQ: {question}\nA:\n"
    decoding: ClassVar[dict[str, Any]] = {"num_beams": 1, "temperature": 0.0}
    measures = ("f1", "exact_match")
    worst_by = "f1"

    def __init__(self, prompt: str | None = None, *, no_answer: str = NO_ANSWER, **settings: Any):
        super().__init__(prompt, **settings)
        if not no_answer.strip():
            raise UsageError("What is written where there is no answer cannot be empty.", where="task.no_answer")
        self.no_answer = no_answer.strip()

    @classmethod
    def of(cls, section: TaskSection, **own: Any) -> Self:
        return super().of(section, no_answer=section.no_answer, **own)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        task = super().restored(info)
        task.no_answer = info.get("no_answer", NO_ANSWER)
        return task

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "no_answer": self.no_answer}

    # --- answers

    def references_of(self, record: Record) -> list[str]:
        """The right answers, each once; none where there is no answer.

        Raises:
            DataError: an answer among others is empty, or is what no answer is written as.
        """
        value = record.fields[self.target]
        found = [plain_text(one) for one in (value if isinstance(value, list | tuple) else [value])]
        if len(found) <= 1 and not any(found):
            return []
        for text in found:
            if not text or same(text, self.no_answer):
                raise DataError(
                    f"An answer of several is empty or {self.no_answer!r}.",
                    where=record.place(),
                    why="a question without an answer has an empty list of answers",
                    fix="correct the row; a text that no answer has can be given as task.no_answer",
                )
        return list(dict.fromkeys(found))

    def targets_of(self, record: Record) -> list[str]:
        return self.references_of(record) or [self.no_answer]

    def source_of(self, record: Record) -> str:
        shown = [plain_text(record.fields[name]) for name in self.inputs if name != self.cut_field]
        return " ".join([*shown, plain_text(record.fields[self.cut_field])])

    def part_of(self, record: Record) -> str:
        return "with an answer" if self.references_of(record) else "without an answer"

    def finish(self, text: str) -> str:
        """An answer; nothing where the model says that there is none."""
        text = text.strip()
        return "" if same(text, self.no_answer) else text

    # --- figures

    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        known = [self.references_of(record) for record in records]
        chinese = self.is_chinese(known)
        pairs = list(zip(said.texts, known, strict=True))
        overlap = np.array([answer_f1(text, references, chinese=chinese) for text, references in pairs])
        exact = np.array([exact_match(text, references, chinese=chinese) for text, references in pairs])
        figures: dict[str, Counted | float] = {"f1": mean_of(overlap), "exact_match": mean_of(exact, right=True)}
        answered = np.array([bool(references) for references in known])
        if answered.any() and not answered.all():
            figures["f1/answerable"] = mean_of(overlap, answered)
            figures["f1/unanswerable"] = mean_of(overlap, ~answered)
        return figures

    @staticmethod
    def is_chinese(known: Sequence[Sequence[str]]) -> bool:
        """Whether the answers are compared by character."""
        return is_cjk(references[0] for references in known if references)

    def notes(self, records: Sequence[Record]) -> list[str]:
        known = [self.references_of(record) for record in records]
        rules = (
            "CMRC 2018: by character, F1 of the longest common run"
            if self.is_chinese(known)
            else "SQuAD: by word, without articles and punctuation"
        )
        none = sum(not references for references in known)
        return [f"Exact match and F1 by the rules of {rules}; {none:,} of {len(known):,} questions have no answer."]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        counts = Counter(text for record in train for text in (self.references_of(record) or [""]))
        usual = min(counts, key=lambda text: (-counts[text], text))
        found = {"Most frequent answer": Written([usual] * len(test))}
        if {"context", "question"} <= set(self.inputs):
            sentences = BestSentence([plain_text(record.fields["context"]) for record in [*train, *test]])
            firsts = [next(iter(self.references_of(record)), "") for record in train]
            asked = [[plain_text(record.fields[name]) for name in ("context", "question")] for record in test]
            for system in (FrequentKind(sentences, firsts), sentences):
                found[system.name] = Written([system.predict(*each).text for each in asked])
        return found


def same(text: str, other: str) -> bool:
    """Whether two texts are equal but for case, punctuation and white space."""
    plain = normalize_answer(text)
    return text == other or (plain != "" and plain == normalize_answer(other))

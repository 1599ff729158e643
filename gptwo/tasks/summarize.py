"""Summaries: a document and what it comes to, written by beam search.

A document that does not fit loses its end: in papers, news and minutes the beginning says most, which is also why its
first sentences are the opponent to beat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gptwo.data.sources import Record
from gptwo.evaluate.assess_text import Counted, mean_of
from gptwo.evaluate.text_metrics import is_cjk, rouge_scorer, rouge_scores
from gptwo.tasks.texts import Written, plain_text
from gptwo.tasks.write import Write

KINDS = {"rouge_l": "rougeL", "rouge_1": "rouge1", "rouge_2": "rouge2"}


class Summarize(Write):
    """Learn to write the summary of a document; ROUGE is that of rouge-score, of characters for Chinese.

    The document may be a list of sentences. The prompt is that of GPT-2's paper, section 3.6.
    """

    name = "summarize"
    source, target = "document", "summary"
    columns = ("document", "summary")
    inputs = ("document",)
    template = "{document}\nTL;DR:\n"
    measures = ("rouge_l", "rouge_1", "rouge_2")
    worst_by = "rouge_l"

    def fit(self, records: Sequence[Record]) -> None:
        rouge_scorer()  # a missing package is told before training, not after it
        super().fit(records)

    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        found = rouge_scores(said.texts, [self.references_of(record) for record in records])
        return {key: mean_of(found[kind]) for key, kind in KINDS.items()}

    def notes(self, records: Sequence[Record]) -> list[str]:
        by_character = is_cjk(self.references_of(record)[0] for record in records)
        units = "single characters" if by_character else "stemmed words"
        return [f"ROUGE: F-measures of {units}, against the best of several references; means over the records."]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        documents = [sentences(record.fields[self.cut_field]) for record in test]
        return {
            f"First {'sentence' if count == 1 else f'{count} sentences'}": Written(
                [plain_text(found[:count]) for found in documents]
            )
            for count in (1, 3)
        }


def sentences(document: Any) -> list[str]:
    """The sentences of a document: those of a list as they are, of a text by its punctuation and lines.

    >>> sentences("It works. Does it? 是的。好！ Version 2.0 too.")
    ['It works.', 'Does it?', '是的。', '好！', 'Version 2.0 too.']
    """
    if isinstance(document, list | tuple):
        return [text for text in map(plain_text, document) if text]
    end = r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)\]])\s+|(?<=[。！？])(?![”’」』）])|(?<=[。！？][”’」』）])|\n+"
    found = re.split(end, plain_text(document))
    return [text.strip() for text in found if text and text.strip()]

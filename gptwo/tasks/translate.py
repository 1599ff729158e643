"""Translation: a source text and its translation, written by beam search.

Zwei Hunde spielen.        the prompt "{source}\\n=\\n" of "Two dogs play.", as in GPT-2's paper, section 3.7
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptwo.data.sources import Record
from gptwo.evaluate.assess_text import Counted
from gptwo.evaluate.text_metrics import bleu_counts, bleu_of_sums, bleu_tokenizer, chrf_counts, chrf_of_sums, sacrebleu
from gptwo.tasks.texts import Written
from gptwo.tasks.write import Write


class Translate(Write):
    """Learn to write the target of a source; BLEU and chrF are those of sacrebleu."""

    name = "translate"
    source, target = "source", "target"
    columns = ("source", "target")
    inputs = ("source",)
    template = "{source}\n=\n"
    measures = ("bleu", "chrf")
    worst_by = "chrf"

    def fit(self, records: Sequence[Record]) -> None:
        sacrebleu()  # a missing package is told before training, not after it
        super().fit(records)

    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        known = [self.references_of(record) for record in records]
        return {
            "bleu": Counted(bleu_counts(said.texts, known, bleu_tokenizer(known)), bleu_of_sums),
            "chrf": Counted(chrf_counts(said.texts, known), chrf_of_sums),
        }

    def notes(self, records: Sequence[Record]) -> list[str]:
        known = [self.references_of(record) for record in records]
        references = len(known[0]) if len({len(each) for each in known}) == 1 else "var"
        signature = f"nrefs:{references}|case:mixed|eff:no|tok:{bleu_tokenizer(known)}|smooth:exp"
        return [
            f"BLEU as sacrebleu {sacrebleu().__version__} computes it: {signature}. "
            "chrF: chrF2 of characters up to 6-grams, no words."
        ]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        return {"Copy of the source": Written([self.source_of(record) for record in test])}

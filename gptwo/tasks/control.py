"""Texts to order: a topic, a style, a length, a mood, facts or words that must occur.

An order is a set of controls, key and value. Two things are measured: of values that texts repeat word for word (the
name of a restaurant), whether they are there and no other value of their key is (slot error rate, Dušek et al. 2020,
https://arxiv.org/abs/1901.07931); of other controls, whether the value that was ordered is found in the text: by
counting lines where the values are forms of verse, else by a classifier of texts by that control, a given one or one
trained on the same records.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess_text import Counted
from gptwo.evaluate.baselines import TfidfLogisticRegression
from gptwo.evaluate.statistics import share_of_sums
from gptwo.evaluate.text_metrics import bleu_counts, bleu_of_sums, bleu_tokenizer, distinct, sacrebleu, self_bleu
from gptwo.generate.options import REQUIRED_BEAMS
from gptwo.generate.required import holds
from gptwo.recipe import TaskSection
from gptwo.tasks.forms import is_form, keeps
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import SAMPLING, Written, evenly, plain_text, value_of, write
from gptwo.tasks.write import Write

if TYPE_CHECKING:
    from gptwo.tasks.judges import Judge

LITERAL = 0.9  # share of training texts that repeat a value, from which it counts as a fact to be repeated
SEEN = 5  # training records of a control's value at least
VALUES = 50  # values of a control that a classifier tells apart at most
ALIKE = 50  # texts that self-BLEU compares
Controls = dict[str, str]


class Control(Write):
    """Learn to write a text with given controls.

    A record holds `control`: an object {"topic": "war", "length": "short"}, text such as "name[Aromi], area[centre]",
    or any other text, which is a single control; `text`; and perhaps `required`, words that must occur. Texts are
    drawn; `task.decode = { num_beams = 4 }` where one right wording is wanted.

    Args:
        required: the words of the field `required` are brought into the text, by a beam search that is made for it.
        judges: control to the folder of a tuned classifier that reads its value out of a text.
        others: as in `Write`.
    """

    name = "control"
    source, target = "control", "text"
    columns = ("control", "text")
    inputs = ("control",)
    optional = ("required",)
    template = "{control}\n=\n"
    decoding: ClassVar[dict[str, Any]] = {"num_beams": 1, "temperature": 0.8, "top_p": 0.95, "seed": 0}
    measures = ("bleu", "distinct_1", "distinct_2", "self_bleu")
    worst_by = "bleu"

    def __init__(
        self,
        prompt: str | None = None,
        *,
        required: bool = False,
        judges: Mapping[str, str] | None = None,
        **settings: Any,
    ):
        super().__init__(prompt, **settings)
        self.required, self.judges = required, dict(judges or {})
        self.ruled: list[str] = []
        self.literal: dict[str, list[str]] = {}
        self.unread: list[str] = []  # of a saved model: what the training records would judge
        self._train: tuple[list[Controls], list[str]] = ([], [])

    @classmethod
    def of(cls, section: TaskSection, **own: Any) -> Self:
        return super().of(section, required=section.required, judges=section.judges, **own)

    @classmethod
    def restored(cls, info: Mapping[str, Any]) -> Self:
        task = super().restored(info)
        task.required, task.judges = info.get("required", False), dict(info.get("judges", {}))
        task.ruled = list(info.get("ruled", []))
        task.literal = {key: list(values) for key, values in info.get("literal", {}).items()}
        task.unread = list(info.get("judged", []))
        task._order_measures()
        return task

    def describe(self) -> dict[str, Any]:
        own = {"literal": self.literal, "ruled": self.ruled, "required": self.required, "judges": self.judges}
        return {**super().describe(), **own, "judged": self.judged or self.unread}

    # --- learning

    def fit(self, records: Sequence[Record]) -> None:
        sacrebleu()  # a missing package is told before training, not after it
        super().fit(records)
        self._take(records)
        values = values_of(self._train[0])
        self.ruled = [key for key, found in values.items() if key not in self.judges and all(map(is_form, found))]
        self.literal = {
            key: found for key, found in literal_values(*self._train).items() if key not in (*self.judges, *self.ruled)
        }
        for key in self.judges:
            if key not in values:
                raise UsageError(
                    f"No record has the control {key!r}.",
                    where="task.judges",
                    why=f"they have {', '.join(values)}",
                    fix='judges = { mood = "runs/mood" }',
                )
        _ = self._given_judges  # a missing or unfit one is told before training
        self._order_measures()

    def _take(self, records: Sequence[Record]) -> None:
        pairs = [(controls_of(record), text) for record in records for text in self.targets_of(record)]
        self._train = ([controls for controls, _ in pairs], [text for _, text in pairs])

    def remember(self, train: Sequence[Record]) -> None:
        self._take(train)
        self.unread = [key for key in self.unread if key not in self.judged]
        self._order_measures()

    @cached_property
    def _given_judges(self) -> dict[str, Judge]:
        """The classifiers of `judges`, which must know every value of the training records."""
        if not self.judges:
            return {}
        from gptwo.tasks.judges import Judge

        values = values_of(self._train[0])
        return {
            key: Judge(folder, values.get(key, []), where=f"task.judges.{key}") for key, folder in self.judges.items()
        }

    def _order_measures(self) -> None:
        """The figures that there are; the one that says most about obedience decides."""
        obeyed = self.ruled or self.judges or self.judged
        own = (*(("slot_error",) if self.literal else ()), *(("control_accuracy",) if obeyed else ()))
        self.measures = (*own, *type(self).measures)
        self.worst_by = self.measures[0]

    @property
    def judged(self) -> list[str]:
        """Controls that a classifier of the training texts judges: a few values, each seen often, that texts do not
        repeat and nothing else judges."""
        found = []
        others = {*self.literal, *self.ruled, *self.judges}
        for key in dict.fromkeys(key for controls in self._train[0] for key in controls):
            counts = Counter(controls[key] for controls in self._train[0] if key in controls)
            often = [value for value, count in counts.items() if count >= SEEN]
            if key not in others and 2 <= len(often) <= VALUES and sum(map(counts.get, often)) > len(counts):
                found.append(key)
        return found

    def check(self, record: Record) -> None:
        controls_of(record)
        self.targets_of(record)

    def prompt_ids(self, record: Record, tokenizer: Any, max_length: int) -> tuple[list[int], int]:
        shown = {**record.fields, "control": written_out(record.fields["control"])}
        return super().prompt_ids(Record(shown, record.file, record.row), tokenizer, max_length)

    def source_of(self, record: Record) -> str:
        return written_out(record.fields["control"])

    def part_of(self, record: Record) -> str | None:
        """The value of the first control that a classifier judges."""
        return controls_of(record).get(self.judged[0], "") if self.judged else None

    # --- figures

    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        known = [self.references_of(record) for record in records]
        orders = [controls_of(record) for record in records]
        figures: dict[str, Counted | float] = {}
        if self.literal:
            errors = [slot_errors(order, text, self.literal) for order, text in zip(orders, said.texts, strict=True)]
            figures["slot_error"] = Counted(np.array(errors, dtype=float).reshape(-1, 2), share_of_sums)
        keys = [*self.ruled, *self.judges, *self.judged]
        if keys:
            each = {key: self._obeyed(key, orders, said.texts) for key in keys}
            figures["control_accuracy"] = Counted(sum(each.values(), np.zeros((len(records), 2))), share_of_sums)
            if len(keys) > 1:
                figures |= {f"control_accuracy/{key}": Counted(rows, share_of_sums) for key, rows in each.items()}
        required = [required_of(record) for record in records]
        if any(required):
            figures["required_words"] = Counted(
                np.array([present(words, text) for words, text in zip(required, said.texts, strict=True)], dtype=float),
                share_of_sums,
            )
        figures["bleu"] = Counted(bleu_counts(said.texts, known, bleu_tokenizer(known)), bleu_of_sums)
        figures |= {f"distinct_{n}": distinct(said.texts, n) for n in (1, 2)}
        return {**figures, "self_bleu": self_bleu(evenly(said.texts, ALIKE))}

    def _obeyed(self, key: str, orders: Sequence[Controls], texts: Sequence[str]) -> np.ndarray:
        """(N, 2) whether the ordered value of a control is found in each text, and whether it was ordered."""
        asked = [i for i, order in enumerate(orders) if key in order]
        rows = np.zeros((len(orders), 2))
        if not asked:
            return rows
        some, values = [texts[i] for i in asked], [orders[i][key] for i in asked]
        if key in self.ruled:
            found = [is_form(value) and keeps(text, value) for text, value in zip(some, values, strict=True)]
        else:
            read = self._given_judges[key](some).labels if key in self.judges else self._read(key, some)
            found = [label == value for label, value in zip(read, values, strict=True)]
        rows[asked] = [[float(right), 1.0] for right in found]
        return rows

    def _read(self, key: str, texts: Sequence[str]) -> list[str]:
        """The value of a control that a classifier of the training texts reads out of texts."""
        learned = [(text, order[key]) for order, text in zip(*self._train, strict=True) if key in order]
        judge = TfidfLogisticRegression()
        return judge.fit_predict(*map(list, zip(*learned, strict=True)), list(texts)).labels

    def notes(self, records: Sequence[Record]) -> list[str]:
        notes = ["Self-BLEU: how alike the texts of a system are; less is more varied."]
        if self.literal:
            keys = ", ".join(self.literal)
            notes.append(f"Slot error rate: values of {keys} that are missing in a text or stand there unasked.")
        how = {
            "the number and length of the lines tell": self.ruled,
            **{f"the classifier {folder} reads": [key] for key, folder in self.judges.items()},
            "TF-IDF + logistic regression reads": self.judged,
        }
        means = [f"{who} {', '.join(keys)}" for who, keys in how.items() if keys]
        if means:
            real = Written([self.references_of(record)[0] for record in records])
            figure = value_of(self.measured(records, real)["control_accuracy"])
            notes.append(
                f"Control accuracy: {'; '.join(means)} out of the text; "
                f"of the real texts {100 * figure:.1f} % are found right."
            )
        if self.unread:
            notes.append(f"Not judged: {', '.join(self.unread)}; give the training records (--train) to judge it.")
        if self.required:
            notes.append("The words of the field required were brought in by beam search.")
        return notes

    # --- required words

    def predict(self, runner: ModelRunner, records: Sequence[Record]) -> Written:
        """A text for each record; with `required` and words to bring in, by constrained beam search."""
        words = [required_of(record) if self.required else [] for record in records]
        free = [place for place, asked in enumerate(words) if not asked]
        drawn = super().predict(runner, [records[place] for place in free])
        said = Written([""] * len(records), None, [0] * len(records), [True] * len(records))
        for place, text, cut, ended in zip(free, drawn.texts, drawn.cut, drawn.ended, strict=True):
            said.texts[place], said.cut[place], said.ended[place] = text, cut, ended
        options = {
            key: value for key, value in self.options(runner.max_length).items() if key not in (*SAMPLING, "seed")
        }
        options["num_beams"] = max(REQUIRED_BEAMS, options.get("num_beams", 1))
        for place, asked in enumerate(words):
            if not asked:
                continue
            (example,) = self.encode(records[place], runner.tokenizer, runner.max_length, place, target=False)
            try:
                ((text, ended),) = write(
                    runner.model, runner.tokenizer, [example.ids], {**options, "required": tuple(asked)}
                )
            except UsageError as error:
                raise DataError(error.what, where=records[place].place(), why=error.why, fix=error.fix) from error
            said.texts[place], said.cut[place], said.ended[place] = self.finish(text), example.truncated, ended
        return said

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        known = [(set(controls_of(record).items()), self.targets_of(record)[0]) for record in train]
        texts = []
        for record in test:
            order = set(controls_of(record).items())
            texts.append(max(known, key=lambda one: len(order & one[0]) - len(one[0] - order) / 1000)[1])
        return {"Nearest training text": Written(texts)}


def controls_of(record: Record) -> Controls:
    """The controls of a record.

    Raises:
        DataError: none; names file and row.
    """
    value = record.fields["control"]
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(
                "The control is not a JSON object.",
                where=record.place(),
                why=str(error),
                fix='write {"topic": "war"}, or text that does not begin with a brace',
            ) from error
    if isinstance(value, Mapping):
        found = {str(key): plain_text(item) for key, item in value.items()}
    else:
        slots = re.findall(r"(\w+)\[([^\]]*)\]", plain_text(value))
        found = dict(slots) if slots else {"control": plain_text(value)}
    found = {key: item for key, item in found.items() if item}
    if not found:
        raise DataError("The control is empty.", where=record.place(), fix="correct or remove the row")
    return found


def written_out(control: Any) -> str:
    """A control as the prompt has it: "topic: war, length: short" of an object, a text as it is.

    >>> written_out({"topic": "war", "length": "short"}), written_out("name[Aromi]")
    ('topic: war, length: short', 'name[Aromi]')
    """
    if isinstance(control, str) and control.lstrip().startswith("{"):
        try:
            control = json.loads(control)
        except ValueError:
            return control
    if isinstance(control, Mapping):
        return ", ".join(f"{key}: {plain_text(item)}" for key, item in control.items())
    return plain_text(control)


def values_of(orders: Sequence[Controls]) -> dict[str, list[str]]:
    """The values of every control, each once."""
    found: dict[str, dict[str, None]] = {}
    for order in orders:
        for key, value in order.items():
            found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items()}


def literal_values(orders: Sequence[Controls], texts: Sequence[str]) -> dict[str, list[str]]:
    """Controls whose values texts repeat word for word, with all their values."""
    asked: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    values: defaultdict[str, set[str]] = defaultdict(set)
    for order, text in zip(orders, texts, strict=True):
        for key, value in order.items():
            asked[key] += 1
            repeated[key] += holds(text, value)
            values[key].add(value)
    return {key: sorted(values[key]) for key in asked if repeated[key] >= LITERAL * asked[key]}


def slot_errors(order: Controls, text: str, literal: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    """Values of an order that are missing in a text, and others of their keys that stand there; and how many values
    there should be.

    >>> slot_errors({"name": "Aromi", "near": "Cafe Rouge"}, "Aromi is near Zizzi.", {"name": ["Aromi", "Zizzi"]})
    (1, 1)
    """
    wrong = slots = 0
    for key, values in literal.items():
        if key in order:
            slots += 1
            wrong += not holds(text, order[key])
        asked = order.get(key, "")
        wrong += any(holds(text, value) for value in values if not holds(asked, value) and value not in order.values())
    return wrong, slots


def required_of(record: Record) -> list[str]:
    """Words that must occur, from the field `required` where there is one."""
    value = record.fields.get("required") or []
    words = value.split(",") if isinstance(value, str) else value
    return [plain_text(word) for word in words if plain_text(word)]


def present(words: Sequence[str], text: str) -> tuple[int, int]:
    """How many of the words a text holds, and how many there are."""
    return sum(holds(text, word) for word in words), len(words)

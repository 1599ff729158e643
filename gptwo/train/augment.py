"""More labelled records out of few: a language model tuned on them writes, a classifier chooses.

After Anaby-Tavor et al. 2020, "Do Not Have Enough Data? Deep Learning to the Rescue!"
(https://arxiv.org/abs/1911.03118): the network learns to write a text after its label, writes several times as many
as are wanted, and those are kept that a classifier of the same records is surest of.

given.jsonl     the records it began with              train.jsonl     both, to be trained on
written.jsonl   the new ones, with where they are from   refused.jsonl   the others, with why
augment.json    counts                                 writer/         the run that tuned the writer
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.data.sources import Record, Rejects, read_records
from gptwo.errors import DataError, UsageError
from gptwo.generate.engine import Engine
from gptwo.generate.options import SamplingOptions
from gptwo.model.pretrained import Pretrained
from gptwo.recipe import Recipe
from gptwo.tasks.language import Language, template_fields
from gptwo.train.finetune import finetune, resolve
from gptwo.train.prepare import name_of
from gptwo.train.run import write_text
from gptwo.train.sift import Candidate, Judge, judge_of_model, judge_of_texts, reasons, sift

TFIDF = "tfidf"
PROMPT = "{label}\n"
DECODE = {"temperature": 0.9, "top_p": 0.95}
ROWS = 32  # texts that are written together
TURNS = 12  # rounds of writing and choosing at most
MORE = 1.5  # texts of a round for each that is still wanted


@dataclass(frozen=True)
class Wish:
    """What is to be written, and what is kept.

    Args:
        times: texts wanted for each given record, label by label.
        tries: texts written for each one wanted at most.
        confidence: least probability that the judge gives the label.
    """

    times: float = 1.0
    tries: float = 6.0
    confidence: float = 0.5

    def __post_init__(self) -> None:
        for name, low in (("times", 0.0), ("tries", 1.0)):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= low and getattr(self, name) > 0):
                raise UsageError(f"{name} must be {f'at least {low:g}' if low else 'above 0'}.", where=f"--{name}")
        if not 0 <= self.confidence <= 1:
            raise UsageError("A confidence lies between 0 and 1.", where="--confidence")


@dataclass
class Augmented:
    """What came of it.

    Args:
        folder: with train.jsonl and the other files.
        writer, judge: what wrote and what chose.
        given, wanted, written: label to records.
        drawn: texts that were written in all.
        refused: why to how many.
        rejected: of rows that could not be used, where there were any.
    """

    folder: Path
    writer: str
    judge: str
    given: dict[str, int]
    wanted: dict[str, int]
    written: dict[str, int]
    drawn: int
    refused: dict[str, int]
    rejected: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader must know."""
        short = [
            f"{label} ({self.written[label]:,} of {count:,})"
            for label, count in self.wanted.items()
            if self.written[label] < count
        ]
        notes = [f"Fewer than were wanted: {', '.join(short)}."] if short else []
        return [*notes, *([f"{self.rejected}."] if self.rejected else [])]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("writer", "judge", "given", "wanted", "written", "drawn", "refused", "notes")
        return {"folder": str(self.folder), **{name: getattr(self, name) for name in names}}


def augment(
    model: str | Path | Pretrained | None = None,
    *,
    train: str | Path | Sequence[str | Path] | None = None,
    out: str | Path = "runs/augment",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    judge: str | Path = TFIDF,
    wish: Wish | None = None,
    held_out: Sequence[str] = (),
    overwrite: bool = False,
) -> Augmented:
    """Write more records like the given ones.

    Args:
        model, recipe, settings: as `gptwo.finetune` has them; the recipe tunes the writer: task language, with a
            prompt of the label, and in task.decode how texts are drawn.
        train: records with text and one label each; none: those of the recipe.
        out: folder of the files that the module names.
        judge: "tfidf", learned from the given records, or a tuned classifier.
        wish: how many, and how sure.
        held_out: texts that must not be among the new ones, such as the test data.
        overwrite: begin anew in a used folder.

    Raises:
        UsageError: a recipe that is none of a writer, a judge that does not know the labels, a used folder.
        DataError: records that cannot be used.
        MissingError: no such model.
    """
    wish = wish or Wish()
    chosen = writer_recipe(recipe, model, train, settings)
    folder = Path(out).expanduser()
    with Rejects(folder / "rejects.jsonl", strict=chosen.data.strict) as rejects:
        given = read_labelled(chosen.data.train, chosen, rejects)
    labels = [label_of(record) for record in given]
    texts = [str(record.fields["text"]) for record in given]
    judges = judge_of_texts(texts, labels) if judge == TFIDF else judge_of_model(judge, sorted(set(labels)))
    rows = [
        {"text": text, "label": label, "origin": one.place()}
        for one, text, label in zip(given, texts, labels, strict=True)
    ]
    write_rows(folder / "given.jsonl", rows)
    plain = chosen.model_copy(update={"data": plain_data(chosen, [folder / "given.jsonl"])})
    run = finetune(model, recipe=plain, out=folder / "writer", overwrite=overwrite)

    wanted = {label: round(wish.times * count) for label, count in sorted(Counter(labels).items())}
    kept, drawn = write_texts(run.model, chosen, texts, wanted, wish, judges, held_out)
    base = name_of(run.model, chosen)
    new = [
        {
            "text": one.text,
            "label": one.label,
            "origin": "written",
            "writer": base,
            "judge": str(judge),
            "confidence": round(one.confidence or 0.0, 4),
            "seed": one.seed,
            "place": one.place,
        }
        for one in kept
    ]
    gone = [
        {"text": one.text, "label": one.label, "refused": one.refused, "confidence": one.confidence}
        for one in drawn
        if one.refused
    ]
    counts = Counter(one.label for one in kept)
    done = Augmented(
        folder=folder,
        writer=base,
        judge=str(judge),
        given=dict(sorted(Counter(labels).items())),
        wanted=wanted,
        written={label: counts[label] for label in wanted},
        drawn=len(drawn),
        refused=reasons(drawn),
        rejected=rejects.summary() if rejects.total else "",
    )
    write_rows(folder / "written.jsonl", new)
    write_rows(folder / "train.jsonl", [*rows, *new])
    write_rows(folder / "refused.jsonl", gone)
    write_text(folder / "augment.json", json.dumps(done.to_dict(), ensure_ascii=False, indent=1) + "\n")
    return done


def write_texts(
    writer: Pretrained,
    recipe: Recipe,
    texts: Sequence[str],
    wanted: Mapping[str, int],
    wish: Wish,
    judge: Judge,
    held_out: Sequence[str],
) -> tuple[list[Candidate], list[Candidate]]:
    """Write and choose in rounds until there are enough of every label, or the tries are used up.

    Args:
        texts: the given ones.

    Returns:
        Those that are kept, and all.
    """
    engine = Engine(writer, max_batch=ROWS)
    options = {**DECODE, **recipe.task.decode}
    if not any("\n" in text for text in texts):
        options.setdefault("stop", ("\n",))
    if not SamplingOptions.make(None, **options).draws:
        raise UsageError("A writer must draw: the likeliest text is always the same.", where="task.decode")
    longest = max(len(ids) for ids in engine.codec.need("A writer").encode_batch(list(texts)))
    options.setdefault("max_new_tokens", min(longest + 1, engine.config.n_positions // 2))
    job = Language(recipe.task.prompt)
    left = {label: math.ceil(wish.tries * count) for label, count in wanted.items()}
    kept: list[Candidate] = []
    drawn: list[Candidate] = []
    for turn in range(TURNS):
        counts = Counter(one.label for one in kept)
        asked = {label: min(math.ceil(MORE * (count - counts[label])), left[label]) for label, count in wanted.items()}
        order = [label for label, count in asked.items() for _ in range(count)]
        if not order:
            break
        prompts = [job.prompt_of(Record({"label": label}, "written", 1)) for label in order]
        seed = recipe.train.seed * TURNS + turn
        found = engine.generate(prompts, **{**options, "seed": seed})
        fresh = [
            Candidate(" ".join(one.text.split()) if "stop" in options else one.text.strip(), label, seed, place,
                      ended=one.finish_reason != "length")
            for place, (one, label) in enumerate(zip(found, order, strict=True))
        ]  # fmt: skip
        drawn += fresh
        for label, count in asked.items():
            left[label] -= count
        known = [*texts, *(one.text for one in kept)]
        for one in sift(fresh, judge=judge, confidence=wish.confidence, known=known, held_out=held_out):
            if counts[one.label] < wanted[one.label]:
                counts[one.label] += 1
                kept.append(one)
            else:
                one.refused = "more than were wanted"
    return kept, drawn


def writer_recipe(
    recipe: Recipe | str | Path | None,
    model: str | Path | Pretrained | None,
    train: str | Path | Sequence[str | Path] | None,
    settings: Mapping[str, Any] | None,
) -> Recipe:
    """The recipe of the writer; without one, that of a language model with the label before the text.

    Raises:
        UsageError: another task, a prompt that asks for more than the label, no data, no model.
    """
    chosen = resolve(recipe, model, None, {"train": train, "valid": None, "test": None}, settings)
    if chosen.task.name != "language":
        raise UsageError(
            f"The recipe tunes the writer of texts, and its task is {chosen.task.name}.",
            where="task.name",
            fix='name = "language"; a classifier that is to be helped goes to --classify',
        )
    prompt = chosen.task.prompt or PROMPT
    if template_fields(prompt) != ["label"]:
        raise UsageError(
            f"Of a text that is yet to be written only the label is known; the prompt is {prompt!r}.",
            where="task.prompt",
            fix='prompt = "{label}\\n"',
        )
    if not chosen.data.train:
        raise UsageError("There are no records to begin with.", where="data.train", fix="--train train.jsonl")
    chosen.task.prompt = prompt
    return chosen


def read_labelled(files: Sequence[str | Path], recipe: Recipe, rejects: Rejects) -> list[Record]:
    """Records of text and label, read as a recipe says.

    Raises:
        DataError: a file that cannot be used, or a record without one label.
    """
    data = recipe.data
    records = list(
        read_records(
            [str(file) for file in files],
            columns=data.columns or None,
            required=("text", "label"),
            format=data.format,
            rejects=rejects,
            encoding=data.encoding,
        )
    )
    for record in records:
        label_of(record)
    return records


def test_texts(
    files: Sequence[str | Path], recipe: Recipe | str | Path | None, settings: Mapping[str, Any] | None
) -> list[str]:
    """The texts of test records, which nothing written may repeat."""
    chosen = resolve(recipe, None, None, {}, settings)
    records = read_labelled(files, chosen, Rejects(strict=chosen.data.strict))
    return [str(record.fields["text"]) for record in records]


def label_of(record: Record) -> str:
    """The record's one label.

    Raises:
        DataError: it has several.
    """
    label = record.fields["label"]
    if isinstance(label, list | tuple | dict):
        raise DataError("The record has several labels.", where=record.place(), fix="give each text one label")
    return str(label)


def plain_data(recipe: Recipe, train: Sequence[Path], **parts: Sequence[Path]) -> Any:
    """The data section of a recipe for files that we wrote: jsonl under our own names."""
    files = {name: [str(path) for path in paths] for name, paths in {"train": train, **parts}.items()}
    fixed = {"columns": {}, "format": None, "encoding": "utf-8-sig", "label_separator": None, "limit": None}
    return recipe.data.model_copy(update={"valid": [], "test": [], **fixed, **files})


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

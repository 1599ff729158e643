"""What a network can be tuned for: one file per task, all behind `Task`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptwo.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from gptwo.model.heads import HeadKind
    from gptwo.recipe import TaskSection
    from gptwo.tasks.base import Task
    from gptwo.tasks.write import Write

WRITING = ("translate", "summarize", "answer", "dialogue", "control", "code")
NAMES = ("language", "classify", "tag", "match", "rank", "choice", "extract", "joint", *WRITING)


def make_task(section: TaskSection) -> Task:
    """The task of a recipe."""
    from gptwo.tasks.classify import Classify
    from gptwo.tasks.language import Language
    from gptwo.tasks.match import Match
    from gptwo.tasks.tag import Tag

    if section.name == "rank":
        from gptwo.tasks.rank import Rank

        return Rank(section.loss)
    if section.name == "choice":
        from gptwo.tasks.choice import Choice

        return Choice(section.score)
    if section.name == "joint":
        from gptwo.tasks.joint import Joint

        return Joint(section.kinds, section.labels)
    if section.name == "extract":
        from gptwo.tasks.extract import Extract

        return Extract(
            context=section.context,
            stride=section.stride,
            answer_length=section.answer_length,
            threshold=section.threshold,
        )
    if section.name == "match":
        return Match(
            section.labels,
            class_weights=section.class_weights,
            positive=section.positive,
            threshold=section.threshold,
        )
    if section.name == "classify" and (section.ordinal or section.hierarchy):
        from gptwo.tasks.ordinal import Hierarchical, Ordinal

        if section.ordinal:
            return Ordinal(section.labels, class_weights=section.class_weights)
        return Hierarchical(section.labels, class_weights=section.class_weights, separator=section.hierarchy or "/")
    if section.name == "classify":
        return Classify(
            section.labels,
            multi_label=section.multi_label,
            class_weights=section.class_weights,
            positive=section.positive,
            threshold=section.threshold,
        )
    if section.name == "tag":
        return Tag(section.labels, scheme=section.scheme, context=section.context)
    if section.name in WRITING:
        return writing_tasks()[section.name].of(section)
    return Language(section.prompt)


def writing_tasks() -> dict[str, type[Write]]:
    """The tasks that write a text for a source, by name."""
    from gptwo.tasks.answer import Answer
    from gptwo.tasks.code import Code
    from gptwo.tasks.control import Control
    from gptwo.tasks.dialogue import Dialogue
    from gptwo.tasks.summarize import Summarize
    from gptwo.tasks.translate import Translate

    return {task.name: task for task in (Translate, Summarize, Answer, Dialogue, Control, Code)}


def restore_task(info: dict[str, Any], head: HeadKind) -> Task:
    """The task of a saved model, from its gptwo.json; without one, what its head says.

    Args:
        info: `Pretrained.info`.
        head: `Model.head_kind`.

    Raises:
        UsageError: a task we do not know.
    """
    task = _task_of(info, head)
    task.calibration = dict(info.get("calibration") or {})
    return task


def _task_of(info: dict[str, Any], head: HeadKind) -> Task:
    from gptwo.tasks.classify import Classify
    from gptwo.tasks.language import Language
    from gptwo.tasks.match import Match
    from gptwo.tasks.tag import Tag

    name = info.get("task") or {"sequence": "classify", "token": "tag"}.get(head, "language")
    if name == "classify" and (info.get("ordinal") or info.get("hierarchy")):
        from gptwo.tasks.ordinal import Hierarchical, Ordinal

        if info.get("ordinal"):
            return Ordinal(info["labels"])
        return Hierarchical(info["labels"], separator=info["hierarchy"])
    if name == "classify":
        multi_label = info.get("problem_type") == "multi_label_classification"
        return Classify(
            info["labels"],
            multi_label=info.get("multi_label", multi_label),
            positive=info.get("positive"),
            threshold=info.get("threshold", 0.5),
        )
    if name == "rank":
        from gptwo.tasks.rank import Rank

        return Rank(info.get("loss", "listwise"))
    if name == "choice":
        from gptwo.tasks.choice import Choice

        return Choice(info.get("score", "head"))
    if name == "joint":
        from gptwo.tasks.joint import Joint

        return Joint(info["kinds"], info["labels"])
    if name == "extract":
        from gptwo.tasks.extract import Extract

        keys = ("context", "stride", "answer_length", "threshold")
        found = Extract(**{key: info[key] for key in keys if key in info})
        found.no_answer = info.get("no_answer", False)
        return found
    if name == "match":
        return Match(info["labels"], positive=info.get("positive"), threshold=info.get("threshold", 0.5))
    if name == "tag":
        # a model that gptwo did not tune saw its sentences once
        task = Tag(info["labels"], context=info.get("context", "left"))
        task.source_scheme = info["source_scheme"] if "source_scheme" in info else scheme_of_labels(task.labels)
        task.scheme = info.get("scheme", task.source_scheme or "plain")
        return task
    if name in WRITING:
        return writing_tasks()[name].restored(info)
    if name == "language":
        return Language(info.get("prompt"))
    raise UsageError(
        f"The model is tuned for a task we do not know: {name!r}.", where="gptwo.json", fix=did_you_mean(name, NAMES)
    )


def scheme_of_labels(labels: list[str]) -> str | None:
    """The scheme that a set of tags belongs to, None where they mark no entities."""
    from gptwo.evaluate.tagging import detect_scheme

    found = detect_scheme([[label] for label in labels])
    return "IOB2" if found in ("IOB1", "mixed") else found

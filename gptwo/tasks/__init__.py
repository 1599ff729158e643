"""What a network can be tuned for: one file per task, all behind `Task`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptwo.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from gptwo.recipe import TaskSection
    from gptwo.tasks.base import Task

NAMES = ("language", "classify", "tag")


def make_task(section: TaskSection) -> Task:
    """The task of a recipe."""
    from gptwo.tasks.classify import Classify
    from gptwo.tasks.language import Language
    from gptwo.tasks.tag import Tag

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
    return Language(section.prompt)


def restore_task(info: dict[str, Any]) -> Task:
    """The task of a saved model, from its gptwo.json.

    Raises:
        UsageError: the model was not tuned for a task.
    """
    from gptwo.tasks.classify import Classify
    from gptwo.tasks.language import Language
    from gptwo.tasks.tag import Tag

    name = info.get("task")
    if name == "classify":
        return Classify(
            info["labels"],
            multi_label=info.get("multi_label", False),
            positive=info.get("positive"),
            threshold=info.get("threshold", 0.5),
        )
    if name == "tag":
        task = Tag(info["labels"], scheme=info.get("scheme", "auto"), context=info.get("context", "both"))
        task.source_scheme = info.get("source_scheme")
        return task
    if name == "language":
        return Language(info.get("prompt"))
    raise UsageError(
        f"The model is not tuned for a task we know ({name!r}).",
        where="gptwo.json",
        fix=did_you_mean(name, NAMES) if name else "tune it with `gptwo finetune`",
    )

"""What a network can be tuned for: one file per task, all behind `Task`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gptwo.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from gptwo.model.heads import HeadKind
    from gptwo.recipe import TaskSection
    from gptwo.tasks.base import Task

TASKS = {  # name to file and class, which is imported when it is used
    "language": "language.Language",
    "classify": "classify.Classify",
    "tag": "tag.Tag",
    "match": "match.Match",
    "rank": "rank.Rank",
    "choice": "choice.Choice",
    "extract": "extract.Extract",
    "joint": "joint.Joint",
    "translate": "translate.Translate",
    "summarize": "summarize.Summarize",
    "answer": "answer.Answer",
    "dialogue": "dialogue.Dialogue",
    "control": "control.Control",
    "code": "code.Code",
}
NAMES = tuple(TASKS)


def make_task(section: TaskSection) -> Task:
    """The task of a recipe."""
    return _class_of(section.name, section.ordinal, section.hierarchy).of(section)


def restore_task(info: dict[str, Any], head: HeadKind) -> Task:
    """The task of a saved model, from its gptwo.json; without one, what its head says.

    Args:
        info: `Pretrained.info`.
        head: `Model.head_kind`.

    Raises:
        UsageError: a task we do not know.
    """
    name = info.get("task") or {"sequence": "classify", "token": "tag"}.get(head, "language")
    if name not in TASKS:
        raise UsageError(
            f"The model is tuned for a task we do not know: {name!r}.",
            where="gptwo.json",
            fix=did_you_mean(name, NAMES),
        )
    task = _class_of(name, info.get("ordinal"), info.get("hierarchy")).restored(info)
    task.calibration = dict(info.get("calibration") or {})
    return task


def _class_of(name: str, ordinal: bool | None, hierarchy: str | None) -> type[Task]:
    """The class of a task; that of classification depends on how its labels are related."""
    place = TASKS[name]
    if name == "classify" and (ordinal or hierarchy):
        place = "ordinal.Ordinal" if ordinal else "ordinal.Hierarchical"
    file, _, title = place.partition(".")
    return getattr(import_module(f"gptwo.tasks.{file}"), title)

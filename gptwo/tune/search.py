"""Searching: trials over the ranges of a recipe, one after another or side by side, until enough were tried.

The validation data decide; the test data are looked at once, by the best trial, when the search has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo import runtime
from gptwo.errors import DataError, GptwoError, Interrupted, MissingError, UsageError, did_you_mean
from gptwo.evaluate.metric_names import format_value, unit_title
from gptwo.evaluate.report import Report, read_report
from gptwo.evaluate.search_page import Trial, render_search, written
from gptwo.recipe import Recipe
from gptwo.tasks import make_task
from gptwo.train.finetune import finetune, resolve
from gptwo.train.lock import hold
from gptwo.train.parts import CountedRejects, read_part
from gptwo.train.run import write_text
from gptwo.train.signals import stop_signals
from gptwo.tune.space import check_ranges
from gptwo.tune.study import Search, begin, remove, reopen
from gptwo.tune.trial import run_trial

LOG = "process.log"
MISTAKES = {kind.exit_code: kind for kind in (UsageError, DataError, MissingError)}
Say = Callable[[str], None]


@dataclass
class Found:
    """What a search came to.

    Args:
        folder: of the search; best.toml, search.html and search.json are in it.
        metric: what decided, on the validation data.
        trials: all of them.
        best: the best one.
        run: its run folder, with the tuned model.
        importance: recipe key to its share, 0 to 1.
        report: of the best trial, on the test data where there are any.
    """

    folder: Path
    metric: str
    trials: list[Trial]
    best: Trial
    run: Path
    importance: dict[str, float]
    report: Report

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder),
            "recipe": str(self.folder / "best.toml"),
            "run": str(self.run),
            "metric": self.metric,
            "best": self.best.to_dict(),
            "importance": self.importance,
            "trials": [trial.to_dict() for trial in self.trials],
        }


def tune(
    model: str | Path | None = None,
    *,
    task: str | None = None,
    train: str | Path | Sequence[str | Path] | None = None,
    valid: str | Path | Sequence[str | Path] | None = None,
    test: str | Path | Sequence[str | Path] | None = None,
    out: str | Path = "runs/tune",
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Found:
    """Search the ranges of a recipe (`search.ranges`) for what is best on the validation data.

    Args:
        model, task, train, valid, test, recipe, settings: as `gptwo.finetune` has them; the recipe needs ranges.
        out: folder of the search.
        resume: go on with the search of `out`, also with more trials.
        overwrite: begin anew in a used folder.
        say: told of every trial in a line.

    Raises:
        UsageError: a wrong recipe, no ranges, a used folder.
        DataError, MissingError: as `gptwo.finetune`.
        Interrupted: stopped by a signal; the search can be resumed.
        GptwoError: no trial came to an end.
    """
    folder = Path(out).expanduser()
    if resume and overwrite:
        raise UsageError("--resume goes on with a search, --overwrite removes it.", fix="give one of them")
    begun = (folder / "search.db").is_file()
    given = folder / "search.toml" if recipe is None and resume and begun else recipe
    if resume and given is None:
        raise UsageError("There is no search to go on with.", where=folder, fix="check --out, or begin one")
    resolved = resolve(given, model, task, {"train": train, "valid": valid, "test": test}, settings)
    if resolved.model.base is None:
        raise UsageError("There is no model to start from.", where="model.base", fix="--model gptwo-mini")
    if not resolved.data.train:
        raise UsageError("There are no records to learn from.", where="data.train", fix="--train records.jsonl")
    check_ranges(resolved)
    if begun and not resume and not overwrite:
        raise UsageError(
            "There is a search in this folder already.",
            where=folder,
            fix="go on with --resume, begin anew with --overwrite, or choose another --out",
        )
    with hold(folder):
        if begun and not resume:
            remove(folder)
        search = reopen(folder, resolved) if begun and resume else begin(folder, resolved, metric_of(resolved))
        try:
            run_trials(search, say)
        except tuple(MISTAKES.values()):
            remove(folder)  # nothing came of it: the corrected command can be given again
            raise
        except (Interrupted, KeyboardInterrupt) as error:
            write_page(search, {})
            raise Interrupted(
                "Interrupted; the search can go on where it stands.",
                where=folder,
                why=f"{sum(trial.state.is_finished() for trial in search.frozen())} trials have ended",
                fix=f"gptwo tune --out {folder} --resume",
            ) from error
        return conclude(search)


def metric_of(recipe: Recipe) -> str:
    """What is to become best: as the recipe says, or the first figure of its task on these data.

    Raises:
        UsageError: the task does not measure it.
        DataError: the training data cannot be used.
    """
    job = make_task(recipe.task)
    rejects = CountedRejects(None, strict=recipe.data.strict)  # each trial writes its own
    job.fit(read_part("train", recipe.data, job, rejects).records)
    metric = recipe.search.metric or recipe.train.metric or job.figures[0]
    if metric not in job.figures:
        raise UsageError(
            f"There is no metric {metric!r} to search by.",
            where="search.metric",
            why=f"an evaluation gives {', '.join(job.figures)}",
            fix=did_you_mean(metric, job.figures),
        )
    return metric


def run_trials(search: Search, say: Say) -> None:
    """Run trials until there are enough; raises `Interrupted`, or what made the first one fail."""
    section = search.recipe.search
    until = time.monotonic() + 60 * section.minutes if section.minutes else None
    begun = [trial.number for trial in search.frozen() if trial.state.name == "RUNNING"]  # by an earlier session

    def following() -> int | None:
        """The number of the next trial, None where there is none to begin."""
        if begun:
            return begun.pop(0)
        late = until is not None and time.monotonic() >= until
        if late or len(search.frozen()) >= search.trials_wanted or search.out_of_patience():
            return None
        return search.ask()

    if section.parallel > 1:
        side_by_side(search, following, say)
        return
    while (number := following()) is not None:
        run_trial(search, number)
        ended(search, number, say)


def side_by_side(search: Search, following: Callable[[], int | None], say: Say) -> None:
    """Trials in processes of their own, `search.parallel` at a time."""
    section = search.recipe.search
    threads = search.recipe.train.threads or max(1, runtime.available_cpus() // section.parallel)
    running: dict[int, subprocess.Popen] = {}
    with stop_signals() as stop:
        told = False
        try:
            while True:
                while not stop.asked and len(running) < section.parallel:
                    number = following()
                    if number is None:
                        break
                    running[number] = start_process(search, number, threads)
                if not running:
                    break
                if stop.asked and not told:
                    told = True
                    for process in running.values():
                        process.send_signal(signal.SIGINT)  # each saves a checkpoint
                time.sleep(0.1)
                for number, process in [pair for pair in running.items() if pair[1].poll() is not None]:
                    del running[number]
                    if process.returncode != Interrupted.exit_code:
                        settle_crash(search, number, process.returncode)
                        ended(search, number, say)
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    if stop.asked:
        raise Interrupted("Interrupted.", where=search.folder)


def start_process(search: Search, number: int, threads: int) -> subprocess.Popen:
    """The process of a trial; what it prints goes to process.log of its run folder."""
    folder = search.trial_folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "gptwo.tune.trial", str(search.folder), str(number), str(threads)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(dict.fromkeys(paths))),
            start_new_session=True,  # Ctrl-C reaches this process alone, which tells the others
        )


def settle_crash(search: Search, number: int, status: int) -> None:
    """A trial whose process ended without a word (killed for memory, a bug) has failed."""
    if search.frozen()[number].state.name != "RUNNING":
        return
    lines = (search.trial_folder(number) / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    words = lines[-1] if lines else "it printed nothing"
    storage, trial = search.study._storage, search.frozen()[number]
    storage.set_trial_user_attr(trial._trial_id, "error", f"The process ended with status {status}: {words}")
    search.study.tell(number, state=type(trial.state).FAIL)


def ended(search: Search, number: int, say: Say) -> None:
    """What follows on a trial's end: best.toml, the page, less on the disk, a line.

    Raises:
        UsageError, DataError, MissingError: it failed by a mistake that no other trial will be spared.
    """
    trial = search.frozen()[number]
    kind = MISTAKES.get(trial.user_attrs.get("exit_code", 0))
    if kind is not None and search.best() is None:
        what, *rest = str(trial.user_attrs["error"]).split("\n")
        raise kind("\n".join([f"Trial {number} failed: {what}", *rest]))
    search.write_best()
    search.tidy()
    write_page(search, {})
    best = search.best()
    told = search.told()[number]
    value = told.state if told.value is None else f"{search.metric} {format_value(search.metric, told.value)}"
    first = " (best so far)" if best is not None and best.number == number else ""
    mark = f" ({told.state})" if told.state == "pruned" else ""
    settings = ", ".join(f"{key}={written(item)}" for key, item in told.values.items())
    say(f"trial {number + 1}/{search.trials_wanted}: {value}{mark}{first}  {settings}")
    if told.error:
        say("  " + told.error.partition("\n")[0])


def conclude(search: Search) -> Found:
    """The report of the best trial, and everything in plain values.

    Raises:
        GptwoError: no trial came to an end.
    """
    frozen = search.best()
    trials = search.told()
    if frozen is None:
        errors = [trial.error for trial in trials if trial.error]
        raise GptwoError(
            "No trial came to an end.",
            where=search.folder,
            why=errors[-1].replace("\n", " ") if errors else "all were pruned",
            fix='other ranges, or search.pruner = "none"',
        )
    folder = search.trial_folder(frozen.number)
    report = read_report(folder)
    if search.recipe.data.test and not any(file.part == "test" for file in report.data):
        recipe = search.tuned_recipe(search.values(frozen))
        recipe.track.trackers = [name for name in recipe.track.trackers if name != "console"]
        report = finetune(recipe=recipe, out=folder, resume=True).report  # it has ended: only the report is made
    importance = search.importance()
    write_page(search, importance)
    found = Found(search.folder, search.metric, trials, trials[frozen.number], folder, importance, report)
    write_text(search.folder / "search.json", json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return found


def write_page(search: Search, importance: dict[str, float]) -> None:
    """search.html as things stand."""
    section, recipe = search.recipe.search, search.recipe
    how = f"{section.parallel} at a time" if section.parallel > 1 else "one after another"
    page = render_search(
        f"{recipe.task.name}: {recipe.model.base} on {Path(recipe.data.train[0]).name}",
        search.told(),
        metric=search.metric,
        ranges={key: span if isinstance(span, list) else span.log for key, span in section.ranges.items()},
        importance=importance,
        notes=[
            f"{unit_title(search.metric)} is measured on the validation data; the test data took no part.",
            f"Sampler {section.sampler}, pruner {section.pruner}, {how}, seed {recipe.train.seed}.",
        ],
    )
    write_text(search.folder / "search.html", page)

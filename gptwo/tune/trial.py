"""One trial of a search: an ordinary run, told to the study at each evaluation and at its end.

As a program (`python -m gptwo.tune.trial FOLDER NUMBER THREADS`) it is the process of a trial of a parallel search.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gptwo.errors import DivergedError, GptwoError, Interrupted
from gptwo.train.finetune import finetune
from gptwo.tune.space import suggest
from gptwo.tune.study import Search, library, reopen

PRUNED = "pruned: other trials stood better by then"


def run_trial(search: Search, number: int, *, threads: int | None = None) -> None:
    """Train with the values of a trial, on from its checkpoint where it has one.

    Args:
        number: of a trial that runs, as `ask` gave it.
        threads: CPU threads of one process among several; None: the recipe's, and its console.

    Raises:
        Interrupted: stopped by a signal; the trial stays as running, and a resumed search goes on with it.
    """
    optuna = library()
    frozen = search.frozen()[number]
    trial = optuna.trial.Trial(search.study, frozen._trial_id)
    done = len(frozen.intermediate_values)  # evaluations of an earlier session

    def stop(step: int, figures: dict[str, float]) -> str | None:
        nonlocal done
        done += 1
        trial.report(figures[search.metric], done)
        return PRUNED if trial.should_prune() else None

    state = optuna.trial.TrialState
    try:
        values = suggest(trial, search.recipe.search.ranges, grid=search.grid)
        recipe = search.trial_recipe(values, threads=threads)
        folder = search.trial_folder(number)
        run = finetune(recipe=recipe, out=folder, resume=(folder / "recipe.toml").is_file(), stop=stop)
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted in trial {number}.", where=search.folder) from error
    except GptwoError as error:
        trial.set_user_attr("error", str(error))
        if not isinstance(error, DivergedError):  # other values may do
            trial.set_user_attr("exit_code", error.exit_code)
        search.study.tell(number, state=state.FAIL)
        return
    pruned = run.outcome.reason == PRUNED
    best = run.outcome.progress.best
    search.study.tell(number, None if pruned else best, state=state.PRUNED if pruned else state.COMPLETE)


def main(folder: str, number: str, threads: str) -> int:
    """The process of one trial; returns its exit status."""
    try:
        run_trial(reopen(Path(folder)), int(number), threads=int(threads))
    except (Interrupted, KeyboardInterrupt):
        return Interrupted.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

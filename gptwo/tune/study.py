"""The study of a search: its folder, its storage, and what it asks for next.

search.toml  the recipe with its ranges     search.db    every trial, in SQLite, by Optuna
trials/      a run folder for each trial    best.toml    the best recipe so far, for `gptwo finetune`
search.html  history, importance, trials
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.errors import MissingError, UsageError, require
from gptwo.evaluate.metric_names import metric_name
from gptwo.evaluate.search_page import Trial
from gptwo.recipe import Recipe, SearchSection, load_recipe
from gptwo.train.run import write_text
from gptwo.tune.space import grid_points, suggest, values_of, with_values

if TYPE_CHECKING:
    import optuna

NAME = "search"
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
FREE = {  # what may change when a search goes on; anything else would make its trials of two kinds
    "search": ("trials", "parallel", "patience", "minutes", "keep"),
    "data": ("test",),
    "train": ("threads", "log_every"),
    "track": ("trackers", "project"),
}


@dataclass
class Search:
    """A search that is open.

    Args:
        folder: where everything of it lies.
        recipe: with its ranges.
        metric: what is to become best, on the validation data.
        study: Optuna's.
    """

    folder: Path
    recipe: Recipe
    metric: str
    study: optuna.Study

    @property
    def maximise(self) -> bool:
        """Whether more of the metric is better."""
        return metric_name(self.metric).higher_is_better

    @property
    def grid(self) -> bool:
        """Whether all combinations are tried."""
        return self.recipe.search.sampler == "grid"

    @property
    def trials_wanted(self) -> int:
        """How many trials there shall be: of a grid no more than it has points."""
        wanted = self.recipe.search.trials
        return min(wanted, len(grid_points(self.recipe))) if self.grid else wanted

    def ask(self) -> int:
        """Begin a trial; returns its number."""
        if self.grid:
            self.study.enqueue_trial(grid_points(self.recipe)[len(self.frozen())])
        trial = self.study.ask()
        suggest(trial, self.recipe.search.ranges, grid=self.grid)
        return trial.number

    def frozen(self) -> list[optuna.trial.FrozenTrial]:
        """All trials as they stand now, in order."""
        return self.study.get_trials(deepcopy=False)

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The best of the trials that came to an end, None while there is none; the first of equals."""
        done = [trial for trial in self.frozen() if trial.state.name == "COMPLETE" and trial.value is not None]
        sign = -1 if self.maximise else 1
        return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def out_of_patience(self) -> bool:
        """Whether too many trials have ended since the best one."""
        ended = [trial.number for trial in self.frozen() if trial.state.is_finished()]
        best = self.best()
        patience = self.recipe.search.patience
        since = sum(number > best.number for number in ended) if best else len(ended)
        return patience is not None and since >= patience

    def trial_folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / "trials" / f"trial-{number:04d}"

    def values(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """The recipe keys of a trial with their values."""
        return values_of(self.recipe.search.ranges, trial.params, grid=self.grid)

    def tuned_recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with the values of a trial, as `gptwo finetune` runs it: without anything to search."""
        recipe = with_values(self.recipe, {**values, "train.metric": self.metric})
        recipe.search = SearchSection()
        return recipe

    def trial_recipe(self, values: Mapping[str, Any], *, threads: int | None = None) -> Recipe:
        """The recipe a trial runs: it never sees the test data."""
        recipe = self.tuned_recipe(values)
        recipe.data.test = []
        if threads is not None:
            recipe.train.threads = threads
            recipe.track.trackers = [name for name in recipe.track.trackers if name != "console"]
        return recipe

    def write_best(self) -> Path | None:
        """Write best.toml; None while no trial has come to an end."""
        best = self.best()
        if best is None:
            return None
        path = self.folder / "best.toml"
        head = (
            f"# Trial {best.number}: {self.metric} {best.value:.6g} on the validation data.\n# gptwo finetune {path}\n"
        )
        write_text(path, f"{head}\n{self.tuned_recipe(self.values(best)).to_toml()}")
        return path

    def tidy(self) -> None:
        """Remove the weights of trials that have ended and are not the best, where the recipe says so."""
        best = self.best()
        if self.recipe.search.keep == "all":
            return
        for trial in self.frozen():
            if trial.state.is_finished() and (best is None or trial.number != best.number):
                for name in ("checkpoints", "best"):
                    shutil.rmtree(self.trial_folder(trial.number) / name, ignore_errors=True)

    def told(self) -> list[Trial]:
        """The trials in plain values, for the page and the table."""
        return [
            Trial(
                number=trial.number,
                state=STATES[trial.state.name],
                value=trial.value if trial.value is not None and math.isfinite(trial.value) else None,
                values=self.values(trial),
                evaluations=[value for _, value in sorted(trial.intermediate_values.items())],
                seconds=trial.duration.total_seconds() if trial.duration else None,
                error=trial.user_attrs.get("error", ""),
            )
            for trial in self.frozen()
        ]

    def importance(self) -> dict[str, float]:
        """The share of each key in what made the trials differ, 0 to 1, the largest first (fANOVA, Hutter et al. 2014).

        Nothing where fewer than four trials came to an end, or all with the same value.
        """
        values = {trial.value for trial in self.frozen() if trial.state.name == "COMPLETE"}
        if len(values) < 2 or sum(trial.state.name == "COMPLETE" for trial in self.frozen()) < 4:
            return {}
        optuna = library()
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return dict(optuna.importance.get_param_importances(self.study, evaluator=evaluator))
        except (RuntimeError, ValueError):  # every key had a single value
            return {}


def library() -> Any:
    """Optuna, silent; raises `MissingError` where it is not installed."""
    optuna = require("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def begin(folder: Path, recipe: Recipe, metric: str) -> Search:
    """Write the recipe and an empty storage into a folder."""
    library()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "search.toml", with_values(recipe, {"search.metric": metric}).to_toml())
    return _open(folder, recipe, metric)


def reopen(folder: Path, recipe: Recipe | None = None) -> Search:
    """A search that was begun.

    Args:
        recipe: what it goes on with; None: its own.

    Raises:
        MissingError: there is none.
        UsageError: the recipe would make another search of it; names the keys.
    """
    path = folder / "search.toml"
    if not path.is_file() or not (folder / "search.db").is_file():
        raise MissingError("There is no search to go on with.", where=folder, fix="check --out, or begin one")
    begun = load_recipe(path, environment={})
    metric = begun.search.metric or "loss"
    if recipe is None:
        return _open(folder, begun, metric)
    if recipe.search.metric is None:
        recipe.search.metric = metric
    changed = [
        f"{section}.{key} was {getattr(old, key)!r} and is {getattr(new, key)!r}"
        for section in Recipe.model_fields
        for old, new in [(getattr(begun, section), getattr(recipe, section))]
        for key in type(old).model_fields
        if key not in FREE.get(section, ()) and getattr(old, key) != getattr(new, key)
    ]
    if changed:
        raise UsageError(
            "The recipe is not the one this search was begun with.",
            where=path,
            why="; ".join(changed),
            fix="go on with the search's own recipe, begin anew with --overwrite, or choose another --out",
        )
    write_text(path, recipe.to_toml())
    return _open(folder, recipe, metric)


def remove(folder: Path) -> None:
    """Remove what an earlier search has left."""
    shutil.rmtree(folder / "trials", ignore_errors=True)
    for name in ("search.toml", "search.db", "best.toml", "search.html", "search.json"):
        (folder / name).unlink(missing_ok=True)


def _open(folder: Path, recipe: Recipe, metric: str) -> Search:
    optuna = library()
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(folder / 'search.db').resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": constant_liar
        study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            direction="maximize" if metric_name(metric).higher_is_better else "minimize",
            load_if_exists=True,
            pruner=make_pruner(recipe.search, optuna),
        )
        search = Search(folder, recipe, metric, study)
        study.sampler = make_sampler(recipe, len(search.frozen()), optuna)
    return search


def make_sampler(recipe: Recipe, done: int, optuna: Any) -> Any:
    """Optuna's sampler; the seed goes on with the trials, so that a search that is resumed repeats none."""
    section, seed = recipe.search, recipe.train.seed + done
    if section.sampler in ("random", "grid"):  # of a grid, `Search.ask` gives the points
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(n_startup_trials=section.startup, seed=seed, constant_liar=section.parallel > 1)


def make_pruner(section: SearchSection, optuna: Any) -> Any:
    """Optuna's pruner; its steps are the numbers of the evaluations, from 1."""
    pruners = optuna.pruners
    if section.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=section.startup, n_warmup_steps=2)
    if section.pruner == "halving":
        return pruners.SuccessiveHalvingPruner()
    return pruners.HyperbandPruner() if section.pruner == "hyperband" else pruners.NopPruner()

"""A search: ordinary runs, the best one kept, the test data seen once, and a kill or a stop that costs nothing."""

from __future__ import annotations

import json
import os
import signal

import pytest

from gptwo.errors import GptwoError, Interrupted, UsageError
from gptwo.evaluate.report import read_report
from gptwo.model.pretrained import load
from gptwo.recipe import load_recipe
from gptwo.tasks.classify import Classify
from gptwo.train.finetune import finetune

RATE = "optimizer.learning_rate"


def table(found):
    return [(trial.state, trial.values, trial.evaluations, trial.value) for trial in found.trials]


def test_a_search_leaves_runs_a_recipe_a_page_and_a_report(search, tmp_path, labelled):
    lines: list[str] = []
    found = search(test=True, say=lines.append, search__trials=4)
    assert [trial.state for trial in found.trials] == ["finished"] * 4
    assert found.best.value == max(trial.value for trial in found.trials)
    assert len({trial.values[RATE] for trial in found.trials}) == 4
    assert len(lines) == 4
    assert lines[0].startswith("trial 1/4: accuracy ")
    folder = tmp_path / "search"
    assert (found.folder, found.run) == (folder, folder / "trials" / f"trial-{found.best.number:04d}")
    for trial in found.trials:
        run = folder / "trials" / f"trial-{trial.number:04d}"
        assert load_recipe(run / "recipe.toml", environment={}).optimizer.learning_rate == trial.values[RATE]
        assert (run / "events.jsonl").is_file()
        best = trial.number == found.best.number
        assert (run / "best").is_dir() is best
        # the test data are seen by the best alone, when all have ended
        report = read_report(run)
        assert any(file.part == "test" for file in report.data) is best
        assert ("test" in json.loads((run / "environment.json").read_text())["data"]) is best
    assert found.report.to_dict() == read_report(found.run).to_dict()
    assert load(found.run).labels == ["cat", "dog"]
    page = (folder / "search.html").read_text(encoding="utf-8")
    assert "Importance" in page or not found.importance
    assert "http" not in page
    assert json.loads((folder / "search.json").read_text())["best"]["number"] == found.best.number


def test_the_best_recipe_runs_as_it_is(search, tmp_path):
    found = search(test=True)
    text = (tmp_path / "search" / "best.toml").read_text(encoding="utf-8")
    assert text.startswith(f"# Trial {found.best.number}: accuracy ")
    assert "[search]" not in text
    again = finetune(recipe=tmp_path / "search" / "best.toml", out=tmp_path / "again")
    assert again.outcome.progress.best == found.best.value
    assert again.report.tuned.predictions == found.report.tuned.predictions


def test_equal_seeds_search_alike_and_other_seeds_do_not(search):
    one = table(search("one", search__trials=2))
    assert table(search("two", search__trials=2)) == one
    assert table(search("three", search__trials=2, train__seed=1))[0][1] != one[0][1]


class Interrupting:
    """Sends SIGINT in the nth evaluation of a classifier."""

    def __init__(self, monkeypatch, place: int):
        self.left, plain = place, Classify.evaluate

        def evaluate(task, *given, **named):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return plain(task, *given, **named)

        monkeypatch.setattr(Classify, "evaluate", evaluate)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_was_interrupted_goes_on_to_the_same_end(search, monkeypatch, tmp_path, sampler):
    options = {"search__sampler": sampler, "search__startup": 1, "train__epochs": 3}
    whole = search("whole", **options)
    Interrupting(monkeypatch, place=4)  # the first evaluation of the second trial
    with pytest.raises(Interrupted, match=r"can go on[\s\S]*1 trials have ended[\s\S]*--resume") as raised:
        search("parts", **options)
    assert raised.value.exit_code == 130
    assert (tmp_path / "parts" / "best.toml").is_file()
    assert "1 running" in (tmp_path / "parts" / "search.html").read_text()
    resumed = search("parts", resume=True, **options)
    assert table(resumed)[:2] == table(whole)[:2]  # the second goes on from its checkpoint
    assert [trial.state for trial in resumed.trials] == ["finished"] * 3


def test_more_trials_may_be_added(search):
    first = search(search__trials=2)
    again = search(search__trials=2, resume=True)
    assert table(again) == table(first)
    more = search(search__trials=4, resume=True)
    assert table(more)[:2] == table(first)
    assert len({trial.values[RATE] for trial in more.trials}) == 4


def test_a_used_folder(search, tmp_path):
    search(search__trials=1)
    with pytest.raises(UsageError, match=r"There is a search[\s\S]*--resume[\s\S]*--overwrite"):
        search(search__trials=1)
    with pytest.raises(UsageError, match="give one of them"):
        search(search__trials=1, resume=True, overwrite=True)
    with pytest.raises(UsageError, match=r"not the one this search was begun with[\s\S]*search\.ranges was"):
        search(ranges={RATE: [0.1, 0.2]}, resume=True)
    with pytest.raises(UsageError, match=r"train\.batch_size was 8 and is 4"):
        search(search__trials=2, resume=True, train__batch_size=4)
    found = search(ranges={"train.batch_size": [4]}, overwrite=True, search__trials=1)
    assert found.best.values == {"train.batch_size": 4}
    assert sorted(path.name for path in (tmp_path / "search" / "trials").iterdir()) == ["trial-0000"]


def test_nothing_to_resume(tmp_path):
    from gptwo.tune.search import tune

    with pytest.raises(UsageError, match="no search to go on with"):
        tune(out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_trial_that_promises_little_ends_early(search):
    found = search(
        ranges={RATE: [1e-2, 1e-9]},
        search__sampler="grid",
        search__pruner="median",
        search__startup=1,
        search__trials=9,
        train__epochs=6,
    )
    assert len(found.trials) == 2  # a grid has no more
    by_rate = {trial.values[RATE]: trial for trial in found.trials}
    if found.trials[0].values[RATE] == 1e-2:  # the good one came first
        assert by_rate[1e-9].state == "pruned"
        assert 2 <= len(by_rate[1e-9].evaluations) < 6
    assert by_rate[1e-2].state == "finished"
    assert found.best.values == {RATE: 1e-2}


def test_a_trial_that_diverges_has_failed_and_the_search_goes_on(search, tmp_path):
    lines: list[str] = []
    found = search(ranges={RATE: [1e-2, 1e30]}, search__sampler="grid", say=lines.append, train__clip=0)
    states = {trial.values[RATE]: trial for trial in found.trials}
    assert states[1e30].state == "failed"
    assert "weights were not changed" in states[1e30].error
    assert found.best.values == {RATE: 1e-2}
    assert any("failed" in line for line in lines)


def test_a_search_in_which_everything_fails_says_so(search):
    with pytest.raises(GptwoError, match=r"No trial came to an end[\s\S]*loss is"):
        search(ranges={RATE: [1e30]}, search__trials=1, train__clip=0)


def test_a_mistake_ends_the_search_at_once(search, labelled, tmp_path):
    with pytest.raises(UsageError, match=r"Trial 0 failed: [\s\S]*pattern"):
        search(ranges={"freeze.policy": ["pattern"]})
    with pytest.raises(UsageError, match=r"no metric 'acuracy'[\s\S]*Did you mean 'accuracy'"):
        search("metric", search__metric="acuracy")
    assert not (tmp_path / "metric" / "search.db").exists()


def test_less_may_be_better_and_patience_ends_a_search(search):
    found = search(search__metric="loss", ranges={RATE: [1e-9]}, search__patience=2, search__trials=9)
    assert len(found.trials) == 3  # none is better than the first
    assert found.best.value == min(trial.value for trial in found.trials)
    assert load_recipe(found.folder / "best.toml", environment={}).train.metric == "loss"


def test_a_time_may_be_set(search):
    with pytest.raises(GptwoError, match="No trial came to an end"):
        search(search__minutes=1e-9)


def test_all_weights_may_be_kept(search):
    found = search(search__keep="all", search__trials=2)
    assert all((found.folder / "trials" / f"trial-{i:04d}" / "best").is_dir() for i in range(2))


@pytest.mark.slow
def test_side_by_side_equals_one_after_another(search):
    alone = search("alone", search__trials=2, train__label_smoothing=0.1)
    together = search("together", search__trials=2, search__parallel=2, train__label_smoothing=0.1)
    assert table(together) == table(alone)
    assert (together.folder / "trials" / "trial-0001" / "process.log").is_file()


def test_a_process_that_dies_costs_its_own_trial(search, monkeypatch):
    import sys

    import gptwo.tune.search as module

    plain = module.subprocess.Popen

    def popen(command, **given):
        dies = command[4] == "0"
        return plain([sys.executable, "-c", "print('out of luck'); raise SystemExit(9)"] if dies else command, **given)

    monkeypatch.setattr(module.subprocess, "Popen", popen)
    found = search(search__trials=2, search__parallel=2)
    assert [trial.state for trial in found.trials] == ["failed", "finished"]
    assert "status 9: out of luck" in found.trials[0].error

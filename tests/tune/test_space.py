"""Ranges: what may be tried, and a recipe with what was."""

from __future__ import annotations

import tomllib

import optuna
import pytest

from gptwo.errors import UsageError
from gptwo.recipe import Range, Recipe, load_recipe
from gptwo.tune.space import check_ranges, grid_values, suggest, values_of, with_values


def recipe(ranges, **given) -> Recipe:
    return load_recipe(None, {"search.ranges": ranges, **{k.replace("__", "."): v for k, v in given.items()}}, {})


@pytest.mark.parametrize(
    "text",
    [
        '[search]\n"train.batch_size" = [8, 16]\n"optimizer.learning_rate" = { low = 1e-5, high = 1e-3, log = true }\n',
        "[search]\ntrain.batch_size = [8, 16]\noptimizer.learning_rate = { low = 1e-5, high = 1e-3, log = true }\n",
        "[search.ranges]\ntrain.batch_size = [8, 16]\noptimizer.learning_rate = { low = 1e-5, high = 1e-3, log = true}",
        "[search.train]\nbatch_size = [8, 16]\n[search.optimizer.learning_rate]\nlow = 1e-5\nhigh = 1e-3\nlog = true\n",
    ],
)
def test_a_range_may_be_written_in_every_way_of_toml(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    found = load_recipe(tmp_path / "recipe.toml", environment={})
    assert found.search.ranges == {
        "train.batch_size": [8, 16],
        "optimizer.learning_rate": Range(low=1e-5, high=1e-3, log=True),
    }
    assert Recipe.model_validate(tomllib.loads(found.to_toml())) == found


def test_flags_and_the_environment_give_ranges_too():
    found = load_recipe(None, {"search.train.epochs": [1, 2]}, {"GPTWO__SEARCH__TRAIN__BATCH_SIZE": "[4, 8]"})
    assert found.search.ranges == {"train.epochs": [1, 2], "train.batch_size": [4, 8]}


def test_a_recipe_without_ranges_says_nothing_of_a_search():
    assert "[search]" not in load_recipe(None, {"search.trials": 3}, {}).to_toml()


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({}, "nothing to search"),
        ({"train.batch_size": []}, r"nothing to choose[\s\S]*train\.batch_size"),
        ({"train.batch_size": [8, 0]}, r"value 0 does not fit train\.batch_size"),
        ({"train.label_smoothing": {"low": 0, "high": 1.5}}, r"value 1\.5 does not fit train\.label_smoothing"),
        ({"task.name": ["classify", "clasify"]}, r"does not fit task\.name"),
    ],
)
def test_every_end_and_choice_must_fit_its_key(ranges, words):
    with pytest.raises(UsageError, match=words):
        check_ranges(recipe(ranges))


@pytest.mark.parametrize(
    ("key", "span", "words"),
    [
        ("train.batchsize", [1], r"no key 'batchsize'[\s\S]*Did you mean 'batch_size'"),
        ("trian.batch_size", [1], "no section 'trian'"),
        ("search.trials", [1], "cannot be searched"),
        ("train", [1], "cannot be searched"),
        ("train.clip", {"low": 2, "high": 1}, r"low = 2\D* lies above high = 1"),
        ("train.clip", {"low": 0, "high": 1, "log": True}, "low must lie above 0"),
        ("train.clip", {"low": 0, "high": 1, "stepp": 1}, "stepp|does not fit"),
        ("train.clip", 3, "does not fit"),
    ],
)
def test_a_mistake_in_a_range_is_told_when_the_recipe_is_read(key, span, words):
    with pytest.raises(UsageError, match=words):
        recipe({key: span})


def test_a_grid_needs_steps():
    check_ranges(recipe({"train.batch_size": {"low": 8, "high": 10}}, search__sampler="grid"))
    with pytest.raises(UsageError, match=r"grid needs choices or a step[\s\S]*train\.clip"):
        check_ranges(recipe({"train.clip": {"low": 0.5, "high": 1}}, search__sampler="grid"))
    assert grid_values("train.clip", Range(low=0.5, high=1.0, step=0.25)) == [0.5, 0.75, 1.0]
    assert grid_values("model.dropout", Range(low=0.0, high=0.3, step=0.1)) == pytest.approx([0, 0.1, 0.2, 0.3])


RANGES = recipe(
    {
        "optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "train.batch_size": {"low": 4, "high": 16, "step": 4},
        "task.class_weights": ["none", {"good": 2.0}],
        "data.packed": [True, False],
    }
).search.ranges


def test_values_lie_in_their_ranges_and_come_back_from_the_storage():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = []
    for _ in range(20):
        trial = study.ask()
        values = suggest(trial, RANGES, grid=False)
        assert 1e-5 <= values["optimizer.learning_rate"] <= 1e-3
        assert values["train.batch_size"] in (4, 8, 12, 16)
        assert values_of(RANGES, trial.params, grid=False) == values
        assert suggest(trial, RANGES, grid=False) == values  # the same again
        found = with_values(Recipe(), values)
        assert found.task.class_weights == values["task.class_weights"]
        seen.append(values["task.class_weights"])
    assert {"good": 2.0} in seen
    assert "none" in seen

"""Recipes: four layers of values, one clear message for every mistake, and a way to text and back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.cli.init import STARTERS
from gptwo.errors import MissingError, UsageError
from gptwo.recipe import Recipe, commented_recipe, load_recipe, parse_assignments, parse_value


def from_text(tmp_path, text: str, overrides=None, environment=None) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides, environment or {})


def test_defaults_then_file_then_environment_then_flags(tmp_path):
    text = "[train]\nseed = 1\nbatch_size = 1\nsteps = 1\n"
    environment = {"GPTWO__TRAIN__BATCH_SIZE": "2", "GPTWO__TRAIN__STEPS": "2", "HOME": "/x", "GPTWO_DEBUG": "1"}
    options = from_text(tmp_path, text, {"train.steps": 3, "train.clip": None}, environment).train
    assert (options.clip, options.seed, options.batch_size, options.steps) == (1.0, 1, 2, 3)


def test_the_environment_is_that_of_the_process_unless_given(monkeypatch):
    monkeypatch.setenv("GPTWO__TRAIN__SEED", "41")
    assert load_recipe().train.seed == 41
    assert load_recipe(environment={}).train.seed == 0


def test_the_environment_writes_lists_and_words():
    found = load_recipe(
        environment={
            "GPTWO__DATA__TRAIN": '["a.csv", "b.csv"]',
            "GPTWO__TASK__NAME": "tag",
            "GPTWO__DATA__TEST": "c.csv",
        }
    )
    assert (found.data.train, found.task.name, found.data.test) == (["a.csv", "b.csv"], "tag", ["c.csv"])


def test_assignments_are_toml_values_or_words():
    found = parse_assignments(
        ["a.b=3", "a.c = 1e-4", "a.d=[1, 2]", "a.e=word", "a.f=true", 'a.g="3"', "a.h=x=y", "a.i="]
    )
    assert found == {
        "a.b": 3,
        "a.c": 1e-4,
        "a.d": [1, 2],
        "a.e": "word",
        "a.f": True,
        "a.g": "3",
        "a.h": "x=y",
        "a.i": "",
    }
    for text in ("2024-01-01", "3\nx = 4", "《{title}》\n{author}\n", "[a"):
        assert parse_value(text) == text
    with pytest.raises(UsageError, match="key=value"):
        parse_assignments(["train.steps"])


def test_a_single_value_stands_for_a_list_and_a_number_for_a_name():
    found = load_recipe(None, {"data.train": "a.csv", "task.labels": [0, 1], "task.positive": 1}, {})
    assert (found.data.train, found.task.labels, found.task.positive) == (["a.csv"], ["0", "1"], "1")


def test_one_key_of_a_table_can_be_set():
    found = load_recipe(None, {"task.class_weights": "balanced", "task.class_weights.good": 2}, {})
    assert found.task.class_weights == {"good": 2.0}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.step", 3, r"section 'train' has no key 'step'\.\n  where: train\.step\n  fix:   Did you mean 'steps'"),
        ("trian.steps", 3, r"no section 'trian'[\s\S]*Did you mean 'train'"),
        ("optimizer.steps", 3, r"no key 'steps'[\s\S]*belongs to \[train\]"),
        ("steps", 3, r"'steps' is no key of a recipe[\s\S]*write train\.steps"),
        ("train", 3, "'train' is no key of a recipe"),
        ("train.", 3, "is no key"),
        ("train.steps", 0, r"value 0 does not fit train\.steps[\s\S]*greater than or equal to 1"),
        ("train.steps", "many", "valid integer"),
        ("train.epochs", float("nan"), "finite number"),
        ("optimizer.learning_rate", float("inf"), "finite number"),
        ("task.name", "clasify", "'language', 'classify', 'tag'"),
        ("task.class_weights", "balancd", "'none' or 'balanced'"),
        ("task.class_weights", {"good": "much"}, "valid number"),
        ("data.train", 3, "valid list"),
        ("data.columns", {"text": ["a"]}, "valid string"),
    ],
)
def test_a_mistake_names_its_key(key, value, words):
    with pytest.raises(UsageError, match=words) as raised:
        load_recipe(None, {key: value}, {})
    assert raised.value.exit_code == 2


def test_a_mistake_names_where_it_was_made(tmp_path):
    with pytest.raises(UsageError, match=r"where: .*recipe\.toml: train\.steps"):
        from_text(tmp_path, "[train]\nsteps = 0\n")
    with pytest.raises(UsageError, match=r"where: .*recipe\.toml: train\.stepz"):
        from_text(tmp_path, "[train]\nstepz = 0\n")
    with pytest.raises(UsageError, match="where: GPTWO__TRAIN__STEPS"):
        from_text(tmp_path, "[train]\nsteps = 5\n", environment={"GPTWO__TRAIN__STEPS": "0"})
    with pytest.raises(UsageError, match="where: GPTWO__TRAIN__STEPZ"):
        from_text(tmp_path, "", environment={"GPTWO__TRAIN__STEPZ": "0"})
    with pytest.raises(UsageError, match=r"'train' is a section, not a value[\s\S]*\[train\]"):
        from_text(tmp_path, "train = 3\n")


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(UsageError, match=r"not valid TOML[\s\S]*line 2"):
        from_text(tmp_path, "[train]\nsteps = \n")
    (tmp_path / "latin.toml").write_bytes("[data]\ntrain = ['é.csv']".encode("latin-1"))
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(tmp_path / "latin.toml")
    with pytest.raises(MissingError, match=r"no such recipe[\s\S]*gptwo init"):
        load_recipe(tmp_path / "nothing.toml")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "bom.toml").write_text("[train]\nsteps = 7\n", encoding="utf-8-sig")
    assert load_recipe(tmp_path / "bom.toml", environment={}).train.steps == 7


def test_a_value_is_checked_when_it_is_set_too():
    recipe = Recipe()
    with pytest.raises(ValueError, match="greater than"):
        recipe.train.steps = 0
    with pytest.raises(ValueError, match="stepz"):
        recipe.train.stepz = 1  # type: ignore[attr-defined]


# --- to text and back

WORDS = st.text(st.characters(codec="utf-8"), max_size=12)  # control characters, quotes, emoji, all of it
NUMBERS = st.floats(1e-12, 1e12)


@given(
    train=st.lists(WORDS, max_size=3),
    columns=st.dictionaries(WORDS, WORDS, max_size=3),
    labels=st.none() | st.lists(WORDS, max_size=3),
    prompt=st.none() | WORDS,
    weights=st.sampled_from(["none", "balanced"]) | st.dictionaries(WORDS, NUMBERS, max_size=3),
    learning_rate=NUMBERS,
    steps=st.none() | st.integers(1, 2**60),
    packed=st.booleans(),
)
def test_a_recipe_survives_its_text(train, columns, labels, prompt, weights, learning_rate, steps, packed):
    recipe = Recipe.model_validate(
        {
            "data": {"train": train, "columns": columns, "packed": packed},
            "task": {"labels": labels, "prompt": prompt, "class_weights": weights},
            "train": {"steps": steps},
            "optimizer": {"learning_rate": learning_rate},
        }
    )
    assert Recipe.model_validate(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize("task", STARTERS)
def test_a_starter_says_every_key_and_means_what_it_says(tmp_path, task):
    text = commented_recipe(STARTERS[task])
    found = from_text(tmp_path, text)
    assert found.model_dump(exclude_unset=True) == {
        section: STARTERS[task].get(section, {}) for section in Recipe.model_fields
    }
    for section, field in Recipe.model_fields.items():
        for key in field.annotation.model_fields:
            assert f"{key} = " in text, (section, key)
    assert all(len(line) < 140 for line in text.splitlines())


def test_every_key_says_what_it_is():
    for field in Recipe.model_fields.values():
        for key, info in field.annotation.model_fields.items():
            assert info.description, key


def test_the_recipes_to_copy_can_be_read():
    recipes = sorted((Path(__file__).parents[1] / "recipes").rglob("*.toml"))
    assert recipes
    for path in recipes:
        load_recipe(path, environment={})

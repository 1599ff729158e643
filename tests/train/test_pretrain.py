"""Pretraining end to end, and what it refuses before it begins."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

import gptwo
from gptwo.errors import DataError, GptwoError, UsageError
from gptwo.evaluate.report import read_report
from gptwo.generate.engine import Engine
from gptwo.model.pretrained import load
from gptwo.recipe import TrainSection, load_recipe
from gptwo.train.events import read_events
from gptwo.train.pretrain import held_out, pretrain


@pytest.fixture
def recipe(tokenizer, texts_folder, tmp_path):
    """A recipe on text files; `recipe(**settings)` goes over it."""
    tokenizer.save(tmp_path / "tokenizer")

    def make(**settings):
        values = {
            "model.tokenizer": str(tmp_path / "tokenizer"),
            "model.n_layer": 1,
            "model.n_embd": 8,
            "model.n_head": 2,
            "model.n_positions": 16,
            "data.train": [str(texts_folder / "train.txt")],
            "data.valid": [str(texts_folder / "valid.txt")],
            "train.steps": 6,
            "train.batch_size": 2,
            "train.threads": 1,
            "train.evaluate_every": 3,
            "optimizer.learning_rate": 3e-2,
            "track.trackers": ["events"],
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        return load_recipe(None, values, environment={})

    return make


def test_text_becomes_a_language_model(recipe, tmp_path):
    model = pretrain(recipe(train__sample_every=6, train__sample_prompts=["the cat", "猫"]), tmp_path / "run")
    run = tmp_path / "run"
    assert model.folder == run / "best"
    assert model.model.head_kind == "language"
    events = read_events(run)
    evaluations = [event["metrics"] for event in events if event["kind"] == "eval"]
    assert evaluations[-1].keys() == {"loss", "perplexity", "bits_per_byte"}
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    report = read_report(run)
    assert report.tuned.value("loss") == pytest.approx(min(found["loss"] for found in evaluations), rel=1e-5)
    assert "pretraining on 192 tokens" in (run / "report.html").read_text()
    assert [sample.step for sample in report.samples] == [6, 6]
    (sample,) = [event for event in events if event["kind"] == "sample"]
    assert [text[:1] for text in sample["texts"]] == ["t", "猫"]
    environment = json.loads((run / "environment.json").read_text())
    assert {part: len(hashes) for part, hashes in environment["data"].items()} == {"train": 1, "valid": 1}
    assert load_recipe(run / "recipe.toml", environment={}).train.steps == 6


def test_a_run_folder_is_a_model(recipe, tmp_path):
    pretrain(recipe(), tmp_path / "run")
    run = tmp_path / "run"
    wanted = Engine(run / "best").generate("the", max_new_tokens=5, temperature=0)
    assert Engine(run).generate("the", max_new_tokens=5, temperature=0) == wanted
    assert gptwo.load(run).folder == run / "best"


def test_without_held_out_text_the_last_model_is_kept(recipe, tmp_path):
    pretrain(recipe(data__valid=[]), tmp_path / "run")
    assert load(tmp_path / "run").config.n_layer == 1


def test_going_on_from_a_model(recipe, base_folder, tmp_path, same_weights):
    model = pretrain(recipe(model__base=str(base_folder), model__tokenizer=None), tmp_path / "run")
    base = load(base_folder)
    assert model.config == base.config
    assert not same_weights(model.model, base.model)
    random = pretrain(
        recipe(model__base=str(base_folder), model__tokenizer=None, model__random=True, train__steps=1),
        tmp_path / "random",
    )
    assert random.config == base.config


def test_frozen_parts_stay(recipe, base_folder, tmp_path):
    model = pretrain(
        recipe(model__base=str(base_folder), model__tokenizer=None, freeze__policy="last", freeze__last=1),
        tmp_path / "run",
    )
    base = dict(load(base_folder).model.named_parameters())
    changed = {name for name, tensor in model.model.named_parameters() if not tensor.equal(base[name])}
    assert {name.split(".")[1] for name in changed} == {"h", "ln_f"}
    assert all(name.startswith("transformer.h.1.") for name in changed if ".h." in name)


def test_dropout_of_a_loaded_model_can_be_set(recipe, base_folder, tmp_path):
    model = pretrain(
        recipe(model__base=str(base_folder), model__tokenizer=None, model__dropout=0.3, train__steps=1),
        tmp_path / "run",
    )
    assert (model.config.attn_pdrop, model.config.resid_pdrop, model.config.embd_pdrop) == (0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data__train": []}, "no text to train on"),
        ({"model__tokenizer": None}, "Fresh weights need a tokenizer"),
        ({"model__n_layer": None}, "Fresh weights need a size"),
        ({"model__n_head": 3}, "not a multiple of n_head"),
        ({"data__block_size": 17}, "Rows of 17 tokens do not fit the network's 16 positions"),
        ({"data__valid": [], "train__patience": 2}, "patience needs held-out text"),
        ({"data__valid": [], "train__metric": "loss"}, "metric needs held-out text"),
        ({"train__metric": "accuracy"}, r"no metric 'accuracy'[\s\S]*loss, perplexity, bits_per_byte"),
        ({"track__trackers": ["tensorbord"]}, "Did you mean 'tensorboard'"),
        ({"freeze__policy": "pattern", "freeze__pattern": "zzz"}, "No parameter is left"),
    ],
)
def test_what_cannot_work_is_told_before_it_begins(recipe, tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        pretrain(recipe(**settings), tmp_path / "run")
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_too_little_text_is_a_data_error(recipe, tmp_path):
    (tmp_path / "short.txt").write_text("the cat")
    with pytest.raises(DataError, match="too few for a batch of 2 rows of 16 tokens"):
        pretrain(recipe(data__train=[str(tmp_path / "short.txt")]), tmp_path / "run")


def test_a_full_disk_is_told_before_the_text_is_packed(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(GptwoError, match="The disk has"):
        pretrain(recipe(), tmp_path / "run")
    assert not (tmp_path / "run" / "shards").exists()


def test_shards_of_another_tokenizer_are_refused(recipe, tmp_path):
    from gptwo.tokenizer import train_bpe

    pretrain(recipe(train__steps=1), tmp_path / "run")
    train_bpe(iter(["quite another text " * 20]), 280).save(tmp_path / "other")
    with pytest.raises(DataError, match="another tokenizer"):
        pretrain(
            recipe(
                model__tokenizer=str(tmp_path / "other"),
                data__train=[str(tmp_path / "run" / "shards" / "train")],
            ),
            tmp_path / "other-run",
        )


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(recipe, base_folder, tmp_path):
    from gptwo.tokenizer import train_bpe

    train_bpe(
        iter(["a much longer text with many more different words in it, so that there are merges " * 9]), 330
    ).save(tmp_path / "larger")
    with pytest.raises(UsageError, match="rows for them"):
        pretrain(recipe(model__base=str(base_folder), model__tokenizer=str(tmp_path / "larger")), tmp_path / "run")


def test_a_run_without_one_finite_evaluation_has_no_best_model_and_says_so(recipe, tmp_path, monkeypatch):
    from gptwo.evaluate.language import TextScore

    monkeypatch.setattr("gptwo.train.pretrain.score_shards", lambda *_, **__: TextScore(float("nan"), 1, 1))
    with pytest.raises(GptwoError, match="No evaluation gave a number for 'loss'"):
        pretrain(recipe(), tmp_path / "run")


def notices(folder) -> list[str]:
    """What a run was told before its first step."""
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [event["message"] for event in events if event["kind"] == "notice"]


def test_what_was_set_for_nothing_is_told_in_the_log_and_the_report(recipe, base_folder, tmp_path):
    settings = {"task__labels": ["a"], "data__encoding": "gb18030", "data__valid_share": 0.1, "data__block_size": 8}
    pretrain(recipe(model__base=str(base_folder), **settings), tmp_path / "run")
    note = (
        "Set, but not used by gptwo pretrain: model.n_layer, model.n_embd, model.n_head, model.n_positions, "
        "data.encoding, task.labels."
    )
    assert notices(tmp_path / "run") == [note]
    assert read_report(tmp_path / "run").notes[0] == note


def test_nothing_is_told_where_every_key_has_its_use(recipe, tmp_path):
    pretrain(recipe(), tmp_path / "run")
    assert notices(tmp_path / "run") == []


def test_held_out_text_of_one_block():
    assert held_out(SimpleNamespace(tokens=9), 16, TrainSection()) == "1 block of 16 tokens"

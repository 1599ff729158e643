"""Fine-tuning end to end: records in, a tuned model and an honest report out, and the same answers ever after."""

from __future__ import annotations

import json

import pytest
import torch

import gptwo
from gptwo.errors import DataError, DivergedError, MissingError, UsageError
from gptwo.evaluate.report import read_report
from gptwo.generate.engine import Engine
from gptwo.model.pretrained import create, load, save
from gptwo.train.apply import measure, predict, records_of_texts
from gptwo.train.events import read_events
from gptwo.train.finetune import finetune

FAST = {
    "train.batch_size": 8,
    "train.threads": 1,
    "train.precision": "fp32",
    "optimizer.learning_rate": 1e-2,
    "track.trackers": ["events"],
    "model.dropout": 0.0,
}


@pytest.fixture
def tune(base_folder, tmp_path):
    """`tune("classify", train=…, **settings)`: a run in tmp_path/run."""

    def run(task, out="run", model=base_folder, resume=False, overwrite=False, **given):
        files = {name: given.pop(name) for name in ("train", "valid", "test") if name in given}
        settings = {**FAST, **{key.replace("__", "."): value for key, value in given.items()}}
        return finetune(
            model, task=task, out=tmp_path / out, settings=settings, resume=resume, overwrite=overwrite, **files
        )

    return run


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path):
    """Sentiment in Chinese and English, with several labels for each record."""
    rows = [
        {"text": text, "label": label, "topics": topics, "title": title}
        for text, label, topics, title in (
            ("the cat sat on the mat", "好评", ["cat"], "mat"),
            ("the dog sat on the log", "差评", ["dog"], "log"),
            ("猫坐在垫子上", "好评", ["cat"], "垫子"),
            ("狗坐在木头上", "差评", ["dog"], "木头"),
            ("the cat and the dog", "中评", ["cat", "dog"], "both"),
            ("nobody", "中评", [], "none"),
        )
    ] * 4
    return write(tmp_path / "texts.jsonl", rows)


@pytest.fixture
def sentences(tmp_path):
    text = "Anna I-PER\nlives O\nin O\nBerlin I-LOC\n\n小 I-PER\n明 I-PER\n去 O\n北 I-LOC\n京 I-LOC\n\n"
    path = tmp_path / "sentences.conll"
    path.write_text(text * 6, encoding="utf-8")
    return path


def test_two_labels(tune, labelled, tmp_path):
    run = tune("classify", train=labelled / "train.jsonl", test=labelled / "test.jsonl", train__epochs=6)
    assert run.report.primary == "accuracy"
    assert [system.name for system in run.report.systems] == [
        "Before tuning",
        "Tuned",
        "Majority class",
        "TF-IDF + logistic regression",
    ]
    assert run.report.tuned.value("accuracy") == 1.0
    assert any(note.startswith("Before tuning: a linear probe") for note in run.report.notes)
    assert read_report(tmp_path / "run").to_dict() == run.report.to_dict()
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best",
        "checkpoints",
        "environment.json",
        "events.jsonl",
        "recipe.toml",
        "report.html",
        "report.json",
    ]
    assert run.report.notes[-2:] == [
        "The validation records were set aside from the training data at random.",
        f"The best checkpoint is that of step {run.outcome.progress.best_step:,}, by accuracy.",
    ]


@pytest.mark.parametrize("max_length", [None, 4])
def test_the_saved_model_says_what_the_report_says(tune, labelled, tmp_path, max_length):
    data = {"train": labelled / "train.jsonl", "test": labelled / "test.jsonl", "data__max_length": max_length}
    run = tune("classify", **data, train__epochs=2)
    said = predict(tmp_path / "run", labelled / "test.jsonl", precision="fp32")
    assert [row["label"] for row in said] == run.report.tuned.predictions
    assert [row["row"] for row in said] == list(range(1, 13))
    again = measure(tmp_path / "run", [str(labelled / "test.jsonl")], precision="fp32")
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert again.tuned.value(name) == pytest.approx(run.report.tuned.value(name), rel=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_many_labels_in_two_languages(tune, texts, tmp_path, packed):
    run = tune("classify", train=texts, valid=texts, test=texts, train__epochs=12, data__packed=packed)
    assert run.model.labels == ["中评", "好评", "差评"]
    assert run.report.tuned.value("accuracy") > 0.8
    assert load(tmp_path / "run").labels == run.model.labels
    (row,) = predict(tmp_path / "run", records_of_texts(["猫坐在垫子上"]))
    assert row["label"] in run.model.labels
    assert 1 / 3 <= row["probability"] <= 1


def test_several_labels_at_once(tune, texts, tmp_path):
    run = tune(
        "classify",
        train=texts,
        valid=texts,
        test=texts,
        train__epochs=12,
        task__multi_label=True,
        data__columns={"label": "topics", "text": "text"},
    )
    assert run.report.primary == "micro_f1"
    assert run.report.tuned.value("micro_f1") > 0.8
    said = predict(tmp_path / "run", texts, precision="fp32")
    assert [row["labels"] for row in said] == run.report.tuned.predictions
    again = measure(tmp_path / "run", [str(texts)], precision="fp32")  # the columns are remembered
    assert again.tuned.value("micro_f1") == pytest.approx(run.report.tuned.value("micro_f1"))
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize("context", ["both", "left"])
def test_tags(tune, sentences, tmp_path, context):
    run = tune(
        "tag", train=sentences, valid=sentences, test=sentences, train__epochs=10, task__context=context,
        optimizer__learning_rate=2e-2,
    )  # fmt: skip
    assert run.model.labels == ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
    assert run.report.primary == "entity_f1"
    assert set(run.report.tables) == {"Entities", "Tokens"}
    assert run.report.tuned.value("entity_f1") > (0.9 if context == "both" else 0.5)
    said = predict(tmp_path / "run", sentences, precision="fp32")
    assert [row["tags"] for row in said] == run.report.tuned.predictions
    (row,) = predict(tmp_path / "run", records_of_texts(["Anna lives in Berlin"]), precision="fp32")
    assert (row["tokens"], row["tags"]) == (["Anna", "lives", "in", "Berlin"], said[0]["tags"])


def test_writing(tune, texts, tmp_path):
    run = tune(
        "language", train=texts, valid=texts, test=texts, task__prompt="{title}: ", train__epochs=8,
        train__sample_every=5,
    )  # fmt: skip
    assert run.report.primary == "bits_per_byte"
    assert run.report.tuned.value("bits_per_byte") < 0.8 * run.report.systems[0].value("bits_per_byte")
    assert {(sample.prompt, sample.system) for sample in run.report.samples} >= {
        ("mat: ", "Before tuning"),
        ("mat: ", "Tuned"),
    }
    assert [event for event in read_events(tmp_path / "run") if event["kind"] == "sample"]
    assert Engine(tmp_path / "run").generate("mat: ", max_new_tokens=6, temperature=0)[0].ids
    again = measure(tmp_path / "run", [str(texts)], precision="fp32")
    assert again.tuned.value("bits_per_byte") == pytest.approx(run.report.tuned.value("bits_per_byte"))
    with pytest.raises(UsageError, match=r"language model writes text[\s\S]*gptwo generate"):
        predict(tmp_path / "run", texts)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_transformers_gives_our_scores(tune, texts, sentences, tmp_path, task):
    transformers = pytest.importorskip("transformers")
    run = tune(task, train=texts if task == "classify" else sentences, train__steps=3)
    name = {"classify": "GPT2ForSequenceClassification", "tag": "GPT2ForTokenClassification"}[task]
    theirs = getattr(transformers, name).from_pretrained(run.model.folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(run.model.folder)
    ids = torch.tensor([words("the cat 猫").input_ids])
    with torch.inference_mode():
        found = theirs(input_ids=ids).logits
        wanted = run.model.model(ids)
    torch.testing.assert_close(found, wanted if task == "tag" else wanted[:, -1], atol=1e-5, rtol=1e-5)
    assert list(theirs.config.id2label.values()) == run.model.labels


def test_a_model_that_transformers_tuned_can_predict_and_be_measured(base_folder, sentences, texts, tmp_path):
    """It has no gptwo.json: labels and head are in config.json."""
    transformers = pytest.importorskip("transformers")
    for name, labels in (("GPT2ForTokenClassification", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]),
                         ("GPT2ForSequenceClassification", ["中评", "好评", "差评"])):  # fmt: skip
        model = getattr(transformers, name).from_pretrained(
            base_folder, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}
        )
        model.save_pretrained(tmp_path / name)
        load(base_folder).tokenizer.save(tmp_path / name)
        data = sentences if "Token" in name else texts
        assert predict(tmp_path / name, data)
        assert measure(tmp_path / name, [str(data)]).tuned is not None


def test_the_same_seed_gives_the_same_model_and_another_another(tune, labelled, same_weights):
    settings = {"train": labelled / "train.jsonl", "train__epochs": 1, "model__dropout": 0.1}
    first, again = tune("classify", "first", **settings), tune("classify", "again", **settings)
    assert same_weights(first.model.model, again.model.model)
    other = tune("classify", "other", train__seed=5, **settings)
    assert not same_weights(first.model.model, other.model.model)


def test_resumed_equals_uninterrupted(tune, labelled, tmp_path, monkeypatch, same_weights):
    from gptwo.train import trainer

    settings = {"train": labelled / "train.jsonl", "train__epochs": 3, "model__dropout": 0.1, "train__patience": 5}
    whole = tune("classify", "whole", **settings)
    real = trainer._Loop.step

    def step(loop, loader):
        if loop.progress.step == 13:
            raise KeyboardInterrupt
        return real(loop, loader)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Loop, "step", step)
        with pytest.raises(KeyboardInterrupt):
            tune("classify", "cut", **settings)
    resumed = tune("classify", "cut", resume=True, **settings)
    assert same_weights(whole.model.model, resumed.model.model)
    assert resumed.report.to_dict()["systems"] == whole.report.to_dict()["systems"]
    assert [event for event in read_events(tmp_path / "cut") if event["kind"] == "start"][-1]["resumed"]


def test_a_loaded_model_can_be_tuned_and_stays_as_it_was(tune, labelled, base_folder, same_weights):
    base = gptwo.load(base_folder)
    run = tune("classify", model=base, train=labelled / "train.jsonl", train__steps=2)
    assert same_weights(base.model, load(base_folder).model)
    assert base.model.head_kind == "language"
    assert run.model.info["base"] == "tiny"


def test_random_weights_of_the_same_shape(tune, labelled, base_folder):
    run = tune("classify", train=labelled / "train.jsonl", train__steps=1, model__random=True)
    assert run.model.info["base"].endswith("(random weights)")
    assert run.model.config.n_embd == load(base_folder).config.n_embd


def test_a_tuned_head_is_kept_when_tuning_goes_on(tune, labelled, tmp_path):
    tune("classify", "first", train=labelled / "train.jsonl", train__epochs=6)
    more = tune(
        "classify", "second", model=tmp_path / "first", train=labelled / "train.jsonl", test=labelled / "test.jsonl",
        train__steps=1, optimizer__learning_rate=1e-9,
    )  # fmt: skip
    assert more.report.systems[0].name == "Before tuning"
    assert more.report.systems[0].value("accuracy") == 1.0


def test_only_the_head_is_tuned_when_asked(tune, labelled, base_folder):
    run = tune("classify", train=labelled / "train.jsonl", train__steps=3, freeze__policy="head")
    base = dict(load(base_folder).model.named_parameters())
    for name, tensor in run.model.model.named_parameters():
        assert name == "score.weight" or torch.equal(tensor, base[name]), name


# --- rows that cannot be used


def test_bad_rows_are_listed_counted_and_noted(tune, tmp_path):
    rows = [{"text": f"the cat {i}", "label": "ab"[i % 2]} for i in range(20)]
    rows[3] = {"text": "", "label": "a"}
    rows[7] = {"label": "a"}
    data = write(tmp_path / "data.jsonl", rows)
    data.write_text(data.read_text() + "{broken\n", encoding="utf-8")
    more = write(tmp_path / "more.jsonl", [*rows[:3], {"text": "x", "label": None}])
    run = tune("classify", train=[data, more], test=more, train__steps=1)
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [(row["file"], row["row"]) for row in rejected] == [
        (str(data), 4),
        (str(data), 8),
        (str(data), 21),
        (str(more), 4),
        (str(more), 4),
    ]
    assert any("5 rows rejected" in note and "rejects.jsonl" in note for note in run.report.notes)
    assert [(file.part, file.records, file.rejected) for file in run.report.data] == [
        ("train", 18, 3),
        ("train", 3, 1),
        ("test", 3, 1),
    ]


def test_strict_stops_at_the_first_bad_row(tune, tmp_path):
    data = write(tmp_path / "data.jsonl", [{"text": "a", "label": "x"}, {"text": "", "label": "y"}])
    with pytest.raises(DataError, match=r"data\.jsonl:2"):
        tune("classify", train=data, data__strict=True)


def test_texts_too_long_are_noted(tune, tmp_path):
    data = write(
        tmp_path / "data.jsonl",
        [{"text": "the cat sat " * (1 + 30 * (i == 3)), "label": "ab"[i % 2]} for i in range(9)],
    )
    run = tune("classify", train=data, valid=data, test=data, train__steps=1)
    tokenizer = run.model.tokenizer
    cut = len(tokenizer.encode("the cat sat " * 31)) - run.model.config.n_positions
    assert [note for note in run.report.notes if "fit into" in note] == [
        f"{part}: 1 of 9 records do not fit into 48 tokens; {cut:,} tokens were cut out of them."
        for part in ("train", "valid", "test")
    ]


def test_long_texts_of_a_language_model_are_noted_too(tune, tmp_path):
    rows = [{"text": "the cat sat " * (1 + 30 * (i == 3)), "title": "mat"} for i in range(9)]
    data = write(tmp_path / "data.jsonl", rows)
    run = tune("language", train=data, valid=data, test=data, task__prompt="{title}: ", train__steps=1)
    tokenizer = run.model.tokenizer
    ids = len(tokenizer.encode("mat: ")) + len(tokenizer.encode("the cat sat " * 31)) + 1  # and the end
    cut = ids - (run.model.config.n_positions + 1)  # the last one is only to be predicted
    wanted = [
        f"{part}: 1 of 9 records do not fit into 48 tokens; {cut:,} tokens were cut out of them."
        for part in ("train", "valid", "test")
    ]
    assert [note for note in run.report.notes if "fit into" in note] == wanted
    told = [event.get("message", "") for event in map(json.loads, (tmp_path / "run" / "events.jsonl").open())]
    assert [note for note in told if "fit into" in note] == wanted
    assert measure(tmp_path / "run", [str(data)], precision="fp32").notes == wanted[2:]


def test_what_was_set_for_nothing_is_told(tune, labelled, tmp_path):
    run = tune("classify", train=labelled / "train.jsonl", train__steps=1, train__evaluate_batches=2, model__n_layer=7)
    note = "Set, but not used by gptwo finetune: model.n_layer, train.evaluate_batches."
    assert note in run.report.notes
    assert json.dumps(note) in (tmp_path / "run" / "events.jsonl").read_text()
    run = tune("classify", "other", train=labelled / "train.jsonl", train__steps=1)
    assert not any("not used" in note for note in run.report.notes)


def test_running_text_is_sent_to_pretrain(tune, tmp_path):
    (tmp_path / "a b.txt").write_text("the cat sat on the mat")
    with pytest.raises(UsageError, match=r"running text[\s\S]*gptwo pretrain --model .*tiny --train '.*a b\.txt'"):
        tune("language", train=tmp_path / "a b.txt")
    assert not (tmp_path / "run").exists()


def test_a_limit_takes_records_at_random(tune, labelled):
    run = tune("classify", train=labelled / "train.jsonl", data__limit=10, train__epochs=1, train__batch_size=1)
    assert run.outcome.progress.step == 9
    assert any("Records: 9 train, 1 valid" in note for note in run.report.notes)
    assert any("of 48 training records some were taken" in note for note in run.report.notes)


def test_a_label_only_in_the_records_set_aside_is_known(tune, tmp_path):
    """Setting aside must not make a label unknown."""
    rows = [{"text": f"the cat {i}", "label": "ab"[i % 2]} for i in range(8)] + [{"text": "rare", "label": "rare"}]
    for seed in range(6):
        run = tune("classify", f"run{seed}", train=write(tmp_path / "d.jsonl", rows), train__steps=1, train__seed=seed,
                   data__valid_share=0.4)  # fmt: skip
        assert run.model.labels == ["a", "b", "rare"]


# --- what is told before training begins


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"train": []}, UsageError, "no records to learn from"),
        ({"train__metric": "acuracy"}, UsageError, r"accuracy, f1, macro_f1, loss[\s\S]*Did you mean 'accuracy'"),
        ({"model": "no/such-model"}, MissingError, "no/such-model"),
        ({"freeze__policy": "pattern", "freeze__pattern": "zzz"}, UsageError, "No parameter is left"),
        ({"data__columns": {"text": "txt", "label": "label"}}, DataError, "no column 'txt'|no 'txt'"),
        ({"task__positive": "cta"}, UsageError, "Did you mean 'cat'"),
        ({"train__device": "cuda:7"}, MissingError, "not available"),
    ],
)
def test_what_cannot_work_is_told_before_training_begins(tune, labelled, tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        tune("classify", **{"train": labelled / "train.jsonl", **settings})
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_a_model_without_a_tokenizer_cannot_be_tuned(tune, labelled, base_folder, tmp_path):
    bare = create(load(base_folder).config, None, seed=1)
    save(bare, tmp_path / "bare")
    with pytest.raises(UsageError, match="no tokenizer"):
        tune("classify", model=tmp_path / "bare", train=labelled / "train.jsonl")


def test_an_unknown_label_of_the_test_data_names_file_and_row(tune, labelled, tmp_path):
    test = write(tmp_path / "test.jsonl", [{"text": "a", "label": "cat"}, {"text": "b", "label": "cow"}])
    with pytest.raises(DataError, match=r"'cow' does not occur in the training data[\s\S]*test\.jsonl:2"):
        tune("classify", train=labelled / "train.jsonl", test=test)


def test_an_exploding_run_says_so_in_error_and_log(tune, labelled, tmp_path):
    words = r"weights were not changed[\s\S]*records .*train\.jsonl:\d+[\s\S]*clip the gradient[\s\S]*these records"
    with pytest.raises(DivergedError, match=words):
        tune("classify", train=labelled / "train.jsonl", optimizer__learning_rate=1e25, optimizer__name="adamw",
             train__clip=0.0, schedule__name="constant")  # fmt: skip
    assert read_events(tmp_path / "run")[-1]["reason"].startswith("failed: The loss is")


def test_a_recipe_file_and_single_settings(labelled, base_folder, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        f'[model]\nbase = "{base_folder}"\n[data]\ntrain = ["{labelled / "train.jsonl"}"]\n'
        '[task]\nname = "classify"\n[train]\nsteps = 9\nthreads = 1\n[track]\ntrackers = ["events"]\n'
    )
    run = finetune(recipe=tmp_path / "recipe.toml", out=tmp_path / "run", settings={"train.steps": 1})
    assert run.outcome.progress.step == 1
    again = finetune(out=tmp_path / "run", resume=True)  # the run's own recipe
    assert again.outcome.progress.step == 1


def test_an_untuned_language_model_is_measured_on_records_and_on_files(base_folder, labelled, texts_folder):
    records = measure(base_folder, [str(labelled / "test.jsonl")], precision="fp32")
    assert records.primary == "bits_per_byte"
    files = measure(base_folder, [str(texts_folder / "train.txt"), str(texts_folder / "valid.txt")], precision="fp32")
    assert [system.name for system in files.systems] == ["train.txt", "valid.txt"]

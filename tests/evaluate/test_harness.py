"""lm-evaluation-harness with our network equals lm-evaluation-harness with transformers, on the same weights."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from gptwo.errors import MissingError
from gptwo.evaluate import harness
from gptwo.generate.native import isas
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import create, save
from gptwo.tokenizer import train_bpe

HERE = importlib.util.find_spec("lm_eval") is not None
MODELS = ["gptwo", pytest.param("native", marks=pytest.mark.skipif(not isas(), reason="the engine was not built"))]
needs_lm_eval = pytest.mark.skipif(not HERE, reason='lm_eval is not installed: pip install "gptwo[harness]"')

TEXTS = ["the cat sat on the mat. the dog sat on the log. ", "Anna lives in Berlin, 猫坐在垫子上。 "]
CHOICES = [
    {"q": "the cat sat on", "a": ["the mat", "the log in Berlin", "late"], "gold": 0},
    {"q": "Anna lives", "a": ["in Berlin", "on the mat. the dog"], "gold": 0},
    {"q": "the dog sat on the mat. " * 6, "a": ["the log", "the cat sat"], "gold": 1},
]


def test_a_missing_lm_eval_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    with pytest.raises(MissingError, match=r"gptwo\[harness\]"):
        harness.register()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_bpe(iter(TEXTS * 20), 300)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=48, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4
    )
    return save(create(config, tokenizer, seed=3), tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """Both models' results and samples on three local tasks: choices, rolling perplexity, greedy continuation."""
    import lm_eval

    harness.register()
    data = tmp_path_factory.mktemp("data")
    (data / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES), encoding="utf-8")
    long = [{"text": text * 4} for text in TEXTS]
    (data / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long), encoding="utf-8")

    def task(name, file, kind, **more):
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data / file)}}}
        return {"task": name, "test_split": "test", "output_type": kind, **source, **more}

    tasks = [
        task("local_choices", "choices.jsonl", "multiple_choice", doc_to_text="{{q}}", doc_to_choice="{{a}}",
             doc_to_target="{{gold}}"),
        task("local_texts", "texts.jsonl", "loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
             metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]),
        task("local_writing", "choices.jsonl", "generate_until", doc_to_text="{{q}}", doc_to_target="{{a[0]}}",
             generation_kwargs={"until": ["."], "max_gen_toks": 8, "do_sample": False},
             metric_list=[{"metric": "exact_match"}]),
    ]  # fmt: skip
    found = {}
    ways = {"hf": {"dtype": "float32"}, "gptwo": {}, "native": {"backend": "native", "precision": "fp32", "threads": 1}}
    for model, more in ways.items():
        if model == "native" and not isas():
            continue
        arguments = {"pretrained": str(folder), **more}
        found[model] = lm_eval.simple_evaluate(
            "hf" if model == "hf" else "gptwo", model_args=arguments, tasks=[dict(one) for one in tasks],
            device="cpu", batch_size=2,
            bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    return found


@needs_lm_eval
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", ["local_choices", "local_texts", "local_writing"])
def test_the_figures_are_those_of_transformers(results, task, model):
    theirs, ours = (results[one]["results"][task] for one in ("hf", model))
    numbers = {key: value for key, value in theirs.items() if isinstance(value, float)}
    assert numbers
    assert {key: ours[key] for key in numbers} == pytest.approx(numbers, rel=1e-3)


@needs_lm_eval
@pytest.mark.parametrize("model", MODELS)
def test_every_answer_is_that_of_transformers(results, model):
    for task in ("local_choices", "local_writing"):
        theirs, ours = (results[one]["samples"][task] for one in ("hf", model))
        for one, other in zip(ours, theirs, strict=True):
            assert one["doc"] == other["doc"]
            if task == "local_writing":
                assert one["resps"] == other["resps"]
            else:
                for (mine,), (its,) in zip(one["resps"], other["resps"], strict=True):
                    assert float(mine[0]) == pytest.approx(float(its[0]), rel=1e-3, abs=1e-4)
                    assert str(mine[1]) == str(its[1])

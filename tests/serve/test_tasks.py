"""The task routes say what `gptwo predict` says, in one request, in several at once, and for text in any language."""

from __future__ import annotations

import base64
import threading

import numpy as np
import pytest
import torch

from gptwo.data.sources import Record
from gptwo.serve import answers
from gptwo.tasks import restore_task
from gptwo.tasks.runner import ModelRunner
from tests.serve.conftest import built, made, post, serving

TEXTS = ["the quick brown fox", "春眠不觉晓", "Once upon a time"]


@pytest.fixture(scope="module")
def models(tokenizer):
    found = {
        "classifier": made(tokenizer, head="sequence", labels=["bad", "good", "ugly"]),
        "tagger": made(tokenizer, head="token", labels=["O", "B-X", "I-X"]),
        "matcher": made(tokenizer, head="sequence", labels=["no", "yes"]),
        "ranker": made(tokenizer, head="sequence", labels=["relevance"]),
        "reader": made(tokenizer, head="token", labels=["start", "end"]),
        "chooser": made(tokenizer),
        "picker": made(tokenizer, head="sequence", labels=["score"]),
        "summarizer": made(tokenizer),
        "translator": made(tokenizer),
        "writer": made(tokenizer),
    }
    told = {
        "classifier": {"task": "classify"}, "tagger": {"task": "tag"}, "matcher": {"task": "match"},
        "ranker": {"task": "rank"}, "reader": {"task": "extract"},
        "chooser": {"task": "choice", "score": "likelihood"}, "picker": {"task": "choice", "score": "head"},
        "summarizer": {"task": "summarize", "max_target": 12},
        "translator": {"task": "translate", "max_target": 12, "decode": {"num_beams": 1}},
    }  # fmt: skip
    for name, info in told.items():
        found[name].info |= {**info, "max_length": 96}
    return found


@pytest.fixture(scope="module", params=["torch", pytest.param("native", marks=built)])
def server(models, request):
    """Networks are the native engine's in the second turn, PyTorch's in the first."""
    with serving(models, backend=request.param, precision="fp32") as running:
        yield running


def predicted(model, fields):
    """What the task itself says of records."""
    task = restore_task(model.info, model.model.head_kind)
    records = [Record(one, "x", row) for row, one in enumerate(fields, 1)]
    said = task.predict(ModelRunner(model.model, model.tokenizer, 96), records)
    return task.rows(records, said)


def same(found, wanted):
    """Equal, but for the last digit of a probability."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key] == (pytest.approx(value, abs=2e-4) if isinstance(value, float) else value)


def test_labels(server, models):
    answer = post(server, "/v1/classify", {"model": "classifier", "input": TEXTS})
    assert answers.Rows.model_validate(answer.json).task == "classify"
    same(answer.json["data"], predicted(models["classifier"], [{"text": text} for text in TEXTS]))
    single = post(server, "/v1/classify", {"model": "classifier", "input": TEXTS[1]})
    same(single.json["data"], answer.json["data"][1:2])


def test_tags(server, models):
    answer = post(server, "/v1/tag", {"model": "tagger", "input": ["the quick fox"]})
    same(answer.json["data"], predicted(models["tagger"], [{"tokens": ["the", "quick", "fox"]}]))
    parted = post(server, "/v1/tag", {"model": "tagger", "input": [["the", "quick", "fox"]]})
    assert parted.json == answer.json
    assert post(server, "/v1/tag", {"model": "tagger", "input": " "}).status == 400


def test_pairs(server, models):
    pairs = [["the quick", "fox"], ["春眠", "不觉晓"]]
    answer = post(server, "/v1/match", {"model": "matcher", "pairs": pairs})
    same(answer.json["data"], predicted(models["matcher"], [{"text_a": a, "text_b": b} for a, b in pairs]))
    assert post(server, "/v1/match", {"model": "matcher", "pairs": [["one"]]}).error["param"].startswith("pairs")


def test_a_ranking_is_in_order_and_keeps_the_places(server, models):
    body = {"model": "ranker", "query": "the fox", "documents": [*TEXTS, {"text": "a lazy dog"}, TEXTS[0]]}
    answer = post(server, "/v1/rerank", {**body, "return_documents": True}).json
    answers.Ranking.model_validate(answer)
    texts = [*TEXTS, "a lazy dog", TEXTS[0]]
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(one["index"] for one in answer["results"]) == [0, 1, 2, 3, 4]
    assert all(one["document"]["text"] == texts[one["index"]] for one in answer["results"])
    wanted = predicted(models["ranker"], [{"query": "the fox", "candidates": texts}])[0]["ranked"]
    assert [texts[one["index"]] for one in answer["results"]] == [one["candidate"] for one in wanted]
    top = post(server, "/v1/rerank", {**body, "top_n": 2}).json["results"]
    assert [one["index"] for one in top] == [one["index"] for one in answer["results"][:2]]
    assert "document" not in top[0]


def test_an_answer_out_of_a_text(server, models):
    fields = {"question": "who jumps?", "context": "the quick brown fox jumps over the lazy dog."}
    answer = post(server, "/v1/answer", {"model": "reader", **fields})
    same(answer.json["data"], predicted(models["reader"], [fields]))
    missing = post(server, "/v1/answer", {"model": "reader", "question": "who?"})
    assert missing.error["param"] == "context"


QUESTIONS = [
    {"question": "the quick brown fox jumps over", "choices": ["the lazy dog.", "upon a time", "the"]},
    {"question": "春眠不觉晓，处处___啼鸟。", "choices": ["闻", "眠不觉", "Once"]},
    {"question": "the lazy dog. " * 40, "choices": ["Once upon", "a time"]},
]


@pytest.mark.parametrize("model", ["chooser", "picker"])
def test_one_of_several_answers(server, models, model):
    wanted = [predicted(models[model], [{"stem": one["question"], "choices": one["choices"]}])[0] for one in QUESTIONS]
    found = {}

    def ask(place):
        found[place] = post(server, "/v1/answer", {"model": model, **QUESTIONS[place]}).json["data"][0]

    together = [threading.Thread(target=ask, args=(place,)) for place in range(len(QUESTIONS))]
    for one in together:
        one.start()
    for one in together:
        one.join()
    for place, one in enumerate(wanted):
        assert found[place].pop("probabilities") == pytest.approx(one.pop("probabilities"), abs=2e-4)
        same([found[place]], [one])


def test_choices_that_cannot_be_judged(server):
    asked = {"model": "chooser", "question": "the"}
    assert post(server, "/v1/answer", asked).error["param"] == "choices"
    assert post(server, "/v1/answer", {**asked, "model": "reader", "choices": ["a", "b"]}).error["param"] == "choices"
    for wrong in (["fox"], ["fox", "fox"], ["fox", " "], []):
        assert post(server, "/v1/answer", {**asked, "choices": wrong}).status == 400
    assert post(server, "/v1/classify", {"model": "chooser", "input": "x"}).error["code"] == "wrong_task"


def test_a_model_that_chooses_writes_too(server):
    body = {"prompt": "the quick", "max_tokens": 5, "temperature": 0}
    said, other = (post(server, "/v1/completions", {**body, "model": name}).json for name in ("chooser", "writer"))
    assert said["choices"] == other["choices"]


def test_one_document_is_a_ranking(server, models):
    (one,) = post(server, "/v1/rerank", {"model": "ranker", "query": "the", "documents": ["春眠"]}).json["results"]
    (score,) = predicted(models["ranker"], [{"query": "the", "candidates": ["春眠"]}])[0]["ranked"]
    assert one["relevance_score"] == pytest.approx(1 / (1 + np.exp(-score["score"])), abs=2e-4)


@pytest.mark.parametrize("num_beams", [None, 1])
@pytest.mark.parametrize(("route", "model"), [("summarize", "summarizer"), ("translate", "translator")])
def test_texts_by_beams_and_together_with_others(route, model, num_beams, server, models):
    task = restore_task(models[model].info, "language")
    body = {"model": model, "input": TEXTS, **({} if num_beams is None else {"num_beams": num_beams})}
    found = post(server, f"/v1/{route}", body).json
    wanted = models[model]
    if num_beams == 1:
        wanted.info["decode"] = {"num_beams": 1}
    same(found["data"], predicted(wanted, [{task.inputs[0]: text} for text in TEXTS]))


def test_vectors_are_means_of_hidden_states_at_length_one(server, models):
    model = models["writer"]
    answer = post(server, "/v1/embeddings", {"model": "writer", "input": TEXTS}).json
    answers.Embeddings.model_validate(answer)
    for text, one in zip(TEXTS, answer["data"], strict=True):
        ids = torch.tensor([model.tokenizer.encode(text)])
        with torch.no_grad():
            mean = model.model.transformer(ids)[0].mean(0).numpy()
        assert one["embedding"] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    ids = [model.tokenizer.encode(text) for text in TEXTS]
    coded = post(server, "/v1/embeddings", {"model": "writer", "input": ids, "encoding_format": "base64"}).json
    for one, other in zip(coded["data"], answer["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        assert vector == pytest.approx(other["embedding"], abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert (
        post(server, "/v1/embeddings", {"model": "writer", "input": "x", "dimensions": 3}).error["param"]
        == "dimensions"
    )
    long = post(server, "/v1/embeddings", {"model": "writer", "input": "x " * 300})
    assert long.error["code"] == "context_length_exceeded"


def test_openai_s_client_takes_the_vectors(client):
    said = client.embeddings.create(model="writer", input=TEXTS)
    assert len(said.data) == 3
    assert np.linalg.norm(said.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_an_explanation(server):
    answer = post(server, "/v1/explain", {"model": "classifier", "input": "the quick", "target": "good", "steps": 2})
    assert answers.Explained.model_validate(answer.json).model == "classifier"
    assert answer.json["explanation"]["outcomes"]
    assert post(server, "/v1/explain", {"model": "classifier", "input": "x", "target": "none"}).status == 400


def test_an_explanation_is_made_beside_a_text_that_is_written(server):
    """Both on networks of their own over the same weights: hooks of the one do not reach the other."""
    body = {"model": "writer", "prompt": "the", "max_tokens": 90, "temperature": 0, "ignore_eos": True}
    wanted = post(server, "/v1/completions", body).json["choices"]
    found = []
    writing = threading.Thread(target=lambda: [found.append(post(server, "/v1/completions", body)) for _ in range(4)])
    writing.start()
    asked = {"model": "writer", "input": "the quick brown", "steps": 2}
    said = [post(server, "/v1/explain", asked).json["explanation"] for _ in range(3)]
    writing.join()
    assert [answer.json["choices"] for answer in found] == [wanted] * 4
    assert said == [said[0]] * 3


def test_a_twin_has_the_same_weights_and_modules_of_its_own(models):
    from gptwo.serve.aside import twin

    model = models["writer"]
    other = twin(model)
    assert all(a is b for a, b in zip(model.model.parameters(), other.model.parameters(), strict=True))
    seen = []
    other.model.transformer.h[0].register_forward_hook(lambda *given: seen.append(given))
    model.model.transformer(torch.tensor([[1, 2]]))
    assert seen == []
    other.model.transformer(torch.tensor([[1, 2]]))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/classify", {"model": "tagger", "input": "x"}, "/v1/tag"),
        ("/v1/summarize", {"model": "translator", "input": "x"}, "/v1/translate"),
        ("/v1/rerank", {"model": "writer", "query": "x", "documents": ["y"]}, "/v1/completions"),
    ],
)
def test_a_model_for_another_task_says_where_it_answers(path, body, where, server):
    answer = post(server, path, body)
    assert (answer.status, answer.error["code"]) == (400, "wrong_task")
    assert where in answer.error["message"]


def test_too_many_inputs(server):
    assert post(server, "/v1/classify", {"model": "classifier", "input": ["x"] * 129}).error["param"] == "input"
    assert post(server, "/v1/classify", {"model": "classifier", "input": []}).status == 400

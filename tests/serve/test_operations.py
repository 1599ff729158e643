"""Keys, limits, clients that go away, models that come and go, figures."""

from __future__ import annotations

import json
import socket
import threading
import time

import openai
import pytest

from gptwo.adapt.apply import apply_adapter
from gptwo.errors import DataError, UsageError
from gptwo.generate.engine import Engine
from gptwo.model.pretrained import load, save
from gptwo.serve.limits import Quota, read_keys
from tests.serve.conftest import ask, built, made, post, serving

GOOD = {"model": "tiny", "prompt": "the", "max_tokens": 4, "temperature": 0}
LONG = {**GOOD, "max_tokens": 80, "ignore_eos": True}


def test_health_readiness_and_figures(server):
    assert ask(server, "GET", "/health").json == {"status": "ok", "reason": None}
    assert ask(server, "GET", "/ready").json["status"] == "ready"
    before = figures(server)
    assert post(server, "/v1/completions", GOOD).status == 200
    after = figures(server)
    assert after['gptwo_tokens_total{kind="generated"}'] >= before['gptwo_tokens_total{kind="generated"}'] + 1
    assert after["gptwo_time_to_first_token_seconds_count"] == before["gptwo_time_to_first_token_seconds_count"] + 1
    assert after["gptwo_cache_tokens"] == 0
    assert after['gptwo_requests_total{route="/v1/completions",status="200"}'] >= 1


def figures(server):
    lines = ask(server, "GET", "/metrics").body.decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_keys_are_asked_for_and_compared_whole(tiny):
    with serving({"tiny": tiny}, keys={"bob": "secret", "eve": "other"}, needs_key=True) as server:
        for header in (None, "secret", "Basic secret", "Bearer", "Bearer secre", "Bearer secret2", "Bearer s\xe9cret"):
            answer = ask(server, "GET", "/v1/models", None, {"authorization": header} if header else {})
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in ("secret", "other"):
            assert ask(server, "GET", "/v1/models", None, {"authorization": f"Bearer {key}"}).status == 200
        assert ask(server, "GET", "/health").status == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0).models.list()


def test_keys_are_read_from_a_file_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("# team\nbob=s3cret==\n\neve=x\n", encoding="utf-8")
    monkeypatch.setenv("GPTWO_TEST_KEYS", "ann=y")
    assert read_keys(file, "GPTWO_TEST_KEYS") == {"bob": "s3cret==", "eve": "x", "ann": "y"}
    monkeypatch.setenv("GPTWO_TEST_KEYS", "alone")
    assert read_keys(None, "GPTWO_TEST_KEYS") == {"default": "alone"}
    file.write_text("bob\n", encoding="utf-8")
    with pytest.raises(DataError, match="name=key"):
        read_keys(file, "GPTWO_TEST_KEYS")


def test_a_rate_is_held_and_the_time_to_wait_is_told(tiny):
    with serving({"tiny": tiny}, rate=2) as server:
        assert [post(server, "/v1/completions", GOOD).status for _ in range(2)] == [200, 200]
        answer = post(server, "/v1/completions", GOOD)
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 30


def test_requests_at_a_time_are_counted_for_each_key():
    quota = Quota(None, 1)
    quota.enter("a")
    quota.enter("b")
    with pytest.raises(Exception, match="at a time"):
        quota.enter("a")
    quota.leave("a")
    quota.enter("a")


def test_a_full_queue_is_429_with_a_time_to_wait(tiny):
    with serving({"tiny": tiny}, max_queue=1, max_batch=1) as server:
        gate, held = hold(server)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(post(server, "/v1/completions", GOOD)))
        waiting.start()
        until(lambda: server.context.scheduler.waiting == 1)
        refused = post(server, "/v1/completions", GOOD)
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        held.join()
        waiting.join()
        assert answers[0].status == 200


def hold(server):
    """Keep the scheduler busy until the gate is set."""
    gate, begun = threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert gate.wait(60)

    thread = threading.Thread(target=lambda: server.context.scheduler.between_steps(wait))
    thread.start()
    assert begun.wait(60)
    return gate, thread


def until(holds):
    """Wait for something that is about to happen."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["waiting", "writing"])
@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=built)])
def test_a_client_that_goes_away_is_cancelled(when, stream, tiny, backend):
    """Its texts would take for ever: each step waits for us."""
    with serving({"tiny": tiny}, backend=backend, precision="fp32") as server:
        scheduler = server.context.scheduler
        backend = server.context.models.served["tiny"].backend
        gate, held = hold(server)
        turn, step = threading.Semaphore(0), backend.step

        def slow(*given):
            assert turn.acquire(timeout=60)
            return step(*given)

        backend.step = slow
        line = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        body = json.dumps({**LONG, "stream": stream}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        line.sendall(head.encode() + b"\r\n\r\n" + body)
        until(lambda: scheduler.waiting == 1)
        if when == "writing":
            gate.set()
            turn.release(5)
            until(lambda: scheduler.cache_tokens > 0)
        line.close()
        cancelled = server.context.metrics.jobs.labels("cancelled")._value.get
        if when == "waiting":
            (job,) = scheduler._arrived
            until(lambda: job.cancelled)
            gate.set()
            turn.release(1)
        else:
            (lane,) = scheduler.lanes.values()
            until(lambda: not lane.jobs or turn.release() or any(job.cancelled for job in lane.jobs))
            turn.release(2)
        until(lambda: cancelled() == 1)
        assert scheduler.cache_tokens == 0
        turn.release(1000)
        held.join()
        assert post(server, "/v1/completions", GOOD).status == 200


def test_models_come_and_go_by_an_admin_key(tiny, tmp_path):
    for name in ("one", "two"):
        save(tiny, tmp_path / name)
    keys = {"admin:root": "root", "bob": "secret"}
    with serving({"tiny": tiny}, keys=keys, admin_keys=frozenset({"admin:root"}), models_dir=tmp_path) as server:
        root = {"authorization": "Bearer root"}
        for headers in ({}, {"authorization": "Bearer secret"}):
            assert ask(server, "POST", "/v1/models/load", {"model": "one"}, headers).status == 403
            assert ask(server, "DELETE", "/v1/models/tiny", None, headers).status == 403
        for name in ("..", "../one", "/etc", "none", str(tmp_path / "one")):
            assert ask(server, "POST", "/v1/models/load", {"model": name}, root).status == 400
        answer = ask(server, "POST", "/v1/models/load", {"model": "one"}, root)
        assert (answer.status, answer.json["id"]) == (200, "one")
        assert ask(server, "POST", "/v1/models/load", {"model": "one"}, root).status == 400
        assert (
            post(server, "/v1/completions", {**GOOD, "model": "one"}).json["choices"][0]["text"]
            == (post(server, "/v1/completions", GOOD).json["choices"][0]["text"])
        )
        gone = ask(server, "DELETE", "/v1/models/one", None, root)
        assert gone.json == {"id": "one", "object": "model", "deleted": True}
        assert post(server, "/v1/completions", {**GOOD, "model": "one"}).status == 404


@pytest.mark.parametrize("kind", ["lora", "prefix"])
@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=built)])
def test_adapters_over_one_base_answer_side_by_side(kind, tiny, folder, tmp_path, backend):
    from gptwo.recipe import Recipe

    section = Recipe.model_validate({"adapter": {"name": kind}}).adapter
    start = load(folder)
    start.adapter = apply_adapter(start.model, section, seed=1)
    start.config = start.model.config
    import torch

    with torch.no_grad():
        for name, value in start.model.named_parameters():
            if name in start.adapter.tuned:
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) * 0.3)
    from gptwo.adapt.base import base_of
    from gptwo.adapt.store import save as save_any

    start.adapter.base = base_of(load(folder), str(folder))
    place = save_any(start, tmp_path / "adapted")
    wanted = {
        "tiny": Engine(tiny).generate(["the quick", "春眠 the"], max_new_tokens=12, temperature=0),
        "adapted": Engine(start).generate(["the quick", "春眠 the"], max_new_tokens=12, temperature=0),
    }
    assert wanted["tiny"][0].text != wanted["adapted"][0].text
    with serving({"tiny": folder}, backend=backend, precision="fp32") as server:
        server.context.models.add_adapter("adapted", place, "tiny")
        found = {}

        def asks(name):
            body = {**GOOD, "model": name, "prompt": ["the quick", "春眠 the"], "max_tokens": 12}
            found[name] = [one["text"] for one in post(server, "/v1/completions", body).json["choices"]]

        threads = [threading.Thread(target=asks, args=(name,)) for name in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {name: [one.text for one in texts] for name, texts in wanted.items()}
        vectors = [
            post(server, "/v1/embeddings", {"model": name, "input": "the quick"}).json["data"][0]["embedding"]
            for name in wanted
        ]
        assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
        scheduler, models = server.context.scheduler, server.context.models
        together = backend == "native"  # texts of both in the same passes
        assert (scheduler.lanes["tiny"] is scheduler.lanes["adapted"]) == together
        with pytest.raises(UsageError, match="stand on"):
            models.remove("tiny")
        gate, held = hold(server)
        long = {**LONG, "model": "adapted", "max_tokens": 40}
        late = threading.Thread(target=lambda: found.update(late=post(server, "/v1/completions", long)))
        late.start()
        until(lambda: scheduler.waiting == 1)
        leaving = threading.Thread(target=lambda: models.remove("adapted"))
        leaving.start()
        gate.set()
        for thread in (held, leaving, late):
            thread.join()
        assert found["late"].status in (200, 503)
        assert post(server, "/v1/completions", {**GOOD, "model": "adapted"}).status == 404
        again = post(server, "/v1/completions", {**GOOD, "prompt": ["the quick", "春眠 the"], "max_tokens": 12}).json
        assert [one["text"] for one in again["choices"]] == found["tiny"]
        models.add_adapter("adapted", place, "tiny")


@pytest.mark.parametrize("kind", ["lora", "prefix", "houlsby"])
@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=built)])
def test_an_adapter_chooses_beside_its_base(kind, tiny, folder, tmp_path, backend):
    from gptwo.adapt.base import base_of
    from gptwo.adapt.store import save as save_any
    from gptwo.data.sources import Record
    from gptwo.tasks import restore_task
    from gptwo.tasks.runner import ModelRunner
    from tests.adapt.kinds import config_of, shake

    base = load(folder)
    base.info |= {"task": "choice", "score": "likelihood"}
    base.folder = save_any(base, tmp_path / "base")
    start = load(base.folder)
    start.adapter = apply_adapter(start.model, config_of(kind), seed=1)
    start.config = start.model.config
    shake(start.model, 0.2)
    start.adapter.base = base_of(base)
    place = save_any(start, tmp_path / "adapted")
    asked = {"question": "the quick brown fox jumps over", "choices": ["the lazy dog.", "upon a time", "春眠"]}
    record = Record({"stem": asked["question"], "choices": asked["choices"]}, "x", 1)

    def said(model):
        task, runner = restore_task(model.info, "language"), ModelRunner(model.model.eval(), tiny.tokenizer, 90)
        return task.rows([record], task.predict(runner, [record]))[0]["probabilities"]

    wanted = {"base": said(base), "adapted": said(start)}
    assert wanted["base"] != wanted["adapted"]
    with serving({"base": base.folder}, backend=backend, precision="fp32") as server:
        server.context.models.add_adapter("adapted", place, "base")
        for name in (*wanted, *wanted):
            found = post(server, "/v1/answer", {"model": name, **asked}).json["data"][0]["probabilities"]
            assert found == pytest.approx(wanted[name], abs=2e-4)
        lanes = server.context.scheduler.lanes
        assert (lanes["base"] is lanes["adapted"]) == (backend == "native")


def test_a_model_that_scores_labels_says_where_it_answers(tokenizer):
    labelled = made(tokenizer, head="sequence", labels=["bad", "good"])
    with serving({"labels": labelled}) as server:
        answer = post(server, "/v1/completions", {**GOOD, "model": "labels"})
        assert answer.status == 400
        assert "/v1/classify" in answer.error["message"]


def test_a_page_of_another_origin_is_let_in_only_where_the_operator_says_so(tiny):
    asked = {"origin": "https://a.example", "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type"}  # fmt: skip
    with serving({"tiny": tiny}, keys={"bob": "x"}, needs_key=True, origins=("https://a.example",)) as server:
        answer = ask(server, "OPTIONS", "/v1/completions", None, asked)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://a.example")
        other = ask(server, "OPTIONS", "/v1/completions", None, {**asked, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    with serving({"tiny": tiny}) as server:
        assert "access-control-allow-origin" not in ask(server, "GET", "/v1/models", None, asked).headers

"""Tiny models, schedulers that raise where their accounts do not add up, and a server that is really started."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gptwo.generate.engine import Engine
from gptwo.generate.native import isas
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained, create, save
from gptwo.tokenizer import train_bpe

TEXTS = [
    "the quick brown fox jumps over the lazy dog. ",
    "春眠不觉晓，处处闻啼鸟。 ",
    "Once upon a time there was 🙂. ",
]
PROMPTS = ["the quick brown", "春眠", "", "Once upon a time there was", "the the the the the the", "x", "处处闻啼鸟"]


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(iter(TEXTS * 20), 300)


def made(tokenizer, **changes: Any) -> Pretrained:
    """A model whose weights are large enough that its texts are varied and its choices clear."""
    sizes = {"n_positions": 96, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.6}
    head = {name: changes.pop(name) for name in ("head", "labels") if name in changes}
    return create(GPT2Config(vocab_size=tokenizer.vocab_size, **{**sizes, **changes}), tokenizer, seed=5, **head)


@pytest.fixture(scope="session")
def tiny(tokenizer) -> Pretrained:
    return made(tokenizer)


@pytest.fixture(scope="session")
def engine(tiny) -> Engine:
    return Engine(tiny)


@pytest.fixture(scope="session")
def folder(tiny, tmp_path_factory) -> Path:
    """The tiny model on disk."""
    return save(tiny, tmp_path_factory.mktemp("models") / "tiny")


built = pytest.mark.skipif(not isas(), reason="the native engine was not built: there is no C++ compiler")


def native_steps(pretrained: Pretrained, *, precision: str = "fp32", pages: int | None = None, share: bool = True):
    """The native backend over a model, with a cache of so many pages."""
    from gptwo.generate.native import NativeEngine
    from gptwo.generate.native_build import page_bytes
    from gptwo.serve.native_steps import NativeSteps

    size = None if pages is None else pages * page_bytes(pretrained.config, precision)
    engine = NativeEngine(pretrained, precision=precision, threads=1, cache_bytes=size, share=share)
    return NativeSteps(engine, share=share)


@dataclass
class Running:
    """A server on a free port of this machine."""

    url: str
    context: Any
    port: int


@contextlib.contextmanager
def serving(models: dict[str, Any], **settings: Any) -> Iterator[Running]:
    """A started server, of PyTorch unless it is said; afterwards nothing may be held and nothing left."""
    import uvicorn

    from gptwo.serve.app import make_app, make_context
    from gptwo.serve.settings import Settings

    context = make_context(Settings(strict=True, **{"backend": "torch", "threads": 1, **settings}))
    for name, model in models.items():
        context.models.add(name, model)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    config = uvicorn.Config(make_app(context), log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    started = threading.Event()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    startup = server.startup

    async def announce(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = announce  # type: ignore[method-assign]
    thread.start()
    assert started.wait(30), "the server did not start"
    try:
        yield Running(f"http://127.0.0.1:{port}", context, port)
        assert context.scheduler.drain(30), "jobs are left"
        assert context.scheduler.failure is None
        assert all(lane.backend.left_over() is None for lane in context.scheduler.lanes.values())
        assert not any(lane.jobs for lane in context.scheduler.lanes.values())
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Running]:
    with serving({"tiny": tiny}) as running:
        yield running


@pytest.fixture
def client(server):
    """OpenAI's own client."""
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as made:
        yield made


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=lambda name: pytest.fail(name))

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose form is checked."""
        from gptwo.serve.answers import ErrorAnswer

        return ErrorAnswer.model_validate(self.json).error.model_dump()


def ask(server: Running, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """One plain request; a body that is no bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sent = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        sent.setdefault("content-type", "application/json")
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return found


def post(server: Running, path: str, body: Any, **headers: str) -> Answer:
    """A request with JSON."""
    return ask(server, "POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})

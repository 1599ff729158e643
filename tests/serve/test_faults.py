"""Bad requests, clients that vanish or read slowly, more than the queue takes, kill -9: every good request is answered
right, and afterwards nothing is held. GPTWO_FAULTS=10000 (`make test-faults`) makes a long run of it."""

from __future__ import annotations

import gc
import http.client
import json
import os
import random
import socket
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from gptwo.generate.engine import Engine
from tests.serve.conftest import PROMPTS, Running, ask, built, post, serving
from tests.serve.test_command import command

BACKENDS = ["torch", pytest.param("native", marks=built)]
COUNT = int(os.environ.get("GPTWO_FAULTS", "120"))
BAD = [
    b"{",
    b"\xff\xfe",
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "none", "prompt": "x"}',
    b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
    b'{"model": "tiny", "prompt": "x", "max_tokens": 100000}',
    b'{"model": "tiny", "prompt": ["x", 1]}',
]


class Clients:
    """What happened to the requests of several clients.

    Args:
        back: called where the server cannot be reached, until it says that it is there again; None: it must be there.
    """

    def __init__(self, server, wanted, back=None):
        self.server, self.wanted, self.back = server, wanted, back
        self.good = self.bad = self.refused = self.done = 0
        self.wrong: list[object] = []

    def all_of(self, numbers, threads=6):
        """As many requests as numbers, by several clients at a time."""
        running = [threading.Thread(target=self.run, args=(numbers[i::threads],)) for i in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    def run(self, numbers):
        for number in numbers:
            while True:
                try:
                    self.one(random.Random(number))
                except (OSError, http.client.HTTPException) as error:
                    if self.back is not None and self.back():
                        continue  # the same again
                    self.wrong.append(error)
                except Exception as error:
                    self.wrong.append(error)
                break
            self.done += 1

    def one(self, draw):
        kinds = ["good", "stream", "bad", "gone", "reset", "slow", "burst"]
        kind = draw.choices(kinds, [38, 20, 20, 10, 5, 5, 2])[0]
        prompt = draw.choice(list(self.wanted))
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 12, "temperature": 1.3, "seed": 7}
        if kind == "bad":
            answer = post(self.server, "/v1/completions", draw.choice(BAD))
            self.note(400 <= answer.status < 500 and answer.error["message"], answer)
            self.bad += 1
        elif kind in ("good", "stream"):
            answer = post(self.server, "/v1/completions", {**body, "stream": kind == "stream"})
            if answer.status == 429:
                self.refused += 1
            else:
                self.note(self.text_of(answer) == self.wanted[prompt], answer)
                self.good += 1
        elif kind == "burst":
            lines = [self.begin(body) for _ in range(12)]
            for line in lines:
                answer = http.client.HTTPResponse(line)
                answer.begin()
                content = json.loads(answer.read())
                line.close()
                if answer.status == 429:
                    self.refused += 1
                elif answer.status != 200 or content["choices"][0]["text"] != self.wanted[prompt]:
                    self.wrong.append((answer.status, content))
        else:
            self.leave(kind, {**body, "max_tokens": 60, "ignore_eos": True, "stream": draw.random() < 0.5}, draw)

    @staticmethod
    def text_of(answer):
        if answer.body.startswith(b"data: "):
            events = [one[6:] for one in answer.body.split(b"\n\n") if one.startswith(b"data: {")]
            return "".join(json.loads(one)["choices"][0]["text"] for one in events)
        return answer.json["choices"][0]["text"]

    def begin(self, body, whole=True):
        """A line over which a request has been sent; or with what is to be sent."""
        line = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        content = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        if not whole:
            return line, request
        line.sendall(request)
        return line

    def leave(self, kind, body, draw):
        """Go away in the middle of something, or read byte after byte."""
        line, request = self.begin(body, whole=False)
        if kind == "slow":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            line.sendall(request)
            while line.recv(7):
                pass
        else:
            line.sendall(request[: draw.randrange(1, len(request) + 1)])
            if kind == "reset":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()

    def note(self, right, answer):
        if not right:
            self.wrong.append((answer.status, answer.body[:300]))


@pytest.fixture(scope="module")
def wanted(tiny):
    texts = Engine(tiny).generate(PROMPTS, max_new_tokens=12, temperature=1.3, seed=7)
    return {one.prompt: one.text for one in texts}


@pytest.mark.parametrize("backend", BACKENDS)
def test_good_requests_are_answered_whatever_else_comes(tiny, wanted, backend):
    few = {"cache_tokens": 4 * 32} if backend == "native" else {}  # texts are put off
    with serving(
        {"tiny": tiny}, max_queue=10, max_batch=6, prefill_chunk=4, backend=backend, precision="fp32", **few
    ) as server:
        clients = Clients(server, wanted)
        clients.all_of(range(COUNT // 3))
        if COUNT >= 1000:
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.take_snapshot()
        clients.all_of(range(COUNT // 3, COUNT))
        assert clients.wrong == []
        assert clients.good > COUNT / 4
        assert clients.bad > COUNT / 12
        assert server.context.scheduler.drain(60)
        if COUNT >= 1000:
            gc.collect()
            grown = sum(one.size_diff for one in tracemalloc.take_snapshot().compare_to(before, "filename"))
            tracemalloc.stop()
            assert grown < 4 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_is_killed_comes_back_and_its_memory_does_not_grow(folder, wanted, backend):
    """The server is a process of its own; a third of the requests meet a server that is killed every now and then."""
    words = ("--model", f"tiny={folder}", "--max-queue", "10", "--max-batch", "6", "--prefill-chunk", "4",
             "--backend", backend, "--precision", "fp32", "--threads", "1")  # fmt: skip
    count, lock = max(COUNT, 300), threading.Lock()
    lives = [start(*words, "--port", "0")]
    server = Running("", None, lives[0][1])

    def back():
        """Whoever finds the server gone waits until it is there again."""
        with lock:
            return True

    def kill():
        """Three times, while requests are under way."""
        for part in (1, 2, 3):
            while clients.done < part * count // 12 and not enough.wait(0.01):
                pass
            with lock:
                lives[-1][0].kill()
                lives[-1][0].wait()
                lives.append(start(*words, "--port", str(server.port)))

    clients, enough = Clients(server, wanted, back), threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        clients.all_of(range(count // 3))
        killer.join()
        process = lives[-1][0]
        clients.all_of(range(count // 3, 2 * count // 3))
        before = resident(process)
        clients.all_of(range(2 * count // 3, count))
        grown = resident(process) - before
        assert clients.wrong == []
        assert clients.good > count / 4
        assert len(lives) == 4
        end = time.monotonic() + 60
        while any(figure(server, name) for name in ("gptwo_cache_tokens", "gptwo_queue", "gptwo_running")):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert ask(server, "GET", "/health").json["status"] == "ok"
        assert grown < 16 * 2**20, f"{grown / 2**20:.1f} MB more after {count // 3} requests"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        enough.set()
        killer.join()
        for process, _ in lives:
            process.kill()
            process.wait()


def start(*words):
    """A server of the command line that answers, and its port."""
    process = command(*words)
    line = process.stderr.readline()
    assert "serving" in line, line
    port = int(line.rsplit(":", 1)[1])
    threading.Thread(target=process.stderr.read, daemon=True).start()
    end = time.monotonic() + 60
    while True:
        try:
            assert ask(Running("", None, port), "GET", "/ready").status == 200
            return process, port
        except OSError:
            assert time.monotonic() < end


def resident(process):
    """Resident memory of a process in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def figure(server, name):
    """One of the server's metrics."""
    lines = ask(server, "GET", "/metrics").body.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_loses_its_end_while_it_is_read_harms_nobody(backend, tiny, tmp_path, monkeypatch):
    """After some tensors have been read."""
    from gptwo.generate import native_weights
    from gptwo.model import weights
    from gptwo.model.pretrained import save

    stored = weights.Stored
    place = save(tiny, tmp_path / "models" / "new")
    file = place / "model.safetensors"
    content = file.read_bytes()

    asked = 0

    def cut(read):
        """A tensor's reader; the fifth that is asked cuts the file off."""

        def first():
            nonlocal asked
            asked += 1
            if asked == 5:
                os.truncate(file, len(content) // 2)
            return read()

        return first

    keys = {"keys": {"admin:root": "root"}, "admin_keys": frozenset({"admin:root"})}
    root = {"authorization": "Bearer root"}
    with serving({"tiny": tiny}, models_dir=place.parent, backend=backend, precision="fp32", **keys) as server:
        with monkeypatch.context() as patch:
            if backend == "native":
                reader = native_weights._reader
                patch.setattr(native_weights, "_reader", lambda *given: cut(reader(*given)))
            else:
                patch.setattr(weights, "Stored", lambda shape, read, file: stored(shape, cut(read), file))
            answer = ask(server, "POST", "/v1/models/load", {"model": "new"}, root)
        assert answer.status in (400, 500)
        assert len(answer.error["message"]) > 10
        assert len(file.read_bytes()) == len(content) // 2
        assert post(server, "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2}).status == 200
        file.write_bytes(content)
        assert ask(server, "POST", "/v1/models/load", {"model": "new"}, root).status == 200


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_a_model_that_is_cut_off_harms_nobody(size, tiny, tmp_path, backend):
    from gptwo.model.pretrained import save

    place = save(tiny, tmp_path / "models" / "new")
    weights = place / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:size])
    keys = {"keys": {"admin:root": "root"}, "admin_keys": frozenset({"admin:root"})}
    root = {"authorization": "Bearer root"}
    with serving({"tiny": tiny}, models_dir=place.parent, backend=backend, precision="fp32", **keys) as server:
        answer = ask(server, "POST", "/v1/models/load", {"model": "new"}, root)
        assert answer.status in (400, 500)
        assert len(answer.error["message"]) > 10
        assert post(server, "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2}).status == 200
        weights.write_bytes(content)
        assert ask(server, "POST", "/v1/models/load", {"model": "new"}, root).status == 200

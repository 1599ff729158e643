"""Bad requests, clients that vanish or read slowly, more than the queue takes: every good request is answered right,
and afterwards nothing is held. GPTWO_FAULTS=10000 makes a long run of it."""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import struct
import threading
import tracemalloc

import pytest

from gptwo.generate.engine import Engine
from tests.serve.conftest import PROMPTS, post, serving

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
    """What happened to the requests of several clients."""

    def __init__(self, server, wanted):
        self.server, self.wanted = server, wanted
        self.good = self.bad = self.refused = 0
        self.wrong: list[object] = []

    def run(self, numbers):
        for number in numbers:
            try:
                self.one(random.Random(number))
            except Exception as error:
                self.wrong.append(error)

    def one(self, draw):
        kind = draw.choices(["good", "stream", "bad", "gone", "reset", "slow"], [40, 20, 20, 10, 5, 5])[0]
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
        else:
            self.leave(kind, {**body, "max_tokens": 60, "ignore_eos": True, "stream": draw.random() < 0.5}, draw)

    @staticmethod
    def text_of(answer):
        if answer.body.startswith(b"data: "):
            events = [one[6:] for one in answer.body.split(b"\n\n") if one.startswith(b"data: {")]
            return "".join(json.loads(one)["choices"][0]["text"] for one in events)
        return answer.json["choices"][0]["text"]

    def leave(self, kind, body, draw):
        """Go away in the middle of something, or read byte after byte."""
        line = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        content = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
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


def test_good_requests_are_answered_whatever_else_comes(tiny):
    texts = Engine(tiny).generate(PROMPTS, max_new_tokens=12, temperature=1.3, seed=7)
    wanted = {one.prompt: one.text for one in texts}
    with serving({"tiny": tiny}, max_queue=24, max_batch=6, prefill_chunk=4) as server:
        clients = Clients(server, wanted)

        def all_of(numbers):
            threads = [threading.Thread(target=clients.run, args=(numbers[i::6],)) for i in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        all_of(range(COUNT // 3))
        if COUNT >= 1000:
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.take_snapshot()
        all_of(range(COUNT // 3, COUNT))
        assert clients.wrong == []
        assert clients.good > COUNT / 4
        assert clients.bad > COUNT / 12
        assert server.context.scheduler.drain(60)
        if COUNT >= 1000:
            gc.collect()
            grown = sum(one.size_diff for one in tracemalloc.take_snapshot().compare_to(before, "filename"))
            tracemalloc.stop()
            assert grown < 4 * 2**20


@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_a_model_that_is_cut_off_while_it_is_loaded_harms_nobody(size, tiny, tmp_path):
    from gptwo.model.pretrained import save
    from tests.serve.conftest import ask

    place = save(tiny, tmp_path / "models" / "new")
    weights = place / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:size])
    keys = {"keys": {"admin:root": "root"}, "admin_keys": frozenset({"admin:root"})}
    root = {"authorization": "Bearer root"}
    with serving({"tiny": tiny}, models_dir=place.parent, **keys) as server:
        answer = ask(server, "POST", "/v1/models/load", {"model": "new"}, root)
        assert answer.status in (400, 500)
        assert len(answer.error["message"]) > 10
        assert post(server, "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2}).status == 200
        weights.write_bytes(content)
        assert ask(server, "POST", "/v1/models/load", {"model": "new"}, root).status == 200

"""The command itself: it starts, refuses what cannot be, and ends well when it is told to."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

from tests.serve.conftest import Answer


def command(*words: str, **environment: str) -> subprocess.Popen:
    code = "from gptwo.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "serve", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def request(port: int, method: str, path: str, body: object = None, **headers: str) -> Answer:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"content-type": "application/json", **headers}
    line.request(method, path, None if body is None else json.dumps(body), sent)
    answer = line.getresponse()
    return Answer(answer.status, dict(answer.getheaders()), answer.read())


@pytest.fixture
def started(folder):
    """A server of the command line on a free port, with a key; its lines are read as they come."""
    process = command("--model", f"mine={folder}", "--port", "0", "--drain", "20", GPTWO_API_KEYS="bob=secret")
    lines: list[str] = []
    first = process.stderr.readline()
    assert "serving mine on http://127.0.0.1:" in first, first + process.stderr.read()
    reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
    reader.start()
    yield process, int(first.rsplit(":", 1)[1]), lines, reader
    process.kill()
    process.wait()


def test_it_serves_and_finishes_what_is_under_way_when_told_to_stop(started):
    process, port, lines, reader = started
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if request(port, "GET", "/ready").status == 200:
                break
        except OSError:
            pass
    assert request(port, "POST", "/v1/completions", {"model": "mine", "prompt": "x"}).status == 401
    body = {"model": "mine", "prompt": "private words", "max_tokens": 80, "ignore_eos": True, "stream": True}
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("POST", "/v1/completions", json.dumps(body),
                 {"content-type": "application/json", "authorization": "Bearer secret"})  # fmt: skip
    answer = line.getresponse()
    assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    assert process.wait(60) == 0
    reader.join(10)
    log = [json.loads(one) for one in lines if one.startswith("{")]
    (told,) = [one for one in log if one.get("status") == 200 and one["route"] == "/v1/completions"]
    assert told["key"] == "bob"
    assert told["completion_tokens"] == 80
    assert "private" not in "".join(lines)
    assert "secret" not in "".join(lines)


def refused(*words: str, **environment: str) -> tuple[int, str]:
    process = command(*words, **environment)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    return process.returncode, said


def test_a_taken_port_is_said_before_any_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = refused("--model", "no-such-model", "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert said.startswith("gptwo: Port ")


def test_a_model_that_cannot_be_read_is_said_in_one_message(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, said = refused("--model", str(broken), "--port", "0")
    assert code in (1, 3, 4)
    assert "broken" in said


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1 that signs itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    place = tmp_path_factory.mktemp("tls")
    files = place / "certificate.pem", place / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def test_it_serves_https(certificate, folder):
    files = [str(file) for file in certificate]
    process = command("--model", f"mine={folder}", "--port", "0", "--tls-certificate", files[0], "--tls-key", files[1])
    try:
        first = process.stderr.readline()
        assert "https://127.0.0.1:" in first
        context = ssl.create_default_context(cafile=files[0])
        line = http.client.HTTPSConnection("127.0.0.1", int(first.rsplit(":", 1)[1]), timeout=60, context=context)
        line.request("GET", "/v1/models")
        assert json.loads(line.getresponse().read())["data"][0]["id"] == "mine"
    finally:
        process.kill()
        process.wait()


def test_tls_files_that_do_not_fit_are_refused_at_once(certificate, tmp_path):
    from gptwo.errors import MissingError, UsageError
    from gptwo.serve.run import Address, check_tls

    with pytest.raises(UsageError, match="certificate and its key"):
        check_tls(Address(certificate=certificate[0]))
    with pytest.raises(MissingError):
        check_tls(Address(certificate=certificate[0], key=tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot be used"):
        check_tls(Address(certificate=certificate[1], key=certificate[0]))


def test_after_a_kill_the_same_port_serves_again(started, folder):
    process, port, _, _ = started
    process.kill()
    process.wait()
    again = command("--model", str(folder), "--port", str(port))
    try:
        assert f":{port}" in again.stderr.readline()
    finally:
        again.kill()
        again.wait()

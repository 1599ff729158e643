"""Whatever is wrong with a request, the answer is an error of OpenAI's form with the right status, never a 5xx."""

from __future__ import annotations

import json
import socket
import time

import pytest

from tests.serve.conftest import ask, post

GOOD = {"model": "tiny", "prompt": "the", "max_tokens": 2}

BODIES = {
    "broken JSON": (b'{"model": "tiny", ', 400, "invalid_json"),
    "empty": (b"", 400, "invalid_json"),
    "a number": (b"1", 400, None),
    "a list": (b"[]", 400, None),
    "NaN": (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', 400, "invalid_json"),
    "infinity": (b'{"model": "tiny", "prompt": "x", "temperature": Infinity}', 400, "invalid_json"),
    "a number that overflows": (b'{"model": "tiny", "prompt": "x", "temperature": 1e999}', 400, "invalid_json"),
    "a number of many digits": (b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    "invalid UTF-8": (b'{"model": "tiny", "prompt": "\xff\xfe"}', 400, "invalid_utf8"),
    "a lone surrogate": (b'{"model": "tiny", "prompt": "\\ud83d"}', 400, "invalid_unicode"),
    "a lone surrogate as a key": (b'{"model": "tiny", "prompt": "x", "\\udc00": 1}', 400, "invalid_unicode"),
    "endless depth": (b'{"a":' * 20000, 400, "invalid_json"),
    "a key twice": (b'{"model": "tiny", "model": "tiny", "prompt": "x"}', 400, "invalid_json"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request(name, server):
    body, status, code = BODIES[name]
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings"):
        answer = ask(server, "POST", path, body, {"content-type": "application/json"})
        assert (answer.status, answer.error["code"]) == (status, code), answer.body


def test_a_pair_of_surrogates_is_a_character(server):
    body = b'{"model": "tiny", "prompt": "\\ud83d\\ude42", "echo": true, "max_tokens": 0}'
    assert ask(server, "POST", "/v1/completions", body, {"content-type": "application/json"}).json["choices"][0][
        "text"
    ] == "🙂"  # fmt: skip


FIELDS = {
    "unknown field": ({"temprature": 1}, "temprature"),
    "text for a number": ({"temperature": "1"}, "temperature"),
    "number for a text": ({"prompt": 5}, "prompt"),
    "yes for true": ({"stream": "yes"}, "stream"),
    "fraction for a count": ({"n": 1.5}, "n"),
    "negative temperature": ({"temperature": -0.1}, "temperature"),
    "huge temperature": ({"temperature": 1e300}, "temperature"),
    "negative tokens": ({"max_tokens": -1}, "max_tokens"),
    "huge tokens": ({"max_tokens": 10**30}, "max_tokens"),
    "many tokens": ({"max_tokens": 2**31 - 1}, "max_tokens"),
    "zero texts": ({"n": 0}, "n"),
    "too many texts": ({"n": 500}, "n"),
    "top_p above one": ({"top_p": 1.1}, "top_p"),
    "top_k below minus one": ({"top_k": -2}, "top_k"),
    "penalty above two": ({"presence_penalty": 2.1}, "presence_penalty"),
    "bias above a hundred": ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    "bias for no token": ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    "bias for a token that is not there": ({"logit_bias": {"999999": 1}}, "logit_bias"),
    "seed beyond 64 bits": ({"seed": 2**63}, "seed"),
    "ten thousand stops": ({"stop": ["x"] * 10_000}, "stop"),
    "an empty stop": ({"stop": ""}, "stop"),
    "empty list of prompts": ({"prompt": []}, "prompt"),
    "a list of an empty list": ({"prompt": [[]]}, "prompt"),
    "ids and texts mixed": ({"prompt": [1, "x"]}, "prompt"),
    "an id that is not there": ({"prompt": [999999]}, "prompt"),
    "a negative id": ({"prompt": [-1]}, "prompt"),
    "too many prompts": ({"prompt": ["x"] * 1000}, "prompt"),
    "logprobs of chat": ({"logprobs": True}, "logprobs"),
    "too many logprobs": ({"logprobs": 21}, "logprobs"),
    "a suffix": ({"suffix": "x"}, "suffix"),
    "best of fewer": ({"n": 2, "best_of": 1}, "best_of"),
    "stream of the best": ({"stream": True, "best_of": 2}, "best_of"),
    "stream options without a stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "unknown form": ({"response_format": {"type": "xml"}}, "response_format"),
    "a schema that is none": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
        "response_format",
    ),
    "a pattern that is none": ({"response_format": {"type": "regex", "regex": "(["}}, "response_format"),
    "no model": ({"model": None}, "model"),
    "an empty model": ({"model": ""}, "model"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_wrong_is_named(name, server):
    changes, param = FIELDS[name]
    answer = post(server, "/v1/completions", {**GOOD, **changes})
    assert answer.status == 400, answer.body
    assert (answer.error["param"] or "").startswith(param), answer.error
    assert answer.error["type"] == "invalid_request_error"
    assert len(answer.error["message"]) > 10


def test_a_misspelt_field_is_guessed(server):
    assert "'temperature'" in post(server, "/v1/completions", {**GOOD, "temprature": 1}).error["message"]


def test_an_unknown_model_is_404_and_the_nearest_is_named(server):
    answer = post(server, "/v1/completions", {**GOOD, "model": "tinny"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "'tiny'" in answer.error["message"]
    assert ask(server, "GET", "/v1/models/none").error["code"] == "model_not_found"


def test_unknown_routes_and_methods(server):
    assert ask(server, "GET", "/v1/nothing").error["code"] == "not_found"
    assert ask(server, "GET", "/").status == 404
    answer = ask(server, "GET", "/v1/completions")
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_other_kinds_of_content_are_refused(server):
    body = json.dumps(GOOD).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(server, "POST", "/v1/completions", body, {"content-type": kind}).status == 415
    assert (
        ask(server, "POST", "/v1/completions", body, {"content-type": "application/json; charset=utf-8"}).status == 200
    )


def test_a_request_that_is_too_large_is_413_told_or_found(server):
    body = json.dumps({**GOOD, "prompt": "x" * 2**20}).encode()
    answer = ask(server, "POST", "/v1/completions", body)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(40):
                line.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        except OSError:  # the server has hung up
            pass
        assert b" 413 " in line.recv(2**16).split(b"\r\n")[0]


def test_request_ids_are_given_back_or_made(server):
    assert post(server, "/v1/completions", GOOD, x_request_id="mine-1").headers["x-request-id"] == "mine-1"
    made = post(server, "/v1/completions", GOOD, x_request_id="two words").headers["x-request-id"]
    assert len(made) == 32


def test_a_wrong_deadline_is_named_and_one_that_has_passed_is_504(server):
    assert post(server, "/v1/completions", GOOD, x_request_timeout="soon").error["param"] == "X-Request-Timeout"
    long = {**GOOD, "max_tokens": 90, "ignore_eos": True, "temperature": 0}
    answer = post(server, "/v1/completions", long, x_request_timeout="0.000001")
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    assert answer.headers["x-should-retry"] == "false"
    answer = post(server, "/v1/completions", {**long, "stream": True}, x_request_timeout="0.000001")
    assert (answer.status, answer.error["code"]) == (504, "timeout")


def test_a_client_that_goes_before_its_request_is_here_is_no_failure(server, caplog):
    counted = server.context.metrics.requests.labels("/v1/completions", "499")
    before = counted._value.get()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: 9\r\n\r\n{")
    end = time.monotonic() + 30
    while counted._value.get() == before:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []

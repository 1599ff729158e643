"""The OpenAPI document is true: requests that are made from it are answered as it says, and never with a 5xx."""

from __future__ import annotations

import os

import pytest

from tests.serve.conftest import ask, made, serving

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

EXAMPLES = int(os.environ.get("GPTWO_SCHEMATHESIS", "8"))  # for each route; many more by hand
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tokenizer):
    labels = made(tokenizer, head="sequence", labels=["bad", "good"])
    with serving({"tiny": made(tokenizer), "labels": labels}) as running:
        yield running


@pytest.fixture(scope="module")
def document(server):
    return ask(server, "GET", "/openapi.json").json


def test_the_document_names_every_answer_and_only_ours(document):
    assert len(document["paths"]) >= 16
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            if path.startswith("/v1/"):
                assert {"400", "401", "404", "413", "429", "500", "503"} <= operation["responses"].keys(), path
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"), ("GET", "/health"), ("GET", "/ready"), ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings"), ("POST", "/v1/classify"), ("POST", "/v1/tag"),
        ("POST", "/v1/match"), ("POST", "/v1/rerank"), ("POST", "/v1/answer"), ("POST", "/v1/summarize"),
        ("POST", "/v1/translate"), ("POST", "/v1/explain"), ("POST", "/v1/models/load"),
    ],
)  # fmt: skip
def test_what_is_made_from_the_document_is_answered_as_it_says(method, path, server, document):
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=server.url)
    operation = loaded[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case):
        if isinstance(case.body, dict) and case.body.get("model"):
            case.body["model"] = ["tiny", "labels", "none"][len(str(case.body)) % 3]
        case.validate_response(case.call(timeout=60), checks=CHECKS)

    run()

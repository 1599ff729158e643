"""JSON as the standard has it, and nothing else: no NaN, no lone surrogates, no invalid UTF-8, no endless depth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gptwo.serve.errors import ApiError

SURROGATE = re.compile("[\ud800-\udfff]")


def parse(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ApiError: 400, saying where and why it is none.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The request is not valid UTF-8 (byte {error.start}).", code="invalid_utf8") from None
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ApiError(
            400, f"The request is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).",
            code="invalid_json",
        ) from None  # fmt: skip
    except RecursionError:
        raise ApiError(400, "The request is nested too deeply.", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"The request is not valid JSON: {error}.", code="invalid_json") from None
    if "\\u" in text and _has_surrogate(value):
        raise ApiError(400, "A text holds half of a surrogate pair, which is no character.", code="invalid_unicode")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(part) for item in value.items() for part in item)
    return isinstance(value, list) and any(_has_surrogate(part) for part in value)


class StrictRequest(Request):
    """A request whose content must be strict JSON."""

    async def json(self) -> Any:
        if not hasattr(self, "_strict"):
            self._strict = parse(await self.body())
        return self._strict


class StrictRoute(APIRoute):
    """A route whose requests are strict JSON; errors of parsing keep their own answer."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            wanted = StrictRequest(request.scope, request.receive)
            if request.method == "POST":
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json":
                    raise ApiError(
                        415, "Send the request as JSON, with the header Content-Type: application/json.",
                        code="unsupported_media_type",
                    )  # fmt: skip
                await wanted.json()  # FastAPI would hide what is wrong with it
            return await handle(wanted)

        return strict

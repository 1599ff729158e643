"""Errors as OpenAI's interface words them: a status code and {"error": {message, type, param, code}}."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from gptwo.errors import DataError, GptwoError, UsageError
from gptwo.serve.jobs import Broken, Refused, Stopped, TooLate

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

#: What an option is called in the interface, where it differs from ours.
PARAMETERS = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "ignore_end": "ignore_eos"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for a person.
        param: the field it is about.
        code: for a program.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, round(retry_after)))
        if status == 504:
            self.headers["x-should-retry"] = "false"  # OpenAI's clients would ask again for the same long text

    def body(self) -> dict[str, Any]:
        """The answer's content."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """Any error as an answer; what is not ours is told without its inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Refused):
        if error.full:
            return ApiError(429, error.what, code="queue_full", retry_after=2)
        return ApiError(503, error.what, code="shutting_down", retry_after=5)
    if isinstance(error, TooLate):
        return ApiError(504, error.what, code="timeout")
    if isinstance(error, Broken):
        return ApiError(500, error.what, code="failed")
    if isinstance(error, Stopped):
        return ApiError(503, error.what, code="stopped", retry_after=5)
    if isinstance(error, UsageError | DataError):
        where = str(error.where) if error.where is not None else None
        return ApiError(400, plain(error), param=PARAMETERS.get(where or "", where))
    if isinstance(error, GptwoError):
        return ApiError(500, plain(error), code="failed")
    return ApiError(500, "The server failed at this request.", code="failed")


def plain(error: GptwoError) -> str:
    """What happened, why and what mends it, in one line."""
    parts = [error.what, *(f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in (error.why, error.fix) if part)]
    return " ".join(parts)

"""What the routes of one server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.security import HTTPBearer

from gptwo.errors import did_you_mean
from gptwo.serve.answers import ErrorAnswer
from gptwo.serve.errors import ApiError

if TYPE_CHECKING:
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.models import Models, Served
    from gptwo.serve.scheduler import Scheduler
    from gptwo.serve.settings import Settings

BEARER = HTTPBearer(auto_error=False, description="An API key, where the server has any.")

#: Errors that every route may answer, for the OpenAPI document.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "The request cannot be served; the message says why.",
        401: "No API key, or a wrong one.",
        403: "The key may not do this.",
        404: "There is no such model or route.",
        408: "The request came too slowly.",
        413: "The request is too large.",
        415: "The request is not JSON.",
        429: "The queue is full or a limit is reached; see Retry-After.",
        500: "The server failed.",
        503: "The server is shutting down.",
        504: "The request was not done in time.",
    }.items()
}


@dataclass(frozen=True)
class Context:
    """A server's parts."""

    settings: Settings
    scheduler: Scheduler
    models: Models
    metrics: Metrics


def context_of(request: Request) -> Context:
    """The server's parts."""
    return request.app.state.context


def model_of(request: Request, name: str) -> Served:
    """The model that a request names.

    Raises:
        ApiError: 404, with the names there are.
    """
    models = context_of(request).models
    found = models.find(name)
    if found is None:
        raise ApiError(
            404,
            f"There is no model {name!r}. {did_you_mean(name, list(models.served))}",
            param="model",
            code="model_not_found",
        )
    request.state.notes["model"] = name
    return found

"""The application: models behind routes, errors in one form, an OpenAPI document that says what is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gptwo import __version__
from gptwo.errors import GptwoError, did_you_mean
from gptwo.serve import openai, tasks
from gptwo.serve.answers import Status
from gptwo.serve.asking import ClientGone
from gptwo.serve.context import Context, context_of
from gptwo.serve.errors import ApiError, as_api_error
from gptwo.serve.gate import Gate
from gptwo.serve.limits import Keys
from gptwo.serve.metrics import Metrics
from gptwo.serve.models import Models
from gptwo.serve.scheduler import Scheduler
from gptwo.serve.settings import Settings

DESCRIPTION = (
    "GPT-2 models over OpenAI's interface, and the tasks they are tuned for. Errors have one form: ErrorAnswer."
)


def make_context(settings: Settings) -> Context:
    """Scheduler, models and metrics that belong together; models are added before or while it serves."""
    metrics = Metrics()
    scheduler = Scheduler(max_queue=settings.max_queue, watch=metrics, strict=settings.strict)
    metrics.observe(scheduler)
    return Context(settings, scheduler, Models(scheduler, settings), metrics)


class App(FastAPI):
    """FastAPI, whose document is without its own form of validation errors."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            schemas = document.get("components", {}).get("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return super().openapi()


def make_app(context: Context) -> FastAPI:
    """The application over a context; it starts the scheduler with itself, and stops it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not context.scheduler.alive:
            context.scheduler.start()
        yield
        context.scheduler.stop()

    app = App(
        title="gptwo",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        separate_input_output_schemas=False,
    )
    app.state.context = context
    app.include_router(openai.router)
    app.include_router(tasks.router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for kind in (ApiError, GptwoError):
        app.add_exception_handler(kind, _ours)
    app.add_exception_handler(ClientGone, _gone)
    _operations(app)
    settings = context.settings
    keys = Keys(settings.keys, settings.needs_key)
    app.add_middleware(Gate, settings=settings, keys=keys, metrics=context.metrics)
    if settings.origins:  # around the gate: a browser asks first, without a key
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id", "x-request-timeout"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _operations(app: FastAPI) -> None:
    """What an operator asks."""

    @app.get("/health", tags=["operations"], responses={503: {"model": Status}}, response_model=Status)
    async def health(request: Request) -> Response:
        """Whether the process works; restart it when it does not."""
        context = context_of(request)
        if context.scheduler.alive:
            return JSONResponse({"status": "ok", "reason": None})
        reason = context.scheduler.failure
        return JSONResponse({"status": "failed", "reason": type(reason).__name__ if reason else "stopped"}, 503)

    @app.get("/ready", tags=["operations"], responses={503: {"model": Status}}, response_model=Status)
    async def ready(request: Request) -> Response:
        """Whether requests should be sent here."""
        context = context_of(request)
        reason = None
        if not context.scheduler.alive:
            reason = "the scheduler does not run"
        elif context.scheduler.draining:
            reason = "shutting down"
        elif not context.models.served:
            reason = "no model is loaded"
        if reason is None:
            return JSONResponse({"status": "ready", "reason": None})
        return JSONResponse({"status": "not ready", "reason": reason}, 503)

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(context_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


async def _ours(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the log does


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "request_too_large"}
    message = str(error.detail)
    if error.status_code == 404:
        message = f"There is no {request.method} {request.url.path[:200]!r} here."
    answer = ApiError(error.status_code, message, code=code.get(error.status_code), headers=dict(error.headers or {}))
    return answer.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """The first field that is wrong, in words."""
    assert isinstance(error, RequestValidationError)
    found = [one for one in error.errors() if one["loc"]]
    worst = max(found, key=_weight, default=None)
    if worst is None:
        return ApiError(400, "The request is not valid.").response()
    path = [part for part in worst["loc"] if part != "body"]
    names = [str(part) for part in path if not (isinstance(part, str) and _is_branch(part))]
    param = ".".join(names) or None
    if worst["type"] == "extra_forbidden":
        message = f"There is no field {param!r}. {did_you_mean(names[-1], _fields(request))}"
    elif worst["type"] == "missing":
        message = f"The field {param!r} is missing." if param else "The request has no content."
    else:
        where = f"{param}: " if param else ""
        message = f"{where}{worst['msg']}."
    return ApiError(400, message, param=param).response()


def _weight(error: Any) -> tuple[bool, int]:
    """Of the branches of a union the one that came furthest is told."""
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 2, len(error["loc"])


def _is_branch(part: str) -> bool:
    """Whether a part of a path is pydantic's name of a union's branch."""
    return part in ("str", "int", "float", "bool") or "[" in part


def _fields(request: Request) -> list[str]:
    """The fields that the route's request has."""
    route = request.scope.get("route")
    field = getattr(route, "body_field", None)
    model = getattr(getattr(field, "field_info", None), "annotation", None)
    return sorted(getattr(model, "model_fields", {}))

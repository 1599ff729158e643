"""OpenAI's interface: models, completions, chat."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from gptwo import __version__
from gptwo.serve.answers import ChatCompletion, Completion, Deleted, ModelCard, ModelList
from gptwo.serve.asking import EventStream, Piece, Pieces, deadline_of, finished
from gptwo.serve.context import BEARER, ERRORS, context_of, model_of
from gptwo.serve.errors import ApiError, as_api_error
from gptwo.serve.jobs import Job
from gptwo.serve.models import Served
from gptwo.serve.prepare import Prepared, prepare_chat, prepare_completion
from gptwo.serve.schemas import ChatRequest, CompletionRequest, LoadRequest
from gptwo.serve.shape import Tokens, best, chat_logprobs, finish_reason, legacy_logprobs, usage
from gptwo.serve.strict_json import StrictRoute
from gptwo.serve.work import Row

FINGERPRINT = f"gptwo-{__version__}"
router = APIRouter(prefix="/v1", route_class=StrictRoute, dependencies=[Depends(BEARER)], responses=ERRORS)
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


# --- models


@router.get("/models", tags=["models"], response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The models that are served."""
    served = list(context_of(request).models.served.values())
    return JSONResponse({"object": "list", "data": [card(one) for one in served]})


@router.get("/models/{model:path}", tags=["models"], response_model=ModelCard)
async def retrieve_model(model: str, request: Request) -> Response:
    """One model."""
    return JSONResponse(card(model_of(request, model)))


@router.post("/models/load", tags=["models"], response_model=ModelCard)
async def load_model(body: LoadRequest, request: Request) -> Response:
    """Load a model, or an adapter over a model that is served, from the server's folder of models."""
    _only_admins(request)
    models = context_of(request).models
    folder = models.folder_of(body.model)
    if body.base is not None:
        served = await asyncio.to_thread(models.add_adapter, body.model, folder, body.base)
    else:
        served = await asyncio.to_thread(models.add, body.model, folder)
    return JSONResponse(card(served))


@router.delete("/models/{model:path}", tags=["models"], response_model=Deleted)
async def unload_model(model: str, request: Request) -> Response:
    """Stop serving a model; its requests end."""
    _only_admins(request)
    model_of(request, model)
    await asyncio.to_thread(context_of(request).models.remove, model)
    return JSONResponse({"id": model, "object": "model", "deleted": True})


def card(served: Served) -> dict[str, Any]:
    """What is told of a model."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "gptwo",
        "task": served.task.name,
        "labels": served.labels,
        "context_length": served.config.n_positions,
        "base": served.base,
    }


def _only_admins(request: Request) -> None:
    key = request.state.key
    if key is None or key not in context_of(request).settings.admin_keys:
        raise ApiError(403, "Models are loaded and unloaded with an admin key.", code="admin_key_needed")


# --- completions and chat


@router.post("/completions", tags=["text"], response_model=Completion, responses={200: {"content": STREAM}})
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue prompts."""
    return await _answer(body, request, prepare_completion, CompletionShape)


@router.post("/chat/completions", tags=["text"], response_model=ChatCompletion, responses={200: {"content": STREAM}})
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Say what the assistant says next."""
    return await _answer(body, request, prepare_chat, ChatShape)


async def _answer(body: Any, request: Request, prepare: Callable[..., Prepared], shape: type[Shape]) -> Response:
    context = context_of(request)
    served = model_of(request, body.model)
    if not served.writes:
        raise ApiError(
            400, f"The model {served.name!r} scores labels; it cannot write. Use /v1/{_route(served)}.", param="model"
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream=true.", param="stream_options")
    prepared = await asyncio.to_thread(prepare, served, body, context.settings)
    job = Job(served.name, prepared.prompts, deadline=deadline_of(request, context.settings.timeout))
    made = shape(served, body, prepared)
    notes = request.state.notes
    if context.settings.log_prompts:
        notes["prompts"] = prepared.sources if any(prepared.sources) else [m.text for m in body.messages]
    if body.stream:
        pieces = Pieces(context.scheduler, job)
        await pieces.begin(request)
        notes["stream"] = True
        return EventStream(_stream(made, pieces, notes), pieces)
    await finished(context.scheduler, job, request)
    notes.update(usage(prepared.prompts))
    return JSONResponse(made.whole())


async def _stream(shape: Shape, pieces: Pieces, notes: dict[str, Any]) -> AsyncIterator[bytes]:
    """The chunks of a stream as server-sent events; an error is one of them."""
    try:
        for first in shape.opening():
            yield _event(first)
        async for piece in pieces:
            chunk = shape.chunk(piece)
            if chunk is not None:
                yield _event(chunk)
        options = shape.body.stream_options
        if options is not None and options.include_usage:
            yield _event({**shape.frame(stream=True), "choices": [], "usage": usage(shape.prepared.prompts)})
        notes.update(usage(shape.prepared.prompts))
    except Exception as error:
        answer = as_api_error(error)
        notes["error"] = answer.code
        yield _event(answer.body())
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@dataclass(eq=False)
class Sent:
    """What has been told of one text in a stream."""

    index: int
    tokens: Tokens
    scored: int = 0
    characters: int = 0


@dataclass(eq=False)
class Shape(ABC):
    """Texts in the shape of one interface."""

    served: Served
    body: Any
    prepared: Prepared
    created: int = field(default_factory=lambda: int(time.time()))
    sent: dict[Row, Sent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        rows = [(prompt, row) for prompt in self.prepared.prompts for row in prompt.rows]
        for index, (_, row) in enumerate(rows):
            self.sent[row] = Sent(index, Tokens(self.served.codec, self.offset(index)))

    prefix = ""
    object = ""
    chunk_object = ""

    def offset(self, index: int) -> int:
        """Characters before a text in what is given out."""
        return 0

    def frame(self, *, stream: bool = False) -> dict[str, Any]:
        """What every answer begins with."""
        return {
            "id": self.id,
            "object": self.chunk_object if stream else self.object,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        choices: list[dict[str, Any]] = []
        for prompt in self.prepared.prompts:
            for row in best(prompt, self.prepared.n):
                choices.append(self.choice(len(choices), row))
        return {**self.frame(), "choices": choices, "usage": usage(self.prepared.prompts)}

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """A piece of a stream; None where nothing is to be told."""
        sent = self.sent[piece.row]
        if not piece.text and piece.finish_reason is None:
            return None
        sent.characters += len(piece.text)
        new = piece.row.scored[sent.scored : piece.scored] if self.tells_logprobs else []
        sent.scored = piece.scored
        tokens = sent.tokens.push(new, sent.characters)
        choice = self.delta(sent.index, piece, tokens)
        usage_so_far = {"usage": None} if self.body.stream_options and self.body.stream_options.include_usage else {}
        return {**self.frame(stream=True), "choices": [choice], **usage_so_far}

    @property
    @abstractmethod
    def tells_logprobs(self) -> bool:
        """Whether the log-probabilities of tokens were asked for."""

    def opening(self) -> list[dict[str, Any]]:
        """Chunks before the first piece."""
        return []

    @abstractmethod
    def choice(self, index: int, row: Row) -> dict[str, Any]:
        """A whole text."""

    @abstractmethod
    def delta(self, index: int, piece: Piece, tokens: list[Any]) -> dict[str, Any]:
        """A piece of a text, in a stream."""


class CompletionShape(Shape):
    """Of /v1/completions."""

    body: CompletionRequest
    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _source(self, index: int) -> str:
        """What is given out before a text."""
        return self.prepared.sources[index // len(self.prepared.prompts[0].rows)] if self.body.echo else ""

    def offset(self, index: int) -> int:
        return len(self._source(index))

    @property
    def tells_logprobs(self) -> bool:
        return self.body.logprobs is not None

    def choice(self, index: int, row: Row) -> dict[str, Any]:
        source, text = self._source(self.sent[row].index), row.text.transcript.text
        logprobs = None
        if self.tells_logprobs:
            tokens = self._prompt_tokens(self.sent[row].index) + Tokens(self.served.codec, len(source)).push(
                row.scored, len(text)
            )
            logprobs = legacy_logprobs(self.served.codec, tokens, self.body.logprobs or 0)
        return {
            "index": index,
            "text": source + text,
            "logprobs": logprobs,
            "finish_reason": finish_reason(row.text.finish_reason),
        }

    def _prompt_tokens(self, index: int) -> list[Any]:
        """The tokens of an echoed prompt."""
        prompt = self.prepared.prompts[index // len(self.prepared.prompts[0].rows)]
        if not prompt.judged:
            return []
        return Tokens(self.served.codec).push(prompt.judged, len(self._source(index)) + 1)

    def opening(self) -> list[dict[str, Any]]:
        chunks = []
        for row, sent in self.sent.items():
            if not self.body.echo:
                break
            logprobs = None
            if self.tells_logprobs:
                tokens = self._prompt_tokens(sent.index)
                logprobs = legacy_logprobs(self.served.codec, tokens, self.body.logprobs or 0)
            over = "length" if row.text.limit == 0 else None
            choice = {
                "index": sent.index, "text": self._source(sent.index), "logprobs": logprobs, "finish_reason": over,
            }  # fmt: skip
            chunks.append({**self.frame(stream=True), "choices": [choice], "usage": None})
        return chunks

    def delta(self, index: int, piece: Piece, tokens: list[Any]) -> dict[str, Any]:
        codec = self.served.codec
        return {
            "index": index,
            "text": piece.text,
            "logprobs": legacy_logprobs(codec, tokens, self.body.logprobs or 0) if self.tells_logprobs else None,
            "finish_reason": finish_reason(piece.finish_reason),
        }


class ChatShape(Shape):
    """Of /v1/chat/completions."""

    body: ChatRequest
    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    @property
    def tells_logprobs(self) -> bool:
        return bool(self.body.logprobs)

    def choice(self, index: int, row: Row) -> dict[str, Any]:
        text, logprobs = row.text.transcript.text, None
        if self.tells_logprobs:
            logprobs = chat_logprobs(self.served.codec, Tokens(self.served.codec).push(row.scored, len(text)))
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": logprobs,
            "finish_reason": finish_reason(row.text.finish_reason),
        }

    def opening(self) -> list[dict[str, Any]]:
        return [
            {
                **self.frame(stream=True),
                "choices": [
                    {
                        "index": sent.index,
                        "delta": {"role": "assistant", "content": ""},
                        "logprobs": None,
                        "finish_reason": None if row.text.limit else "length",
                    }
                ],
            }
            for row, sent in self.sent.items()
        ]

    def delta(self, index: int, piece: Piece, tokens: list[Any]) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": chat_logprobs(self.served.codec, tokens) if self.tells_logprobs else None,
            "finish_reason": finish_reason(piece.finish_reason),
        }


def _route(served: Served) -> str:
    """Where a model with labels answers."""
    from gptwo.serve.tasks import ROUTES

    return ROUTES.get(served.task.name, "classify")

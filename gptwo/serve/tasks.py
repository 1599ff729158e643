"""What tuned models do, one route for each task: labels, tags, pairs, rankings, answers, texts, vectors, reasons."""

from __future__ import annotations

import asyncio
import base64
import math
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from gptwo.data.sources import Record
from gptwo.generate.options import SamplingOptions
from gptwo.serve.answers import Embeddings, Explained, Ranking, Rows, Written
from gptwo.serve.asking import deadline_of, finished
from gptwo.serve.calls import with_beams
from gptwo.serve.context import BEARER, ERRORS, context_of, model_of
from gptwo.serve.errors import ApiError
from gptwo.serve.jobs import Job
from gptwo.serve.models import Served
from gptwo.serve.prepare import texts_of
from gptwo.serve.schemas import (
    AnswerRequest,
    ClassifyRequest,
    EmbeddingRequest,
    ExplainRequest,
    MatchRequest,
    RerankRequest,
    TagRequest,
    WriteRequest,
)
from gptwo.serve.strict_json import StrictRoute
from gptwo.serve.work import Prompt
from gptwo.tasks.sequences import words_of

#: Task -> where it is asked for.
ROUTES = {
    "classify": "classify", "joint": "classify", "tag": "tag", "match": "match", "rank": "rerank",
    "extract": "answer", "answer": "answer", "choice": "answer", "summarize": "summarize", "translate": "translate",
    "dialogue": "chat/completions", "language": "completions",
}  # fmt: skip
router = APIRouter(
    prefix="/v1", tags=["tasks"], route_class=StrictRoute, dependencies=[Depends(BEARER)], responses=ERRORS
)


# --- labels


@router.post("/classify", response_model=Rows)
async def classify(body: ClassifyRequest, request: Request) -> Response:
    """Labels for texts."""
    served = _tuned_for(request, body.model, "classify", "joint")
    return await _rows(request, served, [{"text": text} for text in _several(body.input)])


@router.post("/tag", response_model=Rows)
async def tag(body: TagRequest, request: Request) -> Response:
    """A tag for each token of sentences; a text is parted into tokens first."""
    served = _tuned_for(request, body.model, "tag")
    sentences = [words_of(one) if isinstance(one, str) else one for one in _several(body.input)]
    if not all(sentences):
        raise ApiError(400, "A text without any word cannot be tagged.", param="input")
    return await _rows(request, served, [{"tokens": sentence} for sentence in sentences])


@router.post("/match", response_model=Rows)
async def match(body: MatchRequest, request: Request) -> Response:
    """A label for each pair of texts."""
    served = _tuned_for(request, body.model, "match")
    return await _rows(request, served, [{"text_a": a, "text_b": b} for a, b in body.pairs])


@router.post("/rerank", response_model=Ranking, response_model_exclude_none=True)
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents in the order of how well they answer a query (the shape of Jina's and Cohere's interfaces)."""
    served = _tuned_for(request, body.model, "rank")
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    _check_count(request, len(texts), "documents")
    record = Record({"query": body.query, "candidates": texts}, "request", 1)
    (scores,) = await _call(request, served, served.calls.rank(), [record])
    order = np.argsort(-np.asarray(scores), kind="stable")[: body.top_n or len(texts)].tolist()
    results = [
        {
            "index": place,
            "relevance_score": _sigmoid(float(scores[place])),
            **({"document": {"text": texts[place]}} if body.return_documents else {}),
        }
        for place in order
    ]
    return JSONResponse({"id": f"rerank-{uuid.uuid4().hex}", "model": served.name, "results": results})


# --- texts


@router.post("/answer", response_model=Written)
async def answer(body: AnswerRequest, request: Request) -> Response:
    """An answer: a span of the context, written, or one of the choices, as the model was tuned."""
    served = _tuned_for(request, body.model, "extract", "answer", "choice")
    if served.task.name == "choice":
        if body.choices is None:
            raise ApiError(400, "This model needs choices.", param="choices")
        _check_count(request, len(body.choices), "choices")
        return await _rows(request, served, [{"stem": body.question, "choices": body.choices}])
    if body.choices is not None:
        raise ApiError(400, f"The model {body.model!r} does not choose.", param="choices")
    fields = {"question": body.question, **({"context": body.context} if body.context is not None else {})}
    if served.task.name == "extract":
        return await _rows(request, served, [fields])
    return await _write(request, served, [fields], body.num_beams)


@router.post("/summarize", response_model=Written)
async def summarize(body: WriteRequest, request: Request) -> Response:
    """Summaries of texts."""
    return await _write_inputs(request, body, "summarize")


@router.post("/translate", response_model=Written)
async def translate(body: WriteRequest, request: Request) -> Response:
    """Translations of texts."""
    return await _write_inputs(request, body, "translate")


# --- vectors and reasons


@router.post("/embeddings", response_model=Embeddings)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """The mean of the last hidden states of each input, at length 1."""
    served = model_of(request, body.model)
    width = served.config.n_embd
    if body.dimensions not in (None, width):
        raise ApiError(400, f"The vectors of {served.name!r} have {width} dimensions.", param="dimensions")
    given: Any = body.input
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    _check_count(request, len(inputs), "input")
    rows = await asyncio.to_thread(lambda: [served.codec.context(one, "input") for one in inputs])
    longest = max(map(len, rows))
    if longest > served.config.n_positions:
        raise ApiError(
            400,
            f"An input has {longest} tokens; this model's context has {served.config.n_positions}.",
            param="input",
            code="context_length_exceeded",
        )
    vectors = await _call(request, served, served.calls.embed(), rows)
    data = [
        {"object": "embedding", "index": place, "embedding": _encoded(vector, body.encoding_format)}
        for place, vector in enumerate(vectors)
    ]
    count = sum(map(len, rows))
    request.state.notes["prompt_tokens"] = count
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "model": served.name, "data": data, "usage": usage})


@router.post("/explain", response_model=Explained)
async def explain(body: ExplainRequest, request: Request) -> Response:
    """How the model came to what it says of a text; takes seconds, beside the texts of others."""
    served = model_of(request, body.model)
    (found,) = await _call(request, served, served.calls.explain(), [body], apart=True)
    return JSONResponse({"model": served.name, "explanation": found})


# --- inside


def _tuned_for(request: Request, name: str, *tasks: str) -> Served:
    """The model, which must be tuned for one of these tasks."""
    served = model_of(request, name)
    own = served.task.name
    if own not in tasks:
        where = f" Use /v1/{ROUTES[own]}." if own in ROUTES else ""
        raise ApiError(
            400, f"The model {name!r} is made for {own}, not for {' or '.join(tasks)}.{where}", param="model",
            code="wrong_task",
        )  # fmt: skip
    return served


def _several(given: Any) -> list[Any]:
    return [given] if isinstance(given, str) else list(given)


def _check_count(request: Request, count: int, param: str) -> None:
    most = context_of(request).settings.max_prompts
    if count > most:
        raise ApiError(400, f"{count} are too many; at most {most} in a request.", param=param)


async def _call(
    request: Request,
    served: Served,
    call: Callable[[list[Any]], list[Any]],
    records: Sequence[Any],
    apart: bool = False,
) -> list[Any]:
    """Results for records, done together with those of other requests; those that take long `apart`."""
    context = context_of(request)
    job = Job(
        served.name,
        call=call,
        records=list(records),
        apart=apart,
        deadline=deadline_of(request, context.settings.timeout),
    )
    await finished(context.scheduler, job, request)
    return job.results


def _records(request: Request, served: Served, fields: list[dict[str, Any]]) -> list[Record]:
    """Inputs as records of the model's task."""
    _check_count(request, len(fields), "input")
    needed = served.task.inputs
    for one in fields:
        missing = [name for name in needed if name not in one]
        if missing:
            raise ApiError(
                400, f"This model needs {', '.join(needed)}; {', '.join(missing)} is missing.", param=missing[0]
            )
    return [Record(one, "input", row) for row, one in enumerate(fields, 1)]


async def _rows(request: Request, served: Served, fields: list[dict[str, Any]]) -> Response:
    records = _records(request, served, fields)
    data = await _call(request, served, served.calls.predict(), records)
    return JSONResponse({"object": "list", "model": served.name, "task": served.task.name, "data": data})


async def _write_inputs(request: Request, body: WriteRequest, task: str) -> Response:
    served = _tuned_for(request, body.model, task)
    inputs = served.task.inputs
    fields = []
    for one in _several(body.input):
        if isinstance(one, str) and len(inputs) > 1:
            raise ApiError(400, f"This model's prompt has several fields: {', '.join(inputs)}.", param="input")
        fields.append({inputs[0]: one} if isinstance(one, str) else one)
    return await _write(request, served, fields, body.num_beams)


async def _write(request: Request, served: Served, fields: list[dict[str, Any]], num_beams: int | None) -> Response:
    """A text for each record: by beams one record at a time beside the steps, otherwise together with all other
    texts."""
    records = _records(request, served, fields)
    context = context_of(request)
    task: Any = served.task if num_beams is None else with_beams(served.task, num_beams)
    if task.decode.get("num_beams", 1) > 1:
        data = await _call(request, served, served.calls.write(num_beams), records, apart=True)
    else:
        prompts, cut = await asyncio.to_thread(_written_prompts, served, task, records)
        job = Job(served.name, prompts, deadline=deadline_of(request, context.settings.timeout))
        await finished(context.scheduler, job, request)
        data = task.rows(records, _said(task, prompts, cut))
    answer = {"object": "list", "model": served.name, "task": served.task.name, "data": data}
    return JSONResponse(answer)


def _written_prompts(served: Served, task: Any, records: list[Record]) -> tuple[list[Prompt], list[int]]:
    """The prompts of a writing task, and how many tokens of each source were cut off."""
    tokenizer = served.codec.need("A task")
    given = task.options(served.max_length)
    options = SamplingOptions.make(None, **given)
    prompts, cut = [], []
    for place, record in enumerate(records):
        (example,) = task.encode(record, tokenizer, served.max_length, place, target=False)
        limit = min(options.new_tokens(len(example.ids)), served.config.n_positions - len(example.ids))
        prompts.append(texts_of(served, list(example.ids), limit, options))
        cut.append(example.truncated)
    return prompts, cut


def _said(task: Any, prompts: list[Prompt], cut: list[int]) -> Any:
    """Texts as the task's own `predict` gives them."""
    from gptwo.tasks.texts import Written as Texts

    texts = [prompt.rows[0].text for prompt in prompts]
    return Texts(
        [task.finish(text.transcript.text) for text in texts],
        None,
        cut,
        [text.finish_reason != "length" for text in texts],
    )


def _encoded(vector: np.ndarray, form: str | None) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0

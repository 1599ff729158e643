"""From a request of OpenAI's interface to prompts for the scheduler."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from gptwo.errors import DataError, UsageError
from gptwo.generate.constrain import Constraint
from gptwo.generate.options import SamplingOptions
from gptwo.generate.randomness import stream_key
from gptwo.generate.sequence import Sequence
from gptwo.generate.text import Transcript
from gptwo.serve.chat import chat_ids
from gptwo.serve.errors import ApiError
from gptwo.serve.models import Served
from gptwo.serve.schemas import (
    ChatRequest,
    ChoiceFormat,
    CompletionRequest,
    JsonSchemaFormat,
    RegexFormat,
    Sampling,
    TextFormat,
)
from gptwo.serve.settings import Settings
from gptwo.serve.work import Prompt, Row

DEFAULT_TOKENS = 16  # of a completion; OpenAI's own default
TINY = 1e-9  # a top_p of 0 leaves the likeliest token


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be worked on.

    Args:
        prompts: each with its texts.
        sources: the prompts as texts.
        n: texts of each prompt that are given out; the best of those that are written.
    """

    prompts: list[Prompt]
    sources: list[str]
    n: int


def prepare_completion(served: Served, request: CompletionRequest, settings: Settings) -> Prepared:
    """Prompts of a completion.

    Raises:
        ApiError, UsageError: options or prompts that cannot be served.
    """
    if request.suffix:
        raise ApiError(400, "This model continues texts; it cannot fill in before a suffix.", param="suffix")
    n = request.n or 1
    best_of = request.best_of or n
    if best_of < n:
        raise ApiError(400, f"best_of={best_of} is less than n={n}.", param="best_of")
    if request.stream and best_of > n:
        raise ApiError(400, "The best of several texts is not known while they are streamed.", param="best_of")
    if best_of > settings.max_n:
        raise ApiError(400, f"At most {settings.max_n} texts of a prompt.", param="n" if best_of == n else "best_of")
    scored = request.logprobs is not None
    options = sampling_options(served, request, logprobs=scored or best_of > n)
    given = _prompts(request.prompt)
    if len(given) > settings.max_prompts:
        raise ApiError(400, f"{len(given)} prompts; at most {settings.max_prompts} in a request.", param="prompt")
    contexts = [served.codec.context(prompt, "prompt") for prompt in given]
    limits = [_limit(served, len(ids), request.max_tokens, DEFAULT_TOKENS) for ids in contexts]
    judge = request.logprobs if request.echo and scored else None
    prompts = _made(served, request, options, contexts, limits, best_of, request.logprobs or 0, judge)
    sources = [prompt if isinstance(prompt, str) else _text(served, prompt) for prompt in given]
    return Prepared(prompts, sources, n)


def prepare_chat(served: Served, request: ChatRequest, settings: Settings) -> Prepared:
    """The conversation as a prompt.

    Raises:
        ApiError, UsageError: options or messages that cannot be served.
    """
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true.", param="top_logprobs")
    n = request.n or 1
    if n > settings.max_n:
        raise ApiError(400, f"At most {settings.max_n} messages.", param="n")
    options = sampling_options(served, request, logprobs=bool(request.logprobs))
    try:
        ids, stops = chat_ids(served, request.messages, settings.chat_template)
    except DataError as error:
        raise ApiError(400, error.what, param="messages") from error
    options = replace(options, stop=(*options.stop, *stops))
    asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    limit = _limit(served, len(ids), asked, served.config.n_positions)
    prompts = _made(served, request, options, [ids], [limit], n, request.top_logprobs or 0, None)
    return Prepared(prompts, [""], n)


def sampling_options(served: Served, request: Sampling, *, logprobs: bool) -> SamplingOptions:
    """How tokens are chosen: what the request says over the model's own defaults.

    Raises:
        UsageError: options that exclude each other, a token id outside the vocabulary.
    """
    asked: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": None if request.top_p is None else max(request.top_p, TINY),
        "top_k": None if request.top_k is None else max(request.top_k, 0),
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "no_repeat_ngram": request.no_repeat_ngram,
        "min_new_tokens": request.min_tokens,
        "ignore_end": request.ignore_eos,
        "stop": request.stop,
        "seed": None if request.seed is None else request.seed % 2**63,
    }
    if request.logit_bias:
        asked["logit_bias"] = {int(token): float(bias) for token, bias in request.logit_bias.items()}
        for token in asked["logit_bias"]:
            served.codec.check(token, "logit_bias")
    defaults = {name: value for name, value in served.defaults.items() if name != "max_new_tokens"}
    chosen = {name: value for name, value in asked.items() if value is not None}
    return SamplingOptions.make(defaults, logprobs=logprobs, **chosen).seeded()


def texts_of(
    served: Served,
    ids: list[int],
    limit: int,
    options: SamplingOptions,
    *,
    first: int = 0,
    count: int = 1,
    top: int = 0,
    constraint: Any = None,
    judge: int | None = None,
) -> Prompt:
    """A prompt with `count` texts.

    Args:
        first: how many texts of equal prompts come before; decides the random numbers.
        constraint: makes a constraint for each text; None for none.
    """
    codec = served.codec
    endings = codec.endings(options.stop, options.ignore_end)
    rows = []
    for sample in range(count):
        text = Sequence(
            prompt=ids,
            limit=limit,
            transcript=Transcript(codec.decoder(), options.stop),
            key=stream_key(options.seed or 0, first + sample),
            sample_index=sample,
        )
        rows.append(Row(text, options, endings, top, constraint() if constraint else None))
    return Prompt(ids, rows, judge, served.way)


def _made(
    served: Served,
    request: Sampling,
    options: SamplingOptions,
    contexts: list[list[int]],
    limits: list[int],
    count: int,
    top: int,
    judge: int | None,
) -> list[Prompt]:
    """Prompts with their texts; one that is given again counts as asking for further texts of it."""
    asked: Counter[tuple[int, ...]] = Counter()
    prompts = []
    form = _constraint(served, request)
    for ids, limit in zip(contexts, limits, strict=True):
        first = asked[tuple(ids)]
        asked[tuple(ids)] += count
        prompts.append(
            texts_of(served, ids, limit, options, first=first, count=count, top=top, constraint=form, judge=judge)
        )
    return prompts


def _constraint(served: Served, request: Sampling) -> Any:
    """What makes a constraint of the request's form for each text; None where any text is right."""
    form = request.response_format
    if form is None or isinstance(form, TextFormat):
        return None

    try:
        return _form(served, form).copy
    except UsageError as error:
        raise UsageError(error.what, where="response_format", why=error.why, fix=error.fix) from error


def _form(served: Served, form: Any) -> Constraint:
    """The constraint of a form."""
    constrainer = served.constrainer
    if isinstance(form, JsonSchemaFormat):
        return constrainer.json(form.json_schema.schema_)
    if isinstance(form, RegexFormat):
        return constrainer.regex(form.regex)
    if isinstance(form, ChoiceFormat):
        return constrainer.choice(form.choice)
    return constrainer.json()


def _limit(served: Served, prompt_tokens: int, asked: int | None, default: int) -> int:
    """New tokens at most.

    Raises:
        ApiError: prompt and new tokens do not fit into the context.
    """
    n_positions = served.config.n_positions
    room = n_positions - prompt_tokens
    wanted = min(default, max(room, 1)) if asked is None else asked
    if wanted > room:
        raise ApiError(
            400,
            f"This model's context has {n_positions} tokens; the prompt has {prompt_tokens} and {wanted} more "
            "are asked for. Shorten the prompt or ask for fewer tokens.",
            param="prompt" if room < 1 else "max_tokens",
            code="context_length_exceeded",
        )
    return wanted


def _prompts(prompt: Any) -> list[str | list[int]]:
    """One prompt or several as a list; none begins a new text."""
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    return [prompt] if isinstance(prompt[0], int) else list(prompt)


def _text(served: Served, ids: list[int]) -> str:
    return "" if served.codec.tokenizer is None else served.codec.tokenizer.decode(ids)

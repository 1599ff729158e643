"""What the server answers, for the OpenAPI document; the tests hold every answer against it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorContent(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Every answer with a status of 400 or more."""

    error: ErrorContent


class Usage(Answer):
    """Tokens read, written, and both."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class InputUsage(Answer):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Logprobs(Answer):
    """Tokens of a completion with their log-probabilities; `text_offset` is where each begins in the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


FinishReason = Literal["stop", "length"]


class CompletionChoice(Answer):
    """One text."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class Completion(Answer):
    """Texts; in a stream each chunk has this form, `usage` in the last one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None


class TopLogprob(Answer):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of a message."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Tokens of a message."""

    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(Answer):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """One message."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """The assistant's next message, n of them."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    labels: list[str]
    context_length: int
    base: str | None


class ModelList(Answer):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


class Deleted(Answer):
    """A model that is no longer served."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


class Embedding(Answer):
    """A vector of length 1, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Answer):
    """A vector for each input."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: InputUsage


class Rows(Answer):
    """What the task says of each input, in their order; the fields are those of `gptwo predict`."""

    object: Literal["list"]
    model: str
    task: str
    data: list[dict[str, Any]]


class RankedDocument(Answer):
    """A document's place; the score is between 0 and 1."""

    index: int
    relevance_score: Annotated[float, Field(ge=0, le=1)]
    document: dict[str, str] | None = None


class Ranking(Answer):
    """Documents, the most relevant first."""

    id: str
    model: str
    results: list[RankedDocument]


class Written(Answer):
    """A text for each input, in their order."""

    object: Literal["list"]
    model: str
    task: str
    data: list[dict[str, Any]]


class Explained(Answer):
    """What `gptwo explain --json` prints."""

    model: str
    explanation: dict[str, Any]


class Status(Answer):
    """How the server does."""

    status: str
    reason: str | None = None

"""Requests of OpenAI's interface as they may come in; everything else is refused with a reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
INT32 = 2**31 - 1
TokenId = Annotated[int, Field(ge=0, le=INT32)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Strict(BaseModel):
    """No conversions, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """How a stream is told.

    include_usage: a last chunk with the number of tokens. include_obfuscation: accepted, without effect.
    """

    include_usage: bool = False
    include_obfuscation: bool | None = None


class JsonSchema(Strict):
    """A named JSON schema."""

    name: str = "schema"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(Strict):
    """A text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class ChoiceFormat(Strict):
    """One of several texts."""

    type: Literal["choice"]
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | ChoiceFormat, Field(discriminator="type")
]


class Sampling(Strict):
    """What completions and chat have in common. A missing option is the model's own default."""

    model: Annotated[str, Field(min_length=1, max_length=128)]
    max_tokens: Annotated[int | None, Field(ge=0, le=INT32)] = None
    temperature: Annotated[float | None, Field(ge=0, le=1000)] = None
    top_p: Share | None = None
    top_k: Annotated[int | None, Field(ge=-1, le=INT32)] = None
    min_p: Share | None = None
    n: Annotated[int | None, Field(ge=1, le=1024)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), le=2**63 - 1)] = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=1000)] = None
    no_repeat_ngram: Annotated[int | None, Field(ge=0, le=1024)] = None
    min_tokens: Annotated[int | None, Field(ge=0, le=INT32)] = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionRequest(Sampling):
    """Texts that continue prompts."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
        | None
    ) = None
    best_of: Annotated[int | None, Field(ge=1, le=1024)] = None
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    suffix: str | None = None


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """What one speaker said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None

    @property
    def text(self) -> str:
        """Its pieces, joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """The assistant's next message."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=0, le=INT32)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None


class LoadRequest(Strict):
    """A model of the server's folder of models; `base` names the served model that an adapter goes on."""

    model: Annotated[str, Field(min_length=1, max_length=128)]
    base: str | None = None


class EmbeddingRequest(Strict):
    """Texts to be made vectors of."""

    model: Annotated[str, Field(min_length=1, max_length=128)]
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, le=INT32)] = None
    user: str | None = None


InputText = Annotated[str, Field(min_length=1)]
InputTexts = InputText | Annotated[list[InputText], Field(min_length=1)]


class TaskRequest(Strict):
    """What all tasks have in common."""

    model: Annotated[str, Field(min_length=1, max_length=128)]
    user: str | None = None


class ClassifyRequest(TaskRequest):
    """A text, or several."""

    input: InputTexts


class TagRequest(TaskRequest):
    """Texts, or sentences that are parted into tokens already."""

    input: InputTexts | Annotated[list[Annotated[list[InputText], Field(min_length=1)]], Field(min_length=1)]


class MatchRequest(TaskRequest):
    """Pairs of texts."""

    pairs: Annotated[
        list[Annotated[list[InputText], Field(min_length=2, max_length=2)]], Field(min_length=1)
    ]  # not a tuple: strict JSON has none


class Document(Strict):
    """A document as an object."""

    text: InputText


class RerankRequest(TaskRequest):
    """Documents to be ordered by how well they answer a query."""

    query: InputText
    documents: Annotated[list[InputText | Document], Field(min_length=1)]
    top_n: Annotated[int | None, Field(ge=1, le=INT32)] = None
    return_documents: bool | None = None


class AnswerRequest(TaskRequest):
    """A question, with the text that holds the answer, or the answers to choose from, where the model needs them."""

    question: InputText
    context: InputText | None = None
    choices: Annotated[list[InputText], Field(min_length=1)] | None = None
    num_beams: Annotated[int | None, Field(ge=1, le=16)] = None


class WriteRequest(TaskRequest):
    """Sources to write a text for: a text, several, or objects where the model's prompt has several fields."""

    input: InputText | Annotated[list[InputText | dict[str, InputText]], Field(min_length=1)]
    num_beams: Annotated[int | None, Field(ge=1, le=16)] = None


class ExplainRequest(TaskRequest):
    """A text whose outcome is explained."""

    input: InputText
    target: InputText | None = None
    at: Annotated[int | None, Field(ge=-(2**31), le=INT32)] = None
    steps: Annotated[int | None, Field(ge=1, le=256)] = None

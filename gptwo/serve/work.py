"""What is worked on: prompts, the texts that continue them, and what a backend says of their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptwo.generate.options import SamplingOptions
from gptwo.generate.sequence import Endings
from gptwo.generate.sequence import Sequence as Text

if TYPE_CHECKING:
    from gptwo.generate.constrain import Constraint
    from gptwo.generate.sampling import History


@dataclass(frozen=True)
class Scored:
    """A token and how likely the model itself found it (before penalties, temperature and filters).

    Args:
        token: its id.
        logprob: natural logarithm of its probability; None for a prompt's first token, which nothing stands before.
        top: the likeliest tokens at its place and their log-probabilities, best first.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Row:
    """One text that continues a prompt, and how its tokens are chosen.

    Args:
        text: its tokens so far, limit and key of random numbers.
        options: of sampling; one text, no beams.
        endings: tokens that end it.
        top: alternatives that are told of each token; used with `options.logprobs`.
        constraint: which tokens may come next; None: all.
        history: what penalties need; set by the backend.
        scored: its tokens with log-probabilities, where `options.logprobs` asks for them.
        newest: when its last token came, on the clock of `time.monotonic`.
    """

    text: Text
    options: SamplingOptions
    endings: Endings = field(default_factory=Endings)
    top: int = 0
    constraint: Constraint | None = None
    history: History | None = None
    scored: list[Scored] = field(default_factory=list)
    newest: float | None = None

    def __post_init__(self) -> None:
        options = self.options
        looks_back = (
            options.repetition_penalty != 1
            or options.presence_penalty
            or options.frequency_penalty
            or options.no_repeat_ngram
            or options.min_new_tokens
        )
        bias = tuple(sorted((options.logit_bias or {}).items()))
        self.alone = bool(looks_back) or self.constraint is not None
        self.kind: tuple[Any, ...] = (
            (id(self),)
            if self.alone
            else (options.temperature, options.top_k, options.top_p, options.min_p, options.greedy, bias)
        )
        """Rows of one kind are chosen for together."""


@dataclass(frozen=True)
class Way:
    """An adapter of a backend.

    Args:
        name: as the backend knows it; number: of its engine.
        before: virtual tokens, which stand in the cache before a text's own.
    """

    name: str
    number: int
    before: int = 0


@dataclass(eq=False)
class Prompt:
    """A context that is read once for all of the texts that continue it.

    Args:
        ids: at least one token; with the longest text at most the positions of the network.
        rows: the texts; one whose limit is 0 is over as soon as the prompt is read.
        judge: how many alternatives are told of each of the prompt's own tokens; None: they are not judged.
        way: the adapter it goes through, where the backend has several; None: the model's own, or none.
        read: tokens read so far; with all of them its texts run.
        judged: the prompt's tokens, where they are judged.
    """

    ids: list[int]
    rows: list[Row]
    judge: int | None = None
    way: Way | None = None
    read: int = 0
    judged: list[Scored] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it has been read."""
        return self.read == len(self.ids)

    @property
    def longest(self) -> int:
        """Tokens that will stand in the cache at most, for each of its texts."""
        before = 0 if self.way is None else self.way.before
        return before + len(self.ids) + max((row.text.limit for row in self.rows), default=0)


@dataclass(frozen=True)
class Chunk:
    """The tokens start..stop of a prompt, to be read in this step."""

    prompt: Prompt
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == len(self.prompt.ids)


@dataclass(frozen=True)
class Chosen:
    """The next token of a text."""

    row: Row
    token: int
    scored: Scored | None = None
    error: str | None = None


@dataclass
class Step:
    """What a step has done.

    Args:
        chosen: the next tokens of texts, in their order; of one text there may be several.
        read: tokens of prompts that were read, or read again.
        shared: tokens of prompts that needed no reading, since the cache had them of another text.
        put_off: texts and prompts whose cache was given to older ones; they go on when there is room.
    """

    chosen: list[Chosen] = field(default_factory=list)
    read: int = 0
    shared: int = 0
    put_off: int = 0
